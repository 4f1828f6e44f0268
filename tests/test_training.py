"""Training: replicas, resume, bad numbers, bad arguments."""

import contextlib
import dataclasses
import json
import pathlib
import resource

import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf.devices import make_strategy
from alexnet_tf.errors import UserError
from alexnet_tf.pipeline.data_set import open_data_set
from alexnet_tf.run import Run, resolve
from alexnet_tf.training.loop import Loop, train
from alexnet_tf.training.step import Trainer

SMALL = {"width": 0.1, "global_batch_size": 32, "precision": "float32"}


def make_trainer(data_dir, replicas=1, **given):
    data_set = open_data_set(data_dir)
    given = {"width": 0.1, "global_batch_size": 32} | given
    found = {"precision": "float32", "num_gpus": 0}
    config, _ = resolve(given, data_set, found)
    return Trainer(config, data_set, make_strategy(simulate_gpus=replicas))


def weights_after(data_dir, steps, steps_per_loop=None, **given):
    trainer = make_trainer(data_dir, **given)
    batches = trainer.batches()
    for _ in range(0, steps, steps_per_loop or steps):
        trainer.run_steps(batches, tf.constant(steps_per_loop or steps))
    assert trainer.step == steps
    return [w.numpy() for w in trainer.model.trainable_variables], trainer


def read_metrics(model_dir):
    lines = pathlib.Path(model_dir, "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def largest_difference(first, second):
    return max(np.abs(a - b).max() for a, b in zip(first, second, strict=True))


def test_replicas_share_a_batch_without_changing_the_result(data_dir):
    given = {"dropout_rate": 0.0, "recipe": "small", "learning_rate": 0.003}
    one, trainer = weights_after(data_dir, 20, replicas=1, **given)
    start = make_trainer(data_dir, **given).model.trainable_variables
    assert largest_difference(one, [w.numpy() for w in start]) > 1e-3
    for replicas in (2, 4):
        several, other = weights_after(data_dir, 20, replicas=replicas, **given)
        assert largest_difference(one, several) < 1e-5
        np.testing.assert_allclose(other.totals, trainer.totals, rtol=1e-4)


def test_one_step_on_two_replicas_gives_the_same_weights(data_dir):
    one, _ = weights_after(data_dir, 1, replicas=1, dropout_rate=0.0)
    two, _ = weights_after(data_dir, 1, replicas=2, dropout_rate=0.0)
    assert largest_difference(one, two) < 1e-6


def test_a_rerun_repeats_and_steps_per_loop_does_not_matter(data_dir):
    given = {"replicas": 2, "seed": 3}
    first, _ = weights_after(data_dir, 4, steps_per_loop=4, **given)
    second, _ = weights_after(data_dir, 4, steps_per_loop=1, **given)
    assert largest_difference(first, second) == 0
    other, _ = weights_after(data_dir, 4, replicas=2, seed=4)
    assert largest_difference(first, other) > 1e-3


def test_gradients_reduced_in_bfloat16_are_close_but_not_equal(data_dir):
    given = {"replicas": 2, "dropout_rate": 0.0, "recipe": "small"}
    exact, _ = weights_after(data_dir, 2, **given)
    rounded, _ = weights_after(data_dir, 2, reduce_in_bfloat16=True, **given)
    assert 0 < largest_difference(exact, rounded) < 1e-3


def test_conv1_freezes_and_stays(data_dir, monkeypatch):
    trainer = make_trainer(data_dir, recipe="original")
    batches = trainer.batches()
    trainer.optimizer.iterations.assign(400)  # epoch 85
    trainer.run_steps(batches, tf.constant(1))
    conv1, conv2 = (trainer.model.get_layer(n) for n in ("conv1", "conv2"))
    fresh = make_trainer(data_dir, recipe="original").model
    unchanged = fresh.get_layer("conv1").kernel.numpy()
    np.testing.assert_array_equal(conv1.kernel.numpy(), unchanged)
    assert np.abs(conv1.bias.numpy()).max() > 0
    assert np.abs(conv2.kernel.numpy() - fresh.get_layer("conv2").kernel).max() > 0


def test_learning_rate_of_original_is_its_timetable(data_dir):
    trainer = make_trainer(data_dir, recipe="original", global_batch_size=150)
    rates = [float(trainer.learning_rate(epoch)) for epoch in (0, 24, 25, 50, 51, 79)]
    np.testing.assert_allclose(rates, [1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-5], rtol=1e-5)
    assert trainer.config.num_epochs == 91


def test_checkpoint_metrics_and_summary_of_a_run(data_dir, tmp_path, capsys):
    model_dir = str(tmp_path / "run")
    given = SMALL | {"num_epochs": 2, "lr_schedule": "constant"}
    assert train(data_dir, model_dir, export=False, **given)
    lines = read_metrics(model_dir)
    assert [(line["split"], line["step"]) for line in lines] == [
        ("train", 5),
        ("validation", 5),
        ("train", 10),
        ("validation", 10),
    ]
    assert lines[0]["cross_entropy"] == pytest.approx(np.log(3), rel=0.5)
    assert lines[0]["learning_rate"] == pytest.approx(0.001)
    result = json.loads(pathlib.Path(model_dir, "eval.json").read_text())
    assert (result["num_evaluated"], result["num_examples"]) == (25, 25)
    assert result["cross_entropy"] == pytest.approx(
        lines[-1]["cross_entropy"], rel=1e-4
    )
    shown = capsys.readouterr().out
    assert "of 25 images" in shown
    assert "48.0%" in shown  # the largest class: 12 of 25
    assert "tensorboard --logdir" in shown


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"width": 0.2}, "width 0.1, now 0.2"),
        ({"recipe": "original"}, "recipe small, now original"),
        ({"groups": 1}, "groups 2, now 1"),
        ({"precision": "mixed_bfloat16"}, "precision float32, now mixed_bfloat16"),
    ],
)
def test_a_run_does_not_go_on_with_another_network(data_dir, tmp_path, given, message):
    data_set = open_data_set(data_dir)
    found = {"precision": "float32", "num_gpus": 0}
    run = Run(str(tmp_path / "run"))
    run.start(*resolve({"width": 0.1}, data_set, found))
    with pytest.raises(UserError, match=message):
        run.start(*resolve({"width": 0.1} | given, data_set, found))
    run.start(*resolve({"width": 0.1} | given, data_set, found), overwrite=True)


def test_a_run_does_not_go_on_with_other_classes(data_dir, tmp_path):
    data_set = open_data_set(data_dir)
    found = {"precision": "float32", "num_gpus": 0}
    run = Run(str(tmp_path / "run"))
    run.start(*resolve({}, data_set, found))
    other = dataclasses.replace(data_set, class_names=("cat", "dog", "bee", "ant"))
    message = r"classes 3 \(blue, green, red\), now 4 \(cat, dog, bee, …\)"
    with pytest.raises(UserError, match=message):
        run.start(*resolve({}, other, found))


def test_where_a_value_comes_from(data_dir):
    data_set = open_data_set(data_dir)
    found = {"precision": "float32", "num_gpus": 0}
    config, origins = resolve({"momentum": 0.8}, data_set, found)
    assert (config.recipe, origins["recipe"]) == ("small", "data")
    assert (config.momentum, origins["momentum"]) == (0.8, "command line")
    assert (config.weight_decay, origins["weight_decay"]) == (5e-4, "recipe small")
    given = {"optimizer": "lars", "global_batch_size": 1024, "recipe": "paper"}
    config, origins = resolve(given, data_set, found, scale_lr=True)
    assert config.learning_rate == pytest.approx(0.08)
    assert (config.lr_schedule, config.warmup_epochs) == ("poly", 5.0)
    large = dataclasses.replace(data_set.splits["train"], shard_lengths=(100_000,))
    many = dataclasses.replace(data_set, splits=data_set.splits | {"train": large})
    assert resolve({}, many, found)[0].recipe == "paper"


def test_what_may_change_is_taken_and_logged(data_dir, tmp_path, caplog):
    data_set = open_data_set(data_dir)
    found = {"precision": "float32", "num_gpus": 0}
    run = Run(str(tmp_path / "run"))
    run.start(*resolve({"width": 0.1}, data_set, found))
    given = {"width": 0.1, "learning_rate": 0.5, "num_epochs": 3.0}
    with caplog.at_level("INFO", logger="absl"):
        run.start(*resolve(given, data_set, found))
    assert "learning_rate 0.001 → 0.5" in caplog.text
    assert run.read_config().learning_rate == 0.5


def test_bad_arguments_are_one_clear_line(data_dir, tmp_path):
    run = str(tmp_path / "run")
    for given, message in [
        ({"num_gpus": 9}, "num_gpus=9, but TensorFlow found"),
        ({"simulate_gpus": 3}, "32 cannot be shared evenly by 3 replicas"),
    ]:
        with pytest.raises(UserError, match=message):
            train(data_dir, run, **(SMALL | given))
    with pytest.raises(UserError, match="no such data_dir"):
        train(str(tmp_path / "none"), run, **SMALL)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no data set in"):
        train(str(tmp_path / "empty"), run, **SMALL)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="holds files but no run"):
        train(data_dir, str(tmp_path / "full"), overwrite=True, **SMALL)
    assert (tmp_path / "full" / "thesis.tex").exists()


def poison(trainer, step):
    """Makes the network overflow in conv3 once it has done `step` steps."""
    run_steps = trainer.run_steps

    def run(batches, num_steps):
        if trainer.step <= step < trainer.step + int(num_steps):
            trainer.model.get_layer("conv3").kernel.assign_add(
                np.full(trainer.model.get_layer("conv3").kernel.shape, 3e38, np.float32)
            )
        run_steps(batches, num_steps)

    trainer.run_steps = run


def test_nan_stops_before_the_weights_are_saved(data_dir, tmp_path):
    trainer = make_trainer(data_dir, steps_per_loop=1)
    loop = Loop(trainer, Run(str(tmp_path)))
    poison(trainer, 7)
    with pytest.raises(
        UserError, match="step 8, first in the output of conv3"
    ) as error:
        loop.run()
    assert "ckpt-5" in str(error.value)
    latest = tf.train.latest_checkpoint(str(tmp_path / "checkpoints"))
    assert latest.endswith("ckpt-5")
    for name, _ in tf.train.list_variables(latest):
        value = tf.train.load_variable(latest, name)
        if getattr(value, "dtype", None) == np.float32:
            assert np.isfinite(value).all(), name


def test_nan_rolls_back_with_half_the_rate(data_dir, tmp_path):
    trainer = make_trainer(
        data_dir,
        steps_per_loop=1,
        on_nan="rollback",
        num_epochs=2,
        learning_rate=0.001,
        lr_schedule="constant",
    )
    loop = Loop(trainer, Run(str(tmp_path)))
    poisoned = trainer.run_steps
    poison(trainer, 7)
    once = trainer.run_steps

    def run(batches, num_steps):
        (once if trainer.rollbacks == 0 else poisoned)(batches, num_steps)

    trainer.run_steps = run
    assert loop.run()
    assert trainer.rollbacks == 1
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [5, 5, 10, 10]
    assert lines[-1]["learning_rate"] == pytest.approx(0.0005)


def test_rollbacks_end(data_dir, tmp_path):
    trainer = make_trainer(data_dir, steps_per_loop=1, on_nan="rollback")
    loop = Loop(trainer, Run(str(tmp_path)))
    poison(trainer, 2)
    with pytest.raises(UserError, match="step 3, first in the output of conv3"):
        loop.run()
    assert trainer.rollbacks == 3


def test_damaged_checkpoints_are_skipped(data_dir, tmp_path, caplog):
    run = Run(str(tmp_path))
    trainer = make_trainer(data_dir, num_epochs=2)
    assert Loop(trainer, run).run()
    data = tmp_path / "checkpoints" / "ckpt-10.data-00000-of-00001"
    with open(data, "r+b") as file:
        file.truncate(1000)
    again = make_trainer(data_dir, num_epochs=2)
    loop = Loop(again, run)
    assert again.step == 5
    assert "skipping damaged checkpoint" in caplog.text
    assert loop.run()
    difference = largest_difference(
        [w.numpy() for w in again.model.weights],
        [w.numpy() for w in trainer.model.weights],
    )
    assert difference == 0
    for index in (tmp_path / "checkpoints").glob("*.index"):
        index.write_bytes(b"")
    with pytest.raises(UserError, match="none of the 2 checkpoints"):
        Loop(make_trainer(data_dir), run)


@contextlib.contextmanager
def disk_that_refuses():
    """No file may grow beyond 100 kB, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("recovers", [True, False])
def test_full_disk_does_not_stop_training(data_dir, tmp_path, caplog, recovers):
    trainer = make_trainer(data_dir, num_epochs=3)
    loop = Loop(trainer, Run(str(tmp_path)))
    save = loop._checkpoints.save

    def save_on_full_disk(step, **kwargs):
        full = step == 10 or (step > 10 and not recovers)
        with disk_that_refuses() if full else contextlib.nullcontext():
            save(step, **kwargs)

    loop._checkpoints.save = save_on_full_disk
    if recovers:
        assert loop.run()
    else:
        with pytest.raises(UserError, match=r"could not be saved.*ckpt-5"):
            loop.run()
    assert "checkpoint of step 10 not saved: " in caplog.text
    assert trainer.step == 15
    latest = tf.train.latest_checkpoint(str(tmp_path / "checkpoints"))
    assert latest.endswith("ckpt-15" if recovers else "ckpt-5")
    assert not list((tmp_path / "checkpoints").glob("*_temp"))
    again = make_trainer(data_dir, num_epochs=3)
    Loop(again, Run(str(tmp_path)))
    assert again.step == (15 if recovers else 5)


def test_class_counts_are_those_of_the_data(data_dir):
    _, trainer = weights_after(data_dir, 75, global_batch_size=2, width=0.02)
    assert trainer.class_counts.tolist() == [60, 50, 40]

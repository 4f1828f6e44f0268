"""Training: replicas, resume, bad numbers, bad arguments."""

import dataclasses
import json
import os
import pathlib
import re
import shlex
import shutil
import struct
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from helpers import (
    SMALL,
    draw_no_pictures,
    give_back_trainers,
    largest_difference,
    make_config,
    make_trainer,
    python,
    train,
)
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from alexnet_tf.devices import make_training_strategy
from alexnet_tf.errors import UserError
from alexnet_tf.files import lock
from alexnet_tf.paths import LOCK_FILE
from alexnet_tf.pipeline.data_set import open_data_set
from alexnet_tf.pipeline.tfrecords import check_lengths
from alexnet_tf.run import Run
from alexnet_tf.training import training
from alexnet_tf.training.loop import Loop
from alexnet_tf.training.training import Outcome, train_run

# What takes long to compile, the response normalisation, is in few of these tests.
SMALLER = {"image_size": 67, "global_batch_size": 24, "lrn": False}


ORIGINAL = {"image_size": 67, "global_batch_size": 30}


def weights_of(trainer):
    return [w.numpy() for w in trainer.model.trainable_variables]


def weights_after(data_dir, steps, steps_per_loop=None, **given):
    """The weights after some steps of 24 small images, and the trainer."""
    trainer = make_trainer(data_dir, **SMALLER | given)
    batches = trainer.batches()
    for _ in range(0, steps, steps_per_loop or steps):
        trainer.run_steps(batches, tf.constant(steps_per_loop or steps))
    assert trainer.step == steps
    give_back_trainers()
    return weights_of(trainer), trainer


def read_metrics(model_dir):
    lines = pathlib.Path(model_dir, "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_replicas_share_a_batch_without_changing_the_result(data_dir):
    one, trainer = weights_after(data_dir, 1, replicas=1)
    two, _ = weights_after(data_dir, 1, replicas=2)
    assert largest_difference(one, two) < 1e-6
    trainer.run_steps(trainer.batches(), tf.constant(5))
    metrics, later = trainer.metrics(), weights_of(trainer)
    assert largest_difference(one, later) > 1e-3
    several, other = weights_after(data_dir, 6, replicas=2)
    assert largest_difference(later, several) < 1e-5
    for name, value in metrics.items():
        assert other.metrics()[name] == pytest.approx(value, rel=1e-3), name


def test_a_rerun_repeats_and_steps_per_loop_does_not_matter(data_dir):
    first, _ = weights_after(data_dir, 4, steps_per_loop=4, replicas=2)
    second, _ = weights_after(data_dir, 4, steps_per_loop=1, replicas=2)
    assert largest_difference(first, second) == 0
    start, other = (
        weights_of(make_trainer(data_dir, **SMALLER, seed=seed)) for seed in (0, 4)
    )
    assert largest_difference(start, other) > 1e-3


def test_the_weights_of_classes_are_in_the_gradient(data_dir):
    """Against NumPy in float64; the weight decay is no part of it."""
    given = SMALLER | {"dropout_rate": 0.0, "class_weights": "balanced"}
    trainer = make_trainer(data_dir, 2, **given)
    images, labels = trainer.next_batch()
    logits = trainer.model(images).numpy().astype(np.float64)
    errors = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    errors[np.arange(24), labels] -= 1
    weights = 150 / (3 * np.array([60, 50, 40]))[labels.numpy()]
    expected = (weights[:, np.newaxis] * errors).sum(0) / 24
    batch = next(trainer.batches())

    def gradient_of_the_bias():
        """That of fc8, as each replica has it."""
        *_, gradients = trainer.strategy.run(trainer._replica_gradients, args=batch)
        return trainer.strategy.experimental_local_results(gradients[-1])

    for found in gradient_of_the_bias():
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.abs(expected - errors.sum(0) / 24).max() > 1e-3
    # Reduced in bfloat16 it is close, but not equal.
    trainer.config = dataclasses.replace(trainer.config, reduce_in_bfloat16=True)
    for found in gradient_of_the_bias():
        assert 1e-5 < np.abs(found / expected - 1).max() < 1e-2


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"precision": "float32"}, False),
        ({"precision": "mixed_bfloat16"}, True),
        ({"precision": "mixed_bfloat16", "reduce_in_bfloat16": False}, False),
    ],
)
def test_gradients_travel_as_they_were_computed(
    data_dir, tmp_path, given, expected, monkeypatch
):
    # The configuration is written before the first step.
    monkeypatch.setattr(training, "_train_run", lambda *_: True)
    run = Run(str(tmp_path / "run"))
    given = SMALL | {"train_steps": 1, "simulate_gpus": 2} | given
    assert train_run(data_dir, run.model_dir, given=given, export=False)
    assert run.read_config().reduce_in_bfloat16 == expected


def test_bfloat16_gradients_lose_nothing_on_their_way(data_dir):
    """What a replica sends in bfloat16 precision is rounded to it already."""
    given = SMALLER | {"precision": "mixed_bfloat16", "dropout_rate": 0.0}
    trainer = make_trainer(data_dir, **given)
    images, labels = trainer.next_batch()
    *_, gradients = trainer._replica_gradients(images, labels)
    assert len(gradients) == 16
    for gradient in gradients:
        rounded = tf.cast(tf.cast(gradient, tf.bfloat16), tf.float32)
        np.testing.assert_array_equal(gradient, rounded)


def test_conv1_stays_from_the_72nd_epoch_of_original_on(data_dir):
    trainer = make_trainer(data_dir, recipe="original", **ORIGINAL)
    batches = trainer.batches()
    steps = 150 // 30  # of an epoch
    names = [v.path for v in trainer.model.trainable_variables]
    variables = dict(zip(names, trainer.model.trainable_variables, strict=True))
    velocities = dict(zip(names, trainer.optimizer.momentums, strict=True))

    def conv1():
        return [
            kept[f"conv1/{kind}"].numpy()
            for kept in (variables, velocities)
            for kind in ("kernel", "bias")
        ]

    trainer.state.images.assign((71 * steps - 2) * 30)
    before = conv1()
    trainer.run_steps(batches, tf.constant(2))  # the last two of the 71st epoch
    velocity_is_there = conv1()
    for old, new in zip(before, velocity_is_there, strict=True):
        assert np.abs(new - old).max() > 0
    conv2 = variables["conv2/kernel"].numpy()
    trainer.run_steps(batches, tf.constant(4))
    for old, new in zip(velocity_is_there, conv1(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert np.abs(variables["conv2/kernel"].numpy() - conv2).max() > 0


def test_rates_of_original_are_its_timetable(data_dir):
    """By epochs done; the source's log counts from 1, so its 67th begins at 66."""
    trainer = make_trainer(data_dir, recipe="original", **ORIGINAL)
    names = [v.path for v in trainer.model.trainable_variables]

    def rates(epoch):
        factors = trainer._rate_factors(tf.constant(epoch * 150, tf.int64)).numpy()
        factors = dict(zip(names, factors, strict=True))
        return [0.01 * factors[n] for n in ("fc8/kernel", "conv1/kernel")], [
            0.01 * factors[n] for n in ("fc8/bias", "conv1/bias")
        ]

    for epoch, weights, conv1, conv1_bias in [
        (0, 1e-2, 1e-2, 0.02),
        (24, 1e-2, 1e-2, 0.02),
        (25, 1e-3, 1e-3, 0.02),
        (50, 1e-3, 1e-3, 0.02),
        (51, 1e-4, 1e-4, 0.02),
        (65, 1e-4, 1e-4, 0.02),
        (66, 1e-4, 1e-5, 0.02),
        (70, 1e-4, 1e-5, 0.02),
        (71, 1e-4, 0, 0),
        (78, 1e-4, 0, 0),
        (79, 1e-5, 0, 0),
        (90, 1e-5, 0, 0),
    ]:
        of_weights, of_biases = rates(epoch)
        np.testing.assert_allclose(of_weights, [weights, conv1], rtol=1e-5)
        np.testing.assert_allclose(of_biases, [0.02, conv1_bias], rtol=1e-5)
    assert trainer.timetable.last_step == 91 * 5


def test_a_run_goes_on_with_other_replicas(data_dir, tmp_path):
    """Its weights, dropout and all, are those of one that kept its replicas."""
    expected, _ = weights_after(data_dir, 4, replicas=1)
    start, trainer = weights_after(data_dir, 2, replicas=2)
    path = trainer.state.checkpoint().save(str(tmp_path / "checkpoint"))
    trainer = make_trainer(data_dir, replicas=1, **SMALLER)
    trainer.state.checkpoint().restore(path).assert_existing_objects_matched()
    trainer.begin()
    trainer.run_steps(trainer.batches(), tf.constant(2))
    found = weights_of(trainer)
    assert largest_difference(start, expected) > 1e-4
    assert largest_difference(found, expected) < 1e-6


def test_checkpoint_metrics_and_summary_of_a_run(
    data_dir, tmp_path, capsys, monkeypatch
):
    draw_no_pictures(monkeypatch.setattr)
    model_dir = str(tmp_path / "the run")
    given = SMALL | {"num_epochs": 2.0, "lr_schedule": "constant", "warmup_epochs": 0.0}
    given |= {"image_size": 67}
    assert train(data_dir, model_dir, given=given, export=False)
    assert Run(model_dir).read_config().is_finished
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
    report = shlex.quote(f"--report_dir={model_dir}/report")
    assert f"eval.py {shlex.quote(f'--model_dir={model_dir}')} {report}\n" in shown
    assert f"tensorboard {shlex.quote(f'--logdir={model_dir}')}" in shown


@pytest.mark.parametrize("steps", [8, 30])  # two epochs have 9.4
def test_the_rate_falls_to_0_at_the_last_step(data_dir, steps):
    given = {"num_epochs": 2.0, "train_steps": steps, "lr_schedule": "cosine"}
    trainer = make_trainer(data_dir, **given, image_size=67, warmup_epochs=1.0)
    rates = [trainer.learning_rate(step) for step in range(steps + 1)]
    assert min(rates[:-1]) > 0  # the first step of the warm-up moves, too
    assert rates[-1] == pytest.approx(0, abs=1e-9)
    assert np.argmax(rates) == min(4, steps // 2 - 1)


def test_a_run_that_was_stopped_says_the_command_that_goes_on(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run = Run(str(tmp_path / "runs" / "a b"))
    words = ["train.py", "--data_dir=my data", "--overwrite", "--num_gpus=2"]
    monkeypatch.setattr(sys, "argv", words)
    said = shlex.split(training._command_to_go_on(run))
    expected = ["train.py", "--data_dir=my data", "--num_gpus=2"]
    assert said[1:] == [*expected, "--model_dir=runs/a b"]
    monkeypatch.setattr(sys, "argv", ["train.py", "--model_dir", "elsewhere"])
    assert shlex.split(training._command_to_go_on(run))[1:] == sys.argv


def test_bad_arguments_are_one_clear_line(data_dir, tmp_path):
    run = str(tmp_path / "run")
    for given, message in [
        ({"num_gpus": 9}, "num_gpus=9, but TensorFlow found"),
        ({"image_size": 32}, "--image_size must be at least 64 in the recipe"),
        ({"image_size": 300}, "have 256 pixels a side, the network takes 300"),
        ({"simulate_gpus": 3}, "32 cannot be shared evenly by 3 replicas"),
    ]:
        with pytest.raises(UserError, match=message):
            train(data_dir, run, given=SMALL | given)
    assert not Run(run).exists()  # which would refuse the next try
    with pytest.raises(UserError, match=r"no data set in .*none"):
        train(str(tmp_path / "none"), run, given=SMALL)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no data set in"):
        train(str(tmp_path / "empty"), run, given=SMALL)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"full holds thesis\.tex, which this program"):
        train(data_dir, str(tmp_path / "full"), given=SMALL, overwrite=True)
    assert (tmp_path / "full" / "thesis.tex").exists()


def test_a_shard_with_an_absurd_length_is_named(data_dir, tmp_path):
    """TensorFlow's reader would end the process."""
    copy = tmp_path / "data"
    shutil.copytree(data_dir, copy)
    shard = pathlib.Path(open_data_set(str(copy)).splits["train"].filenames[0])
    content = shard.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = struct.pack("<Q", 2**62)
    second = length + 16
    for checksum, is_bad in ((masked_crc32c(header), True), (0, False)):
        changed = header + struct.pack("<I", checksum)
        shard.write_bytes(content[:second] + changed + content[second + 12 :])
        if is_bad:
            message = f"{shard.name} has a record at byte {second} that declares"
            with pytest.raises(UserError, match=message):
                train(str(copy), str(tmp_path / "run"), given=SMALL)
        else:  # the reader sees that it is damaged
            check_lengths(open_data_set(str(copy)).splits["train"].filenames)


def test_a_run_starts_where_one_was_killed_at_its_first_file(data_dir, tmp_path):
    """What is then there is the unfinished configuration, and nothing else."""
    code = """
with files.writing(sys.argv[1] + "/config.json") as file:
    file.write("{")
    os.kill(os.getpid(), 9)
"""
    python(code, tmp_path / "run").communicate()
    run = Run(str(tmp_path / "run"))
    (left,) = os.listdir(run.model_dir)
    assert left.endswith(".unfinished")
    run.start(make_config(data_dir))
    assert sorted(os.listdir(run.model_dir)) == [left, "config.json"]


def test_the_demo_prepares_its_data_again_after_a_kill(tmp_path, monkeypatch):
    """A killed preparation leaves a directory with its lock alone."""
    import train as script

    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "demo_data").mkdir(parents=True)
    (tmp_path / "runs" / "demo_data" / LOCK_FILE).touch()
    prepared = []
    monkeypatch.setattr("data.prepare.prepare", lambda **given: prepared.append(given))
    monkeypatch.setattr(training, "train_run", lambda *_, **__: Outcome(None, True))
    monkeypatch.setattr("alexnet_tf.command_line.given_flags", lambda *_: {})
    values = types.SimpleNamespace(
        data_dir=None,
        model_dir=None,
        recipe="auto",
        overwrite=False,
        export=True,
    )
    assert script.main(values) == 0
    assert prepared == [{"source": "elpv", "output": "runs/demo_data"}]


def test_a_run_alone_goes_on_with_its_data(data_dir, tmp_path, monkeypatch):
    import train as script

    run = Run(str(tmp_path / "run"))
    run.write_config(make_config(data_dir))
    called = []

    def train_nothing(*given, **_):
        called.append(given)
        return Outcome(run, True)

    monkeypatch.setattr(training, "train_run", train_nothing)
    monkeypatch.setattr("alexnet_tf.command_line.given_flags", lambda *_: {})
    values = types.SimpleNamespace(
        data_dir=None,
        model_dir=run.model_dir,
        recipe="auto",
        overwrite=False,
        export=True,
    )
    script.main(values)
    assert called == [(data_dir, run.model_dir, "auto", {})]


def test_an_empty_cluster_is_none(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", " ")
    assert make_training_strategy(0) is tf.distribute.get_strategy()


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


def test_nan_stops_before_the_weights_are_saved(data_dir, tmp_path, monkeypatch):
    draw_no_pictures(monkeypatch.setattr)
    trainer = make_trainer(data_dir, steps_per_loop=1, **SMALLER)
    loop = Loop(trainer, Run(str(tmp_path)))
    poison(trainer, 7)
    with pytest.raises(
        UserError, match="step 8, first in the output of conv3"
    ) as error:
        loop.run()
    assert "ckpt-7" in str(error.value)
    latest = tf.train.latest_checkpoint(str(tmp_path / "checkpoints"))
    assert latest.endswith("ckpt-7")
    for name, _ in tf.train.list_variables(latest):
        value = tf.train.load_variable(latest, name)
        if getattr(value, "dtype", None) == np.float32:
            assert np.isfinite(value).all(), name


def test_nan_before_the_first_checkpoint(data_dir, tmp_path, monkeypatch):
    draw_no_pictures(monkeypatch.setattr)
    trainer = make_trainer(data_dir, steps_per_loop=1, **SMALLER)
    loop = Loop(trainer, Run(str(tmp_path)))
    poison(trainer, 1)
    message = "step 2, .*not there yet: try a lower --learning_rate$"
    with pytest.raises(UserError, match=message):  # nothing of float32, as it has it
        loop.run()


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        (
            {"global_batch_size": 6, "simulate_gpus": 2},
            "--global_batch_size=2 or --precision=mixed_bfloat16 in a new --model_dir "
            "or more GPUs",
        ),
        (
            {"global_batch_size": 1, "precision": "mixed_bfloat16"},
            "more GPUs",
        ),
    ],
)
def test_out_of_memory_says_what_to_try(data_dir, tmp_path, monkeypatch, given, advice):
    def fail(_):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")

    monkeypatch.setattr(Loop, "run", fail)
    given = SMALL | {"simulate_gpus": 1, "num_epochs": 1.0} | given
    with pytest.raises(UserError, match="out of memory") as error:
        train(data_dir, str(tmp_path / "run"), given=given)
    assert str(error.value).endswith(f": try {advice}")


def test_without_a_directory_the_same_command_goes_on(data_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "_train_run", lambda run, *_: run.model_dir)

    def choose(**changes):
        """The directory of a run that is then interrupted."""
        return train_run(data_dir, given=SMALL | {"seed": 5} | changes)

    first = choose()
    assert re.fullmatch(r"runs/\d{8}-\d{6}-small", first)
    assert choose() == first
    automatic = choose(precision="auto")
    assert choose(precision="auto") == automatic != first
    other = choose(seed=6)
    assert choose(learning_rate=0.1) not in (first, other)
    assert choose() == first
    with lock(first):  # another process is at it
        newest = choose()
        assert newest not in (first, other)
    pathlib.Path(newest, "eval.json").write_text("{}")  # by eval.py, on the way
    assert choose() == newest
    finish(newest)
    assert choose() == newest  # it is not exported
    finish(newest)
    (tmp_path / newest / "saved_model").mkdir()
    assert choose() == first


def finish(model_dir):
    """Marks a run as one that has come to its end."""
    run = Run(model_dir)
    run.write_config(dataclasses.replace(run.read_config(), is_finished=True))

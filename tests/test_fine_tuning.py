"""Training that starts from weights, and layers that stay as they are."""

import collections
import dataclasses
import os

import numpy as np
import pytest
import tensorflow as tf
from helpers import (
    SMALL,
    draw_no_pictures,
    evaluate_run,
    largest_difference,
    make_config,
    make_trainer,
    train,
)
from weight_writers import write_caffe

from alexnet_tf import RECIPES, alexnet
from alexnet_tf.config import resolve
from alexnet_tf.errors import UserError
from alexnet_tf.export.exporting import export_run
from alexnet_tf.exported import ExportedModel, pick_class
from alexnet_tf.pictures.decoding import open_picture
from alexnet_tf.pictures.fitting import fit_for_network
from alexnet_tf.pipeline.data_set import open_data_set
from alexnet_tf.recipes import LAYERS, network_fields
from alexnet_tf.run import Run, build_model
from alexnet_tf.training import loop, training
from alexnet_tf.training.training import train_run
from alexnet_tf.weights.published import PublishedWeights
from alexnet_tf.weights.weight_files import read_weights

TINY = {"image_size": 67, "global_batch_size": 8, "lrn": False}
FROZEN = ("conv1", "conv2", "fc6")


def values(variables):
    return {v.path: v.numpy() for v in variables}


def test_frozen_layers_stay_and_the_others_learn_as_without(data_dir):
    """Bit by bit, with decay, and with a velocity from before; on two replicas."""
    trainers = [make_trainer(data_dir, 2, freeze=f, **TINY) for f in (FROZEN, None)]
    found = []
    for trainer in trainers:
        for number, velocity in enumerate(trainer.optimizer.momentums):
            velocity.assign(tf.fill(velocity.shape, 1e-4 * (1 + number)))
        before = values(trainer.model.trainable_variables)
        trainer.run_steps(trainer.batches(), tf.constant(1))
        after = values(trainer.model.trainable_variables)
        velocities = [v.numpy() for v in trainer.optimizer.momentums]
        found.append((before, after, dict(zip(before, velocities, strict=True))))
    for number, path in enumerate(found[0][0]):
        (before, after, velocities), (_, free_after, free_velocities) = (
            {name: part[path] for name, part in zip("bav", each, strict=True)}.values()
            for each in found
        )
        if path.split("/")[0] in FROZEN:
            np.testing.assert_array_equal(after, before)
            assert set(velocities.ravel()) == {np.float32(1e-4 * (1 + number))}
            assert np.abs(free_after - before).max() > 0
        else:
            np.testing.assert_array_equal(after, free_after, err_msg=path)
            np.testing.assert_array_equal(velocities, free_velocities)
            assert np.abs(after - before).max() > 0


def backward_ops(data_dir, freeze):
    """How many gradients of convolutions a training step computes."""
    trainer = make_trainer(data_dir, freeze=freeze, **TINY)
    step = trainer.run_steps.get_concrete_function(trainer.batches(), tf.constant(1))
    graph = step.graph.as_graph_def()
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    ops = collections.Counter(node.op for node in nodes)
    return ops["Conv2DBackpropFilter"], ops["Conv2DBackpropInput"]


def test_frozen_layers_at_the_bottom_cost_no_backward_pass(data_dir):
    # conv2, conv4 and conv5 are two convolutions. The gradient by the lowest one's
    # input is in the graph, but nothing needs it: TensorFlow does not compute it.
    assert backward_ops(data_dir, None) == (8, 8)
    assert backward_ops(data_dir, ("conv1", "conv2")) == (5, 5)
    assert backward_ops(data_dir, LAYERS[:5]) == (0, 0)
    assert backward_ops(data_dir, ("fc8",)) == (8, 8)


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (
            ("conv9",),
            "--freeze must be conv1 or .*, several with commas, or none, received",
        ),
        (LAYERS, "--freeze must leave a layer to train"),
    ],
)
def test_layers_that_cannot_be_frozen_are_one_line(data_dir, freeze, message):
    with pytest.raises(UserError, match=message):
        make_config(data_dir, freeze=freeze)


def weights_of(recipe, num_classes, class_names=None):
    head = {"kernel": np.zeros((4096, num_classes)), "bias": np.zeros(num_classes)}
    return PublishedWeights("w", {"fc8": head}, (recipe,), class_names=class_names)


def test_settings_are_those_of_fine_tuning_where_nothing_is_given(data_dir):
    data_set = open_data_set(data_dir)  # 150 images of 3 classes
    theirs = dataclasses.replace(
        RECIPES["caffenet"], freeze=("conv1",), optimizer="lars", warmup_epochs=3.0
    )
    recipe = resolve(data_set, weights=weights_of(theirs, 1000)).recipe
    assert network_fields(recipe) == network_fields(RECIPES["caffenet"])
    assert (recipe.learning_rate, recipe.head_learning_rate_factor) == (0.001, 10.0)
    assert (recipe.lr_schedule, recipe.warmup_epochs) == ("cosine", 0.0)
    assert (recipe.optimizer, recipe.freeze) == ("momentum", None)
    assert recipe.bias_learning_rate_factor == 2.0  # the recipe's own
    assert recipe.global_batch_size == 16
    assert recipe.num_epochs * 150 / 16 >= 300
    given = {"learning_rate": 0.02, "global_batch_size": 50, "freeze": ("fc6",)}
    recipe = resolve(data_set, given=given, weights=weights_of(theirs, 1000)).recipe
    assert {name: getattr(recipe, name) for name in given} == given
    assert recipe.num_epochs == 100
    assert recipe.head_learning_rate_factor == 10.0


def test_only_a_new_head_learns_faster(data_dir):
    data_set = open_data_set(data_dir)
    for classes, factor in [
        (("blue", "green", "red"), 1.0),
        (("red", "green", "blue"), 10.0),
        (None, 1.0),
    ]:
        weights = weights_of(RECIPES["bvlc"], 3, classes)
        recipe = resolve(data_set, weights=weights).recipe
        assert recipe.head_learning_rate_factor == factor


def test_many_images_are_seen_for_a_few_epochs(data_dir):
    data_set = open_data_set(data_dir)
    split = dataclasses.replace(data_set.splits["train"], shard_lengths=(1_281_167,))
    data_set = dataclasses.replace(data_set, splits=data_set.splits | {"train": split})
    recipe = resolve(data_set, weights=weights_of(RECIPES["bvlc"], 1000)).recipe
    assert (recipe.global_batch_size, recipe.num_epochs) == (128, 10.0)


@pytest.fixture
def file(tmp_path):
    """Weights of a small `bvlc` with five classes, in a file like the published one."""
    model = alexnet(5, "bvlc", width=SMALL["width"], seed=7)
    layers = {
        name: {v.name: v.numpy() for v in model.get_layer(name).weights}
        for name in LAYERS
    }
    write_caffe(tmp_path / "weights", layers)
    return str(tmp_path / "weights")


def test_a_fine_tuned_run_from_its_weights_to_predictions(
    data_dir, tmp_path, file, caplog, monkeypatch
):
    """No program needs a flag; a killed run goes on although the weights are gone."""
    draw_no_pictures(monkeypatch.setattr)
    start = read_weights(file).layers
    given = SMALL | {"init_weights": file, "freeze": ("conv1",), "train_steps": 3}
    given |= {"global_batch_size": 8}
    run_dir = str(tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch, caplog.at_level("INFO", "absl"):
        patch.setattr(loop.Loop, "run", lambda _: False)
        assert not train(data_dir, run_dir, given=given, export=False)
    for line in (
        "conv1: loaded (11×11×3×10, 10), frozen",
        "conv2: loaded (5×5×5×26, 26)",
        "fc8: new (410×3, 3)",
    ):
        assert line in [message.strip() for message in caplog.messages]
    os.remove(file)
    assert train(data_dir, run_dir, given=given, export=False)
    config = Run(run_dir).read_config()
    bvlc = network_fields(RECIPES["bvlc"]) | {"width": SMALL["width"]}
    assert network_fields(config.recipe) == bvlc
    found = read_weights(run_dir).layers
    np.testing.assert_array_equal(found["conv1"]["kernel"], start["conv1"]["kernel"])
    assert 0 < np.abs(found["fc7"]["kernel"] - start["fc7"]["kernel"]).max() < 0.1
    assert found["input_normalization"]["mean"].ravel().tolist() == [123, 117, 104]

    evaluation = evaluate_run(run_dir)
    assert evaluation.num_evaluated == 25
    export_run(run_dir)
    names = [str(tmp_path / "a.png")]
    picture = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    tf.io.write_file(names[0], tf.io.encode_png(picture))
    exported = ExportedModel(run_dir)
    side = exported.fitting.stored_size
    square = fit_for_network(open_picture(names[0]), exported.fitting, side)
    answer = exported.run("images", square[np.newaxis])
    model, *_ = Run(run_dir).load_model()
    crop = picture[np.newaxis, 14 : 14 + 227, 14 : 14 + 227]
    expected = tf.nn.softmax(model(crop))[0].numpy()
    for name, class_id in zip(
        answer["classes"][0], answer["class_ids"][0], strict=True
    ):
        assert name.decode() == ["blue", "green", "red"][class_id]
        (probability,) = pick_class(answer, class_id)
        assert probability == pytest.approx(expected[class_id], abs=1e-4)


def test_one_of_our_runs_gives_its_body_its_mean_and_its_width(
    data_dir, tmp_path, monkeypatch
):
    """A linear probe of a run with other classes: all but the head stays."""
    draw_no_pictures(monkeypatch.setattr)
    first = Run(str(tmp_path / "first"))
    tiny = {"image_size": 67, "lrn": False, "width": 0.05}
    config = make_config(data_dir, "small", mean="image", **tiny)
    config = dataclasses.replace(config, class_names=("a", "b", "c", "d", "e"))
    first.start(config)
    mean = np.random.default_rng(1).uniform(0, 255, (67, 67, 3))
    state = tf.train.Checkpoint(model=build_model(config, "float32", mean))
    tf.train.CheckpointManager(state, first.checkpoint_dir, 1).save(2)

    second = str(tmp_path / "second")
    given = {
        "init_weights": first.model_dir,
        "freeze": LAYERS[:-1],
        "train_steps": 2,
        "global_batch_size": 8,
        "precision": "float32",
    }
    assert train(data_dir, second, given=given, export=False)
    assert Run(second).read_config().recipe.width == 0.05
    before, after = (read_weights(d).layers for d in (first.model_dir, second))
    np.testing.assert_array_equal(
        after["input_normalization"]["mean"], np.float32(mean)
    )
    for layer in LAYERS[:-1]:
        assert largest_difference(before[layer].values(), after[layer].values()) == 0
    assert after["fc8"]["kernel"].shape == (before["fc7"]["bias"].size, 3)


def test_a_new_run_is_called_by_the_recipe_of_weights_that_are_read_once(
    data_dir, tmp_path, file, monkeypatch
):
    read = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "_train_run", lambda run, *_: run.model_dir)
    monkeypatch.setattr(
        training, "read_weights", lambda path: read.append(path) or read_weights(path)
    )
    given = SMALL | {"init_weights": file}
    assert train_run(data_dir, given=given).endswith("-bvlc")
    assert read == [file]

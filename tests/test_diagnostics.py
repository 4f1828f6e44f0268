"""What is said about networks that do not learn."""

import dataclasses
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import draw_no_pictures, make_config, make_trainer

from alexnet_tf import alexnet
from alexnet_tf.evaluation import stuck
from alexnet_tf.evaluation.results import Evaluation, Predictions
from alexnet_tf.run import Run
from alexnet_tf.training import diagnostics
from alexnet_tf.training.loop import Loop


@pytest.mark.parametrize(
    ("cross_entropy", "error", "counts", "expected"),
    [
        (np.log(1000), 0.999, [1] * 1000, True),
        (0.981 * np.log(1000), 0.999, [1] * 1000, True),
        (0.979 * np.log(1000), 0.999, [1] * 1000, False),
        (1.2 * np.log(1000), 0.999, [1] * 1000, True),
        # Shares of 3/4 and 1/4: an entropy of 0.562.
        (0.562, 0.25, [3, 1], True),
        (0.65, 0.25, [3, 1], True),
        (0.65, 0.75, [3, 1], True),  # always the smaller class
        (0.54, 0.25, [3, 1], False),
        # Too sure of itself, as after too many epochs, but not blind.
        (0.9, 0.2, [30, 10], False),
        # One class: there is nothing to learn.
        (0.0, 0.0, [7], False),
        (0.4, 0.1, [0, 7, 0], False),
    ],
)
def test_is_stuck(cross_entropy, error, counts, expected):
    assert stuck.is_stuck(guess(cross_entropy, error, counts)) == expected


def guess(cross_entropy, error, counts):
    """Answers of which only the errors and the labels matter."""
    labels = np.repeat(np.arange(len(counts)), counts)
    ranks = (np.arange(len(labels)) < round(error * len(labels))).astype(int)
    losses, nothing = np.full(len(labels), cross_entropy), np.zeros((len(labels), 1))
    return Predictions(np.arange(len(labels)), labels, ranks, losses, nothing, nothing)


def test_with_weights_the_classes_count_as_they_do_in_the_loss():
    """Nine common ones are right, the rare one is answered with confidence, too."""
    counts = [90, 10]
    labels, losses = np.repeat([0, 1], counts), np.repeat([0.65, 0.6], counts)
    ranks = (np.arange(100) % 2).astype(int)  # half of each is wrong
    nothing = np.zeros((100, 1))
    predictions = Predictions(np.arange(100), labels, ranks, losses, nothing, nothing)
    assert stuck.is_stuck(predictions)  # above .325, the entropy
    weights = (100 / 180, 100 / 20)
    assert not stuck.is_stuck(predictions, weights)  # below ln 2


@pytest.mark.parametrize(
    ("step", "last_step", "is_said"),
    [(299, 900, False), (300, 900, True), (79, 79, False), (80, 80, True)],
)
def test_a_network_has_time_to_start(data_dir, step, last_step, is_said, monkeypatch):
    loop = Loop.__new__(Loop)  # what the question needs, and nothing else
    loop._timetable = types.SimpleNamespace(last_step=last_step)
    loop._config, loop.remarks = make_config(data_dir), []
    loop._trainer = types.SimpleNamespace(model=None, next_batch=lambda: (None, None))
    loop._progress = types.SimpleNamespace(line=lambda text: None)
    monkeypatch.setattr(diagnostics, "describe_layers", lambda *_: "")
    result = Evaluation("validation", 1, 2, guess(np.log(2), 0.5, [1, 1]))
    loop._advise_if_stuck(step, result)
    assert len(loop.remarks) == is_said


def test_layer_states_equal_numpy():
    model = alexnet(4, "original", width=0.1, seed=0)
    conv3 = model.get_layer("conv3")
    bias = conv3.bias.numpy()
    bias[:10] = -1e6  # always off
    bias[10:15] = 1e6  # always on
    conv3.bias.assign(bias)
    images = np.random.default_rng(0).integers(0, 256, (6, 224, 224, 3), np.uint8)
    states = {s.name: s for s in diagnostics.layer_states(model, images)}
    assert list(states) == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"]
    x = keras.Model(model.inputs[0], conv3.output)(images).numpy().astype(np.float64)
    channels = x.reshape(-1, x.shape[-1])
    assert states["conv3"].off == pytest.approx((channels.max(0) == 0).mean())
    assert states["conv3"].on == pytest.approx((channels.min(0) > 0).mean())
    assert states["conv3"].off >= 10 / 38
    variation = ((x - x.mean(0)) ** 2).mean() / (x**2).mean()
    assert states["conv3"].variation == pytest.approx(variation, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(
    ("layer", "value", "where"),
    [
        ("conv2", np.nan, "the weights conv2/kernel"),
        ("conv4", 3e38, "the output of conv4"),
        ("fc7", 3e38, "the output of fc7"),
    ],
)
def test_find_first_bad(layer, value, where):
    model = alexnet(4, "small", width=0.05, seed=0)
    kernel = model.get_layer(layer).kernel
    kernel.assign(np.full(kernel.shape, value, np.float32))
    images = tf.zeros((2, 224, 224, 3), tf.uint8)
    assert diagnostics.find_first_bad(model, images, tf.constant([0, 1])) == where


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ({"dropout": "inverted"}, "Try --dropout=mask"),
        ({"recipe": "small", "learning_rate": 0.0}, "Try a --learning_rate above 0"),
        ({"train_steps": 100}, "a longer training (it has 100 steps), another"),
    ],
)
def test_a_stuck_network_is_told_what_to_try(data_dir, given, advice):
    config = make_config(data_dir, **({"recipe": "paper"} | given))
    evaluation = Evaluation("validation", 1, 30, guess(1.1, 0.6, [12, 10, 8]))
    sentence = stuck.describe_stuck(evaluation, config)
    assert sentence.startswith("The network is stuck: its cross-entropy of 1.100")
    assert advice in sentence
    assert "one class" not in sentence


def test_a_network_that_answers_the_one_frequent_class_is_told_of_weights(data_dir):
    config = make_config(data_dir)
    evaluation = Evaluation("validation", 1, 108, guess(0.31, 0.07, [100, 6, 2]))
    sentence = stuck.describe_stuck(evaluation, config)
    assert "(93% of them are one class, 'blue'). Try --class_weights=" in sentence
    weighted = dataclasses.replace(config, loss_weights=(1.0, 1.0, 1.0))
    assert "class_weights" not in stuck.describe_stuck(evaluation, weighted)


def test_what_is_said_of_a_stuck_network_is_said_at_the_end_again(
    data_dir, tmp_path, monkeypatch
):
    draw_no_pictures(monkeypatch.setattr)
    for name in ("STEPS_TO_START", "STEPS_TO_START_AT_END"):
        monkeypatch.setattr(stuck, name, 4)
    given = {"image_size": 67, "lrn": False, "learning_rate": 0.0}
    trainer = make_trainer(data_dir, **given, validate_every=2, train_steps=6)
    lines = []
    loop = Loop(trainer, Run(str(tmp_path)))
    loop._progress.line = lines.append
    assert loop.run()
    (warning,) = (line for line in lines if "is stuck" in line)  # once
    assert "\n  fc7    always off" in warning
    assert loop.remarks == [warning.split("\n")[0]]
    assert "a --learning_rate above 0" in loop.remarks[0]

"""What is said about networks that do not learn."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import draw_no_pictures, make_trainer

from alexnet_tf import alexnet
from alexnet_tf.run import Run
from alexnet_tf.training import diagnostics
from alexnet_tf.training.loop import Loop


@pytest.mark.parametrize(
    ("cross_entropy", "error", "counts", "stuck"),
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
def test_is_stuck(cross_entropy, error, counts, stuck):
    counts = np.array(counts)
    assert diagnostics.is_stuck(300, False, cross_entropy, error, counts) == stuck


@pytest.mark.parametrize(
    ("step", "is_last", "stuck"),
    [(299, False, False), (300, False, True), (79, True, False), (80, True, True)],
)
def test_a_network_has_time_to_start(step, is_last, stuck):
    counts = np.array([1, 1])
    assert diagnostics.is_stuck(step, is_last, np.log(2), 0.5, counts) == stuck


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
        ({"recipe": "paper", "dropout": "inverted"}, "Try --dropout=mask"),
        ({"recipe": "small", "learning_rate": 0.0}, "Try a --learning_rate above 0"),
        ({"recipe": "small", "width": 0.2}, None),
    ],
)
def test_a_stuck_network_is_told_from_one_that_learns(
    data_dir, tmp_path, given, advice, monkeypatch
):
    draw_no_pictures(monkeypatch.setattr)
    if advice:  # it would not start later, either
        monkeypatch.setattr(diagnostics, "_STUCK_FROM_AT_END", 20)
    num_epochs = 5.0 if advice else 18.0
    trainer = make_trainer(data_dir, **({"num_epochs": num_epochs} | given))
    lines = []
    loop = Loop(trainer, Run(str(tmp_path)))
    loop._progress.line = lines.append
    assert loop.run()
    warnings = [line for line in lines if "is stuck" in line]
    assert len(warnings) == (advice is not None)
    if advice:
        assert "fc7    always off" in warnings[0]
        assert advice in warnings[0]

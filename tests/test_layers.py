"""Layers against NumPy in float64, literal numbers and Keras' own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf.devices import make_strategy
from alexnet_tf.network import layers
from alexnet_tf.network.layers import (
    Dropout,
    GroupedConv2D,
    LocalResponseNormalization,
    SpatialResponseNormalization,
)


def lrn_loop(x, depth_radius, bias, alpha, beta):
    """Section 3.3 of the paper, term by term."""
    x = np.asarray(x, np.float64)
    y = np.empty_like(x)
    depth = x.shape[-1]
    for i in range(depth):
        first, last = max(0, i - depth_radius), min(depth - 1, i + depth_radius)
        squares = sum(x[..., j] ** 2 for j in range(first, last + 1))
        y[..., i] = x[..., i] / (bias + alpha * squares) ** beta
    return y


def lrn_gradient_loop(x, dy, depth_radius, bias, alpha, beta):
    """dL/dx from the derivative of every output by every input."""
    x, dy = np.asarray(x, np.float64), np.asarray(dy, np.float64)
    dx = np.zeros_like(x)
    depth = x.shape[-1]
    for i in range(depth):
        first, last = max(0, i - depth_radius), min(depth - 1, i + depth_radius)
        window = range(first, last + 1)
        norm = bias + alpha * sum(x[..., j] ** 2 for j in window)
        dx[..., i] += dy[..., i] * norm**-beta
        for j in window:
            inner = -beta * norm ** (-beta - 1) * 2 * alpha * x[..., j]
            dx[..., j] += dy[..., i] * x[..., i] * inner
    return dx


LRN_CASES = [  # depth_radius, bias, alpha, beta, channels, jit_compile
    (2, 2.0, 1e-4, 0.75, 96, True),
    (2, 2.0, 1e-4, 0.75, 96, False),
    (2, 1.0, 0.5, 0.75, 7, True),
    (2, 1.0, 0.5, 0.75, 7, False),
    (1, 1.5, 0.1, 0.5, 5, True),
    (5, 1.0, 0.02, 1.0, 3, True),
    (0, 2.0, 0.3, 0.75, 4, True),
    (3, 0.5, 1.0, 0.6, 1, True),
]


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("case", LRN_CASES, ids=str)
def test_lrn_and_its_gradient_equal_the_formula(case, graph):
    *args, channels, jit_compile = case
    layer = LocalResponseNormalization(*args, jit_compile=jit_compile)
    rng = np.random.default_rng(0)
    x = rng.normal(0, 2, (2, 3, 5, channels)).astype(np.float32)
    dy = rng.normal(0, 1, x.shape).astype(np.float32)

    def run(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        return y, tape.gradient(y, x, output_gradients=dy)

    run = tf.function(run) if graph else run
    y, dx = run(tf.constant(x), tf.constant(dy))
    np.testing.assert_allclose(y, lrn_loop(x, *args), atol=1e-5)
    np.testing.assert_allclose(dx, lrn_gradient_loop(x, dy, *args), atol=1e-5)


@pytest.mark.parametrize("jit_compile", [True, False])
def test_lrn_computes_bfloat16_in_float32(jit_compile):
    layer = LocalResponseNormalization(
        2, 1.0, 0.5, 0.75, jit_compile=jit_compile, dtype="mixed_bfloat16"
    )
    x = tf.cast(tf.random.stateless_normal((2, 3, 3, 9), (0, 0)), tf.bfloat16)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
    dx = tape.gradient(y, x, output_gradients=tf.ones_like(y))
    assert y.dtype == tf.bfloat16
    x64 = x.numpy().astype(np.float64)
    args = (2, 1.0, 0.5, 0.75)
    # Rounded once, at the end: half a unit of bfloat16's 8 bits.
    np.testing.assert_allclose(tf.cast(y, tf.float32), lrn_loop(x64, *args), rtol=2**-8)
    np.testing.assert_allclose(
        tf.cast(dx, tf.float32),
        lrn_gradient_loop(x64, np.ones_like(x64), *args),
        rtol=2**-8,
        atol=1e-4,
    )


def test_lrn_of_many_shapes_is_no_reason_to_warn(caplog, monkeypatch):
    monkeypatch.setattr(tf.get_logger(), "propagate", True)
    layer = LocalResponseNormalization()
    for batch in range(1, 9):
        x = tf.ones((batch, 2, 2, 5))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        assert tape.gradient(y, x).shape == x.shape
    assert "retracing" not in caplog.text


def test_lrn_literal_numbers():
    y = LocalResponseNormalization(1, 1.0, 1.0, 1.0)(tf.constant([[[[1.0, 2.0, 3.0]]]]))
    np.testing.assert_allclose(y[0, 0, 0], [1 / 6, 2 / 15, 3 / 14], rtol=1e-6)


def test_lrn_groups_do_not_see_each_other():
    x = np.random.default_rng(1).normal(0, 3, (1, 2, 2, 8)).astype(np.float32)
    y = LocalResponseNormalization(2, 1.0, 0.5, 0.75, groups=2)(x)
    halves = [lrn_loop(half, 2, 1.0, 0.5, 0.75) for half in np.split(x, 2, axis=-1)]
    np.testing.assert_allclose(y, np.concatenate(halves, axis=-1), atol=1e-5)


def test_lrn_is_serialisable():
    layer = LocalResponseNormalization(3, 1.5, 0.1, 0.5, groups=2, jit_compile=False)
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(layer)
    )
    assert isinstance(copy, LocalResponseNormalization)
    assert copy.get_config() == layer.get_config()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"depth_radius": -1}, "depth_radius.*-1"),
        ({"depth_radius": 1.5}, "depth_radius.*1.5"),
        ({"bias": 0}, "bias.*0"),
        ({"groups": 0}, "groups.*0"),
    ],
)
def test_lrn_refuses(kwargs, message):
    with pytest.raises(ValueError, match=message):
        LocalResponseNormalization(**kwargs)


def test_lrn_refuses_channels_that_the_groups_cannot_share():
    with pytest.raises(ValueError, match="divisible by groups=2"):
        LocalResponseNormalization(groups=2)(tf.zeros((1, 2, 2, 3)))


def test_spatial_normalization_equals_the_formula():
    x = np.random.default_rng(2).normal(0, 10, (2, 7, 6, 3)).astype(np.float32)
    expected = np.empty(x.shape, np.float64)
    for i in range(7):
        for j in range(6):
            window = x[:, max(0, i - 2) : i + 3, max(0, j - 2) : j + 3].astype(float)
            norm = 1 + 0.001 / 25 * (window**2).sum(axis=(1, 2))
            expected[:, i, j] = x[:, i, j] / norm**0.75
    y = SpatialResponseNormalization()(x)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_convolution_equals_keras(groups):
    kwargs = {"groups": groups, "strides": 2, "padding": "same", "activation": "relu"}
    ours, theirs = GroupedConv2D(8, 3, **kwargs), keras.layers.Conv2D(8, 3, **kwargs)
    x = tf.random.stateless_normal((2, 9, 9, 8), (0, 0))
    ours.build(x.shape)
    theirs.build(x.shape)
    ours.set_weights(theirs.get_weights())
    np.testing.assert_allclose(ours(x), theirs(x), atol=1e-5)


@pytest.mark.parametrize(
    ("side", "size", "stride"), [(67, 11, 4), (68, 11, 4), (31, 8, 4), (20, 5, 3)]
)
def test_the_gradient_by_space_to_depth_is_that_of_the_convolution(
    side, size, stride, monkeypatch
):
    layer = GroupedConv2D(6, size, strides=stride)
    x = tf.random.stateless_normal((2, side, side, 3), (0, 1))
    layer.build(x.shape)

    def run():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
            loss = tf.reduce_sum(y**2)
        return y, *tape.gradient(loss, [x, *layer.trainable_variables])

    used, compute = [], layers.kernel_gradient_by_space_to_depth
    monkeypatch.setattr(
        layers,
        "kernel_gradient_by_space_to_depth",
        lambda *args: used.append(1) or compute(*args),
    )
    expected = run()
    layer.gradient_by_space_to_depth = True
    for found, wanted in zip(run(), expected, strict=True):
        limit = 1e-5 * np.abs(wanted).max()
        np.testing.assert_allclose(found, wanted, atol=limit)
    assert len(used) == 1


@pytest.mark.parametrize("units", [500, 410, 7])
def test_dropout_masks_depend_on_seed_step_and_place_alone(units):
    def masks(seed, replicas):
        strategy = make_strategy(simulate_gpus=replicas)
        with strategy.scope():
            layer = Dropout(0.5, seed=seed)

        @tf.function
        def draw():
            ones = tf.ones((8 // replicas, units))
            return strategy.run(lambda: layer(ones, training=True))

        local = strategy.experimental_local_results
        return [np.concatenate([x.numpy() for x in local(draw())]) for _ in range(2)]

    one = masks(seed=1, replicas=1)
    for replicas in (1, 2, 4):
        np.testing.assert_array_equal(masks(seed=1, replicas=replicas), one)
    rows = [*np.concatenate(one), *np.concatenate(masks(seed=2, replicas=1))]
    if units < 100:
        return
    for i, row in enumerate(rows):
        assert set(np.unique(row)) == {0.0, 1.0}
        assert 0.4 < row.mean() < 0.6
        for other in rows[:i]:
            assert 0.3 < (row == other).mean() < 0.7


def test_dropout_of_maps_draws_as_that_of_their_units():
    ones = tf.ones((4, 3, 2, 5))
    expected = Dropout(0.5, seed=1)(tf.reshape(ones, (4, 30)), training=True)
    for shape in ((4, 3, 2, 5), (None, None, None, 5)):
        layer = Dropout(0.5, seed=1)
        drop = tf.function(lambda x, drop=layer: drop(x, training=True))
        found = drop.get_concrete_function(tf.TensorSpec(shape))(ones)
        np.testing.assert_array_equal(tf.reshape(found, (4, 30)), expected)


def test_dropout_is_the_papers_or_scales_in_training():
    x = tf.constant(np.random.default_rng(0).normal(size=(64, 100)), tf.float32)
    for scale_in_training, in_training, at_test_time in (
        (False, 1.0, 0.75),
        (True, 1 / 0.75, 1.0),
    ):
        layer = Dropout(0.25, scale_in_training, seed=0)
        y = layer(x, training=True).numpy()
        kept = y != 0
        assert kept.mean() == pytest.approx(0.75, abs=0.02)
        np.testing.assert_allclose(y[kept], in_training * x.numpy()[kept], rtol=1e-6)
        np.testing.assert_allclose(layer(x), at_test_time * x, rtol=1e-6)
        copy = Dropout.from_config(layer.get_config())
        assert copy.scale_in_training == scale_in_training

"""The network: its shapes, its numbers, its input."""

import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf import RECIPES, alexnet


@pytest.mark.parametrize(("groups", "count"), [(2, 60_965_224), (1, 62_378_344)])
def test_number_of_parameters(groups, count):
    assert alexnet(groups=groups).count_params() == count


def test_feature_maps():
    model = alexnet(width=0.1)
    sizes = [model.get_layer(n).output.shape[1] for n in ("conv1", "pool1", "pool2")]
    assert sizes == [55, 27, 13]
    assert model.get_layer("pool5").output.shape[1:3] == (6, 6)


def numpy_forward(model, image, recipe):
    """The recipe's network on one image, in float64, from the weights alone."""
    weights = {
        layer.name: [w.numpy().astype(np.float64) for w in layer.weights]
        for layer in model.layers
    }

    def relu(x):
        return np.maximum(x, 0)

    def conv(x, name, stride=1, pad=0, groups=1):
        kernel, bias = weights[name]
        x = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
        size = kernel.shape[0]
        windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (0, 1))
        windows = windows[::stride, ::stride]  # row, column, channel, i, j
        parts = zip(
            np.split(windows, groups, 2), np.split(kernel, groups, 3), strict=True
        )
        maps = [np.einsum("rcdij,ijdo->rco", w, k, optimize=True) for w, k in parts]
        return np.concatenate(maps, -1) + bias

    def pool(x):
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (0, 1))
        return windows[::2, ::2].max((3, 4))

    def lrn(x, alpha):
        padded = np.pad(x**2, ((0, 0), (0, 0), (2, 2)))
        sums = sum(padded[..., i : i + x.shape[-1]] for i in range(5))
        return x / (2 + alpha * sums) ** 0.75

    def lrn_in_towers(x):
        return np.concatenate([lrn(half, 1e-4 / 5) for half in np.split(x, 2, -1)], -1)

    def spatial(x):
        padded = np.pad(x**2, ((2, 2), (2, 2), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), (0, 1))
        return x / (1 + 0.001 / 25 * windows.sum((3, 4))) ** 0.75

    x = image.astype(np.float64) - [124, 117, 104]
    x = conv(np.pad(x, ((0, 3), (0, 3), (0, 0))), "conv1", stride=4)
    if recipe == "original":
        x = relu(pool(lrn_in_towers(x)))
        x = pool(spatial(lrn_in_towers(relu(conv(x, "conv2", pad=2, groups=2)))))
    else:
        x = pool(lrn(relu(x), 1e-4))
        x = pool(lrn(relu(conv(x, "conv2", pad=2, groups=2)), 1e-4))
    x = relu(conv(x, "conv3", pad=1))
    x = relu(conv(x, "conv4", pad=1, groups=2))
    x = pool(relu(conv(x, "conv5", pad=1, groups=2)))
    x = x.reshape(-1)
    for name in ("fc6", "fc7"):
        x = relu(x @ weights[name][0] + weights[name][1])
    return x @ weights["fc8"][0] + weights["fc8"][1]


@pytest.mark.parametrize("recipe", RECIPES)
def test_forward_pass_equals_numpy(recipe):
    model = alexnet(10, recipe, width=0.1, seed=0)
    rng = np.random.default_rng(0)
    for layer in model.layers:  # activations of size, so that every part counts
        layer.set_weights([w * 4 for w in layer.get_weights()])
    image = rng.integers(0, 256, (224, 224, 3), np.uint8)
    expected = numpy_forward(model, image, recipe)
    logits = model(image[np.newaxis])[0]
    np.testing.assert_allclose(logits, expected, rtol=2e-4, atol=2e-4 * expected.std())


@pytest.mark.parametrize(
    ("recipe", "stddev_conv345"), [("paper", 0.01), ("original", 0.03), ("small", 0.03)]
)
def test_initial_weights(recipe, stddev_conv345):
    model = alexnet(1000, recipe, seed=3)
    bias = {"conv2": 1, "conv4": 1, "conv5": 1, "fc6": 1, "fc7": 1}
    for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"):
        layer = model.get_layer(name)
        kernel = layer.kernel.numpy()
        stddev = stddev_conv345 if name in ("conv3", "conv4", "conv5") else 0.01
        assert kernel.std() == pytest.approx(stddev, rel=0.02)
        assert abs(kernel.mean()) < stddev / 50
        np.testing.assert_array_equal(layer.bias, bias.get(name, 0))


def test_the_seed_decides_the_weights_and_layers_differ():
    first, same, other = (alexnet(10, width=0.1, seed=s) for s in (1, 1, 2))
    for a, b, c in zip(first.weights, same.weights, other.weights, strict=True):
        np.testing.assert_array_equal(a, b)
        if "kernel" in a.path:
            assert np.abs(a.numpy() - c.numpy()).max() > 0
    kernels = [first.get_layer(n).kernel.numpy().ravel() for n in ("fc6", "fc7")]
    assert abs(np.corrcoef(kernels[0][:9000], kernels[1][:9000])[0, 1]) < 0.05


def test_uint8_and_float_images_give_the_same_float32_logits():
    image = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    for dtype in ("float32", "mixed_bfloat16"):
        model = alexnet(5, width=0.1, dtype=dtype, seed=0)
        logits = model(image)
        assert logits.dtype == tf.float32
        np.testing.assert_array_equal(logits, model(image.astype(np.float32)))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"num_classes": 0},
        {"width": 0},
        {"groups": 3},
        {"dropout_rate": 1.0},
        {"recipe": "vgg"},
    ],
)
def test_bad_arguments_are_named(kwargs):
    (name,) = kwargs
    with pytest.raises(ValueError, match=name):
        alexnet(**kwargs)

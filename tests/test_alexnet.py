"""The network: its shapes, its numbers, its input."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from numpy_alexnet import NumpyAlexNet

from alexnet_tf import RECIPES, alexnet


@pytest.mark.parametrize(
    ("recipe", "groups", "count"),
    [
        ("paper", 2, 60_965_224),
        ("paper", 1, 62_378_344),
        ("bvlc", 2, 60_965_224),
        ("torchvision", 1, 61_100_840),
    ],
)
def test_number_of_parameters(recipe, groups, count):
    variables = alexnet(recipe=recipe, groups=groups).trainable_variables
    assert sum(int(np.prod(v.shape)) for v in variables) == count


def test_the_mean_image_is_a_weight_whose_central_window_is_subtracted():
    mean_image = np.random.default_rng(0).uniform(0, 255, (256, 256, 3))
    model = alexnet(image_mean=mean_image, width=0.1)
    layer = model.get_layer("input_normalization")
    window = mean_image[16:240, 16:240].astype(np.float32)
    np.testing.assert_array_equal(layer.mean, window)
    images = np.random.default_rng(1).integers(0, 256, (2, 224, 224, 3), np.uint8)
    np.testing.assert_allclose(layer(images), images - window, atol=1e-4)
    assert "mean" not in [v.path for v in model.trainable_variables]
    with pytest.raises(ValueError, match=r"at least 224×224 pixels.*200"):
        alexnet(image_mean=mean_image[:200], width=0.1)


def test_without_the_top_it_ends_at_fc7():
    whole = alexnet(10, width=0.1, seed=0)
    features = alexnet(include_top=False, width=0.1, seed=0)
    image = np.random.default_rng(1).integers(0, 256, (1, 224, 224, 3), np.uint8)
    fc8 = whole.get_layer("fc8")
    expected = 0.5 * features(image).numpy() @ fc8.kernel.numpy() + fc8.bias.numpy()
    np.testing.assert_allclose(whole(image), expected, rtol=1e-3, atol=1e-6)


def test_feature_maps():
    model = alexnet(width=0.1)
    sizes = [model.get_layer(n).output.shape[1] for n in ("conv1", "pool1", "pool2")]
    assert sizes == [55, 27, 13]
    assert model.get_layer("pool5").output.shape[1:3] == (6, 6)


@pytest.mark.parametrize("recipe", RECIPES)
def test_forward_pass_equals_numpy(recipe):
    mean = np.random.default_rng(2).uniform(90, 130, (240, 240, 3))
    if RECIPES[recipe].mean_color:
        mean = None  # the recipe has its own
    model = alexnet(10, recipe, image_mean=mean, width=0.1, seed=0)
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:  # of size, so that every part counts
        variable.assign(variable * 4)
    size = RECIPES[recipe].image_size
    image = rng.integers(0, 256, (1, size, size, 3), np.uint8)
    weights = {v.path: v.numpy().astype(np.float64) for v in model.weights}
    expected = NumpyAlexNet(RECIPES[recipe], weights).forward(image)
    logits = model(image)
    np.testing.assert_allclose(logits, expected, rtol=2e-4, atol=2e-4 * expected.std())


@pytest.mark.parametrize(
    ("recipe", "stddev_conv345"),
    [("paper", 0.01), ("original", 0.03), ("small", 0.03), ("bvlc", 0.01)],
)
def test_initial_weights(recipe, stddev_conv345):
    model = alexnet(1000, recipe, width=0.5, seed=3)
    one = 0.1 if recipe == "bvlc" else 1
    bias = dict.fromkeys(("conv2", "conv4", "conv5", "fc6", "fc7"), one)
    for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"):
        layer = model.get_layer(name)
        kernel = layer.kernel.numpy()
        stddev = stddev_conv345 if name in ("conv3", "conv4", "conv5") else 0.01
        if recipe == "bvlc" and name in ("fc6", "fc7"):
            stddev = 0.005
        assert kernel.std() == pytest.approx(stddev, rel=0.02)
        assert abs(kernel.mean()) < stddev / 50
        np.testing.assert_array_equal(layer.bias, np.float32(bias.get(name, 0)))


def test_initial_weights_of_torchvision_are_uniform_by_fan_in():
    model = alexnet(1000, "torchvision", seed=3)
    for name, fan_in in (("conv1", 363), ("conv3", 1728), ("fc6", 9216)):
        limit = 1 / fan_in**0.5
        for variable in model.get_layer(name).trainable_variables:
            values = variable.numpy()
            assert np.abs(values).max() <= limit
            assert np.abs(values).max() > 0.9 * limit
        assert values.std() == pytest.approx(limit / 3**0.5, rel=0.15)


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
        {"width": float("nan")},
        {"image_mean": (1, 2, 3, 4)},
        {"image_mean": np.zeros((224, 224))},
        {"groups": 3},
        {"dropout_rate": 1.0},
        {"recipe": "vgg"},
    ],
)
def test_bad_arguments_are_named(kwargs):
    (name,) = kwargs
    with pytest.raises(ValueError, match=name):
        alexnet(**kwargs)


LIBRARY = """
import alexnet_tf, keras, numpy as np
from alexnet_tf.training.optimizers import MomentumSGD
model = alexnet_tf.alexnet(2, "small", width=0.05, seed=1)
optimizer = MomentumSGD(0.01)
optimizer.build(model.trainable_variables)
print(model.input.dtype, {str(v.dtype) for v in model.variables + optimizer.variables})
print([layer.data_format for layer in model.layers if hasattr(layer, "data_format")])
images = np.arange(224 * 224 * 3, dtype=np.uint8).reshape(1, 224, 224, 3)
print(model(images).dtype.name, *model(images).numpy().ravel())
"""


def use_as_library(code, **environment):
    """Runs it in another process; returns its exit code, lines and errors."""
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=pathlib.Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    return ended.returncode, ended.stdout.splitlines(), ended.stderr


def test_what_keras_is_set_to_makes_no_other_network(tmp_path):
    (tmp_path / "keras.json").write_text(
        '{"floatx": "float16", "image_data_format": "channels_first"}'
    )
    code, lines, errors = use_as_library(
        LIBRARY, KERAS_HOME=str(tmp_path), TF_USE_LEGACY_KERAS="1", TF_CONFIG=""
    )
    assert code == 0, errors
    dtypes, formats, logits = lines
    assert dtypes in ("float32 {'float32', 'int64'}", "float32 {'int64', 'float32'}")
    assert set(formats.strip("[]").split(", ")) == {"'channels_last'"}
    images = np.arange(224 * 224 * 3, dtype=np.uint8).reshape(1, 224, 224, 3)
    expected = alexnet(2, "small", width=0.05, seed=1)(images).numpy().ravel()
    kind, *values = logits.split()
    assert kind == "float32"
    np.testing.assert_allclose([float(v) for v in values], expected, rtol=1e-5)


def test_another_backend_is_refused_in_one_line():
    code, _, errors = use_as_library("import alexnet_tf", KERAS_BACKEND="jax")
    assert code == 1
    line = errors.splitlines()[-1]
    assert line.startswith("ImportError: alexnet_tf runs on TensorFlow, and Keras is ")
    assert "KERAS_BACKEND=tensorflow" in line
    assert "No module named" not in errors

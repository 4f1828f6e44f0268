"""Where a network looks, against sums of NumPy."""

import keras
import numpy as np
import pytest

import alexnet_tf
from alexnet_tf.evaluation.explaining import (
    METHODS,
    before_activation,
    describe_falls,
    draw_scale,
    hide_parts,
    measure_gradcam,
    overlay,
    to_falls,
    to_shares,
)


def test_what_is_hidden_is_where_the_class_is_lost():
    """One bright cell of 32 × 32 pixels; the class is the mean brightness."""
    image = np.zeros((128, 160, 3), np.uint8)
    image[32:64, 96:128] = 255

    batches = list(hide_parts(image, 7))
    assert max(map(len, batches)) == 7
    found = to_falls(np.concatenate(batches).mean((1, 2, 3)) / 255, (128, 160))
    brightness = image.mean().round()
    base = image.mean() / 255
    expected = np.zeros((4, 5))
    for top in range(-1, 4):  # each square hides up to 2 × 2 cells
        for left in range(-1, 5):
            hidden = np.float64(image)
            rows = slice(max(top, 0) * 32, (top + 2) * 32)
            columns = slice(max(left, 0) * 32, (left + 2) * 32)
            hidden[rows, columns] = brightness
            fall = base - hidden.mean() / 255
            for i in (top, top + 1):
                for j in (left, left + 1):
                    if 0 <= i < 4 and 0 <= j < 5:
                        expected[i, j] += fall / 4
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.unravel_index(found.argmax(), found.shape) == (1, 3)


def test_colours_have_one_scale_of_points_and_none_where_nothing_matters():
    image = np.full((64, 64, 3), 100, np.uint8)
    falls = np.array([[0.0, 0.125], [0.0, 0.0]])
    shares = to_shares(falls, (64, 64))
    assert abs(shares[16, 48] - 0.5) < 0.06  # the root of 12.5 of 50 points
    assert shares[48, 16] < 0.02
    strong = to_shares(8 * falls, (64, 64))
    assert strong[16, 48] > 0.99
    assert strong.max() <= 1
    seen = overlay(image, shares)
    np.testing.assert_allclose(seen[60, 2], 100, atol=1)
    assert np.abs(seen[16, 48].astype(int) - 100).max() > 30
    np.testing.assert_array_equal(
        overlay(image, to_shares(falls / 10, (64, 64))), image
    )
    assert describe_falls(falls) == "at most 12 points"
    assert describe_falls(falls / 10) == "no single part matters"
    colors, points = zip(*draw_scale(), strict=True)
    assert points == ("0", "3", "12", "28", "50+")
    grey = np.full((64, 64, 3), 128, np.uint8)
    np.testing.assert_array_equal(
        colors[2][0, 0], overlay(grey, shares * 0 + 0.5)[0, 0]
    )


def make_network():
    """Maps of one 1×1 convolution with ReLU, and scores that NumPy can follow."""
    images = keras.Input((6, 6, 3))
    conv = keras.layers.Conv2D(4, 1, activation="relu", name="conv5")
    dense = keras.layers.Dense(3, name="fc8")
    x = dense(keras.layers.Flatten()(conv(images)))
    model = keras.Model(images, keras.layers.Softmax()(x))
    rng = np.random.default_rng(1)
    for layer in (conv, dense):
        layer.set_weights([rng.normal(size=w.shape) for w in layer.get_weights()])
    return model


def test_gradcam_against_numpy():
    model = make_network()
    images = np.random.default_rng(2).integers(0, 256, (2, 6, 6, 3)).astype(np.float32)
    kernel, bias = model.get_layer("conv5").get_weights()
    matrix, _ = model.get_layer("fc8").get_weights()
    maps = np.maximum(images @ kernel[0, 0] + bias, 0)
    classes = [2, 0]
    found = measure_gradcam(model, images, classes)
    for i, class_id in enumerate(classes):
        # The score of a class is linear in the maps, so its gradient is the matrix.
        weights = matrix[:, class_id].reshape(6, 6, 4).mean(axis=(0, 1))
        expected = np.maximum((weights * maps[i]).sum(axis=-1), 0)
        np.testing.assert_allclose(found[i], expected, rtol=1e-4, atol=1e-3)
    model.trainable = False
    np.testing.assert_array_equal(measure_gradcam(model, images, classes), found)


@pytest.mark.parametrize("method", METHODS)
def test_explain_shows_a_class_of_any_network(method):
    model = alexnet_tf.alexnet(5, "small", width=0.05, seed=0)
    for variable in model.trainable_variables:
        variable.assign(variable * 2)
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    shown = alexnet_tf.explain(model, images, method=method)
    assert (shown.shape, shown.dtype) == (images.shape, np.uint8)
    answers = np.argmax(model(images), axis=1)
    np.testing.assert_array_equal(
        alexnet_tf.explain(model, images, answers, method), shown
    )
    if method == "gradcam":
        others = alexnet_tf.explain(model, images, (answers + 1) % 5)
        assert not np.array_equal(others, shown)
        at_pool = alexnet_tf.explain(model, images, answers, layer="pool2")
        assert not np.array_equal(at_pool, shown)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "lime"}, "method must be one of"),
        ({"layer": "conv9"}, "no layer 'conv9': give one of"),
        ({"layer": "fc8"}, "'fc8' has no maps"),
        ({"images": np.zeros((1, 5, 5, 3))}, r"images must be \(n, 6, 6, 3\)"),
    ],
)
def test_what_cannot_be_explained_is_one_sentence(arguments, message):
    arguments = {"images": np.zeros((1, 6, 6, 3))} | arguments
    with pytest.raises(ValueError, match=message):
        alexnet_tf.explain(make_network(), **arguments)


@pytest.mark.parametrize(("layer", "unit"), [("fc8", 2), ("fc7", 5), ("conv3", 7)])
def test_a_picture_that_excites_a_unit_does(layer, unit):
    model = alexnet_tf.alexnet(4, "small", width=0.05, image_size=67, seed=0)
    before = keras.Model(model.inputs, before_activation(model.get_layer(layer)))

    def excitement(pictures):
        return (
            before(np.float32(pictures))[..., unit].numpy().reshape(len(pictures), -1)
        )

    picture = alexnet_tf.excite(model, layer, unit, steps=24)
    assert (picture.shape, picture.dtype) == ((67, 67, 3), np.uint8)
    others = np.random.default_rng(0).integers(0, 256, (16, 67, 67, 3))
    assert excitement([picture]).mean() > excitement(others).mean(axis=1).max()
    np.testing.assert_array_equal(
        alexnet_tf.excite(model, layer, unit, steps=24), picture
    )


def test_a_unit_that_is_none_is_one_sentence():
    model = make_network()
    with pytest.raises(ValueError, match=r"unit must be in 0\.\.2, received 3"):
        alexnet_tf.excite(model, "fc8", 3)
    with pytest.raises(ValueError, match="no layer 'fc9': give one of conv5,"):
        alexnet_tf.excite(model, "fc9", 0)

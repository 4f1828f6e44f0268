"""Tests of figures.py."""

import io

import keras
import numpy as np
import PIL.Image
import pytest

from alexnet_tf import alexnet
from alexnet_tf.evaluation import figures, mosaics

RNG = np.random.default_rng(0)


def test_grid_lays_out_by_rows_on_white():
    images = np.arange(1, 6, dtype=np.uint8).reshape(5, 1, 1, 1)
    expected = np.full((6, 9), 255)
    expected[1, 1::3] = 1, 2, 3
    expected[4, 1:7:3] = 4, 5
    # The place after the last image is black padding's opposite: white too.
    np.testing.assert_array_equal(
        mosaics.lay_out(images, columns=3, space=1)[..., 0], expected
    )


def test_kernels_keep_the_towers_apart_and_fill_the_range():
    kernel = np.zeros((11, 11, 3, 32))
    kernel[0, 0, 0, 0], kernel[0, 1, 0, 0] = 0.5, -0.5
    kernel[..., 16] = 2.0  # the first of the second tower
    picture = mosaics.draw_kernels(kernel, towers=2, scale=1)
    assert picture.shape == (15 + 8 + 15, 16 * 15, 3)
    assert picture[2, 2].tolist() == [255, 128, 128]
    assert picture[2, 3].tolist() == [0, 128, 128]
    assert (picture[15:23] == 255).all()
    assert (picture[25:36, 2:13] == 255).all()
    assert (picture[25:36, 17:28] == 128).all()  # all zero: grey


def test_kernels_of_a_network_are_for_rgb():
    two = alexnet(3, "bvlc", width=0.05, seed=0)
    kernel = two.get_layer("conv1").kernel.numpy()[:, :, ::-1]  # takes BGR
    expected = mosaics.draw_kernels(kernel, towers=2)
    np.testing.assert_array_equal(mosaics.draw_layer(two, "conv1"), expected)
    one = alexnet(3, "torchvision", width=0.05, seed=0)
    expected = mosaics.draw_kernels(one.get_layer("conv1").kernel.numpy())
    np.testing.assert_array_equal(mosaics.draw_layer(one, "conv1"), expected)


def test_calibration_bins_hold_equally_many_answers():
    confidences = RNG.uniform(0, 1, 500) ** 4  # most of them small
    is_right = RNG.uniform(0, 1, 500) < confidences**2
    bins = figures.bin_by_confidence(confidences, is_right)
    assert bins[:, 2].tolist() == [50] * 10
    order = np.argsort(confidences)
    error = 0.0
    for row, start in zip(bins, range(0, 500, 50), strict=True):
        group = order[start : start + 50]
        mean = sum(confidences[group]) / 50
        accuracy = sum(is_right[group]) / 50
        np.testing.assert_allclose(row, [mean, accuracy, 50])
        error += abs(mean - accuracy) / 10
    assert abs(figures.measure_calibration(bins) - error) < 1e-9
    few = figures.bin_by_confidence(confidences[:25], is_right[:25])
    assert few[:, 2].tolist() == [13, 12]


def test_reliability_has_the_interval_of_each_bin():
    bins = np.array([[0.2, 0.5, 10], [0.9, 1.0, 10]])
    (axes,) = figures.draw_reliability(bins).axes
    (segments,) = [c.get_segments() for c in axes.collections]
    bounds = [segment[:, 1] for segment in segments]
    np.testing.assert_allclose(bounds, [[23.66, 76.34], [72.25, 100]], atol=0.01)


def test_certain_and_right_is_calibrated_certain_and_wrong_is_not():
    ones = np.ones(4)
    for is_right, expected in ((True, 0.0), (False, 1.0)):
        bins = figures.bin_by_confidence(ones, np.full(4, is_right))
        assert figures.measure_calibration(bins) == expected


@pytest.mark.parametrize("num_classes", [3, 30])
def test_confusion_matrix_is_dark_on_its_diagonal(num_classes):
    names = [f"class {i}" for i in range(num_classes)]
    figure = figures.draw_confusion(9 * np.eye(num_classes, dtype=int), names)
    axes, legend = figure.axes
    shares = axes.images[0].get_array()
    np.testing.assert_array_equal(shares, np.eye(num_classes))
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert shown == names
    assert len(axes.texts) == (9 if num_classes == 3 else 0)
    assert "share of the true class" in legend.get_xlabel()
    assert axes.get_xlabel() == "predicted class"
    assert axes.get_ylabel() == "true class"


def test_figures_become_png():
    figure = figures.draw_reliability(figures.bin_by_confidence(np.ones(3), np.ones(3)))
    png = PIL.Image.open(io.BytesIO(mosaics.encode_png(figure)))
    assert png.format == "PNG"
    assert png.width == 792  # two pixels for each of a phone's


def test_long_names_go_on_in_a_second_line():
    name = "functional monocrystalline solar cell"
    assert mosaics.wrap(name, 16) == "functional\nmonocrystalline…"
    assert mosaics.wrap("tench", 16) == "tench"
    assert mosaics.wrap("", 16) == ""


def test_long_names_are_cut_to_their_first():
    assert mosaics.shorten("tench, Tinca tinca") == "tench"
    assert mosaics.shorten("x" * 40) == "x" * 31 + "…"


def test_no_name_is_taken_for_a_formula_or_for_control():
    names = ["$x$", r"a$\frac$", "two\nlines\033[1m", "$"]
    for figure in (
        figures.draw_confusion(np.eye(4, dtype=int), names),
        figures.draw_pictures(np.zeros((4, 8, 8, 3), np.uint8), names),
        figures.draw_curves(
            {data: [figures.Curve(name, "", []) for name in names] for data in names}
        ),
    ):
        mosaics.encode_png(figure)
    axes, _ = figures.draw_confusion(np.eye(4, dtype=int), names).axes
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert shown[0] == r"\$x\$"  # which matplotlib shows as $x$
    assert mosaics.shorten(names[2]) == r"two\nlines\x1b[1m"


RECORDS = [
    {
        "split": split,
        "epoch": epoch,
        "cross_entropy": 2.0 / epoch + bias,
        "top_1_error": 0.5 / epoch + bias,
        "learning_rate": 0.1 / epoch,
        "images_per_second": 100 * epoch,
    }
    for epoch in (1, 2)
    for split, bias in (("train", 0.0), ("validation", 0.25))
]


def test_learning_curves_show_every_record_and_the_largest_class():
    figure = figures.draw_curves({"": [figures.Curve("small", "", RECORDS)]}, 0.4)
    loss, accuracy, rate = (
        [line.get_ydata() for line in axes.lines] for axes in figure.axes
    )
    np.testing.assert_allclose(loss, [[2, 1], [2.25, 1.25]])
    np.testing.assert_allclose(accuracy[:2], [[50, 75], [25, 50]])
    assert set(accuracy[2]) == {40}
    np.testing.assert_allclose(rate, [[0.1, 0.05]] * 2)
    epochs = [list(line.get_xdata()) for line in figure.axes[0].lines]
    assert epochs == [[1, 2]] * 2
    labels = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert labels == ["small", "largest class"]


def test_curves_of_runs_have_the_recipes_colour_and_the_settings_dashes():
    curves = [
        figures.Curve("small", "", RECORDS),
        figures.Curve("paper", "", RECORDS[:2]),
        figures.Curve("paper", "width 0.5", RECORDS),
        figures.Curve("paper", "width 0.5", RECORDS),
    ]
    figure = figures.draw_curves({"photos": curves, "demo": curves[:1]})
    loss, other_loss, accuracy, *_ = figure.axes
    thick = loss.lines[1::2]
    assert [list(line.get_ydata()) for line in thick[:2]] == [[2.25, 1.25], [2.25]]
    assert [list(line.get_ydata()) for line in loss.lines[:1]] == [[2, 1]]
    assert loss.lines[0].get_linewidth() < thick[0].get_linewidth()
    colors = [line.get_color() for line in thick]
    dashes = [line.get_linestyle() for line in thick]
    assert colors[0] != colors[1] == colors[2] == colors[3]
    assert dashes[0] == dashes[1] != dashes[2] == dashes[3]
    labels = [text.get_text() for text in accuracy.get_legend().get_texts()]
    assert labels == ["small", "paper", "paper width 0.5"]  # each once
    assert len(other_loss.lines) == 2
    assert other_loss.get_title().startswith("demo: ")
    mosaics.encode_png(figure)
    ticks = [t.get_text() for t in loss.get_yticklabels()]
    assert "2" in ticks
    assert not any("10^" in tick for tick in ticks)


def test_pictures_have_the_names_of_their_classes():
    images = RNG.integers(0, 256, (9, 4, 4, 3), np.uint8)
    figure = figures.draw_pictures(images, [f"class {i}" for i in range(9)])
    axes = [axes for axes in figure.axes if axes.images]
    assert [each.get_title() for each in axes] == [f"class {i}" for i in range(9)]
    for each, image in zip(axes, images, strict=True):
        np.testing.assert_array_equal(each.images[0].get_array(), image)


def has_empty_column(mosaic, space):
    """Whether there is a tile's width of white from top to bottom."""
    is_white = (mosaic == 255).all(axis=(0, 2))
    return "1" * (2 * space + 1) in "".join(map(str, is_white.astype(int)))


@pytest.mark.parametrize("number", [1, 5, 8, 13, 16, 40])
def test_no_mosaic_has_empty_columns(number):
    for channels in (3, 7):
        drawn = mosaics.draw_kernels(RNG.normal(size=(5, 5, channels, number)))
        assert not has_empty_column(drawn, 2)
        rows = -(-number // 16) if channels == 3 else channels
        assert drawn.shape == (rows * 19, min(number, 16) * 19, 3)


def test_every_layer_has_a_picture_of_its_kernels_and_of_its_maps():
    model = alexnet(7, "small", width=0.1, seed=0)
    image = RNG.integers(0, 256, (224, 224, 3), np.uint8)
    maps = mosaics.draw_layer(model, "conv2", image)
    values = keras.Model(model.inputs[0], model.get_layer("conv2").output)(image[None])
    values = np.maximum(values[0].numpy(), 0)
    for number in (0, 9):  # of rows of eight, two pixels for each value
        top, left = (2 + i * (2 * 27 + 4) for i in divmod(number, 8))
        drawn = maps[top : top + 54 : 2, left : left + 54 : 2, 0]
        expected = np.round(255 * values[..., number] / values.max())
        np.testing.assert_allclose(drawn, expected, atol=1)
    # Seven classes: seven squares, and no empty columns.
    assert mosaics.draw_layer(model, "fc8", image).shape == (12, 7 * 12, 3)
    kernel = model.get_layer("conv2").kernel.numpy()
    drawn = mosaics.draw_layer(model, "conv2")
    assert drawn.shape[1] == 16 * (3 * 5 + 4)
    one = kernel[:, :, 1, 2] / np.abs(kernel[:, :, 1, 2]).max()
    top, left = 2 + 1 * (15 + 4), 2 + 2 * (15 + 4)
    pixels = drawn[top : top + 15 : 3, left : left + 15 : 3, 0]
    np.testing.assert_allclose(pixels, 127.5 + 127.5 * one, atol=0.51)
    for name in ("conv1", "fc6", "fc8"):
        assert mosaics.draw_layer(model, name).std() > 1

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
    shown, towers = mosaics.find_kernels(two)
    kernel = two.get_layer("conv1").kernel.numpy()
    assert towers == 2
    np.testing.assert_array_equal(shown[:, :, 0], kernel[:, :, 2])  # takes BGR
    one = alexnet(3, "torchvision", width=0.05, seed=0)
    shown, towers = mosaics.find_kernels(one)
    assert towers == 1
    np.testing.assert_array_equal(shown, one.get_layer("conv1").kernel.numpy())


def test_beside_puts_each_image_before_its_own():
    images = np.arange(2, dtype=np.uint8).reshape(2, 1, 1, 1)
    others = np.arange(10, 16, dtype=np.uint8).reshape(2, 3, 1, 1, 1)
    cells = mosaics.lay_beside(images, others)[2::5, 2::5, 0]
    assert cells.tolist() == [[0, 10, 11, 12], [1, 13, 14, 15]]


def test_captions_stand_below_their_images():
    images = np.full((2, 40, 60, 3), 90, np.uint8)
    picture = mosaics.lay_out_captioned(images, ["first\nline", ""], columns=2)
    assert picture.shape == (40 + 36 + 8, 2 * 68, 3)
    assert (picture[4:44, 4:64] == 90).all()
    assert picture[44:80, 4:64].min() < 50
    assert picture[44:80, 72:132].min() == 255


def test_frames_of_right_and_wrong_differ_in_form_and_in_blue():
    """Red and green would look alike to every twelfth man; blue does not."""
    images = np.full((3, 120, 120, 3), 90, np.uint8)
    picture = mosaics.lay_out_captioned(
        images, [""] * 3, 3, is_right=[True, False, None]
    )
    right, wrong, none = (tile[4:124, 4:124] for tile in np.split(picture, 3, axis=1))
    assert (none == 90).all()
    assert len(np.unique(right[0], axis=0)) == 1  # whole
    assert len(np.unique(wrong[0], axis=0)) == 2  # broken
    assert int(right[0, 0, 2]) - int(wrong[0, 0, 2]) > 100
    assert (right[10:-10, 10:-10] == 90).all()


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


@pytest.mark.parametrize("num_classes", [3, 30, 120])
def test_confusion_matrix_is_dark_on_its_diagonal(num_classes):
    names = [f"class {i}" for i in range(num_classes)]
    figure = figures.draw_confusion(9 * np.eye(num_classes, dtype=int), names)
    axes, legend = figure.axes
    shares = axes.images[0].get_array()
    np.testing.assert_array_equal(shares, np.eye(num_classes))
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert (shown == names) == (num_classes <= figures.MAX_CLASSES)
    assert len(axes.texts) == (9 if num_classes == 3 else 0)
    assert "share of the true class" in legend.get_xlabel()
    assert axes.get_xlabel() == "predicted class"
    assert axes.get_ylabel() == "true class"


def test_predictions_mark_the_right_class():
    images = [np.full((20, 20, 3), 100, np.uint8)] * 3
    top_ids = np.array([[0, 1], [1, 0], [2, 1]])
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2]])
    figure = figures.draw_predictions(images, [0, 0, 1], top_ids, probabilities, "abc")
    bars = [axes for axes in figure.axes if axes.patches]
    widths = [[bar.get_width() for bar in axes.patches] for axes in bars]
    np.testing.assert_array_equal(widths, probabilities)
    right = hex_color(mosaics.RIGHT)
    is_blue = [[b.get_facecolor()[:3] == right for b in axes.patches] for axes in bars]
    assert is_blue == [[True, False], [False, True], [False, True]]
    is_bold = [[text.get_weight() == "bold" for text in axes.texts] for axes in bars]
    assert is_bold == is_blue
    frames = [axes.spines["top"] for axes in figure.axes if axes.images]
    assert [frame.get_linestyle() == "-" for frame in frames] == [True, False, False]


def hex_color(text):
    return tuple(int(text[i : i + 2], 16) / 255 for i in (1, 3, 5))


def test_figures_become_png_and_pixels():
    figure = figures.draw_reliability(figures.bin_by_confidence(np.ones(3), np.ones(3)))
    png = PIL.Image.open(io.BytesIO(mosaics.encode_png(figure)))
    assert png.format == "PNG"
    assert png.width == 792  # two pixels for each of a phone's
    assert figures.draw_small(figure).shape == (png.height // 2, png.width // 2, 3)


def test_long_names_go_on_in_a_second_line():
    name = "functional monocrystalline solar cell"
    assert mosaics.wrap(name, 16) == "functional\nmonocrystalline…"
    assert mosaics.wrap("tench", 16) == "tench"
    assert mosaics.wrap("", 16) == ""


def test_halved_pictures_are_means_of_four_pixels():
    images = RNG.integers(0, 256, (2, 5, 4, 3), np.uint8)
    halves = mosaics.halve(images)
    assert halves.shape == (2, 2, 2, 3)
    assert halves[1, 1, 0, 2] == np.round(images[1, 2:4, 0:2, 2].mean())


def test_long_names_are_cut_to_their_first():
    assert mosaics.shorten("tench, Tinca tinca") == "tench"
    assert mosaics.shorten("x" * 40) == "x" * 31 + "…"


def test_no_name_is_taken_for_a_formula_or_for_control():
    names = ["$x$", r"a$\frac$", "two\nlines\033[1m", "$"]
    for figure in (
        figures.draw_confusion(np.eye(4, dtype=int), names),
        figures.draw_class_counts({"train": np.arange(4)}, names, ""),
        figures.draw_run_curves(
            {"$x$": [figures.Curve(name, 0, 0, []) for name in names]}
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
    for columns in (1, 3):
        figure = figures.draw_learning_curves(RECORDS, 0.4, columns)
        loss, accuracy, rate = (
            [line.get_ydata() for line in axes.lines] for axes in figure.axes
        )
        np.testing.assert_allclose(loss, [[2, 1], [2.25, 1.25]])
        np.testing.assert_allclose(accuracy[:2], [[50, 75], [25, 50]])
        assert set(accuracy[2]) == {40}
        np.testing.assert_allclose(rate, [[0.1, 0.05]])
        epochs = [list(line.get_xdata()) for line in figure.axes[0].lines]
        assert epochs == [[1, 2]] * 2


def test_curves_of_runs_have_the_recipes_colour_and_the_settings_dashes():
    curves = [
        figures.Curve("a", 0, 0, RECORDS),
        figures.Curve("b", 1, 0, RECORDS[:2]),
        figures.Curve("c", 1, 1, RECORDS),
        figures.Curve("c", 1, 1, RECORDS),
    ]
    figure = figures.draw_run_curves({"photos": curves, "demo": curves[:1]})
    loss, accuracy, other_loss, _ = figure.axes
    thick = loss.lines[1::2]
    assert [list(line.get_ydata()) for line in thick[:2]] == [[2.25, 1.25], [2.25]]
    assert [list(line.get_ydata()) for line in loss.lines[:1]] == [[2, 1]]
    assert loss.lines[0].get_linewidth() < thick[0].get_linewidth()
    colors = [line.get_color() for line in thick]
    dashes = [line.get_linestyle() for line in thick]
    assert colors[0] != colors[1] == colors[2]
    assert dashes[0] == dashes[1] != dashes[2]
    labels = [text.get_text() for text in accuracy.get_legend().get_texts()]
    assert labels == ["a", "b", "c"]
    assert len(other_loss.lines) == 2
    assert other_loss.get_title().startswith("demo: ")
    figures.draw_small(figure)
    ticks = [t.get_text() for t in loss.get_yticklabels()]
    assert "2" in ticks
    assert not any("10^" in tick for tick in ticks)


def test_class_counts_are_bars_of_both_splits():
    counts = {"train": np.array([5, 2]), "validation": np.array([1, 3])}
    (axes,) = figures.draw_class_counts(counts, ["a", "b"], "").axes
    assert [bar.get_width() for bar in axes.patches] == [5, 2, 1, 3]
    assert [bar.get_x() for bar in axes.patches] == [0, 0, 5, 2]
    many = {"train": np.arange(100)}
    (axes,) = figures.draw_class_counts(many, ["x"] * 100, "").axes
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), np.arange(100)[::-1])


def test_neighbours_of_half_the_size_stand_in_a_row_after_a_large_picture():
    image = np.full((100, 100, 3), 7, np.uint8)
    others = np.stack([np.full((100, 100, 3), value, np.uint8) for value in (50, 60)])
    row = mosaics.lay_after(image, others, [True, False])
    assert row.shape == (100, 100 + 12 + 2 * 58, 3)
    assert (row[:, :100] == 7).all()
    assert row[50, 112 + 4 + 25].tolist() == [50] * 3
    assert row[50, 112 + 58 + 4 + 25].tolist() == [60] * 3
    assert (row[:20, 112:] == 255).all()


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
    assert mosaics.draw_layer(model, "fc8", image).shape == (4, 256, 3)
    kernel = model.get_layer("conv2").kernel.numpy()
    drawn = mosaics.draw_layer(model, "conv2")
    assert drawn.shape[1] == 16 * (3 * 5 + 4)
    one = kernel[:, :, 1, 2] / np.abs(kernel[:, :, 1, 2]).max()
    top, left = 2 + 1 * (15 + 4), 2 + 2 * (15 + 4)
    pixels = drawn[top : top + 15 : 3, left : left + 15 : 3, 0]
    np.testing.assert_allclose(pixels, 127.5 + 127.5 * one, atol=0.51)
    for name in ("conv1", "fc6", "fc8"):
        assert mosaics.draw_layer(model, name).std() > 1

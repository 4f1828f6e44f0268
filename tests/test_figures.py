"""Tests of alexnet_tf/figures.py."""

import io

import numpy as np
import PIL.Image
import pytest

from alexnet_tf.evaluation import figures

RNG = np.random.default_rng(0)


def test_grid_lays_out_by_rows_on_white():
    images = np.arange(1, 6, dtype=np.uint8).reshape(5, 1, 1, 1)
    expected = np.full((6, 9), 255)
    expected[1, 1::3] = 1, 2, 3
    expected[4, 1:7:3] = 4, 5
    # The place after the last image is black padding's opposite: white too.
    np.testing.assert_array_equal(
        figures.grid(images, columns=3, space=1)[..., 0], expected
    )


def test_kernels_keep_the_towers_apart_and_fill_the_range():
    kernel = np.zeros((11, 11, 3, 32))
    kernel[0, 0, 0, 0], kernel[0, 1, 0, 0] = 0.5, -0.5
    kernel[..., 16] = 2.0  # the first of the second tower
    picture = figures.kernels(kernel, towers=2, scale=1)
    assert picture.shape == (15 + 8 + 15, 16 * 15, 3)
    assert picture[2, 2].tolist() == [255, 128, 128]
    assert picture[2, 3].tolist() == [0, 128, 128]
    assert (picture[15:23] == 255).all()
    assert (picture[25:36, 2:13] == 255).all()
    assert (picture[25:36, 17:28] == 128).all()  # all zero: grey


def test_beside_puts_each_image_before_its_own():
    images = np.arange(2, dtype=np.uint8).reshape(2, 1, 1, 1)
    others = np.arange(10, 16, dtype=np.uint8).reshape(2, 3, 1, 1, 1)
    cells = figures.beside(images, others)[2::5, 2::5, 0]
    assert cells.tolist() == [[0, 10, 11, 12], [1, 13, 14, 15]]


def test_captions_stand_below_their_images():
    images = np.full((2, 40, 60, 3), 90, np.uint8)
    picture = figures.captioned(images, ["first\nline", ""], columns=2)
    assert picture.shape == (40 + 36 + 4, 2 * 64, 3)
    assert (picture[2:42, 2:62] == 90).all()
    assert picture[42:78, 2:62].max() > 200
    assert picture[42:78, 66:126].max() == 0


def test_calibration_against_a_plain_loop():
    confidences = RNG.uniform(0, 1, 500)
    confidences[:2] = 0.0, 1.0
    is_right = RNG.uniform(0, 1, 500) < confidences**2
    error = 0.0
    for low in range(15):
        here = [
            (c, r)
            for c, r in zip(confidences, is_right, strict=True)
            if low / 15 <= c < (low + 1) / 15 or (low == 14 and c == 1)
        ]
        mean_confidence = sum(c for c, _ in here) / len(here)
        accuracy = sum(r for _, r in here) / len(here)
        error += len(here) / 500 * abs(mean_confidence - accuracy)
    bins = figures.calibration_bins(confidences, is_right)
    assert abs(figures.calibration_error(bins) - error) < 1e-9
    assert abs(bins[:, 2].sum() - 1) < 1e-9


def test_certain_and_right_is_calibrated_certain_and_wrong_is_not():
    ones = np.ones(4)
    for is_right, expected in ((True, 0.0), (False, 1.0)):
        bins = figures.calibration_bins(ones, np.full(4, is_right))
        assert figures.calibration_error(bins) == expected


@pytest.mark.parametrize("num_classes", [3, 30, 120])
def test_confusion_matrix_is_dark_on_its_diagonal(num_classes):
    names = [f"class {i}" for i in range(num_classes)]
    figure = figures.confusion_matrix(9 * np.eye(num_classes, dtype=int), names)
    (axes,) = figure.axes
    shares = axes.images[0].get_array()
    np.testing.assert_array_equal(shares, np.eye(num_classes))
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert (shown == names) == (num_classes <= figures.MAX_CLASSES)
    assert len(axes.texts) == (9 if num_classes == 3 else 0)


def test_predictions_mark_the_right_class():
    images = [np.full((20, 20, 3), 100, np.uint8)] * 3
    top_ids = np.array([[0, 1], [1, 0], [2, 1]])
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2]])
    figure = figures.predictions(images, [0, 0, 1], top_ids, probabilities, "abc")
    bars = [axes for axes in figure.axes if axes.patches]
    widths = [[bar.get_width() for bar in axes.patches] for axes in bars]
    np.testing.assert_array_equal(widths, probabilities)
    right = figures._RIGHT
    green = [
        [tuple(bar.get_facecolor()[:3]) == hex_color(right) for bar in axes.patches]
        for axes in bars
    ]
    assert green == [[True, False], [False, True], [False, True]]


def hex_color(text):
    return tuple(int(text[i : i + 2], 16) / 255 for i in (1, 3, 5))


def test_class_errors_are_percent_from_top_to_bottom():
    figure = figures.class_errors(np.array([0.5, 0.25, 1.0]), "abc", [2, 0])
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [100, 50]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["c", "a"]


def test_figures_become_png_and_pixels():
    figure = figures.reliability(figures.calibration_bins(np.ones(3), np.ones(3)))
    png = PIL.Image.open(io.BytesIO(figures.to_png(figure)))
    assert png.format == "PNG"
    assert figures.to_array(figure).shape == (png.height, png.width, 3)


def test_long_names_are_cut_to_their_first():
    assert figures.shorten("tench, Tinca tinca") == "tench"
    assert figures.shorten("x" * 40) == "x" * 31 + "…"

"""Pictures: what the network sees, what it learnt, what it takes for what."""

import io
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

MAX_CLASSES = 50  # of a confusion matrix that can be read
_DPI = 110
_RIGHT, _WRONG = "#2a7f4f", "#b3392f"


def to_png(figure: Figure) -> bytes:
    """Encodes a figure."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI)
    return file.getvalue()


def to_array(figure: Figure) -> np.ndarray:
    """Draws a figure: uint8 `(height, width, 3)`."""
    figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def grid(images: np.ndarray, columns: int, space: int = 2) -> np.ndarray:
    """Lays images out in rows on white.

    Args:
        images: uint8 `(n, height, width, channels)`.
        columns: Images in a row.
        space: Pixels around each.

    Returns:
        uint8 `(height, width, channels)`.
    """
    missing = -len(images) % columns
    edges = [(0, missing), (space, space), (space, space), (0, 0)]
    images = np.pad(images, edges, constant_values=255)
    images = images.reshape(-1, columns, *images.shape[1:]).swapaxes(1, 2)
    return images.reshape(images.shape[0] * images.shape[1], -1, images.shape[-1])


def kernels(kernel: np.ndarray, towers: int = 2, scale: int = 3) -> np.ndarray:
    """The kernels of the first layer, the towers apart: Figure 3 of the paper.

    Args:
        kernel: float `(height, width, 3, filters)`.
        towers: In how many blocks of rows.
        scale: Pixels for each of a kernel's.

    Returns:
        uint8 `(height, width, 3)`; each kernel has its own range, 0 is grey.
    """
    kernel = np.moveaxis(np.asarray(kernel, np.float32), -1, 0)
    largest = np.abs(kernel).max(axis=(1, 2, 3), keepdims=True)
    pixels = np.uint8(np.round(127.5 + 127.5 * kernel / np.maximum(largest, 1e-12)))
    pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    blocks = [grid(tower, columns=16) for tower in np.array_split(pixels, towers)]
    gap = np.full((8, blocks[0].shape[1], 3), 255, np.uint8)
    rows = [part for block in blocks for part in (block, gap)]
    return np.concatenate(rows[:-1])


def beside(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """A row for each image: the image, and to its right those that belong to it.

    Args:
        images: uint8 `(n, size, size, 3)`.
        others: uint8 `(n, k, size, size, 3)`.

    Returns:
        uint8 `(height, width, 3)`.
    """
    rows = np.concatenate([images[:, np.newaxis], others], axis=1)
    return grid(rows.reshape(-1, *rows.shape[2:]), columns=rows.shape[1])


def captioned(
    images: np.ndarray, captions: Sequence[str], columns: int = 4
) -> np.ndarray:
    """Lays images out in rows with text below each; far faster than matplotlib.

    Args:
        images: uint8 `(n, height, width, 3)`.
        captions: One for each, of two lines.
        columns: Images in a row.

    Returns:
        uint8 `(height, width, 3)`.
    """
    height, font = images.shape[1], ImageFont.load_default(size=13)
    tiles = []
    for image, caption in zip(images, captions, strict=True):
        tile = Image.fromarray(np.pad(image, [(0, 36), (0, 0), (0, 0)]))
        ImageDraw.Draw(tile).text((3, height + 1), caption, "white", font)
        tiles.append(np.asarray(tile))
    return grid(np.stack(tiles), columns)


def confusion_matrix(counts: np.ndarray, class_names: Sequence[str]) -> Figure:
    """The share of each class, a row, that was taken for each class, a column."""
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    num_classes = len(class_names)
    size = 5.0 + 0.16 * num_classes if num_classes <= MAX_CLASSES else 8.0
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="answer", ylabel="class")
    if num_classes <= MAX_CLASSES:
        names = [shorten(name) for name in class_names]
        axes.set_xticks(range(num_classes), names, rotation=90, fontsize=9)
        axes.set_yticks(range(num_classes), names, fontsize=9)
    if num_classes <= 12:
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count}", ha="center", va="center", color=color)
    return figure


def calibration_bins(
    confidences: np.ndarray, is_right: np.ndarray, bins: int = 15
) -> np.ndarray:
    """Mean confidence, accuracy and share of the answers, by confidence.

    Args:
        confidences: `(n,)`, probability of each answer, 0..1.
        is_right: bool `(n,)`.
        bins: Of equal width.

    Returns:
        float64 `(k, 3)`, a row for each bin that holds an answer.
    """
    places = np.minimum((confidences * bins).astype(int), bins - 1)
    return np.array(
        [
            (confidences[here].mean(), is_right[here].mean(), here.mean())
            for here in (places == place for place in np.unique(places))
        ]
    ).reshape(-1, 3)


def calibration_error(bins: np.ndarray) -> float:
    """The expected calibration error: mean of |confidence − accuracy|, a fraction."""
    return float(np.sum(bins[:, 2] * np.abs(bins[:, 0] - bins[:, 1])))


def reliability(bins: np.ndarray) -> Figure:
    """Accuracy over confidence; `bins` from `calibration_bins`."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes, shares = figure.subplots(2, height_ratios=[3, 1], sharex=True)
    axes.plot([0, 1], [0, 1], "--", color="grey", linewidth=1)
    axes.plot(bins[:, 0], bins[:, 1], "o-", color="tab:blue")
    title = f"expected calibration error {calibration_error(bins):.1%}"
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", title=title)
    shares.bar(bins[:, 0], bins[:, 2], width=0.04, color="tab:blue")
    shares.set(xlabel="confidence", ylabel="share")
    return figure


def class_errors(
    errors: np.ndarray, class_names: Sequence[str], classes: Sequence[int]
) -> Figure:
    """Bars of the top-1 error of some classes.

    Args:
        errors: float `(num_classes,)`, fractions.
        class_names: Of all classes.
        classes: Which to show, from top to bottom.
    """
    figure = Figure(figsize=(6, 0.8 + 0.3 * len(classes)), layout="constrained")
    axes = figure.subplots()
    names = [shorten(class_names[i]) for i in classes]
    bars = axes.barh(range(len(classes)), 100 * errors[list(classes)])
    axes.bar_label(bars, fmt="%.0f%%", padding=2)
    axes.set_yticks(range(len(classes)), names)
    axes.set(xlim=(0, 110), xlabel="top-1 error, %")
    axes.invert_yaxis()
    return figure


def predictions(
    images: Sequence[np.ndarray],
    labels: Sequence[int],
    top_ids: np.ndarray,
    top_probabilities: np.ndarray,
    class_names: Sequence[str],
) -> Figure:
    """Pictures with the bars of their most probable classes: Figure 4, left.

    Args:
        images: uint8 `(height, width, 3)` each.
        labels: Of each.
        top_ids: `(n, k)`, most probable first.
        top_probabilities: `(n, k)`.
        class_names: The index is the label.
    """
    columns, k = min(2, len(images)), top_ids.shape[1]
    rows = math.ceil(len(images) / columns)
    figure = Figure(figsize=(2.9 * columns, 4.3 * rows), layout="constrained")
    cells = figure.subplots(
        2 * rows, columns, squeeze=False, height_ratios=[2, 1.3] * rows
    )
    for cell in cells.flat:
        cell.axis("off")
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        row, column = divmod(i, columns)
        picture, bars = cells[2 * row, column], cells[2 * row + 1, column]
        picture.imshow(image)
        picture.set_title(shorten(class_names[label]), fontsize=10)
        colors = [_RIGHT if j == label else _WRONG for j in top_ids[i]]
        bars.barh(range(k), top_probabilities[i], color=colors, alpha=0.45)
        bars.set(xlim=(0, 1), ylim=(k - 0.5, -0.5))
        for j, class_id in enumerate(top_ids[i]):
            text = f"{shorten(class_names[class_id])} {top_probabilities[i, j]:.0%}"
            bars.text(0.02, j, text, fontsize=9, va="center")
    return figure


def shorten(name: str, length: int = 32) -> str:
    """The first of a class's names, cut to `length` letters."""
    name = name.split(",")[0]
    return name if len(name) <= length else name[: length - 1] + "…"

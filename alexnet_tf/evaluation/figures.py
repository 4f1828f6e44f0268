"""Pictures: what the network sees, what it learnt, what it takes for what.

Figures are as wide as a phone; their PNGs have two pixels for each of the page's.
"""

import io
import os
import textwrap
from collections.abc import Mapping, Sequence

import keras
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from alexnet_tf.evaluation.results import printable

MAX_CLASSES = 50  # of a confusion matrix that can be read
_WIDTH = 3.6  # inches
_DPI, _SMALL_DPI = 220, 110
# Blue and orange, which people with any kind of colour vision tell apart.
_RIGHT, _WRONG, _OTHER = "#0072b2", "#d55e00", "#bbbbbb"
_FONT = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


def to_png(figure: Figure | np.ndarray) -> bytes:
    """Encodes a figure, or uint8 pixels."""
    file = io.BytesIO()
    if isinstance(figure, np.ndarray):
        Image.fromarray(figure).save(file, "PNG")
    else:
        figure.savefig(file, format="png", dpi=_DPI)
    return file.getvalue()


def to_array(figure: Figure) -> np.ndarray:
    """Draws a figure at half its size: uint8 `(height, width, 3)`."""
    figure.set_dpi(_SMALL_DPI)
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


def halved(images: np.ndarray) -> np.ndarray:
    """Pictures of half the height and width, uint8 `(n, height, width, 3)`."""
    n, height, width, _ = images.shape
    even = images[:, : height // 2 * 2, : width // 2 * 2]
    blocks = even.reshape(n, height // 2, 2, width // 2, 2, 3)
    return np.uint8(np.round(blocks.mean(axis=(2, 4))))


def kernels_of(model: keras.Model) -> tuple[np.ndarray, int]:
    """The kernels of the first layer and the number of towers.

    Returns:
        float32 `(height, width, 3, filters)`, for pixels in RGB also where the network
        turns them to BGR; 1 or 2.
    """
    kernel = model.get_layer("conv1").kernel.numpy()
    if model.get_layer("input_normalization").reverse_channels:
        kernel = kernel[:, :, ::-1]
    return kernel, model.get_layer("conv2").groups


def kernels(kernel: np.ndarray, towers: int, scale: int = 3) -> np.ndarray:
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
    images: np.ndarray,
    captions: Sequence[str],
    columns: int = 4,
    is_right: Sequence[bool | None] = (),
) -> np.ndarray:
    """Lays images out in rows with text below each; far faster than matplotlib.

    Args:
        images: uint8 `(n, height, width, 3)`.
        captions: One for each, of at most two lines.
        columns: Images in a row.
        is_right: For each whether it gets a whole blue frame, or (False) a broken
            orange one; None for no frame.

    Returns:
        uint8 `(height, width, 3)`.
    """
    height, width = images.shape[1:3]
    font = ImageFont.truetype(_FONT, size=max(12, width // 10))
    lines = 1 + max((caption.count("\n") for caption in captions), default=0)
    below = 4 + lines * (font.size + 4)
    tiles = []
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        edges = [(0, below), (0, 0), (0, 0)]
        tile = Image.fromarray(np.pad(image, edges, constant_values=255))
        draw = ImageDraw.Draw(tile)
        draw.text((3, height + 1), caption, "black", font, spacing=2)
        if i < len(is_right) and is_right[i] is not None:
            _frame(draw, (width, height), is_right[i])
        tiles.append(np.asarray(tile))
    return grid(np.stack(tiles), columns, space=4)


def _frame(draw: ImageDraw.ImageDraw, size: tuple[int, int], is_right: bool) -> None:
    """A whole frame or a broken one, so that no colour is needed to tell them apart."""
    width, height = size
    thick = max(3, width // 40)
    draw.rectangle(
        (0, 0, width - 1, height - 1),
        outline=_RIGHT if is_right else _WRONG,
        width=thick,
    )
    if not is_right:
        for start in range(6 * thick, max(size), 8 * thick):
            gap = start, start + 2 * thick
            for y in (0, height - thick):
                draw.rectangle((gap[0], y, gap[1], y + thick - 1), fill="white")
            for x in (0, width - thick):
                draw.rectangle((x, gap[0], x + thick - 1, gap[1]), fill="white")


def confusion_matrix(counts: np.ndarray, class_names: Sequence[str]) -> Figure:
    """The share of each class, a row, that was taken for each class, a column."""
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    num_classes = len(class_names)
    has_names = num_classes <= MAX_CLASSES
    size = max(_WIDTH, 2.2 + 0.16 * num_classes) if has_names else 6.0
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("answer", fontsize=9)
    axes.set_ylabel("class", fontsize=9)
    axes.tick_params(labelsize=8)
    if has_names:
        names = [_label(name, 16) for name in class_names]
        axes.set_xticks(range(num_classes), names, rotation=90, fontsize=8)
        axes.set_yticks(range(num_classes), names, fontsize=8)
    if num_classes <= 12:
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if shares[row, column] > 0.5 else "black"
            place = {"ha": "center", "va": "center"}
            axes.text(column, row, f"{count}", color=color, fontsize=8, **place)
    legend = figure.colorbar(image, ax=axes, location="top", shrink=0.8, aspect=30)
    legend.set_ticks([0, 0.5, 1], labels=["0 %", "50 %", "100 %"], fontsize=8)
    what = " (numbers: images)" if num_classes <= 12 else ""
    legend.set_label("share of the class, a row" + what, fontsize=8)
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
    numbers = np.minimum((confidences * bins).astype(int), bins - 1)
    members = [numbers == number for number in np.unique(numbers)]
    return np.array(
        [(confidences[m].mean(), is_right[m].mean(), m.mean()) for m in members]
    ).reshape(-1, 3)


def calibration_error(bins: np.ndarray) -> float:
    """The expected calibration error: mean of |confidence − accuracy|, a fraction."""
    return float(np.sum(bins[:, 2] * np.abs(bins[:, 0] - bins[:, 1])))


def reliability(bins: np.ndarray) -> Figure:
    """Accuracy over confidence; `bins` from `calibration_bins`."""
    figure = Figure(figsize=(_WIDTH, 4), layout="constrained")
    axes, shares = figure.subplots(2, height_ratios=[3, 1], sharex=True)
    axes.plot([0, 1], [0, 1], "--", color="grey", linewidth=1)
    axes.plot(bins[:, 0], bins[:, 1], "o-", color="tab:blue")
    title = f"expected calibration error {calibration_error(bins):.1%}"
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    axes.set_title(title, fontsize=10)
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
    height = 0.8 + 0.28 * len(classes)
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.subplots()
    names = [_label(class_names[i], 18) for i in classes]
    bars = axes.barh(range(len(classes)), 100 * errors[list(classes)], color=_RIGHT)
    axes.bar_label(bars, fmt="%.0f%%", padding=2, fontsize=8)
    axes.set_yticks(range(len(classes)), names, fontsize=8)
    axes.set(xlim=(0, 118), xlabel="top-1 error, %")
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

    Returns:
        Two in a row; the bar of a picture's own class is blue and its name bold, and
        the frame is whole where it is the first.
    """
    columns, k = 2, top_ids.shape[1]
    names = [_escape(shorten(name, 22)) for name in class_names]
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(_WIDTH, (1.9 + 0.24 * k) * rows), layout="constrained")
    heights = [1.6, 0.24 * k] * rows
    cells = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=heights)
    for cell in cells.flat:
        cell.axis("off")
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        row, column = divmod(i, columns)
        picture, bars = cells[2 * row, column], cells[2 * row + 1, column]
        _show_framed(picture, image, is_right=top_ids[i, 0] == label)
        picture.set_title(_label(class_names[label], 22), fontsize=8)
        colors = [_RIGHT if j == label else _OTHER for j in top_ids[i]]
        bars.barh(range(k), top_probabilities[i], color=colors, alpha=0.5)
        bars.set(xlim=(0, 1), ylim=(k - 0.5, -0.5))
        for j, class_id in enumerate(top_ids[i]):
            text = f"{top_probabilities[i, j]:.0%} {names[class_id]}"
            weight = "bold" if class_id == label else "normal"
            bars.text(0.02, j, text, fontsize=7, va="center", weight=weight)
    return figure


def _show_framed(axes, image: np.ndarray, is_right: bool) -> None:
    axes.imshow(image)
    axes.axis("on")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(
            color=_RIGHT if is_right else _WRONG,
            linewidth=2.5,
            linestyle="-" if is_right else (0, (4, 1.5)),
        )


def learning_curves(
    records: Sequence[Mapping[str, object]],
    largest_class: float | None = None,
    columns: int = 2,
) -> Figure:
    """Loss, accuracy, rate and speed by epoch, of training and validation.

    Args:
        records: Those of `metrics.jsonl`.
        largest_class: Accuracy of always answering the largest class, to show it.
        columns: Panels beside each other, 1 or 2.
    """
    figure = Figure(figsize=(columns * _WIDTH, 10 / columns))
    cells = figure.subplots(4 // columns, columns, sharex=True, squeeze=False)
    margin = 0.18 / columns
    figure.subplots_adjust(
        margin, 0.045 * columns, 0.98, 1 - 0.03 * columns, wspace=0.22, hspace=0.2
    )
    panels = {
        "loss (cross-entropy, nats)": lambda r: r["cross_entropy"],
        "top-1 accuracy, %": lambda r: 100 * (1 - r["top_1_error"]),
        "learning rate": lambda r: r["learning_rate"],
        "images/s": lambda r: r["images_per_second"],
    }
    for axes, (title, value) in zip(cells.flat, panels.items(), strict=True):
        axes.set_title(title, fontsize=10)
        for split, color, style in (
            ("train", _RIGHT, "-"),
            ("validation", _WRONG, "--"),
        ):
            rows = [r for r in records if r["split"] == split]
            line = {"color": color, "linestyle": style, "marker": ".", "markersize": 4}
            if not (split == "validation" and title == "learning rate"):
                epochs = [r["epoch"] for r in rows]
                axes.plot(epochs, [value(r) for r in rows], label=split, **line)
        axes.grid(alpha=0.3)
    for axes in cells[-1]:
        axes.set_xlabel("epoch")
    if largest_class is not None:
        label = "largest class"
        cells.flat[1].axhline(100 * largest_class, color="grey", ls=":", label=label)
    cells.flat[1].legend(fontsize=8)
    return figure


def run_curves(runs: Mapping[str, Sequence[Mapping[str, object]]]) -> Figure:
    """Loss and accuracy by epoch, for each run on validation and, thin, in training.

    Args:
        runs: The records of `metrics.jsonl` by the run's name.
    """
    figure = Figure(figsize=(2 * _WIDTH, 3.4), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    styles = ("-", "--", ":", "-.")  # ten colours, and then other lines
    for i, (name, records) in enumerate(runs.items()):
        line = {"color": f"C{i % 10}", "linestyle": styles[i // 10 % 4]}
        thin = line | {"linewidth": 0.6}
        label = _escape(_cut(name, 40))
        thick = line | {"label": label, "marker": ".", "markersize": 4}
        for split, style in (("train", thin), ("validation", thick)):
            rows = [r for r in records if r["split"] == split]
            epochs = [r["epoch"] for r in rows]
            loss.plot(epochs, [r["cross_entropy"] for r in rows], **style)
            accuracy.plot(epochs, [100 * (1 - r["top_1_error"]) for r in rows], **style)
    loss.set_yscale("log", base=2)  # the first steps' may be ten times the last
    loss.yaxis.set_major_formatter("{x:g}")
    titles = "loss, nats", "top-1 accuracy, %; thin: in training"
    for axes, title in zip((loss, accuracy), titles, strict=True):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
    accuracy.legend(fontsize=7)
    return figure


def class_counts(
    counts: Mapping[str, np.ndarray], class_names: Sequence[str], title: str
) -> Figure:
    """How many pictures each class has.

    Args:
        counts: By split, `(num_classes,)`.
        class_names: The index is the class; above `MAX_CLASSES` a curve of the sorted
            counts is drawn instead of bars.
        title: Of the figure.
    """
    num_classes = len(class_names)
    has_names = num_classes <= MAX_CLASSES
    height = 1.5 + 0.28 * num_classes if has_names else 3.0
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=9)
    left = np.zeros(num_classes)
    for (split, values), color in zip(counts.items(), (_RIGHT, _WRONG), strict=False):
        if has_names:
            bars = axes.barh(range(num_classes), values, left=left, color=color)
            bars.set_label(split)
            left = left + values
        else:
            axes.plot(np.sort(values)[::-1], color=color, label=split)
    if has_names:
        axes.set_yticks(range(num_classes), [_label(n, 18) for n in class_names])
        axes.tick_params(labelsize=8)
        axes.invert_yaxis()
        axes.set_xlabel("pictures", fontsize=9)
    else:
        axes.set(xlabel="class, by its number of pictures", ylabel="pictures")
        axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure


def shorten(name: str, length: int = 32) -> str:
    """The first of a class's names, cut to `length` letters."""
    return _cut(name.split(",")[0], length)


def _cut(name: str, length: int) -> str:
    name = printable(name)
    return name if len(name) <= length else name[: length - 1] + "…"


def wrapped(name: str, width: int) -> str:
    """The first of a class's names in at most two lines of so many letters."""
    lines = textwrap.wrap(shorten(name, 2 * width), width) or [""]
    rest = " ".join(lines[1:])
    return "\n".join([lines[0], shorten(rest, width)] if rest else lines)


def _label(name: str, width: int) -> str:
    return _escape(wrapped(name, width))


def _escape(name: str) -> str:
    """A name as matplotlib is to show it: two dollars would begin a formula."""
    return name.replace("$", r"\$")

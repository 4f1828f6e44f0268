"""Charts: how a network learnt, what it takes for what.

Figures are as wide as a phone; their PNGs have two pixels for each of the page's.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from alexnet_tf.evaluation.metrics import wilson_interval
from alexnet_tf.evaluation.mosaics import RIGHT, WRONG, cut, shorten, wrap

MAX_CLASSES = 50  # of a confusion matrix that can be read
_WIDTH = 3.6  # inches
_SMALL_DPI = 110
_OTHER = "#bbbbbb"


def draw_small(figure: Figure) -> np.ndarray:
    """Draws a figure at half its size: uint8 `(height, width, 3)`."""
    figure.set_dpi(_SMALL_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def draw_confusion(counts: np.ndarray, class_names: Sequence[str]) -> Figure:
    """The share of each class, a row, that was taken for each class, a column."""
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    num_classes = len(class_names)
    has_names = num_classes <= MAX_CLASSES
    size = max(_WIDTH, 2.2 + 0.16 * num_classes) if has_names else 6.0
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("predicted class", fontsize=9)
    axes.set_ylabel("true class", fontsize=9)
    axes.tick_params(labelsize=8)
    if has_names:
        names = [_label(name, 16) for name in class_names]
        axes.set_xticks(range(num_classes), names, rotation=90, fontsize=8)
        axes.set_yticks(range(num_classes), names, fontsize=8)
    if num_classes <= 12:
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if shares[row, column] > 0.5 else "black"
            center = {"ha": "center", "va": "center"}
            axes.text(column, row, f"{count}", color=color, fontsize=8, **center)
    legend = figure.colorbar(image, ax=axes, location="top", shrink=0.8, aspect=30)
    legend.set_ticks([0, 0.5, 1], labels=["0 %", "50 %", "100 %"], fontsize=8)
    what = " (numbers: images)" if num_classes <= 12 else ""
    legend.set_label("share of the true class" + what, fontsize=8)
    return figure


def bin_by_confidence(
    confidences: np.ndarray, is_right: np.ndarray, bins: int = 10
) -> np.ndarray:
    """Groups of answers of equal size, by their confidence.

    Bins of equal width would hold thousands of answers at one end and three at the
    other, whose accuracy says nothing.

    Args:
        confidences: `(n,)`, probability of each answer, 0..1.
        is_right: bool `(n,)`.
        bins: How many; fewer where a bin would hold less than ten answers.

    Returns:
        float64 `(k, 3)`: mean confidence, accuracy and number of answers of each.
    """
    order = np.argsort(confidences, kind="stable")
    groups = np.array_split(order, max(1, min(bins, len(order) // 10)))
    return np.array(
        [(confidences[g].mean(), is_right[g].mean(), len(g)) for g in groups]
    )


def measure_calibration(bins: np.ndarray) -> float:
    """The expected calibration error: mean of |confidence − accuracy|, a fraction."""
    return float(np.average(np.abs(bins[:, 0] - bins[:, 1]), weights=bins[:, 2]))


def draw_reliability(bins: np.ndarray) -> Figure:
    """Accuracy over confidence with 95 % intervals; see `bin_by_confidence`."""
    figure = Figure(figsize=(_WIDTH, _WIDTH), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], "--", color="grey", linewidth=1)
    intervals = [wilson_interval(share, int(number)) for _, share, number in bins]
    low, high = np.array(intervals).T
    accuracy = bins[:, 1]
    spread = 100 * np.stack([accuracy - low, high - accuracy]).clip(0)
    line = {"color": RIGHT, "marker": "o", "markersize": 4, "capsize": 3}
    axes.errorbar(100 * bins[:, 0], 100 * accuracy, spread, **line)
    axes.set(xlim=(0, 102), ylim=(0, 102), ylabel="right, %")
    axes.set_xlabel("probability of the answer, %")
    axes.set_title(f"expected calibration error {measure_calibration(bins):.1%}")
    axes.title.set_fontsize(10)
    axes.grid(alpha=0.3)
    return figure


def draw_predictions(
    images: Sequence[np.ndarray],
    labels: Sequence[int],
    top_ids: np.ndarray,
    top_probabilities: np.ndarray,
    class_names: Sequence[str],
) -> Figure:
    """Pictures with the bars of their most probable classes: Figure 4, left.

    Args:
        images: uint8 `(height, width, 3)` each.
        labels: The name of each.
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
        colors = [RIGHT if j == label else _OTHER for j in top_ids[i]]
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
            color=RIGHT if is_right else WRONG,
            linewidth=2.5,
            linestyle="-" if is_right else (0, (4, 1.5)),
        )


def draw_learning_curves(
    records: Sequence[Mapping[str, object]],
    largest_class: float | None = None,
    columns: int = 3,
) -> Figure:
    """Loss, accuracy and learning rate by epoch, of training and validation.

    Args:
        records: Those of `metrics.jsonl`.
        largest_class: Accuracy of always answering the largest class, to show it.
        columns: Panels beside each other, 1 or 3.
    """
    rows = 3 // columns
    size = columns * _WIDTH, 3.2 if columns == 3 else 6.4
    figure = Figure(figsize=size, layout="constrained")
    heights = [1] if columns == 3 else [3, 3, 2]
    cells = figure.subplots(rows, columns, sharex=True, height_ratios=heights).flat
    panels = {
        "loss (cross-entropy, nats)": lambda r: r["cross_entropy"],
        "top-1 accuracy, %": lambda r: 100 * (1 - r["top_1_error"]),
        "learning rate": lambda r: r["learning_rate"],
    }
    for axes, (title, value) in zip(cells, panels.items(), strict=True):
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
        for split, color, style in (
            ("train", RIGHT, "-"),
            ("validation", WRONG, "--"),
        ):
            of_split = [r for r in records if r["split"] == split]
            line = {"color": color, "linestyle": style, "marker": ".", "markersize": 4}
            if not (split == "validation" and title == "learning rate"):
                epochs = [r["epoch"] for r in of_split]
                axes.plot(epochs, [value(r) for r in of_split], label=split, **line)
    for axes in cells if columns == 3 else [cells[-1]]:
        axes.set_xlabel("epoch")
    if largest_class is not None:
        label = "largest class"
        cells[1].axhline(100 * largest_class, color="grey", ls=":", label=label)
    cells[1].legend(fontsize=8)
    return figure


@dataclasses.dataclass(frozen=True)
class Curve:
    """How a run learnt.

    Attributes:
        label: What the legend calls it; curves of one label share an entry.
        color: Runs of the same recipe have the same number.
        dash: Runs of the same settings have the same number.
        records: Those of `metrics.jsonl`.
    """

    label: str
    color: int
    dash: int
    records: Sequence[Mapping[str, object]]


def draw_run_curves(curves: Mapping[str, Sequence[Curve]]) -> Figure:
    """Loss and accuracy by epoch on validation and, thin, in training.

    Args:
        curves: Those of each data set, by its name: a row of panels.
    """
    size = 2 * _WIDTH, 3.4 * len(curves)
    figure = Figure(figsize=size, layout="constrained")
    cells = figure.subplots(len(curves), 2, squeeze=False)
    for (loss, accuracy), (name, of_set) in zip(cells, curves.items(), strict=True):
        for curve in of_set:
            _add_curve(loss, accuracy, curve)
        # The first steps' loss may be ten times the last one's.
        loss.set_yscale("log")
        loss.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        loss.yaxis.set_major_formatter("{x:g}")
        loss.yaxis.set_minor_locator(NullLocator())
        title = f"{_escape(cut(name, 30))}: " if len(curves) > 1 else ""
        loss.set_title(f"{title}loss, nats", fontsize=10)
        accuracy.set_title("top-1 accuracy, % (thin: in training)", fontsize=10)
        for axes in (loss, accuracy):
            axes.set_xlabel("epoch")
            axes.grid(alpha=0.3)
        handles, labels = accuracy.get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        accuracy.legend(unique.values(), unique.keys(), fontsize=7)
    return figure


def _add_curve(loss, accuracy, curve: Curve) -> None:
    dashes = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
    line = {"color": f"C{curve.color % 10}", "linestyle": dashes[curve.dash % 5]}
    label = _escape(cut(curve.label, 40))
    for split, style in (
        ("train", line | {"linewidth": 0.6}),
        ("validation", line | {"label": label, "marker": ".", "markersize": 4}),
    ):
        rows = [r for r in curve.records if r["split"] == split]
        epochs = [r["epoch"] for r in rows]
        loss.plot(epochs, [r["cross_entropy"] for r in rows], **style)
        accuracy.plot(epochs, [100 * (1 - r["top_1_error"]) for r in rows], **style)


def draw_class_counts(
    counts: Mapping[str, np.ndarray], class_names: Sequence[str], title: str
) -> Figure:
    """How many pictures each class has.

    Args:
        counts: By split, `(num_classes,)`.
        class_names: The index is the class; above `MAX_CLASSES` a curve of the sorted
            counts is drawn instead of bars.
        title: The title of the figure.
    """
    num_classes = len(class_names)
    has_names = num_classes <= MAX_CLASSES
    height = 1.5 + 0.28 * num_classes if has_names else 3.0
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=9)
    left = np.zeros(num_classes)
    for (split, values), color in zip(counts.items(), (RIGHT, WRONG), strict=False):
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


def _label(name: str, width: int) -> str:
    return _escape(wrap(name, width))


def _escape(name: str) -> str:
    """A name as matplotlib is to show it: two dollars would begin a formula."""
    return name.replace("$", r"\$")

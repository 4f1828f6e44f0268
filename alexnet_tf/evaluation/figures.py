"""Charts: what a network takes for what, how sure it is, how it learnt.

Figures are as wide as a phone; their PNGs have two pixels for each of the page's.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from alexnet_tf.evaluation.metrics import wilson_interval
from alexnet_tf.evaluation.mosaics import cut, wrap

MAX_CLASSES = 50  # of a confusion matrix that can be read
_WIDTH = 3.6  # inches
_BLUE = "#0072b2"
_DASHES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
_PANELS = {  # what is drawn of a record, by its title
    "loss, nats (thin: in training)": lambda r: r.get("cross_entropy", np.nan),
    "top-1 accuracy, %": lambda r: 100 - 100 * r.get("top_1_error", np.nan),
    "learning rate": lambda r: r.get("learning_rate", np.nan),
}


def draw_confusion(counts: np.ndarray, class_names: Sequence[str]) -> Figure:
    """The share of each class, a row, that was taken for each class, a column."""
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    num_classes = len(class_names)
    size = max(_WIDTH, 2.2 + 0.16 * num_classes)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("predicted class", fontsize=9)
    axes.set_ylabel("true class", fontsize=9)
    axes.tick_params(labelsize=8)
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
    remark = " (numbers: images)" if num_classes <= 12 else ""
    legend.set_label("share of the true class" + remark, fontsize=8)
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
    line = {"color": _BLUE, "marker": "o", "markersize": 4, "capsize": 3}
    axes.errorbar(100 * bins[:, 0], 100 * accuracy, spread, **line)
    axes.set(xlim=(0, 102), ylim=(0, 102), ylabel="right, %")
    axes.set_xlabel("probability of the answer, %")
    axes.set_title(f"expected calibration error {measure_calibration(bins):.1%}")
    axes.title.set_fontsize(10)
    axes.grid(alpha=0.3)
    return figure


@dataclasses.dataclass(frozen=True)
class Curve:
    """How a run learnt.

    Attributes:
        recipe: Runs of one recipe have one colour.
        settings: Runs of the same settings, in words, are dashed alike.
        records: Those of `metrics.jsonl`.
    """

    recipe: str
    settings: str
    records: Sequence[Mapping[str, object]]


def draw_curves(
    curves: Mapping[str, Sequence[Curve]], largest_class: float | None = None
) -> Figure:
    """Loss, accuracy and learning rate by epoch: on validation and, thin, in training.

    Args:
        curves: Those of each data set, a column of panels, by its name.
        largest_class: Accuracy of always answering the largest class, to show it.
    """
    figure = Figure(figsize=(_WIDTH * len(curves), 7.6), layout="constrained")
    heights = {"height_ratios": [3, 3, 2], "sharex": "col", "squeeze": False}
    cells = figure.subplots(len(_PANELS), len(curves), **heights)
    for column, (name, of_set) in zip(cells.T, curves.items(), strict=True):
        loss, accuracy, rate = column
        for axes, (title, value) in zip(column, _PANELS.items(), strict=True):
            axes.set_title(title, fontsize=10)
            axes.grid(alpha=0.3)
            _plot(axes, of_set, value)
        # The first steps' loss may be ten times the last one's.
        loss.set_yscale("log")
        loss.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        loss.yaxis.set_major_formatter("{x:g}")
        loss.yaxis.set_minor_locator(NullLocator())
        if largest_class is not None:
            label = "largest class"
            accuracy.axhline(100 * largest_class, color="grey", ls=":", label=label)
        accuracy.legend(fontsize=7)
        rate.set_xlabel("epoch")
        if len(curves) > 1:
            loss.set_title(f"{_escape(cut(name, 30))}: loss, nats", fontsize=10)
    return figure


def _plot(axes, curves: Sequence[Curve], value: Callable[[Mapping], float]) -> None:
    recipes = list(dict.fromkeys(curve.recipe for curve in curves))
    settings = list(dict.fromkeys(curve.settings for curve in curves))
    labels = [_escape(cut(f"{c.recipe} {c.settings}".strip(), 60)) for c in curves]
    for i, curve in enumerate(curves):
        color, dash = recipes.index(curve.recipe), settings.index(curve.settings)
        line = {"color": f"C{color % 10}", "linestyle": _DASHES[dash % len(_DASHES)]}
        line["label"] = labels[i] if labels.index(labels[i]) == i else None
        for split, style in (
            ("train", {"linewidth": 0.6, "label": None}),
            ("validation", {"marker": ".", "markersize": 4}),
        ):
            records = [r for r in curve.records if r["split"] == split]
            epochs = [record["epoch"] for record in records]
            axes.plot(epochs, list(map(value, records)), **line | style)


def draw_pictures(images: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Pictures, each with the name of its class, in rows of eight.

    Args:
        images: uint8 `(n, height, width, 3)`.
        class_names: That of each.
    """
    rows = -(-len(images) // 8)
    figure = Figure(figsize=(2.5 * _WIDTH, 1.5 * rows), layout="constrained")
    cells = figure.subplots(rows, 8, squeeze=False).ravel()
    for axes in cells:
        axes.axis("off")
    for axes, image, name in zip(cells, images, class_names, strict=False):
        axes.imshow(image)
        axes.set_title(_label(name, 16), fontsize=7)
    return figure


def _label(name: str, width: int) -> str:
    return _escape(wrap(name, width))


def _escape(name: str) -> str:
    """A name as matplotlib is to show it: two dollars would begin a formula."""
    return name.replace("$", r"\$")

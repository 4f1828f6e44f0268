"""Charts: how a network learnt, what it takes for what.

Figures are as wide as a phone; their PNGs have two pixels for each of the page's.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

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


def bin_by_confidence(
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


def measure_calibration(bins: np.ndarray) -> float:
    """The expected calibration error: mean of |confidence − accuracy|, a fraction."""
    return float(np.sum(bins[:, 2] * np.abs(bins[:, 0] - bins[:, 1])))


def draw_reliability(bins: np.ndarray) -> Figure:
    """Accuracy over confidence; `bins` from `calibration_bins`."""
    figure = Figure(figsize=(_WIDTH, 4), layout="constrained")
    axes, shares = figure.subplots(2, height_ratios=[3, 1], sharex=True)
    axes.plot([0, 1], [0, 1], "--", color="grey", linewidth=1)
    axes.plot(bins[:, 0], bins[:, 1], "o-", color="tab:blue")
    title = f"expected calibration error {measure_calibration(bins):.1%}"
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    axes.set_title(title, fontsize=10)
    shares.bar(bins[:, 0], bins[:, 2], width=0.04, color="tab:blue")
    shares.set(xlabel="confidence", ylabel="share")
    return figure


def draw_class_errors(
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
    bars = axes.barh(range(len(classes)), 100 * errors[list(classes)], color=RIGHT)
    axes.bar_label(bars, fmt="%.0f%%", padding=2, fontsize=8)
    axes.set_yticks(range(len(classes)), names, fontsize=8)
    axes.set(xlim=(0, 118), xlabel="top-1 error, %")
    axes.invert_yaxis()
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
            ("train", RIGHT, "-"),
            ("validation", WRONG, "--"),
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


def draw_run_curves(runs: Mapping[str, Sequence[Mapping[str, object]]]) -> Figure:
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
        label = _escape(cut(name, 40))
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


def draw_class_counts(
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

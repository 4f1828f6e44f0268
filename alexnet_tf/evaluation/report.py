"""A page about an evaluation: one HTML file without links, and its figures as PNG."""

import base64
import html
import io
import os
import string
from collections.abc import Iterable, Sequence

import keras
import numpy as np
from PIL import Image

from alexnet_tf.evaluation import figures
from alexnet_tf.evaluation.results import Evaluation, Predictions
from alexnet_tf.files import writing
from alexnet_tf.pipeline.batches import evaluation_batches, read_pictures
from alexnet_tf.pipeline.data_set import DataSet

NEIGHBOUR_POOL = 20_000  # training pictures, at most, in which neighbours are sought
_BATCH = 128
_TEMPLATE = os.path.join(os.path.dirname(__file__), "report.html")


def write_report(
    directory: str,
    evaluation: Evaluation,
    facts: dict,
    data_set: DataSet,
    model: keras.Model,
) -> None:
    """Writes `index.html` and the figures.

    Args:
        directory: Where to.
        evaluation: The errors.
        facts: What `eval.json` holds.
        data_set: What was evaluated.
        model: The network, for its kernels and features.
    """
    page = _Page(directory)
    names, predictions = data_set.class_names, evaluation.predictions
    page.table(_facts_table(facts))
    if not len(predictions.labels):
        page.write(f"AlexNet on {data_set.name}")
        return
    confusion = predictions.confusion(data_set.num_classes)
    page.heading("Worst and best classes")
    for name, classes in _extreme_classes(confusion).items():
        errors = 1 - np.diag(confusion) / np.maximum(1, confusion.sum(axis=1))
        page.figure(f"{name}_classes", figures.class_errors(errors, names, classes))
    page.heading("Confusion matrix")
    page.figure("confusion_matrix", figures.confusion_matrix(confusion, names))
    pairs = _most_confused(predictions, confusion)
    groups = [*pairs.values(), *_choose(predictions)]
    positions = predictions.positions[np.concatenate(groups)]
    images = read_pictures(data_set, evaluation.split, positions, model.input_shape[1])
    *images_of_pairs, right, wrong = np.split(
        images, np.cumsum([len(group) for group in groups])[:-1]
    )
    page.heading("Most confused pairs")
    for (label, answer), shown in zip(pairs, images_of_pairs, strict=True):
        page.figure(
            f"confused_{label}_{answer}",
            figures.grid(shown, columns=4),
            f"{names[label]}, taken for {names[answer]} "
            f"{confusion[label, answer]} times of {confusion[label].sum()}",
        )
    page.heading("Are the probabilities right?")
    confidences = predictions.top_probabilities[:, 0]
    bins = figures.calibration_bins(confidences, predictions.ranks == 0)
    page.figure("reliability", figures.reliability(bins))
    page.heading("What it answers (Figure 4 of the paper)")
    for name, shown, which in zip(
        ("right", "wrong"), (right, wrong), groups[-2:], strict=True
    ):
        if len(which):
            drawn = figures.predictions(
                shown,
                predictions.labels[which],
                predictions.top_ids[which],
                predictions.top_probabilities[which],
                names,
            )
            page.figure(f"answers_{name}", drawn, f"{name} answers, drawn at random")
    _add_network(page, model, data_set, np.concatenate([right, wrong]))
    page.write(f"AlexNet on {data_set.name}")


class _Page:
    """Collects the parts of the page; writes every figure as a PNG too."""

    def __init__(self, directory: str):
        self._directory, self._parts = directory, []

    def heading(self, text: str) -> None:
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def table(self, rows: Iterable[Sequence[object]]) -> None:
        """Adds a table; the first column holds the heads."""
        lines = []
        for head, *cells in rows:
            cells = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells)
            lines.append(f"<tr><th>{html.escape(str(head))}</th>{cells}</tr>")
        table = "\n".join(lines)
        self._parts.append(f'<div class="scroll"><table>{table}</table></div>')

    def figure(self, name: str, figure, caption: str = "") -> None:
        """Adds a matplotlib figure, or uint8 pixels; `name` is the PNG's."""
        if isinstance(figure, np.ndarray):
            file = io.BytesIO()
            Image.fromarray(figure).save(file, "PNG")
            png = file.getvalue()
        else:
            png = figures.to_png(figure)
        with writing(os.path.join(self._directory, name + ".png"), "wb") as file:
            file.write(png)
        source = "data:image/png;base64," + base64.b64encode(png).decode()
        alt = html.escape(caption or name.replace("_", " "))
        caption = f"<figcaption>{html.escape(caption)}</figcaption>"
        self._parts.append(
            f'<figure><img src="{source}" alt="{alt}">{caption}</figure>'
        )

    def write(self, title: str) -> None:
        with open(_TEMPLATE, encoding="utf-8") as file:
            template = string.Template(file.read())
        page = template.substitute(
            title=html.escape(title), body="\n".join(self._parts)
        )
        path = os.path.join(self._directory, "index.html")
        with writing(path) as file:
            file.write(page)


def _facts_table(facts: dict) -> list[tuple[str, str]]:
    rows = [
        ("split", facts["split"]),
        ("evaluated", f"{facts['num_evaluated']:,} of {facts['num_examples']:,}"),
        ("views", facts["views"]),
    ]
    for k in (1, 5):
        low, high = facts[f"top_{k}_error_interval"]
        error = facts[f"top_{k}_error"]
        text = f"{error:.2%} (95 % interval {low:.2%} to {high:.2%})"
        rows.append((f"top-{k} error", text))
    rows.append(("cross-entropy", f"{facts['cross_entropy']:.4f}"))
    rows.append(("network", facts["checkpoint"]))
    versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
    return [*rows, ("data", facts["data_dir"]), ("versions", versions)]


def _extreme_classes(confusion: np.ndarray) -> dict[str, np.ndarray]:
    examples = confusion.sum(axis=1)
    present = np.flatnonzero(examples)
    accuracy = np.diag(confusion)[present] / examples[present]
    order = present[np.argsort(accuracy, kind="stable")]
    if len(order) <= 20:
        return {"all": order}
    return {"worst": order[:10], "best": order[:-11:-1]}


def _most_confused(
    predictions: Predictions, confusion: np.ndarray
) -> dict[tuple[int, int], np.ndarray]:
    """Up to five pairs (class, answer), and up to four examples of each."""
    wrong = confusion * (1 - np.eye(len(confusion), dtype=int))
    pairs = {}
    for pair in np.argsort(-wrong, axis=None, kind="stable")[:5]:
        label, answer = map(int, np.unravel_index(pair, wrong.shape))
        if wrong[label, answer]:
            is_label = predictions.labels == label
            is_pair = is_label & (predictions.top_ids[:, 0] == answer)
            pairs[label, answer] = np.flatnonzero(is_pair)[:4]
    return pairs


def _choose(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Up to four answers that are right, and up to four that are wrong, at random."""
    order = np.random.default_rng(0).permutation(len(predictions.labels))
    is_right = predictions.ranks[order] == 0
    return order[is_right][:4], order[~is_right][:4]


def _add_network(page, model: keras.Model, data_set: DataSet, images) -> None:
    kernel = model.get_layer("conv1").kernel.numpy()
    page.heading("First-layer kernels (Figure 3)")
    page.figure("kernels", figures.kernels(kernel), "the two towers apart")
    if "train" in data_set.splits and len(images):
        pool, found = nearest_pictures(model, data_set, images)
        page.heading("Nearest training pictures (Figure 4, right)")
        page.figure(
            "neighbours",
            figures.beside(images, found),
            "left: pictures above; then the nearest by distance in what fc7 puts out, "
            f"of {pool:,} training pictures",
        )


def nearest_pictures(
    model: keras.Model, data_set: DataSet, queries: np.ndarray, k: int = 6
) -> tuple[int, np.ndarray]:
    """Finds the training pictures whose features in fc7 are nearest.

    Args:
        model: The network.
        data_set: The data.
        queries: uint8 `(n, size, size, 3)`.
        k: How many to find for each.

    Returns:
        How many training pictures were looked at, and uint8 `(n, k, size, size, 3)`.
    """
    features = keras.Model(model.inputs, model.get_layer("fc7").output)
    size = queries.shape[1]
    batches = evaluation_batches(
        data_set, "train", global_batch_size=_BATCH, image_size=size
    )
    wanted = features.predict_on_batch(queries).astype(np.float32)
    distances = np.full((len(queries), 0), np.inf)
    found = np.zeros((len(queries), 0, *queries.shape[1:]), np.uint8)
    pool = 0
    for images, labels in batches.take(NEIGHBOUR_POOL // _BATCH):
        images = images.numpy()[labels.numpy() >= 0]
        vectors = features.predict_on_batch(images).astype(np.float32)
        pool += len(images)
        new = np.linalg.norm(wanted[:, np.newaxis] - vectors, axis=2)
        order = np.argsort(new, axis=1)[:, :k]
        new = np.take_along_axis(new, order, axis=1)
        distances = np.concatenate([distances, new], axis=1)
        found = np.concatenate([found, images[order]], axis=1)
        order = np.argsort(distances, axis=1, kind="stable")[:, :k]
        distances = np.take_along_axis(distances, order, axis=1)
        found = found[np.arange(len(queries))[:, np.newaxis], order]
    return pool, found

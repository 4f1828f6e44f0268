"""A page about an evaluation: one HTML file without links, and its figures as PNG."""

import base64
import html
import os
import string
import sys
from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from alexnet_tf.evaluation import figures, mosaics
from alexnet_tf.evaluation.metrics import precision_recall_f1
from alexnet_tf.evaluation.occlusion import find_where, light
from alexnet_tf.evaluation.results import (
    Evaluation,
    Predictions,
    printable,
    read_records,
)
from alexnet_tf.files import writing
from alexnet_tf.pipeline.batches import evaluation_batches, read_pictures
from alexnet_tf.pipeline.data_set import DataSet
from alexnet_tf.run import Run, build_model

NEIGHBOUR_POOL = 4096  # training pictures, at most, in which neighbours are sought
_BATCH = 128
_NUM_SECTIONS = 8  # that the progress bar counts, beside the batches of neighbours
_TABLE_CLASSES = 50  # of the table of classes; of more, the worst and the best
_TEMPLATE = os.path.join(os.path.dirname(__file__), "report.html")
_EXPECTED_KERNELS = (
    "The paper's network has learnt edges of all directions in one tower and colours "
    "in the other, from 90 epochs of 1.2 million pictures. After a short training the "
    "kernels still look like the noise that they began as. Since then they have "
    "changed by {:.1%} of their length; the second picture is the change alone."
)


def write_report(
    directory: str,
    evaluation: Evaluation,
    facts: dict,
    data_set: DataSet,
    model: keras.Model,
    run: Run | None,
) -> None:
    """Writes `index.html` and the figures.

    Args:
        directory: Where to.
        evaluation: The errors.
        facts: What `eval.json` holds.
        data_set: What was evaluated.
        model: The network, or the first of several, for its kernels and features.
        run: The one that it is from, for how it learnt; None for published weights.
    """
    num_batches = min(_num_training(data_set), NEIGHBOUR_POOL) // _BATCH
    with tqdm(
        total=_NUM_SECTIONS + num_batches,
        desc="report",
        bar_format="{desc} {percentage:3.0f}% |{bar:30}| {remaining} left",
        leave=False,
        disable=not sys.stderr.isatty(),
    ) as bar:
        page = _Page(directory, bar.update)
        page.headline(*_headline(evaluation, facts))
        page.text(_summary(facts))
        if len(facts["sha256"]) > 1:
            page.text("Where it looks, its kernels and features: of the first network.")
        if run:
            _add_curves(page, run, evaluation)
        _add_classes(page, evaluation.predictions, data_set)
        shown = _add_pictures(page, evaluation, data_set, model.input_shape[1])
        images, labels, answers = shown
        _add_places(page, model, data_set, images, labels, answers)
        _add_kernels(page, model, run)
        _add_neighbours(page, model, data_set, images, labels)
        page.heading("How this was measured")
        page.table(_facts_table(facts, data_set.num_classes))
        page.write(f"AlexNet on {data_set.name}")


class _Page:
    """Collects the parts of the page; writes every figure as a PNG too."""

    def __init__(self, directory: str, on_part: Callable[[int], object] = lambda n: n):
        self._directory, self._parts, self.on_part = directory, [], on_part

    def headline(self, figure: str, text: str) -> None:
        self._parts.append(f'<p class="headline">{html.escape(figure)}</p>')
        self.text(text)

    def heading(self, text: str) -> None:
        self._parts.append(f"<h2>{html.escape(text)}</h2>")
        self.on_part(1)

    def text(self, text: str) -> None:
        self._parts.append(f"<p>{html.escape(text)}</p>")

    def table(self, rows: Iterable[Sequence[object]], columns: Sequence = ()) -> None:
        """Adds a table; the first column holds the heads of the rows."""
        lines = []
        if columns:
            heads = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
            lines.append(f"<tr>{heads}</tr>")
        for head, *cells in rows:
            cells = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells)
            lines.append(f"<tr><th>{html.escape(str(head))}</th>{cells}</tr>")
        table = "\n".join(lines)
        kind = "numbers" if columns else "facts"
        table = f'<table class="{kind}">{table}</table>'
        self._parts.append(f'<div class="scroll">{table}</div>')

    def figure(self, name: str, figure, caption: str = "") -> None:
        """Adds a matplotlib figure, or uint8 pixels; `name` is the PNG's."""
        png = mosaics.encode_png(figure)
        with writing(os.path.join(self._directory, name + ".png"), "wb") as file:
            file.write(png)
        width = int.from_bytes(png[16:20])
        if not isinstance(figure, np.ndarray):
            width //= 2  # figures have two pixels for each of the page's
        source = "data:image/png;base64," + base64.b64encode(png).decode()
        alt = html.escape(caption or name.replace("_", " "))
        image = f'<img src="{source}" width="{width}" alt="{alt}">'
        caption = f'<figcaption style="max-width:{max(width, 350)}px">' + (
            f"{html.escape(caption)}</figcaption>"
        )
        self._parts.append(f"<figure>{image}{caption}</figure>")

    def write(self, title: str) -> None:
        with open(_TEMPLATE, encoding="utf-8") as file:
            template = string.Template(file.read())
        page = template.substitute(
            title=html.escape(printable(title)), body="\n".join(self._parts)
        )
        path = os.path.join(self._directory, "index.html")
        with writing(path) as file:
            file.write(page)


def _headline(evaluation: Evaluation, facts: dict) -> tuple[str, str]:
    low, high = facts["top_1_error_interval"]
    largest = evaluation.largest_class
    return (
        f"{1 - evaluation.top_1_error:.1%} right",
        f"Top-1 accuracy on {evaluation.num_evaluated:,} images of the split "
        f"{evaluation.split}; 95 % interval {1 - high:.1%} to {1 - low:.1%}. Always "
        f"answering the largest class would be right in {largest:.1%}.",
    )


def _summary(facts: dict) -> str:
    seeds = ", ".join(map(str, facts["seeds"]))
    return (
        f"Recipe {facts['recipe']}, seed {seeds}, {facts['date']}; not the recipe's: "
        f"{_settings(facts)}."
    )


def _settings(facts: dict) -> str:
    settings = (f"{name} {value}" for name, value in facts["settings"].items())
    return ", ".join(settings) or "nothing"


def _facts_table(facts: dict, num_classes: int) -> list[tuple[str, str]]:
    rows = [
        ("split", facts["split"]),
        ("evaluated", f"{facts['num_evaluated']:,} of {facts['num_examples']:,}"),
        ("views", facts["views"]),
    ]
    for k in (1, 5) if num_classes > 5 else (1,):
        low, high = facts[f"top_{k}_error_interval"]
        error = facts[f"top_{k}_error"]
        text = f"{error:.2%} (95 % interval {low:.2%} to {high:.2%})"
        rows.append((f"top-{k} accuracy", f"{1 - error:.2%}"))
        rows.append((f"top-{k} error", text))
    versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
    return [
        *rows,
        ("largest class", f"{facts['largest_class']:.2%}"),
        ("cross-entropy", f"{facts['cross_entropy']:.4f}"),
        ("recipe", facts["recipe"]),
        ("not the recipe's", _settings(facts)),
        ("seed", ", ".join(map(str, facts["seeds"]))),
        ("parameters", f"{facts['parameters']:,}"),
        ("network", facts["checkpoint"]),
        ("data", facts["data_dir"]),
        ("date", facts["date"]),
        ("versions", versions),
    ]


def _add_curves(page: _Page, run: Run, evaluation: Evaluation) -> None:
    if records := read_records(run.metrics_file):
        page.heading("How it learnt")
        drawn = figures.draw_learning_curves(
            records, evaluation.largest_class, columns=1
        )
        page.figure("learning_curves", drawn)


def _add_classes(page: _Page, predictions: Predictions, data_set: DataSet) -> None:
    """Tables and figures of what was taken for what."""
    names, confusion = data_set.class_names, predictions.confusion(data_set.num_classes)
    measures = precision_recall_f1(predictions.labels, predictions.answers, len(names))
    page.heading("Every class")
    order = np.argsort(measures[:, 2], kind="stable")  # those without examples last
    if len(order) > _TABLE_CLASSES:
        page.text("The 20 with the lowest F1; all of them are in per_class.csv.")
        order = order[:20]
    rows = (
        [printable(names[i]), confusion[i].sum(), *map(_percent, measures[i])]
        for i in order
    )
    page.table(rows, ("class", "images", "precision", "recall", "F1"))
    page.heading("Worst and best classes")
    for name, classes in _extreme_classes(confusion).items():
        errors = 1 - np.diag(confusion) / np.maximum(1, confusion.sum(axis=1))
        page.figure(
            f"{name}_classes", figures.draw_class_errors(errors, names, classes)
        )
    page.figure("confusion_matrix", figures.draw_confusion(confusion, names))
    page.heading("Are the probabilities right?")
    confidences = predictions.top_probabilities[:, 0]
    bins = figures.bin_by_confidence(confidences, predictions.ranks == 0)
    page.figure("reliability", figures.draw_reliability(bins))


def _percent(share: float) -> str:
    return "–" if np.isnan(share) else f"{share:.0%}"


def _extreme_classes(confusion: np.ndarray) -> dict[str, np.ndarray]:
    examples = confusion.sum(axis=1)
    present = np.flatnonzero(examples)
    accuracy = np.diag(confusion)[present] / examples[present]
    order = present[np.argsort(accuracy, kind="stable")]
    if len(order) <= 20:
        return {"all": order}
    return {"worst": order[:10], "best": order[:-11:-1]}


def _add_pictures(
    page: _Page, evaluation: Evaluation, data_set: DataSet, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confused pairs, and right and wrong answers; returns the latter's pictures.

    Returns:
        uint8 `(n, size, size, 3)`; their labels; what was answered.
    """
    predictions, names = evaluation.predictions, data_set.class_names
    labels, answers = predictions.labels, predictions.answers
    mistakes = predictions.mistakes()[:5]
    groups = [
        np.flatnonzero((labels == label) & (answers == answer))[:4]
        for label, answer, _ in mistakes
    ]
    groups += _choose(predictions)
    positions = predictions.positions[np.concatenate(groups)]
    images = read_pictures(data_set, evaluation.split, positions, size)
    *of_mistakes, right, wrong = np.split(
        images, np.cumsum([len(group) for group in groups])[:-1]
    )
    page.heading("Most confused pairs")
    for (label, answer, times), shown in zip(mistakes, of_mistakes, strict=True):
        page.figure(
            f"confused_{label}_{answer}",
            mosaics.lay_out(mosaics.halve(shown), columns=min(4, len(shown))),
            f"{printable(names[label])}, taken for {printable(names[answer])} "
            f"{times} times of {(labels == label).sum()}",
        )
    page.heading("What it answers (Figure 4 of the paper)")
    for name, shown, rows in zip(
        ("right", "wrong"), (right, wrong), groups[-2:], strict=True
    ):
        if len(rows):
            chosen = (
                labels[rows],
                predictions.top_ids[rows],
                predictions.top_probabilities[rows],
            )
            drawn = figures.draw_predictions(shown, *chosen, names)
            page.figure(f"answers_{name}", drawn, f"{name} answers, drawn at random")
    shown, rows = np.concatenate([right, wrong]), np.concatenate(groups[-2:])
    return shown, labels[rows], answers[rows]


def _choose(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Up to four answers that are right, and up to four that are wrong, at random."""
    order = np.random.default_rng(0).permutation(len(predictions.labels))
    is_right = predictions.ranks[order] == 0
    return order[is_right][:4], order[~is_right][:4]


def _add_places(
    page: _Page,
    model: keras.Model,
    data_set: DataSet,
    images: np.ndarray,
    labels: np.ndarray,
    answers: np.ndarray,
) -> None:
    """For each picture where it shows the class that was answered."""
    names = [mosaics.wrap(name, 15) for name in data_set.class_names]
    page.heading("Where it looks")
    page.text(
        "Light: what the answer depends on. Squares of 64 pixels hid each picture at "
        "one place after another; where it is light the probability of the answer "
        "fell, at most by the points said (Zeiler and Fergus 2014, section 4.2)."
    )
    for is_right, name in ((True, "right"), (False, "wrong")):
        tiles, captions, frames = [], [], []
        for i in np.flatnonzero((labels == answers) == is_right):
            falls = find_where(_probability_of(model, answers[i]), images[i], _BATCH)
            tiles += [images[i], light(images[i], falls)]
            points = f"{100 * max(falls.max(), 0):.1f} points"
            captions += [names[labels[i]], f"{names[answers[i]]}\n{points}"]
            frames += [is_right, None]
        if tiles:
            pairs = mosaics.halve(np.stack(tiles))
            drawn = mosaics.lay_out_captioned(pairs, captions, 2, is_right=frames)
            page.figure(f"places_{name}", drawn, f"{name} answers")


def _probability_of(model: keras.Model, class_id: int) -> Callable:
    def classify(images: np.ndarray) -> np.ndarray:
        # Not `predict_on_batch`: every replica would answer all of the images.
        return tf.nn.softmax(model(images, training=False))[:, class_id].numpy()

    return classify


def _add_kernels(page: _Page, model: keras.Model, run: Run | None) -> None:
    kernel, towers = mosaics.find_kernels(model)
    page.heading("First-layer kernels (Figure 3)")
    caption = "the two towers apart" if towers == 2 else "of one tower"
    config = run and run.read_config()
    if not config or config.init_weights:  # what they were at first is not here
        page.figure("kernels", mosaics.draw_kernels(kernel, towers), caption)
        return
    new, _ = mosaics.find_kernels(build_model(config, "float32"))  # as the seed has it
    change = kernel - new
    share = np.linalg.norm(change) / np.linalg.norm(new)
    page.text(_EXPECTED_KERNELS.format(share))
    page.figure("kernels", mosaics.draw_kernels(kernel, towers), f"now; {caption}")
    page.figure("kernel_changes", mosaics.draw_kernels(change, towers), "what changed")


def _add_neighbours(
    page: _Page,
    model: keras.Model,
    data_set: DataSet,
    queries: np.ndarray,
    labels: np.ndarray,
) -> None:
    """For each picture the training pictures that are nearest to it in fc7."""
    if not _num_training(data_set):
        return
    names = [mosaics.wrap(name, 15) for name in data_set.class_names]
    pool, found, found_labels = nearest_pictures(
        model, data_set, queries, on_batch=lambda: page.on_part(1)
    )
    page.heading("Nearest training pictures (Figure 4, right)")
    page.text(
        "The first picture is from those above; the others are the nearest to it by "
        f"distance in what fc7 puts out, of {pool:,} training pictures. A whole blue "
        "frame: of the same class; a broken orange one: of another."
    )
    for i, label in enumerate(labels):
        is_same = (found_labels[i] == label).tolist()
        images = mosaics.halve(np.concatenate([queries[i : i + 1], found[i]]))
        captions = [names[label], *(names[j] for j in found_labels[i])]
        drawn = mosaics.lay_out_captioned(
            images, captions, 3, is_right=[None, *is_same]
        )
        name = printable(data_set.class_names[label])
        caption = f"{sum(is_same)} of the {len(is_same)} nearest are {name} too"
        page.figure(f"neighbours_{i + 1}", drawn, caption)


def _num_training(data_set: DataSet) -> int:
    train = data_set.splits.get("train")
    return train.num_examples if train else 0


def nearest_pictures(
    model: keras.Model,
    data_set: DataSet,
    queries: np.ndarray,
    k: int = 5,
    on_batch: Callable[[], object] = lambda: None,
) -> tuple[int, np.ndarray, np.ndarray]:
    """Finds the training pictures whose features in fc7 are nearest.

    Args:
        model: The network.
        data_set: The data.
        queries: uint8 `(n, size, size, 3)`.
        k: How many to find for each.
        on_batch: Called after each batch of training pictures.

    Returns:
        How many training pictures were looked at, uint8 `(n, k, size, size, 3)`, and
        their labels, `(n, k)`.
    """
    features = keras.Model(model.inputs, model.get_layer("fc7").output)
    size = queries.shape[1]
    batches = evaluation_batches(
        data_set, "train", global_batch_size=_BATCH, image_size=size
    )
    wanted = features.predict_on_batch(queries).astype(np.float64)
    distances, labels = [], []
    for images, some_labels in batches.take(max(1, NEIGHBOUR_POOL // _BATCH)):
        vectors = features.predict_on_batch(images).astype(np.float64)
        # |a - b|² without |a|², which is the same for all b.
        distances.append(np.square(vectors).sum(axis=1) - 2 * wanted @ vectors.T)
        labels.append(some_labels)
        on_batch()
    distances, labels = np.concatenate(distances, axis=1), np.concatenate(labels)
    distances[:, labels < 0] = np.inf
    pool = int((labels >= 0).sum())
    nearest = np.argsort(distances, axis=1, kind="stable")[:, : min(k, pool)]
    pictures = read_pictures(data_set, "train", nearest.ravel(), size)
    return pool, pictures.reshape(*nearest.shape, size, size, 3), labels[nearest]

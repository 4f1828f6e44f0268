"""The result of an evaluation: its measures, `eval.json`, tables of classes and images.

Nothing here has a cell for every pair of classes: of the whole ImageNet's 21,841 these
would be 477 million. What was taken for what is a list of the pairs that came up.
"""

import csv
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf

from alexnet_tf.evaluation.metrics import precision_recall_f1, wilson_interval
from alexnet_tf.files import format_cell, writing
from alexnet_tf.pipeline.data_set import DataSet, Split
from alexnet_tf.pipeline.reading import records_in_order
from alexnet_tf.run import checkpoint_sha256, library_versions

# Table 2 of the paper, ILSVRC-2012, ten views: top-1 and top-5 error (validation);
# those with a star were first trained on the whole ImageNet of Fall 2011.
_PAPER_ROWS = {
    "paper: 1 CNN, 10 views": (0.407, 0.182),
    "paper: 5 CNNs, 10 views": (0.381, 0.164),
    "paper: 1 CNN*, 10 views": (0.390, 0.166),
    "paper: 7 CNNs*, 10 views": (0.367, 0.154),
}
_CLASS_COLUMNS = (
    *("class_id", "class", "examples", "top_1_error", "top_5_error"),
    *("precision", "recall", "f1", "most_often_taken_for", "times"),
)


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What was answered to every example that was evaluated, n of them.

    Attributes:
        positions: int64 `(n,)`, index in the order of evaluation.
        labels: int32 `(n,)`.
        ranks: int32 `(n,)`, how many classes stand before the label; `num_classes`
            where an output was not finite.
        cross_entropies: float32 `(n,)`, nats.
        top_ids: int32 `(n, k)`, the most probable classes, k at most 5.
        top_probabilities: float32 `(n, k)`.
        probabilities: float32 `(n, num_classes)`; None where nobody asked for them.
    """

    positions: np.ndarray
    labels: np.ndarray
    ranks: np.ndarray
    cross_entropies: np.ndarray
    top_ids: np.ndarray
    top_probabilities: np.ndarray
    probabilities: np.ndarray | None = None

    @property
    def answers(self) -> np.ndarray:
        """int32 `(n,)`, the most probable classes."""
        return self.top_ids[:, 0]

    def confusion(self, num_classes: int) -> np.ndarray:
        """Counts, int64 `(num_classes, num_classes)`: label × answer; for few."""
        pairs = self.labels.astype(np.int64) * num_classes + self.answers
        return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, -1)

    def mistakes(self) -> list[tuple[int, int, int]]:
        """Labels, wrong answers and how often they came together, most often first."""
        wrong = self.labels != self.answers
        labels, answers = self.labels[wrong].astype(np.int64), self.answers[wrong]
        base = int(answers.max(initial=0)) + 1
        pairs, counts = np.unique(labels * base + answers, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        columns = (*np.divmod(pairs[order], base), counts[order])
        return list(zip(*(column.tolist() for column in columns), strict=True))


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Measures over a split.

    Attributes:
        split: Name of the split.
        views: Crops of each image whose probabilities were averaged.
        num_examples: Images in the split.
        predictions: What was answered to each image.
    """

    split: str
    views: int
    num_examples: int
    predictions: Predictions = dataclasses.field(repr=False)

    @property
    def num_evaluated(self) -> int:
        """Images counted; fewer where a record could not be decoded."""
        return len(self.predictions.labels)

    @property
    def cross_entropy(self) -> float:
        """Mean over the images, nats."""
        return self._mean(self.predictions.cross_entropies)

    @property
    def top_1_error(self) -> float:
        """Fraction."""
        return self._mean(self.predictions.ranks >= 1)

    @property
    def top_5_error(self) -> float:
        """Fraction."""
        return self._mean(self.predictions.ranks >= 5)

    @property
    def largest_class(self) -> float:
        """Share of the most frequent class: the accuracy of always answering it."""
        return float(np.bincount(self.predictions.labels).max() / self.num_evaluated)

    @property
    def balanced_accuracy(self) -> float:
        """Mean of the classes' accuracies: each counts the same, however rare it is."""
        return float(np.nanmean(self._class_measures[:, 1]))

    @property
    def macro_f1(self) -> float:
        """Mean of F1 over the classes that have an example or are an answer."""
        return float(np.nanmean(self._class_measures[:, 2]))

    @functools.cached_property
    def _class_measures(self) -> np.ndarray:
        labels, answers = self.predictions.labels, self.predictions.answers
        num_classes = int(max(labels.max(), answers.max())) + 1
        return precision_recall_f1(labels, answers, num_classes)

    def _mean(self, values: np.ndarray) -> float:
        return float(values.mean(dtype=np.float64))


def gather_facts(
    evaluation: Evaluation, checkpoints: Sequence[str], data_set: DataSet
) -> dict:
    """Everything about an evaluation that `eval.json` holds, but its speed.

    Args:
        evaluation: The errors.
        checkpoints: Paths, without `.index`, of the networks that were averaged.
        data_set: What was evaluated.
    """
    names = (
        *("split", "views", "num_examples", "num_evaluated", "cross_entropy"),
        *("top_1_error", "top_5_error", "balanced_accuracy", "macro_f1"),
        "largest_class",
    )
    facts = {name: getattr(evaluation, name) for name in names}
    for name in ("top_1_error", "top_5_error"):
        interval = wilson_interval(facts[name], evaluation.num_evaluated)
        facts[name + "_interval"] = interval
    return facts | {
        "checkpoint": " + ".join(checkpoints),
        "sha256": [checkpoint_sha256(path) for path in checkpoints],
        "data_set": data_set.name,
        "data_dir": data_set.data_dir,
        "data_fingerprint": fingerprint(data_set.splits[evaluation.split]),
        "command": sys.argv,
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "versions": library_versions(),
    }


def fingerprint(split: Split) -> str:
    """SHA-256 of the shards' names, sizes, numbers of records and first 64 KiB."""
    total = hashlib.sha256()
    for filename, length in zip(split.filenames, split.shard_lengths, strict=True):
        with tf.io.gfile.GFile(filename, "rb") as file:
            begin, size = file.read(2**16), file.size()
        total.update(f"{os.path.basename(filename)} {length} {size} ".encode() + begin)
    return total.hexdigest()


def format_table(evaluation: Evaluation, data_set: DataSet, facts: dict) -> str:
    """The errors for people, beside the paper's where the data set is ImageNet.

    Top 5 is left out where there are five classes or fewer: it is always right.
    """
    tops = (1, 5) if data_set.num_classes > 5 else (1,)
    networks, views = len(facts["sha256"]), evaluation.views
    name = f"{networks} CNN{'s' * (networks > 1)}, {views} view{'s' * (views > 1)}"
    intervals = (facts[f"top_{k}_error_interval"] for k in tops)
    bounds = (x for low, high in intervals for x in ((1 - high, 1 - low), (low, high)))
    lines = [
        f"{evaluation.split}: evaluated {evaluation.num_evaluated:,} of "
        f"{evaluation.num_examples:,} images, {facts['images_per_second']:,.0f} "
        f"images/s, cross-entropy {evaluation.cross_entropy:.4f}, "
        f"macro-F1 {evaluation.macro_f1:.2%}",
        _row("", (text for k in tops for text in (f"top-{k} accuracy", "error"))),
        _row_of_errors(name, (facts[f"top_{k}_error"] for k in tops)),
        _row(
            "  95 % interval",
            (f"{100 * low:.1f}..{100 * high:.1f}%" for low, high in bounds),
        ),
        _row_of_errors("  balanced (class mean)", [1 - evaluation.balanced_accuracy]),
        _row_of_errors("always the largest class", [1 - evaluation.largest_class]),
    ]
    if data_set.name.startswith("imagenet") and data_set.num_classes == 1000:
        lines += itertools.starmap(_row_of_errors, _PAPER_ROWS.items())
    return "\n".join(lines)


def _row(name: str, cells: Iterable[str]) -> str:
    widths = itertools.cycle((15, 13))
    return f"{name:24}" + "".join(map(str.rjust, cells, widths))


def _row_of_errors(name: str, errors: Iterable[float]) -> str:
    return _row(name, (f"{x:.2%}" for error in errors for x in (1 - error, error)))


def write_results(
    directory: str, evaluation: Evaluation, facts: dict, data_set: DataSet
) -> None:
    """Writes `eval.json` and `per_class.csv`.

    The files of a split that is not "validation" have its name, `eval_test.json`, so
    that neither takes the other's place.

    Args:
        directory: Where to; made if it is not there.
        evaluation: The errors.
        facts: What `eval.json` is to hold.
        data_set: What was evaluated.
    """
    with writing(name_file(directory, "eval.json", evaluation.split)) as file:
        json.dump(facts, file, indent=1)
    write_per_class(evaluation, data_set, directory)


def name_file(directory: str, name: str, split: str) -> str:
    """The path of a file about a split; "eval.json" is validation's."""
    stem, suffix = os.path.splitext(name)
    part = "" if split == "validation" else f"_{split}"
    return os.path.join(directory, f"{stem}{part}{suffix}")


def write_per_class(evaluation: Evaluation, data_set: DataSet, directory: str) -> None:
    """Writes `per_class.csv`: a row for each class."""
    predictions, num_classes = evaluation.predictions, data_set.num_classes
    labels, ranks = predictions.labels, predictions.ranks
    examples = np.bincount(labels, minlength=num_classes)
    with np.errstate(invalid="ignore"):
        errors = [
            np.bincount(labels, ranks >= k, minlength=num_classes) / examples
            for k in (1, 5)
        ]
    measures = precision_recall_f1(labels, predictions.answers, num_classes)
    names = [format_cell(name) for name in data_set.class_names]
    taken_for, times = [""] * num_classes, [0] * num_classes
    for label, answer, number in reversed(predictions.mistakes()):
        taken_for[label], times[label] = names[answer], number
    # A class without examples has no error: an empty cell, not "nan".
    shares = ([x if x == x else "" for x in c.tolist()] for c in (*errors, *measures.T))
    columns = range(num_classes), names, examples.tolist(), *shares, taken_for, times
    path = name_file(directory, "per_class.csv", evaluation.split)
    _write_csv(path, _CLASS_COLUMNS, columns)


def write_predictions(
    evaluation: Evaluation, data_set: DataSet, directory: str
) -> None:
    """Writes `predictions.csv`: a row for each image, with its file, shard and index.

    With `Predictions.probabilities` there is a column for each class, too.
    """
    predictions, split = evaluation.predictions, data_set.splits[evaluation.split]
    class_names = list(map(format_cell, data_set.class_names))
    names = np.array(class_names, object)
    ids = predictions.positions  # evaluation takes records by their ids
    shards = np.searchsorted(split.first_ids, ids, side="right") - 1
    shard_names = np.array([os.path.basename(name) for name in split.filenames], object)
    file_names = np.array(list(map(format_cell, read_names(split))), object)
    columns = {
        "file_name": file_names[predictions.positions],
        "shard": shard_names[shards],
        "record": ids - np.array(split.first_ids)[shards],
        "label": names[predictions.labels],
        "rank": predictions.ranks + 1,
        "cross_entropy": _round(predictions.cross_entropies),
    }
    for k in range(predictions.top_ids.shape[1]):
        columns[f"class_{k + 1}"] = names[predictions.top_ids[:, k]]
        columns[f"p_{k + 1}"] = _round(predictions.top_probabilities[:, k])
    heads, values = [*columns], [column.tolist() for column in columns.values()]
    if predictions.probabilities is not None:
        heads += class_names
        values += (_round(column).tolist() for column in predictions.probabilities.T)
    path = name_file(directory, "predictions.csv", evaluation.split)
    _write_csv(path, heads, values)


def _round(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float64).round(6)


def read_names(split: Split) -> list[str]:
    """The names of a split's pictures in the order of evaluation; "" for none."""
    feature = {"file_name": tf.io.FixedLenFeature((), tf.string, "")}

    def parse(record_id: tf.Tensor, record: tf.Tensor) -> tuple:
        return record_id, tf.io.parse_single_example(record, feature)["file_name"]

    names = {}
    for part in records_in_order(split).map(parse).ignore_errors().batch(1024):
        names.update(zip(*(column.numpy().tolist() for column in part), strict=True))
    ids = range(split.num_examples)
    return [names.get(i, b"").decode(errors="surrogateescape") for i in ids]


def _write_csv(path: str, heads: Sequence[str], columns: Iterable[Sequence]) -> None:
    with writing(path) as file:
        writer = csv.writer(file)
        writer.writerow(heads)
        writer.writerows(zip(*columns, strict=True))

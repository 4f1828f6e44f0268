"""What an evaluation found, and how it is told: tables, CSV files, `eval.json`."""

import csv
import dataclasses
import hashlib
import math
import os
import platform
import sys
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from alexnet_tf.evaluation.members import Member
from alexnet_tf.pipeline.data_set import DataSet, Split
from alexnet_tf.pipeline.reading import find_record, read_all

# Table 2 of the paper, ILSVRC-2012, ten views: top-1 and top-5 error (validation), %.
_PAPER_ROWS = {
    "paper: 1 CNN": (40.7, 18.2),
    "paper: 5 CNNs": (38.1, 16.4),
    "paper: 1 CNN, Fall 2011": (39.0, 16.6),
    "paper: 7 CNNs, Fall 2011": (36.7, 15.4),
}
_CLASS_COLUMNS = ("class_id", "class", "examples", "top_1_error", "top_5_error")


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What was answered to every example that was evaluated, n of them.

    Attributes:
        positions: int64 `(n,)`, place in the order of evaluation.
        labels: int64 `(n,)`.
        ranks: int64 `(n,)`, how many classes stand before the label; `num_classes`
            where an output was not finite.
        cross_entropies: float64 `(n,)`, nats.
        top_ids: int64 `(n, k)`, the most probable classes, k at most 5.
        top_probabilities: float32 `(n, k)`.
    """

    positions: np.ndarray
    labels: np.ndarray
    ranks: np.ndarray
    cross_entropies: np.ndarray
    top_ids: np.ndarray
    top_probabilities: np.ndarray

    def confusion(self, num_classes: int) -> np.ndarray:
        """int64 `(num_classes, num_classes)`: label × most probable class, counts."""
        pairs = self.labels * num_classes + self.top_ids[:, 0]
        return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, -1)


@dataclasses.dataclass(frozen=True)
class Result:
    """Errors over a split.

    Attributes:
        split: Name of the split.
        views: Crops of each image whose probabilities were averaged.
        num_examples: Images in the split.
        num_evaluated: Images counted; fewer where a record could not be decoded.
        cross_entropy: Mean over the images, nats; infinite for a SavedModel that does
            not answer the probability of the label.
        top_1_error: Fraction.
        top_5_error: Fraction.
        largest_class: Share of the most frequent class, which is the top-1 accuracy of
            always answering it.
        predictions: Those of every image.
    """

    split: str
    views: int
    num_examples: int
    num_evaluated: int
    cross_entropy: float
    top_1_error: float
    top_5_error: float
    largest_class: float
    predictions: Predictions = dataclasses.field(repr=False)


def wilson_interval(fraction: float, num_examples: int) -> tuple[float, float]:
    """The 95 % interval of a fraction of `num_examples` independent examples."""
    if not num_examples:
        return 0.0, 1.0
    z = 1.959964
    center = fraction + z**2 / (2 * num_examples)
    spread = fraction * (1 - fraction) / num_examples + (z / (2 * num_examples)) ** 2
    scale = 1 + z**2 / num_examples
    half = z * math.sqrt(spread)
    return max(0.0, (center - half) / scale), min(1.0, (center + half) / scale)


def describe(result: Result, members: Sequence[Member], data_set: DataSet) -> dict:
    """Everything about an evaluation that `eval.json` holds, but its speed."""
    facts = {
        field.name: getattr(result, field.name)
        for field in dataclasses.fields(result)
        if field.name != "predictions"
    }
    if not math.isfinite(result.cross_entropy):
        facts["cross_entropy"] = None  # JSON knows no infinity
    for name in ("top_1_error", "top_5_error"):
        error = getattr(result, name)
        facts[name + "_interval"] = wilson_interval(error, result.num_evaluated)
    return facts | {
        "checkpoint": " + ".join(member.path for member in members),
        "sha256": [member.sha256 for member in members],
        "data_set": data_set.name,
        "data_dir": data_set.data_dir,
        "data_fingerprint": fingerprint(data_set.splits[result.split]),
        "command": sys.argv,
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
        },
    }


def fingerprint(split: Split) -> str:
    """SHA-256 of the shards' names, sizes, numbers of records and first 64 KiB."""
    total = hashlib.sha256()
    for filename, length in zip(split.filenames, split.shard_lengths, strict=True):
        with tf.io.gfile.GFile(filename, "rb") as file:
            begin, size = file.read(2**16), file.size()
        total.update(f"{os.path.basename(filename)} {length} {size} ".encode() + begin)
    return total.hexdigest()


def format_table(result: Result, data_set: DataSet, facts: dict) -> str:
    """The result for people, beside the paper's where the data set is ImageNet."""
    views = f"{result.views} view" + "s" * (result.views > 1)
    networks = len(facts["sha256"])
    name = f"{networks} CNN{'s' * (networks > 1)}, {views}"
    rows = {name: (100 * result.top_1_error, 100 * result.top_5_error)}
    if data_set.name.startswith("imagenet") and data_set.num_classes == 1000:
        rows |= {f"{row}, 10 views": errors for row, errors in _PAPER_ROWS.items()}
    lines = [
        f"{result.split}: evaluated {result.num_evaluated:,} of "
        f"{result.num_examples:,} images, {facts['images_per_second']:,.0f} images/s, "
        f"cross-entropy {result.cross_entropy:.4f}",
        f"{'':36}{'top-1 error':>12}{'top-5 error':>12}",
        *(f"{row:36}{one:11.2f}%{five:11.2f}%" for row, (one, five) in rows.items()),
    ]
    intervals = [facts[f"top_{k}_error_interval"] for k in (1, 5)]
    shown = (f"{100 * low:.1f}..{100 * high:.1f}" for low, high in intervals)
    lines.insert(3, f"{'  95 % interval':36}" + "".join(f"{x:>12}" for x in shown))
    return "\n".join(lines)


def write_per_class(result: Result, data_set: DataSet, directory: str) -> None:
    """Writes `per_class.csv`: a row for each class."""
    labels, ranks = result.predictions.labels, result.predictions.ranks
    confusion = result.predictions.confusion(data_set.num_classes)
    path = os.path.join(directory, "per_class.csv")
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*_CLASS_COLUMNS, "most_often_taken_for", "times"])
        for label, class_name in enumerate(data_set.class_names):
            of_class = ranks[labels == label]
            errors = [(of_class >= k).mean() if len(of_class) else "" for k in (1, 5)]
            wrong = confusion[label].copy()
            wrong[label] = 0
            other = data_set.class_names[wrong.argmax()] if wrong.any() else ""
            writer.writerow(
                [label, class_name, len(of_class), *errors, other, wrong.max()]
            )


def write_predictions(result: Result, data_set: DataSet, directory: str) -> None:
    """Writes `predictions.csv`: a row for each image, with where its record is."""
    predictions, names = result.predictions, data_set.class_names
    split = data_set.splits[result.split]
    ids = [int(i) for i, _ in read_all(split, ids_only=True)]
    places = [find_record(split, i) for i in ids]
    k = predictions.top_ids.shape[1]
    path = os.path.join(directory, "predictions.csv")
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        columns = [f"{name}_{i}" for i in range(1, k + 1) for name in ("class", "p")]
        writer.writerow(["shard", "record", "label", "rank", "cross_entropy", *columns])
        for i, position in enumerate(predictions.positions):
            filename, index = places[position]
            top = zip(
                (names[j] for j in predictions.top_ids[i]),
                (f"{p:.6f}" for p in predictions.top_probabilities[i]),
                strict=True,
            )
            writer.writerow(
                [os.path.basename(filename), index, names[predictions.labels[i]]]
                + [predictions.ranks[i] + 1, f"{predictions.cross_entropies[i]:.6f}"]
                + [value for pair in top for value in pair]
            )

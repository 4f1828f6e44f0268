"""What an evaluation found, and how it is told: tables, CSV files, `eval.json`."""

import csv
import dataclasses
import hashlib
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf

from alexnet_tf.evaluation.metrics import precision_recall_f1, wilson_interval
from alexnet_tf.files import writing
from alexnet_tf.pipeline.data_set import DataSet, Split
from alexnet_tf.pipeline.reading import find_record, read_all
from alexnet_tf.run import Run, checkpoint_sha256, library_versions

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
    """

    positions: np.ndarray
    labels: np.ndarray
    ranks: np.ndarray
    cross_entropies: np.ndarray
    top_ids: np.ndarray
    top_probabilities: np.ndarray

    @property
    def answers(self) -> np.ndarray:
        """int32 `(n,)`, the most probable classes."""
        return self.top_ids[:, 0]

    def confusion(self, num_classes: int) -> np.ndarray:
        """int64 `(num_classes, num_classes)`: label × answer, counts."""
        pairs = self.labels.astype(np.int64) * num_classes + self.answers
        return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, -1)

    def mistakes(self) -> list[tuple[int, int, int]]:
        """Labels, wrong answers and how often they came together, most often first."""
        pairs = np.stack([self.labels, self.answers], axis=1)
        wrong = pairs[self.labels != self.answers]
        pairs, counts = np.unique(wrong, axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return [(*pairs[i].tolist(), int(counts[i])) for i in order]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Errors over a split.

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
        *("split", "views", "num_examples", "num_evaluated"),
        *("cross_entropy", "top_1_error", "top_5_error", "largest_class"),
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


def read_records(metrics_file: str, last_step: float = math.inf) -> list[dict]:
    """Reads the records of `metrics.jsonl` up to a step; none where there is no file.

    A line without its end was being written when the run was killed: it is left out.
    """
    if not tf.io.gfile.exists(metrics_file):
        return []
    with tf.io.gfile.GFile(metrics_file) as file:
        lines = [line for line in file if line.endswith("\n")]
    return [record for record in map(json.loads, lines) if record["step"] <= last_step]


def fingerprint(split: Split) -> str:
    """SHA-256 of the shards' names, sizes, numbers of records and first 64 KiB."""
    total = hashlib.sha256()
    for filename, length in zip(split.filenames, split.shard_lengths, strict=True):
        with tf.io.gfile.GFile(filename, "rb") as file:
            begin, size = file.read(2**16), file.size()
        total.update(f"{os.path.basename(filename)} {length} {size} ".encode() + begin)
    return total.hexdigest()


def printable(text: str) -> str:
    """A name as it can be shown: what would steer a terminal is written as an escape.

    A class is called as some folder is, and a folder's name may hold anything.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text
    )


def _csv_cell(name: str) -> str:
    """A name that a spreadsheet does not take for a formula."""
    name = printable(name)
    return "'" + name if name.startswith(("=", "+", "-", "@")) else name


def format_table(evaluation: Evaluation, data_set: DataSet, facts: dict) -> str:
    """The errors for people, beside the paper's where the data set is ImageNet.

    Top 5 is left out where there are five classes or fewer: it is always right.
    """
    tops = (1, 5) if data_set.num_classes > 5 else (1,)
    networks = len(facts["sha256"])
    name = f"{networks} CNN{'s' * (networks > 1)}, {evaluation.views} view"
    name += "s" * (evaluation.views > 1)
    rows = {name: [facts[f"top_{k}_error"] for k in tops]}
    rows["always the largest class"] = [1 - evaluation.largest_class]
    if data_set.name.startswith("imagenet") and data_set.num_classes == 1000:
        rows |= _PAPER_ROWS
    head = (text for k in tops for text in (f"top-{k} accuracy", "error"))
    lines = [
        f"{evaluation.split}: evaluated {evaluation.num_evaluated:,} of "
        f"{evaluation.num_examples:,} images, {facts['images_per_second']:,.0f} "
        f"images/s, cross-entropy {evaluation.cross_entropy:.4f}",
        _row("", head),
    ]
    for name, errors in rows.items():
        lines.append(_row(name, (f"{x:.2%}" for e in errors for x in (1 - e, e))))
    intervals = (facts[f"top_{k}_error_interval"] for k in tops)
    bounds = (x for low, high in intervals for x in ((1 - high, 1 - low), (low, high)))
    cells = (f"{100 * low:.1f}..{100 * high:.1f}%" for low, high in bounds)
    lines.insert(3, _row("  95 % interval", cells))
    return "\n".join(lines)


def _row(name: str, cells: Iterable[str]) -> str:
    widths = itertools.cycle((15, 13))
    return f"{name:24}" + "".join(map(str.rjust, cells, widths))


def write_results(
    directory: str,
    evaluation: Evaluation,
    facts: dict,
    data_set: DataSet,
    predictions: bool,
) -> None:
    """Writes `eval.json`, `per_class.csv` and, with `predictions`, `predictions.csv`.

    Args:
        directory: Where to; made if it is not there.
        evaluation: The errors.
        facts: What `eval.json` is to hold.
        data_set: What was evaluated.
        predictions: Whether to write a row for each image too.
    """
    with writing(Run(directory).eval_file) as file:
        json.dump(facts, file, indent=1)
    write_per_class(evaluation, data_set, directory)
    if predictions:
        write_predictions(evaluation, data_set, directory)


def write_per_class(evaluation: Evaluation, data_set: DataSet, directory: str) -> None:
    """Writes `per_class.csv`: a row for each class."""
    predictions = evaluation.predictions
    labels, ranks = predictions.labels, predictions.ranks
    measures = precision_recall_f1(labels, predictions.answers, data_set.num_classes)
    most_often = {}
    for label, answer, times in predictions.mistakes():
        most_often.setdefault(label, (answer, times))
    names = [_csv_cell(name) for name in data_set.class_names]
    rows = []
    for label, name in enumerate(names):
        of_class = ranks[labels == label]
        errors = [(of_class >= k).mean() if len(of_class) else "" for k in (1, 5)]
        shares = ["" if np.isnan(x) else x for x in measures[label]]
        answer, times = most_often.get(label, (None, 0))
        other = "" if answer is None else names[answer]
        rows.append([label, name, len(of_class), *errors, *shares, other, times])
    _write_csv(os.path.join(directory, "per_class.csv"), _CLASS_COLUMNS, rows)


def write_predictions(
    evaluation: Evaluation, data_set: DataSet, directory: str
) -> None:
    """Writes `predictions.csv`: a row for each image, with its shard and index."""
    predictions = evaluation.predictions
    names = [_csv_cell(name) for name in data_set.class_names]
    split = data_set.splits[evaluation.split]
    ids = [int(i) for i, _ in read_all(split, ids_only=True)]
    rows = []
    for i, position in enumerate(predictions.positions):
        filename, index = find_record(split, ids[position])
        tops = zip(
            predictions.top_ids[i], predictions.top_probabilities[i], strict=True
        )
        rows.append(
            [os.path.basename(filename), index, names[predictions.labels[i]]]
            + [predictions.ranks[i] + 1, f"{predictions.cross_entropies[i]:.6f}"]
            + [cell for j, p in tops for cell in (names[j], f"{p:.6f}")]
        )
    k = predictions.top_ids.shape[1]
    columns = [f"{name}_{i}" for i in range(1, k + 1) for name in ("class", "p")]
    columns = ["shard", "record", "label", "rank", "cross_entropy", *columns]
    _write_csv(os.path.join(directory, "predictions.csv"), columns, rows)


def _write_csv(path: str, columns: Sequence[str], rows: Iterable[Sequence]) -> None:
    with writing(path) as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)

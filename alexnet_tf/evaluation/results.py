"""The result of an evaluation: its measures, `eval.json`, tables of classes and images.

Nothing here has a cell for every pair of classes: of the whole ImageNet's 21,841 these
would be 477 million. What was taken for what is a list of the pairs that came up.
"""

import csv
import dataclasses
import functools
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf

from alexnet_tf.config import flat
from alexnet_tf.evaluation.metrics import precision_recall_f1, wilson_interval
from alexnet_tf.files import format_cell, writing
from alexnet_tf.pipeline.data_set import DataSet, Split
from alexnet_tf.pipeline.reading import records_in_order
from alexnet_tf.run import checkpoint_sha256, library_versions
from alexnet_tf.weights.loading import Loaded

# Table 2 of the paper, ILSVRC-2012, ten views: top-1 and top-5 error (validation);
# those with a star were first trained on the whole ImageNet of Fall 2011.
_PAPER_ROWS = {
    "paper: 1 CNN, 10 views": (0.407, 0.182),
    "paper: 5 CNNs, 10 views": (0.381, 0.164),
    "paper: 1 CNN*, 10 views": (0.390, 0.166),
    "paper: 7 CNNs*, 10 views": (0.367, 0.154),
}
# What `eval.json` has of `Evaluation`.
_MEASURES = (
    *("split", "views", "num_examples", "num_evaluated", "cross_entropy"),
    *("top_1_error", "top_5_error", "balanced_accuracy", "macro_f1"),
    "largest_class",
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


def describe_evaluation(
    evaluation: Evaluation,
    networks: Sequence[Loaded],
    data_set: DataSet,
    images_per_second: float,
) -> dict:
    """What `eval.json` holds; settings are those of the first network.

    Args:
        evaluation: The errors.
        networks: Those that were evaluated.
        data_set: What was evaluated.
        images_per_second: How fast it was.
    """
    facts = {name: getattr(evaluation, name) for name in _MEASURES}
    for name in ("top_1_error", "top_5_error"):
        interval = wilson_interval(facts[name], evaluation.num_evaluated)
        facts[name + "_interval"] = interval
    first, paths = networks[0], [network.path for network in networks]
    weights = [w for n in networks for w in n.model.trainable_variables]
    return facts | {
        "checkpoint": " + ".join(paths),
        "sha256": [checkpoint_sha256(path) for path in paths],
        "recipe": first.config.recipe.name,
        "settings": {name: flat(first.config)[name] for name in first.config.given},
        "seeds": [network.config.seed for network in networks],
        "parameters": sum(math.prod(weight.shape) for weight in weights),
        "precision": first.model.get_layer("conv1").dtype_policy.name,
        "data_set": data_set.name,
        "data_dir": data_set.data_dir,
        "data_fingerprint": fingerprint(data_set.splits[evaluation.split]),
        "images_per_second": images_per_second,
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


def format_table(facts: dict, data_set: DataSet) -> str:
    """The errors for people, beside the paper's where the data set is ImageNet.

    Top 5 is left out where there are five classes or fewer: it is always right.

    Args:
        facts: From `describe_evaluation`.
        data_set: What was evaluated.
    """
    tops = (1, 5) if data_set.num_classes > 5 else (1,)
    networks, views = len(facts["sha256"]), facts["views"]
    name = f"{networks} CNN{'s' * (networks > 1)}, {views} view{'s' * (views > 1)}"
    lows, highs = zip(*(facts[f"top_{k}_error_interval"] for k in tops), strict=True)
    rows = {
        name: [facts[f"top_{k}_error"] for k in tops],
        "  95 % interval: from": highs,
        "  to": lows,
        "  balanced (class mean)": [1 - facts["balanced_accuracy"]],
        "always the largest class": [1 - facts["largest_class"]],
    }
    if data_set.name.startswith("imagenet") and data_set.num_classes == 1000:
        rows |= _PAPER_ROWS
    heads = "".join(f"{f'top-{k} accuracy':>15}{'error':>13}" for k in tops)
    lines = [
        f"{facts['split']}: evaluated {facts['num_evaluated']:,} of "
        f"{facts['num_examples']:,} images, {facts['images_per_second']:,.0f} "
        f"images/s, cross-entropy {facts['cross_entropy']:.4f}, "
        f"macro-F1 {facts['macro_f1']:.2%}",
        f"{'':24}{heads}",
    ]
    for name, errors in rows.items():
        cells = "".join(f"{1 - error:15.2%}{error:13.2%}" for error in errors)
        lines.append(f"{name:24}{cells}")
    return "\n".join(lines)


def write_results(
    directory: str, evaluation: Evaluation, facts: dict, data_set: DataSet
) -> None:
    """Writes `eval.json`, and `per_class.csv` with a row for each class.

    The files of a split that is not "validation" have its name, `eval_test.json`, so
    that neither takes the other's place.

    Args:
        directory: Where to; made if it is not there.
        evaluation: The errors.
        facts: From `describe_evaluation`.
        data_set: What was evaluated.
    """
    with writing(name_file(directory, "eval.json", evaluation.split)) as file:
        json.dump(facts, file, indent=1)
    columns = tabulate_classes(evaluation, data_set.class_names)
    path = name_file(directory, "per_class.csv", evaluation.split)
    _write_csv(path, columns, columns.values())


def name_file(directory: str, name: str, split: str) -> str:
    """The path of a file about a split; "eval.json" is validation's."""
    stem, suffix = os.path.splitext(name)
    part = "" if split == "validation" else f"_{split}"
    return os.path.join(directory, f"{stem}{part}{suffix}")


def tabulate_classes(
    evaluation: Evaluation, class_names: Sequence[str]
) -> dict[str, Sequence]:
    """The columns of `per_class.csv`, a value for each class.

    Fractions are NaN where nothing was counted; names are as `format_cell` has them.
    """
    predictions, num_classes = evaluation.predictions, len(class_names)
    labels, ranks, answers = predictions.labels, predictions.ranks, predictions.answers
    names = list(map(format_cell, class_names))
    examples = np.bincount(labels, minlength=num_classes)
    wrong_1, wrong_5 = (
        np.bincount(labels, ranks >= k, minlength=num_classes) for k in (1, 5)
    )
    wrong = np.stack([labels, answers])[:, labels != answers]
    pairs, counts = np.unique(wrong, axis=1, return_counts=True)
    taken_for, times = [""] * num_classes, [0] * num_classes
    for i in np.argsort(-counts, kind="stable")[::-1]:  # the most frequent comes last
        label, answer = pairs[:, i]
        taken_for[label], times[label] = names[answer], counts[i]
    precision, recall, f1 = precision_recall_f1(labels, answers, num_classes).T
    with np.errstate(invalid="ignore"):
        return {
            "class_id": range(num_classes),
            "class": names,
            "examples": examples,
            "top_1_error": wrong_1 / examples,
            "top_5_error": wrong_5 / examples,
            "precision": precision,
            "recall": recall,
            "f1": f1,
            "most_often_taken_for": taken_for,
            "times": times,
        }


def write_predictions(
    evaluation: Evaluation, data_set: DataSet, directory: str
) -> None:
    """Writes `predictions.csv`: a row for each image, with its file.

    "record" is its position in the split.

    With `Predictions.probabilities` there is a column for each class, too.
    """
    predictions, split = evaluation.predictions, data_set.splits[evaluation.split]
    names = np.array(list(map(format_cell, data_set.class_names)), object)
    file_names = np.array(list(map(format_cell, read_names(split))), object)
    columns = {
        "file_name": file_names[predictions.positions],
        "record": predictions.positions,
        "label": names[predictions.labels],
        "rank": predictions.ranks + 1,
        "cross_entropy": _round(predictions.cross_entropies),
    }
    for k in range(predictions.top_ids.shape[1]):
        columns[f"class_{k + 1}"] = names[predictions.top_ids[:, k]]
        columns[f"p_{k + 1}"] = _round(predictions.top_probabilities[:, k])
    heads, values = [*columns], [*columns.values()]
    if predictions.probabilities is not None:
        heads += names.tolist()
        values += [*_round(predictions.probabilities.T)]
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


def _write_csv(path: str, heads: Iterable[str], columns: Iterable[Sequence]) -> None:
    """Writes columns; what is NaN becomes an empty cell."""
    lists = [
        ["" if x != x else x for x in np.asarray(column, object).tolist()]
        for column in columns
    ]
    with writing(path) as file:
        writer = csv.writer(file)
        writer.writerow(heads)
        writer.writerows(zip(*lists, strict=True))

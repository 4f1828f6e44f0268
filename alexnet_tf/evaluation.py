"""Exact top-1 and top-5 error over a whole split, of one network or of several."""

import csv
import dataclasses
import hashlib
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from alexnet_tf import input_pipeline
from alexnet_tf.devices import choose_precision
from alexnet_tf.errors import UserError
from alexnet_tf.input_pipeline import evaluation_batches, label_errors
from alexnet_tf.members import ExportedModel, Member, load_members
from alexnet_tf.records import DataSet, Split, open_data_set
from alexnet_tf.runs import Run

# Table 2 of the paper, ILSVRC-2012, ten views: top-1 and top-5 error (validation), %.
_PAPER_ROWS = {
    "paper: 1 CNN": (40.7, 18.2),
    "paper: 5 CNNs": (38.1, 16.4),
    "paper: 1 CNN, Fall 2011": (39.0, 16.6),
    "paper: 7 CNNs, Fall 2011": (36.7, 15.4),
}
_READ_BATCH = 128
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


def rank(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """How many classes stand before the label.

    Equal logits rank by class index, as `tf.math.top_k` has it, so that a network that
    answers the same everywhere is not right everywhere; NaN is never right.

    Args:
        logits: float32 `(batch, num_classes)`; -inf is allowed, as log-probability 0.
        labels: int32 `(batch,)`, 0..num_classes-1.

    Returns:
        int32 `(batch,)`, 0..num_classes; the label is in the top k where it is below k.
    """
    num_classes = tf.shape(logits)[1]
    target = tf.gather(logits, labels, axis=1, batch_dims=1)[:, tf.newaxis]
    earlier = tf.range(num_classes)[tf.newaxis] < labels[:, tf.newaxis]
    ahead = (logits > target) | ((logits == target) & earlier)
    bad = tf.reduce_any(tf.math.is_nan(logits) | (logits == np.inf), axis=1)
    return tf.where(bad, num_classes, tf.math.count_nonzero(ahead, 1, dtype=tf.int32))


def count(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Counts a batch, without the places that hold no example.

    Args:
        logits: float32 `(batch, num_classes)`.
        labels: int32 `(batch,)`; -1 where there is no example.

    Returns:
        float32 `(4,)`: number of examples, sum of their cross-entropies (nats), number
        wrong at top 1, number wrong at top 5. The second is the one to differentiate.
    """
    is_example = labels >= 0
    labels = tf.maximum(labels, 0)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    ranks = rank(logits, labels)
    columns = [
        tf.ones_like(losses),
        losses,
        *(tf.cast(ranks >= k, tf.float32) for k in (1, 5)),
    ]
    return tf.stack(
        [tf.reduce_sum(tf.where(is_example, column, 0.0)) for column in columns]
    )


def _log_mean(log_probabilities: tf.Tensor) -> tf.Tensor:
    """Logarithm of the mean of the probabilities over axis 0."""
    if log_probabilities.shape[0] == 1:
        return log_probabilities[0]
    sums = tf.reduce_logsumexp(log_probabilities, axis=0)
    return sums - math.log(log_probabilities.shape[0])


class Evaluator:
    """Evaluates as often as asked, on every replica of a strategy.

    Args:
        models: From images to logits or log-probabilities; the probabilities of several
            are averaged.
        strategy: The one in whose scope they were built.
        cache: Whether the first evaluation keeps the decoded images in memory for the
            next ones, which must be of the same split.
    """

    def __init__(
        self,
        models: keras.Model | Sequence,
        strategy: tf.distribute.Strategy,
        cache: bool = False,
    ):
        self._cache, self._cached = cache, None
        self._models = models if isinstance(models, Sequence) else [models]
        self._strategy = strategy

    @tf.function
    def _step(self, images, labels):
        rows = self._strategy.run(self._replica_step, args=(images, labels))
        return self._strategy.gather(rows, axis=0)

    def _log_probabilities(self, images):
        scores = [model(images, training=False) for model in self._models]
        return _log_mean(
            tf.stack(
                [
                    x if isinstance(model, ExportedModel) else tf.nn.log_softmax(x)
                    for model, x in zip(self._models, scores, strict=True)
                ]
            )
        )

    def _replica_step(self, images, labels):
        """A row for each image: label, rank, cross-entropy, top ids, probabilities."""
        if images.shape.rank == 5:  # views: one after another, which bounds the memory
            scores = tf.map_fn(
                lambda view: self._log_probabilities(images[:, view]),
                tf.range(images.shape[1]),
                fn_output_signature=tf.float32,
                parallel_iterations=1,
            )
            scores = _log_mean(tf.ensure_shape(scores, [images.shape[1], None, None]))
        else:
            scores = self._log_probabilities(images)
        known = tf.maximum(labels, 0)
        losses = -tf.gather(scores, known, axis=1, batch_dims=1)
        values, ids = tf.math.top_k(scores, tf.minimum(5, tf.shape(scores)[1]))
        columns = [tf.cast(x, tf.float32) for x in (labels, rank(scores, known))]
        columns = tf.stack([*columns, losses], axis=1)
        return tf.concat([columns, tf.cast(ids, tf.float32), tf.exp(values)], axis=1)

    def evaluate(
        self,
        data_set: DataSet,
        split: str,
        global_batch_size: int,
        *,
        views: int = 1,
        on_batch: Callable[[int], None] | None = None,
    ) -> Result:
        """Evaluates every example of a split once.

        Args:
            data_set: The data.
            split: Name of the split.
            global_batch_size: Images in a step, over all replicas.
            views: 1, the central crop, or 10, whose probabilities are averaged.
            on_batch: Called after each step with the number of images evaluated.

        Returns:
            The errors; they do not depend on the batch size or on the replicas.
        """
        batches = self._cached
        if batches is None:
            batches = self._strategy.experimental_distribute_dataset(
                evaluation_batches(
                    data_set,
                    split,
                    global_batch_size=global_batch_size,
                    image_size=self._models[0].input_shape[1],
                    views=views,
                    cache=self._cache,
                )
            )
            self._cached = batches if self._cache else None
        num_evaluated, steps = 0, []
        with label_errors(data_set, split):
            for batch in batches:
                steps.append(self._step(*batch).numpy())
                num_evaluated += int((steps[-1][:, 0] >= 0).sum())
                if on_batch:
                    on_batch(num_evaluated)
        rows = np.concatenate(steps)
        positions = np.flatnonzero(rows[:, 0] >= 0)
        labels, ranks, losses, *top = rows[positions].T
        ids, probabilities = np.split(np.stack(top, axis=1), 2, axis=1)
        labels, ranks = labels.astype(np.int64), ranks.astype(np.int64)
        total = max(1, num_evaluated)
        return Result(
            split=split,
            views=views,
            num_examples=data_set.splits[split].num_examples,
            num_evaluated=num_evaluated,
            cross_entropy=float(losses.sum(dtype=np.float64) / total),
            top_1_error=float((ranks >= 1).sum() / total),
            top_5_error=float((ranks >= 5).sum() / total),
            largest_class=float(np.bincount(labels, minlength=1).max() / total),
            predictions=Predictions(
                positions,
                labels,
                ranks,
                losses.astype(np.float64),
                ids.astype(np.int64),
                probabilities,
            ),
        )


def read_pictures(
    data_set: DataSet, split: str, positions: np.ndarray, size: int
) -> np.ndarray:
    """Reads the central crops at places of the order of evaluation.

    Args:
        data_set: The data.
        split: Name of the split.
        positions: `(n,)`.
        size: Height and width, pixels.

    Returns:
        uint8 `(n, size, size, 3)`.
    """
    found = np.zeros((len(positions), size, size, 3), np.uint8)
    batches = evaluation_batches(
        data_set, split, global_batch_size=_READ_BATCH, image_size=size
    )
    last = max(positions, default=-1) // _READ_BATCH
    for number, (images, _) in enumerate(batches.take(last + 1)):
        here = positions // _READ_BATCH == number
        found[here] = images.numpy()[positions[here] % _READ_BATCH]
    return found


def evaluate_run(
    model_dir: str | None,
    data_dir: str | None = None,
    *,
    split: str = "validation",
    checkpoints: Sequence[str] = ("latest",),
    views: int = 1,
    strategy: tf.distribute.Strategy | None = None,
    global_batch_size: int = 128,
    precision: str = "float32",
    predictions: bool = False,
    report_dir: str | None = None,
) -> Result:
    """Evaluates checkpoints of runs, or SavedModels; prints and writes the result.

    Writes `eval.json` and `per_class.csv` into `report_dir` or else `model_dir`.

    Args:
        model_dir: Directory of the run; None where `checkpoints` says it all.
        data_dir: Directory of the data set; None for the one it was trained on.
        split: Name of the split.
        checkpoints: See `load_members`; the probabilities of several are averaged.
        views: 1, the central crop, or 10 (section 4.1).
        strategy: The devices; None for the default strategy.
        global_batch_size: Images in a step, over all replicas.
        precision: "float32", "mixed_bfloat16" or "auto".
        predictions: Whether to write `predictions.csv` too.
        report_dir: Where to write a page with figures; None for none.

    Returns:
        The errors.

    Raises:
        UserError: If something that was asked for is not there, or does not fit.
    """
    strategy = strategy or tf.distribute.get_strategy()
    check_batch_size(global_batch_size, strategy)
    if precision == "auto":
        precision = choose_precision(strategy)
    with strategy.scope():
        members = load_members(checkpoints, model_dir, precision)
    data_set = _open(data_dir, split, members, views)
    start = time.perf_counter()
    with tqdm(
        total=data_set.splits[split].num_examples,
        unit=" images",
        leave=False,
        disable=not sys.stderr.isatty(),
    ) as bar:
        result = Evaluator([member.model for member in members], strategy).evaluate(
            data_set,
            split,
            global_batch_size,
            views=views,
            on_batch=lambda n: bar.update(n - bar.n),
        )
    seconds = time.perf_counter() - start
    facts = describe(result, members, data_set) | {
        "precision": precision,
        "images_per_second": result.num_evaluated / seconds,
    }
    print(format_table(result, data_set, facts))
    directory = report_dir or model_dir
    if directory:
        os.makedirs(directory, exist_ok=True)
        eval_file = Run(directory).eval_file
        with open(eval_file, "w", encoding="utf-8") as file:
            json.dump(facts, file, indent=1)
        write_per_class(result, data_set, directory)
        if predictions:
            write_predictions(result, data_set, directory)
    if report_dir:
        from alexnet_tf import report  # matplotlib takes a second to import

        report.write_report(report_dir, result, facts, data_set, members[0].model)
        print(f"The report is {os.path.join(report_dir, 'index.html')}")
    return result


def _open(data_dir, split: str, members: list[Member], views: int) -> DataSet:
    """Opens the data set, and checks that what is to be evaluated fits it."""
    data_dir = data_dir or members[0].data_dir
    if data_dir is None:
        raise UserError("a SavedModel does not say on what data: give --data_dir")
    data_set = open_data_set(data_dir)
    if split not in data_set.splits:
        raise UserError(
            f"no split {split!r} in {data_set.data_dir}: it has "
            + ", ".join(data_set.splits)
        )
    if data_set.class_names != members[0].class_names:
        raise UserError(
            f"{members[0].path} knows {len(members[0].class_names)} classes, which "
            f"are not the {data_set.num_classes} of {data_set.data_dir}: give the data "
            "set that it was trained on, or another one with the same classes"
        )
    for member in members:
        answers = getattr(member.model, "top_k", data_set.num_classes)
        needed = data_set.num_classes if len(members) > 1 else 5
        if views > 1 and isinstance(member.model, ExportedModel):
            raise UserError(
                f"the SavedModel {member.path} crops by itself: --views={views} needs "
                "a checkpoint"
            )
        if answers < min(needed, data_set.num_classes):
            raise UserError(
                f"the SavedModel {member.path} answers {answers} classes, {needed} are "
                f"needed for this: export it with --top_k={needed}"
            )
    return data_set


def describe(result: Result, members: list[Member], data_set: DataSet) -> dict:
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
    ids = [int(i) for i, _ in input_pipeline.read_all(split, ids_only=True)]
    places = [input_pipeline.find_record(split, i) for i in ids]
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


def check_batch_size(global_batch_size: int, strategy: tf.distribute.Strategy) -> None:
    """Raises `UserError` where the replicas cannot share a batch evenly."""
    replicas = strategy.num_replicas_in_sync
    if global_batch_size % replicas:
        below = global_batch_size // replicas * replicas
        raise UserError(
            f"--global_batch_size={global_batch_size} cannot be shared evenly by "
            f"{replicas} replicas: give a multiple of {replicas}, such as "
            f"{below or below + replicas} or {below + replicas}"
        )

"""Exact top-1 and top-5 error over a whole split, of one network or of several."""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from alexnet_tf.devices import choose_precision
from alexnet_tf.errors import UserError
from alexnet_tf.evaluation.members import ExportedModel, Member, load_members
from alexnet_tf.evaluation.results import (
    Predictions,
    Result,
    describe,
    format_table,
    write_per_class,
    write_predictions,
)
from alexnet_tf.pipeline.batches import evaluation_batches, label_errors
from alexnet_tf.pipeline.data_set import DataSet, open_data_set
from alexnet_tf.run import Run


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
        from alexnet_tf.evaluation import report  # matplotlib takes a second to import

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

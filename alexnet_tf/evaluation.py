"""Exact top-1 and top-5 error over a whole split."""

import dataclasses
import json
import sys
import time

import keras
import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from alexnet_tf.devices import choose_precision, make_strategy
from alexnet_tf.errors import UserError
from alexnet_tf.input_pipeline import evaluation_batches
from alexnet_tf.records import DataSet, open_data_set
from alexnet_tf.runs import Run


@dataclasses.dataclass(frozen=True)
class Result:
    """Errors over a split.

    Attributes:
        split: Name of the split.
        views: Crops of each image whose probabilities were averaged.
        num_examples: Images in the split.
        num_evaluated: Images counted; fewer where a record could not be decoded.
        cross_entropy: Mean over the images, nats.
        top_1_error: Fraction.
        top_5_error: Fraction.
        largest_class: Share of the most frequent class, which is the top-1 accuracy of
            always answering it.
    """

    split: str
    views: int
    num_examples: int
    num_evaluated: int
    cross_entropy: float
    top_1_error: float
    top_5_error: float
    largest_class: float


def in_top_k(logits: tf.Tensor, labels: tf.Tensor, k: int) -> tf.Tensor:
    """Whether the label is among the k largest logits.

    Equal logits rank by class index, as `tf.math.top_k` has it, so that a network that
    answers the same everywhere is not right everywhere; NaN is never right.

    Args:
        logits: float32 `(batch, num_classes)`.
        labels: int32 `(batch,)`, 0..num_classes-1.
        k: How many logits count.

    Returns:
        bool `(batch,)`.
    """
    target = tf.gather(logits, labels, axis=1, batch_dims=1)[:, tf.newaxis]
    earlier = tf.range(tf.shape(logits)[1])[tf.newaxis] < labels[:, tf.newaxis]
    ahead = (logits > target) | ((logits == target) & earlier)
    rank = tf.reduce_sum(tf.cast(ahead, tf.int32), axis=1)
    finite = tf.reduce_all(tf.math.is_finite(logits), axis=1)
    return (rank < k) & finite


def count(logits: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
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
    columns = [
        tf.ones_like(losses),
        losses,
        *(tf.cast(~in_top_k(logits, labels, k), tf.float32) for k in (1, 5)),
    ]
    return tf.stack(
        [tf.reduce_sum(tf.where(is_example, column, 0.0)) for column in columns]
    )


class Evaluator:
    """Evaluates one model as often as asked, on every replica of a strategy.

    Args:
        model: From images to logits.
        strategy: The one in whose scope the model was built.
    """

    def __init__(self, model: keras.Model, strategy: tf.distribute.Strategy):
        self._model, self._strategy = model, strategy

    @tf.function
    def _step(self, images, labels):
        per_replica = self._strategy.run(self._replica_step, args=(images, labels))
        return [
            self._strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)
            for sums in per_replica
        ]

    def _replica_step(self, images, labels):
        logits = self._model(images, training=False)
        num_classes = logits.shape[-1]
        examples = tf.boolean_mask(labels, labels >= 0)
        of_class = tf.math.bincount(examples, minlength=num_classes)
        return count(logits, labels), of_class

    def evaluate(
        self, data_set: DataSet, split: str, global_batch_size: int, on_batch=None
    ) -> Result:
        """Evaluates every example of a split once.

        Args:
            data_set: The data.
            split: Name of the split.
            global_batch_size: Images in a step, over all replicas.
            on_batch: Called after each step with the number of images evaluated.

        Returns:
            The errors; they do not depend on the batch size or on the replicas.
        """
        batches = evaluation_batches(
            data_set,
            split,
            global_batch_size=global_batch_size,
            image_size=self._model.input_shape[1],
        )
        totals, of_class = np.zeros(4), np.zeros(data_set.num_classes, np.int64)
        for images, labels in self._strategy.experimental_distribute_dataset(batches):
            counts, labels_seen = self._step(images, labels)
            totals += counts.numpy()
            of_class += labels_seen.numpy()
            if on_batch:
                on_batch(int(totals[0]))
        num_evaluated = int(totals[0])
        means = totals[1:] / max(1, num_evaluated)
        return Result(
            split=split,
            views=1,
            num_examples=data_set.splits[split].num_examples,
            num_evaluated=num_evaluated,
            cross_entropy=float(means[0]),
            top_1_error=float(means[1]),
            top_5_error=float(means[2]),
            largest_class=float(of_class.max() / max(1, num_evaluated)),
        )


def evaluate_run(
    model_dir: str,
    data_dir: str | None = None,
    *,
    split: str = "validation",
    checkpoint: str = "latest",
    num_gpus: int | None = None,
    global_batch_size: int = 128,
    precision: str = "float32",
) -> Result:
    """Evaluates a checkpoint of a run; prints the result, writes `eval.json`.

    Args:
        model_dir: Directory of the run.
        data_dir: Directory of the data set; None for the one it was trained on.
        split: Name of the split.
        checkpoint: "latest", "best" or a path.
        num_gpus: GPUs to use; None for all there are.
        global_batch_size: Images in a step, over all replicas.
        precision: "float32", "mixed_bfloat16" or "auto".

    Returns:
        The errors.

    Raises:
        UserError: If something that was asked for is not there, or does not fit.
    """
    run = Run(model_dir)
    config = run.read_config()
    data_set = open_data_set(data_dir or config.data_dir)
    if split not in data_set.splits:
        raise UserError(
            f"no split {split!r} in {data_set.data_dir}: it has "
            + ", ".join(data_set.splits)
        )
    if data_set.class_names != config.class_names:
        raise UserError(
            f"the run in {model_dir} knows {len(config.class_names)} classes, which "
            f"are not the {data_set.num_classes} of {data_set.data_dir}: give the data set "
            "that it was trained on, or another one with the same classes"
        )
    strategy = make_strategy(num_gpus)
    check_batch_size(global_batch_size, strategy)
    if precision == "auto":
        precision = choose_precision(strategy)
    with strategy.scope():
        model, _, path = run.load_model(checkpoint, precision)
    start = time.perf_counter()
    with tqdm(
        total=data_set.splits[split].num_examples,
        unit=" images",
        leave=False,
        disable=not sys.stderr.isatty(),
    ) as bar:
        result = Evaluator(model, strategy).evaluate(
            data_set, split, global_batch_size, lambda n: bar.update(n - bar.n)
        )
    images_per_second = result.num_evaluated / (time.perf_counter() - start)
    report = dataclasses.asdict(result) | {
        "checkpoint": path,
        "data_dir": data_set.data_dir,
        "precision": precision,
        "images_per_second": images_per_second,
    }
    with open(run.eval_file, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=1)
    logging.info(
        "%s: evaluated %d of %d  top-1 %.2f%%  top-5 %.2f%%  cross-entropy %.4f  "
        "(top-1 error %.2f%%, top-5 error %.2f%%; %.0f images/s)",
        split,
        result.num_evaluated,
        result.num_examples,
        100 * (1 - result.top_1_error),
        100 * (1 - result.top_5_error),
        result.cross_entropy,
        100 * result.top_1_error,
        100 * result.top_5_error,
        images_per_second,
    )
    return result


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

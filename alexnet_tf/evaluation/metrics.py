"""What is measured of logits and labels: cross-entropy, ranks, errors, intervals.

Training and evaluation share this file, so that an error means the same in a record
of training and in `eval.json`. Everything is a sum over examples first: sums of
replicas, workers and batches can be added, and are divided once, at the end. A mean of
means would count the examples of a batch that is not full more than the others.
"""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """The cross-entropy of each example; its mean is what training minimises.

    Args:
        logits: float32 `(batch, num_classes)`; log-probabilities are logits too.
        labels: int32 `(batch,)`, 0..num_classes-1; where it is below 0 the result has
            no meaning.

    Returns:
        float32 `(batch,)`, nats.
    """
    labels = _classes(labels)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def rank(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """How many classes stand before the label.

    Equal logits rank by class index, as `tf.math.top_k` has it, so that a network that
    answers the same everywhere is not right everywhere; NaN is never right.

    Args:
        logits: float32 `(batch, num_classes)`.
        labels: int32 `(batch,)`, 0..num_classes-1; where it is below 0 the result has
            no meaning.

    Returns:
        int32 `(batch,)`, 0..num_classes; the label is in the top k where it is below k.
    """
    num_classes = logits.shape[1]
    labels = _classes(labels)
    target = tf.gather(logits, labels, axis=1, batch_dims=1)[:, tf.newaxis]
    earlier = labels[:, tf.newaxis] > np.arange(num_classes)
    ahead = (logits > target) | ((logits == target) & earlier)
    bad = tf.reduce_any(tf.math.is_nan(logits) | (logits == np.inf), axis=1)
    return tf.where(bad, num_classes, tf.math.count_nonzero(ahead, 1, dtype=tf.int32))


def _classes(labels: tf.Tensor) -> tf.Tensor:
    """Labels as int64, 0 for none: a GPU's kernels for int32 run on the host."""
    return tf.maximum(tf.cast(labels, tf.int64), 0)


class MetricSums(NamedTuple):
    """Sums over the examples of a batch; float32 scalars.

    Attributes:
        num_examples: How many examples there are.
        cross_entropy: Their cross-entropies, nats, which training minimises.
        wrong_top_1: How many are not answered with their label.
        wrong_top_5: How many do not have their label among the first five classes.
    """

    num_examples: tf.Tensor
    cross_entropy: tf.Tensor
    wrong_top_1: tf.Tensor
    wrong_top_5: tf.Tensor


def sum_metrics(logits: tf.Tensor, labels: tf.Tensor) -> MetricSums:
    """Sums up a batch, without the rows that hold no example.

    Args:
        logits: float32 `(batch, num_classes)`.
        labels: int32 `(batch,)`; -1 where there is no example.
    """
    # A batch has a static size: a mask leaves out the rows that fill it up, and the
    # records that could not be read.
    is_example = tf.cast(labels, tf.float32) >= 0
    ranks = tf.cast(rank(logits, labels), tf.float32)  # a GPU has few kernels for int32

    def total(values: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.where(is_example, values, 0.0))

    return MetricSums(
        num_examples=total(tf.ones_like(ranks)),
        cross_entropy=total(cross_entropy(logits, labels)),
        wrong_top_1=total(tf.cast(ranks >= 1, tf.float32)),
        wrong_top_5=total(tf.cast(ranks >= 5, tf.float32)),
    )


def wilson_interval(fraction: float, num_examples: int) -> tuple[float, float]:
    """The 95 % interval of a fraction of `num_examples` independent examples."""
    z = 1.959964
    center = fraction + z**2 / (2 * num_examples)
    spread = fraction * (1 - fraction) / num_examples + (z / (2 * num_examples)) ** 2
    scale = 1 + z**2 / num_examples
    half = z * math.sqrt(spread)
    return max(0.0, (center - half) / scale), min(1.0, (center + half) / scale)


def precision_recall_f1(
    labels: np.ndarray, answers: np.ndarray, num_classes: int
) -> np.ndarray:
    """Precision, recall and F1 of each class.

    Args:
        labels: int `(n,)`.
        answers: int `(n,)`, the most probable classes.
        num_classes: Number of classes.

    Returns:
        float64 `(num_classes, 3)`, fractions; NaN where nothing was counted: a class
        that was never answered has no precision, one without examples no recall.
    """
    right, answered, examples = (
        np.bincount(classes, minlength=num_classes)
        for classes in (labels[labels == answers], answers, labels)
    )
    with np.errstate(invalid="ignore"):
        columns = right / answered, right / examples, 2 * right / (answered + examples)
    return np.stack(columns, axis=1)

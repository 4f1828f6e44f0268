"""Exact top-1 and top-5 error over a whole split, of one network or of several.

Every example counts once, whatever the size of a batch and the number of devices:

- The last batch is filled up with rows without an example (label -1), because devices
  take batches of one size. These rows are computed like all others and then left out.
- Each replica returns what was answered to each of its images, a few numbers, not a
  mean. The numbers of all replicas are put one after another in the order of the
  examples, and are only then averaged (`Evaluation`). So the result depends neither on
  the batch size nor on the replicas, and each answer can be traced to its image.
- Several views of an image, or several networks, are averaged as the paper does it:
  the mean of their probabilities (section 4.1), not of their logits.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np
import tensorflow as tf

from alexnet_tf.command_line import command
from alexnet_tf.errors import UserError
from alexnet_tf.evaluation.metrics import cross_entropy, rank
from alexnet_tf.evaluation.results import Evaluation, Predictions
from alexnet_tf.pipeline.batches import BadRecords, evaluation_batches
from alexnet_tf.pipeline.data_set import DataSet


class Evaluator:
    """Evaluates as often as asked, on every replica of a strategy.

    Args:
        models: From images to logits; the probabilities of several are averaged.
        strategy: The one in whose scope they were built.
        keep_all: Whether to keep the probabilities of all classes.
    """

    def __init__(
        self,
        models: keras.Model | Sequence[keras.Model],
        strategy: tf.distribute.Strategy,
        keep_all: bool = False,
    ):
        self._bad_records, self._last = BadRecords(), (None, None)
        self._keep_all = keep_all
        self._models = models if isinstance(models, Sequence) else [models]
        self._strategy = strategy

    def evaluate(
        self,
        data_set: DataSet,
        split: str,
        global_batch_size: int,
        *,
        views: int = 1,
        on_batch: Callable[[int], None] | None = None,
    ) -> Evaluation:
        """Evaluates every example of a split once.

        Args:
            data_set: The data.
            split: Name of the split.
            global_batch_size: Images in a step, over all replicas.
            views: 1, the central crop, or 10, whose probabilities are averaged.
            on_batch: Called after each step with the number of images evaluated.

        Returns:
            The errors; they do not depend on the batch size or on the replicas.

        Raises:
            UserError: If none of the examples can be used, or a good one was not read.
        """
        steps, num_evaluated = [], 0
        for batch in self._batches(data_set, split, global_batch_size, views):
            rows = {name: x.numpy() for name, x in self._step(*batch).items()}
            steps.append(rows)
            num_evaluated += int((rows["labels"] >= 0).sum())
            if on_batch:
                on_batch(num_evaluated)
        len(self._bad_records)  # warns of each, and ends what could not be read at all
        rows = {
            name: np.concatenate([step[name] for step in steps]) for name in steps[0]
        }
        # Here the rows go that filled up the last batch, and those of bad records.
        positions = np.flatnonzero(rows["labels"] >= 0)
        num_examples = data_set.splits[split].num_examples
        if not len(positions):
            raise UserError(
                f"none of the {num_examples} images of {split} can be used: see why "
                f"with {command('python', '-m', 'data.check')}"
            )
        predictions = Predictions(
            positions, **{name: values[positions] for name, values in rows.items()}
        )
        return Evaluation(split, views, num_examples, predictions)

    def _batches(self, data_set, split, global_batch_size, views) -> Iterable:
        # The same validation set comes again each epoch: its data set is made once.
        arguments = (data_set, split, global_batch_size, views)
        before, batches = self._last
        if before == arguments:
            return batches

        def make(context: tf.distribute.InputContext) -> tf.data.Dataset:
            return evaluation_batches(
                data_set,
                split,
                global_batch_size=global_batch_size,
                image_size=self._models[0].input_shape[1],
                views=views,
                input_context=context,
                bad_records=self._bad_records,
            )

        batches = self._strategy.distribute_datasets_from_function(make)
        self._last = arguments, batches
        return batches

    @tf.function(autograph=False)
    def _step(self, images, labels):
        rows = self._strategy.run(self._replica_step, args=(images, labels))
        return {name: self._strategy.gather(x, axis=0) for name, x in rows.items()}

    def _replica_step(self, images, labels):
        """The arrays of `Predictions`, but the positions, for a replica's images."""
        # A few numbers for each image leave the device, not a value for each class.
        scores = self._log_probabilities(images)
        values, ids = tf.math.top_k(scores, min(5, scores.shape[1]))
        all_classes = {"probabilities": tf.exp(scores)} if self._keep_all else {}
        return all_classes | {
            "labels": labels,
            "ranks": rank(scores, labels),
            "cross_entropies": cross_entropy(scores, labels),
            "top_ids": ids,
            "top_probabilities": tf.exp(values),
        }

    def _log_probabilities(self, images):
        """The mean over networks and, where images are of rank 5, over views."""
        # Section 4.1 averages what the softmax layer predicts, not the logits.
        if images.shape.rank == 4:
            logits = [model(images, training=False) for model in self._models]
            return _log_mean(tf.nn.log_softmax(tf.stack(logits)))
        scores = tf.map_fn(  # one view after another, which bounds the memory
            lambda view: self._log_probabilities(images[:, view]),
            tf.range(images.shape[1]),
            fn_output_signature=tf.float32,
            parallel_iterations=1,
        )
        num_classes = self._models[0].output_shape[1]
        return _log_mean(tf.ensure_shape(scores, [images.shape[1], None, num_classes]))


def _log_mean(log_probabilities: tf.Tensor) -> tf.Tensor:
    """Logarithm of the mean of the probabilities over axis 0."""
    if log_probabilities.shape[0] == 1:
        return log_probabilities[0]
    # Of sums of tiny probabilities only the logarithm is exact in float32.
    sums = tf.reduce_logsumexp(log_probabilities, axis=0)
    return sums - math.log(log_probabilities.shape[0])

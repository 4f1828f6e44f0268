"""What TensorBoard shows beside scalars: pictures, histograms, settings, profiles."""

import dataclasses
import glob
import os
import shlex
import sys
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from tensorboard.plugins.histogram import summary_v2 as histograms
from tensorboard.plugins.hparams import api as hparams
from tensorboard.plugins.scalar import summary_v2 as scalars

from alexnet_tf.evaluation.results import Result
from alexnet_tf.monitoring.metrics_log import MetricsLog
from alexnet_tf.pipeline.batches import read_pictures, training_batches
from alexnet_tf.pipeline.data_set import DataSet, Split
from alexnet_tf.pipeline.statistics import pixel_statistics
from alexnet_tf.run import Config

_SAMPLE = 4096  # values of a tensor that a histogram is made of
_VERSIONS = 7  # augmented versions of a picture
_NUM_IMAGES = 16  # that units must answer to in order to be alive
_POOL = 256  # validation pictures, the first ones, among which mistakes are shown


def sample(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Up to 4096 evenly spaced values of each tensor, one after another, float32.

    So few that a training step can keep those of its gradients at no cost. The stride
    is odd, so that it does not fall on the same channel again and again.
    """
    parts = []
    for tensor in tensors:
        values = tf.reshape(tensor, [-1])
        stride = -(-values.shape[0] // _SAMPLE) | 1
        parts.append(tf.cast(values[::stride], tf.float32))
    return tf.concat(parts, axis=0)


class Monitor:
    """Writes to TensorBoard what people look at while a network trains.

    Args:
        log: Where to.
        model: The network in training.
        data_set: What it trains on.
        config: Of the run.
        histograms_every: Steps; None for every epoch, 0 for never.
    """

    def __init__(
        self,
        log: MetricsLog,
        model: keras.Model,
        data_set: DataSet,
        config: Config,
        histograms_every: int | None = None,
    ):
        self._log, self._model, self._data_set = log, model, data_set
        self._config, self._every = config, histograms_every
        self._size = model.input_shape[1]
        first = min(_POOL, data_set.splits["validation"].num_examples)
        self._images = read_pictures(
            data_set, "validation", np.arange(first), self._size
        )
        names = [*(f"conv{i}" for i in range(1, 6)), "fc6", "fc7"]
        self._activations = keras.Model(
            model.inputs, {name: model.get_layer(name).output for name in names}
        )

    def trained(self, step: int, gradients: np.ndarray) -> None:
        """After training steps: writes histograms if it is time.

        Args:
            step: Steps done.
            gradients: `sample` of the last step's gradients.
        """
        if self._every and step % self._every == 0:
            self._write_histograms(step, gradients)

    def validated(self, step: int, result: Result, gradients: np.ndarray) -> None:
        """After a validation: writes pictures, dead units, histograms.

        Args:
            step: Steps done.
            result: Of the validation.
            gradients: `sample` of the last step's gradients.
        """
        from alexnet_tf.evaluation import figures  # matplotlib takes a second to import

        if self._every is None:
            self._write_histograms(step, gradients)
        self._write_dead_units(step)
        kernel = self._model.get_layer("conv1").kernel.numpy()
        self._write_image("train", step, "kernels", figures.kernels(kernel))
        names = self._data_set.class_names
        if len(names) <= figures.MAX_CLASSES:
            confusion = result.predictions.confusion(len(names))
            drawn = figures.to_array(figures.confusion_matrix(confusion, names))
            self._write_image("validation", step, "confusion_matrix", drawn)
        told = result.predictions
        wrong = np.flatnonzero((told.ranks > 0) & (told.positions < _POOL))
        order = np.argsort(-told.top_probabilities[wrong, 0], kind="stable")
        if len(wrong := wrong[order][:8]):
            captions = [
                f"{figures.shorten(names[told.labels[i]])}\n"
                f"{told.top_probabilities[i, 0]:.0%} "
                f"{figures.shorten(names[told.top_ids[i, 0]])}"
                for i in wrong
            ]
            drawn = figures.captioned(self._images[told.positions[wrong]], captions)
            self._write_image("validation", step, "confident_mistakes", drawn)

    def write_start(self) -> None:
        """Writes settings, command and augmented pictures, for HParams too."""
        directory = self._log.model_dir
        for file in glob.glob(os.path.join(glob.escape(directory), "events.*")):
            os.remove(file)  # what an earlier start said
        values = dataclasses.asdict(self._config)
        rows = [f"|{name}|{value}|" for name, value in values.items()]
        text = "\n".join(["|setting|value|", "|---|---|", *rows])
        plain = {
            name: value
            for name, value in values.items()
            if isinstance(value, bool | int | float | str)
        }
        writer = tf.summary.create_file_writer(directory)
        with writer.as_default(step=0):
            tf.summary.text("configuration", text)
            tf.summary.text("command", "    " + shlex.join(sys.argv))
            tf.summary.image("augmentation", self._augmented()[np.newaxis])
            hparams.hparams_config(
                hparams=[hparams.HParam(name) for name in plain],
                metrics=[
                    hparams.Metric(name, group="validation")
                    for name in ("top_1_error", "top_5_error", "cross_entropy")
                ],
            )
            hparams.hparams(plain)
        writer.close()

    def _augmented(self) -> np.ndarray:
        """The first picture of up to four shards, beside its augmented versions."""
        from alexnet_tf.evaluation import figures

        train = self._data_set.splits["train"]
        statistics = None
        if self._config.color == "pca":
            statistics = pixel_statistics(self._data_set, self._size)
        rows = []
        for filename in train.filenames[:4]:
            # A split of one picture: every epoch shows another version of it.
            splits = {"train": Split("train", (filename,), (1,))}
            alone = dataclasses.replace(self._data_set, splits=splits)
            batches = training_batches(
                alone,
                global_batch_size=_VERSIONS,
                seed=self._config.seed,
                image_size=self._size,
                color=self._config.color,
                statistics=statistics,
            )
            versions, _ = next(iter(batches))
            original = read_pictures(alone, "train", np.array([0]), self._size)
            rows.append(figures.beside(original, versions[np.newaxis]))
        return np.concatenate(rows)

    def _write_image(self, split, step, name, image: np.ndarray) -> None:
        with self._log.writing(split, step):
            tf.summary.image(name, image[np.newaxis])

    def _write_histograms(self, step: int, gradients: np.ndarray) -> None:
        variables = self._model.trainable_variables
        weights = [sample([variable.value]).numpy() for variable in variables]
        ends = np.cumsum([len(part) for part in weights])[:-1]
        parts = {"weights": weights, "gradients": np.split(gradients, ends)}
        with self._log.writing("train", step):
            for kind, samples in parts.items():
                for variable, values in zip(variables, samples, strict=True):
                    # `tf.summary.histogram` writes the same, a dozen times slower.
                    name = f"{kind}/{variable.path}"
                    zeros = np.mean(values == 0)
                    for summary in (
                        histograms.histogram_pb(name, values),
                        scalars.scalar_pb(f"zero_{name}", zeros),
                    ):
                        serialized = summary.SerializeToString()
                        tf.summary.experimental.write_raw_pb(serialized)

    def _write_dead_units(self, step: int) -> None:
        """Writes for each layer the share of channels that no image makes positive."""
        inputs = {self._model.inputs[0].name: self._images[:_NUM_IMAGES]}
        activations = self._activations(inputs, training=False)
        with self._log.writing("train", step):
            for name, activation in activations.items():
                axes = list(range(len(activation.shape) - 1))
                dead = tf.reduce_max(activation, axis=axes) <= 0
                tf.summary.scalar(f"dead_units/{name}", np.mean(dead))


class Profiler:
    """Records TensorFlow's profile of some steps, for TensorBoard's profiler.

    Args:
        model_dir: Directory of the run.
        first: The first step to record.
        last: The last one.
    """

    def __init__(self, model_dir: str, first: int, last: int):
        self._model_dir, self._steps = model_dir, (first - 1, last)
        self._running = False

    def next_stop(self, step: int) -> float:
        """The step after which `update` must be called next; infinity for none."""
        return min((s for s in self._steps if s > step), default=float("inf"))

    def update(self, step: int) -> None:
        """Starts or ends recording after `step` steps, if it is time."""
        first, last = self._steps
        if not self._running and first <= step < last:
            tf.profiler.experimental.start(self._model_dir)
            self._running = True
        elif self._running and step >= last:
            self.close()

    def close(self) -> None:
        """Ends recording."""
        if self._running:
            tf.profiler.experimental.stop()
            self._running = False

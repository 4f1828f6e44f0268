"""What people look at while a network trains: pictures, histograms, settings."""

import functools
import os
import shlex
import sys
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf
from tensorboard.compat.proto import summary_pb2
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.hparams import api as hparams
from tensorboard.plugins.image.metadata import create_summary_metadata
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb

from alexnet_tf.config import Config, flat
from alexnet_tf.evaluation.results import Evaluation
from alexnet_tf.monitoring.layer_states import layer_states
from alexnet_tf.monitoring.metrics_log import MetricsLog
from alexnet_tf.pipeline.batches import read_pictures
from alexnet_tf.pipeline.data_set import DataSet

_NUM_IMAGES = 16  # that units must answer to in order to be alive
_POOL = 256  # validation pictures, the first ones, among which mistakes are shown


class Monitor:
    """Writes what people look at while a network trains, to TensorBoard and as files.

    Args:
        log: Where to.
        model: The network in training.
        data_set: What it trains on.
        config: The run's configuration.
    """

    def __init__(
        self, log: MetricsLog, model: keras.Model, data_set: DataSet, config: Config
    ):
        self._log, self._model = log, model
        self._data_set, self._config = data_set, config

    def write_start(self) -> None:
        """Writes settings, command, the network's graph, pictures of the data.

        Takes seconds: it is meant for after the first steps, not before them.
        """
        from alexnet_tf.monitoring import drawings

        settings = flat(self._config)
        settings["classes"] = len(settings.pop("class_names"))
        rows = [f"|{name}|{value}|" for name, value in settings.items()]
        text = "\n".join(["|setting|value|", "|---|---|", *rows])
        plain = {
            name: value
            for name, value in settings.items()
            if isinstance(value, bool | int | float | str)
        }
        drawn = drawings.augmented_versions(self._data_set, self._config)
        self._log.write_start(
            "",
            {"summary": text_pb("configuration", text)},
            {"summary": text_pb("command", "    " + shlex.join(sys.argv))},
            {"summary": _image_pb("augmentation", drawn)},
            {"graph_def": _graph(self._model)},
        )
        # Beside the errors of the validation, which are then what HParams compares.
        # Without a list of columns TensorBoard shows those settings that differ.
        run_name = os.path.basename(os.path.abspath(self._log.run.model_dir))
        compared = hparams.hparams_pb(plain, trial_id=run_name)
        self._log.write_start("validation", {"summary": compared})
        batch = drawings.training_batch(self._data_set, self._config)
        self._log.write_file("batch.png", batch)
        self._log.write_file("classes.png", drawings.class_counts(self._data_set))

    def write_histograms(self, step: int, samples: Mapping[str, np.ndarray]) -> None:
        """Writes a histogram, and the share of zeros, of each sample.

        Args:
            step: Steps done.
            samples: Values by name, such as "weights/conv1/kernel".
        """
        summaries = []
        for name, values in samples.items():
            # `tf.summary.histogram` writes the same, a dozen times slower.
            summaries.append(histogram_pb(name, values))
            summaries.append(scalar_pb(f"zero_{name}", np.mean(values == 0)))
        self._write("train", step, *summaries)

    def _write(self, split: str, step: int, *summaries: summary_pb2.Summary) -> None:
        self._log.write_events(split, step, *({"summary": x} for x in summaries))

    def validated(self, step: int, evaluation: Evaluation) -> None:
        """After a validation and its record: writes pictures and dead units.

        Args:
            step: Steps done.
            evaluation: That of the validation split.
        """
        from alexnet_tf.evaluation import (  # matplotlib takes a second to import
            figures,
            mosaics,
        )

        states = layer_states(self._model, self._images[:_NUM_IMAGES])
        dead = [scalar_pb(f"units_dead/{state.name}", state.off) for state in states]
        kernels = mosaics.draw_kernels(*mosaics.find_kernels(self._model))
        kernels_pb = _image_pb("kernels", kernels)
        self._write("train", step, kernels_pb, *dead)
        summaries, names = [], self._data_set.class_names
        if len(names) <= figures.MAX_CLASSES:
            confusion = evaluation.predictions.confusion(len(names))
            drawn = figures.draw_small(figures.draw_confusion(confusion, names))
            summaries.append(_image_pb("confusion_matrix", drawn))
        mistakes = self._confident_mistakes(evaluation)
        if mistakes is not None:
            summaries.append(_image_pb("confident_mistakes", mistakes))
        self._write("validation", step, *summaries)
        curves = figures.draw_learning_curves(
            self._log.records, evaluation.largest_class
        )
        self._log.write_file("learning_curves.png", mosaics.encode_png(curves))

    @functools.cached_property
    def _images(self) -> np.ndarray:
        """The first pictures of the validation split."""
        number = min(_POOL, self._data_set.splits["validation"].num_examples)
        size = self._model.input_shape[1]
        return read_pictures(self._data_set, "validation", np.arange(number), size)

    def _confident_mistakes(self, evaluation: Evaluation) -> np.ndarray | None:
        from alexnet_tf.evaluation import mosaics

        predictions, names = evaluation.predictions, self._data_set.class_names
        is_there = predictions.positions < _POOL
        wrong = np.flatnonzero((predictions.ranks > 0) & is_there)
        order = np.argsort(-predictions.top_probabilities[wrong, 0], kind="stable")
        wrong = wrong[order][:8]
        if not len(wrong):
            return None
        captions = [
            f"{mosaics.shorten(names[predictions.labels[i]])}\n"
            f"{predictions.top_probabilities[i, 0]:.0%} "
            f"{mosaics.shorten(names[predictions.answers[i]])}"
            for i in wrong
        ]
        return mosaics.lay_out_captioned(
            self._images[predictions.positions[wrong]], captions
        )


def _image_pb(name: str, image: np.ndarray) -> summary_pb2.Summary:
    """A picture, uint8 `(height, width, 3)`, as `tf.summary.image` writes it."""
    from alexnet_tf.evaluation import mosaics

    height, width = (str(side).encode() for side in image.shape[:2])
    parts = tf.make_tensor_proto([width, height, mosaics.encode_png(image)], tf.string)
    summary = summary_pb2.Summary()
    value = summary.value.add(tag=name, metadata=create_summary_metadata(name, None))
    value.tensor.ParseFromString(parts.SerializeToString())
    return summary


def _graph(model: keras.Model) -> bytes:
    """The network's operations, for TensorBoard's tab Graphs."""

    @tf.function
    def alexnet(images):
        return model.call(images, training=False)  # the layers on the top level

    images = tf.TensorSpec(model.input_shape, tf.uint8, name="images")
    return (
        alexnet.get_concrete_function(images).graph.as_graph_def().SerializeToString()
    )

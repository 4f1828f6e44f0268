"""What people look at while a network trains: pictures, histograms, settings.

Modules that draw are imported where they are needed: matplotlib takes half a second,
and training shall begin before.
"""

import dataclasses
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
from alexnet_tf.pipeline.batches import read_pictures, training_batches
from alexnet_tf.pipeline.data_set import DataSet

_NUM_IMAGES = 16  # that units must answer to in order to be alive
_BATCH = 32  # pictures of a training batch that are shown
_CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5")


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
        """Writes settings, command, the network's graph, a training batch.

        Takes seconds: it is meant for after the first steps, not before them.
        """
        settings = flat(self._config)
        settings["classes"] = len(settings.pop("class_names"))
        rows = [f"|{name}|{value}|" for name, value in settings.items()]
        text = "\n".join(["|setting|value|", "|---|---|", *rows])
        plain = {
            name: value
            for name, value in settings.items()
            if isinstance(value, bool | int | float | str)
        }
        self._log.write_start(
            "",
            {"summary": text_pb("configuration", text)},
            {"summary": text_pb("command", "    " + shlex.join(sys.argv))},
            {"graph_def": _graph(self._model)},
        )
        # Beside the errors of the validation, which are then what HParams compares.
        # Without a list of columns TensorBoard shows those settings that differ.
        run_name = os.path.basename(os.path.abspath(self._log.run.model_dir))
        compared = hparams.hparams_pb(plain, trial_id=run_name)
        self._log.write_start("validation", {"summary": compared})
        self._log.write_file("batch.png", self._draw_training_batch())

    def _draw_training_batch(self) -> bytes:
        """A PNG of augmented training pictures, of half the size, and their classes."""
        from alexnet_tf.evaluation import figures, mosaics

        config, names = self._config, self._data_set.class_names
        recipe = dataclasses.replace(config.recipe, global_batch_size=_BATCH)
        batches = training_batches(self._data_set, recipe, seed=config.seed)
        images, labels = (x.numpy() for x in next(iter(batches)))
        is_good = labels >= 0
        titles = [names[label] for label in labels[is_good]]
        drawn = figures.draw_pictures(images[is_good, ::2, ::2], titles)
        return mosaics.encode_png(drawn)

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
        from alexnet_tf.evaluation import figures, mosaics

        model, names = self._model, self._data_set.class_names
        states = layer_states(model, self._images)
        summaries = [
            scalar_pb(f"units_dead/{state.name}", state.off) for state in states
        ]
        for layer in _CONVOLUTIONS:
            kernels = mosaics.draw_layer(model, layer)
            maps = mosaics.draw_layer(model, layer, self._images[0])
            summaries += (
                _image_pb(f"kernels/{layer}", kernels),
                _image_pb(f"maps/{layer}", maps),
            )
        self._write("train", step, *summaries)
        if len(names) <= figures.MAX_CLASSES:
            confusion = evaluation.predictions.confusion(len(names))
            drawn = figures.draw_confusion(confusion, names)
            self._write("validation", step, _image_pb("confusion_matrix", drawn))
        curve = figures.Curve("validation", "", self._log.records)
        curves = figures.draw_curves({"": [curve]}, evaluation.largest_class)
        self._log.write_file("learning_curves.png", mosaics.encode_png(curves))

    @functools.cached_property
    def _images(self) -> np.ndarray:
        """The first pictures of the validation split; all maps are of the first."""
        number = min(_NUM_IMAGES, self._data_set.splits["validation"].num_examples)
        size = self._model.input_shape[1]
        return read_pictures(self._data_set, "validation", np.arange(number), size)


def _image_pb(name: str, figure) -> summary_pb2.Summary:
    """A matplotlib figure or uint8 pixels, as `tf.summary.image` writes it."""
    from alexnet_tf.evaluation import mosaics

    png = mosaics.encode_png(figure)
    width, height = (str(int.from_bytes(png[i : i + 4])).encode() for i in (16, 20))
    parts = tf.make_tensor_proto([width, height, png], tf.string)
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
    graph = alexnet.get_concrete_function(images).graph
    return graph.as_graph_def().SerializeToString()

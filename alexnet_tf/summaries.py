"""What a run says about itself: TensorBoard, metrics.jsonl, the terminal."""

import contextlib
import dataclasses
import glob
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import logging
from tensorboard.compat.proto import event_pb2
from tensorboard.plugins.hparams import api as hparams
from tqdm import tqdm

from alexnet_tf.runs import Config

_SCALARS = (
    "cross_entropy",
    "l2",
    "top_1_error",
    "top_5_error",
    "learning_rate",
    "images_per_second",
    "input_wait",
)
_SAMPLE = 4096  # values of a tensor that a histogram is made of
_BOLD, _PLAIN = "\033[1m", "\033[0m"


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


class MetricsLog:
    """Writes each record to `metrics.jsonl` and to TensorBoard.

    Args:
        model_dir: Directory of the run.
        metrics_file: Path of `metrics.jsonl`.
        step: Step that training goes on from; records of later steps, which an
            interrupted run left, are removed from both.
    """

    def __init__(self, model_dir: str, metrics_file: str, step: int):
        self._model_dir, self._metrics_file = model_dir, metrics_file
        self._truncate(step)
        self._writers = {}
        for split in ("train", "validation"):
            directory = os.path.join(model_dir, split)
            _purge_events(directory, step)
            self._writers[split] = tf.summary.create_file_writer(directory)

    def _truncate(self, step: int) -> None:
        if not os.path.exists(self._metrics_file):
            return
        with open(self._metrics_file, encoding="utf-8") as file:
            # A line without its end was being written when the run was killed.
            lines = [line for line in file if line.endswith("\n")]
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        with open(self._metrics_file + ".tmp", "w", encoding="utf-8") as file:
            file.writelines(kept)
        os.replace(self._metrics_file + ".tmp", self._metrics_file)

    def write(self, split: str, step: int, epoch: float, **scalars: float) -> None:
        """Writes one record.

        Args:
            split: "train" or "validation".
            step: Steps done.
            epoch: Epochs done, a fraction counts.
            **scalars: Values by name; those of `_SCALARS` go to the file, all to
                TensorBoard.
        """
        record = {"step": step, "epoch": round(epoch, 4), "split": split}
        record |= {name: scalars[name] for name in _SCALARS if name in scalars}
        with open(self._metrics_file, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        with self._writing(split, step):
            for name, value in scalars.items():
                tf.summary.scalar(name, value)

    @contextlib.contextmanager
    def _writing(self, split: str, step: int) -> Iterator[None]:
        with self._writers[split].as_default(step=step):
            yield
        self._writers[split].flush()

    def write_images(
        self, split: str, step: int, images: Mapping[str, np.ndarray]
    ) -> None:
        """Writes pictures, uint8 `(height, width, channels)` each, by name."""
        with self._writing(split, step):
            for name, image in images.items():
                tf.summary.image(name, image[np.newaxis])

    def write_histograms(
        self, step: int, variables: Sequence[keras.Variable], gradients: np.ndarray
    ) -> None:
        """Writes histograms of weights and gradients, and their shares of zeros.

        Args:
            step: Steps done.
            variables: The weights.
            gradients: `sample` of their gradients in the last step.
        """
        weights = sample([variable.value for variable in variables]).numpy()
        sizes = [sample([variable.value]).shape[0] for variable in variables]
        ends = np.cumsum(sizes)[:-1]
        with self._writing("train", step):
            for kind, values in (("weights", weights), ("gradients", gradients)):
                parts = np.split(values, ends)
                for variable, part in zip(variables, parts, strict=True):
                    tf.summary.histogram(f"{kind}/{variable.path}", part)
                    zeros = float(np.mean(part == 0))
                    tf.summary.scalar(f"zero_{kind}/{variable.path}", zeros)

    def write_dead_units(
        self, step: int, model: keras.Model, images: np.ndarray
    ) -> None:
        """Writes for each layer the share of channels that no image makes positive.

        Args:
            step: Steps done.
            model: The network.
            images: uint8 `(batch, height, width, 3)`; a few dozen will do.
        """
        names = [f"conv{i}" for i in range(1, 6)] + ["fc6", "fc7"]
        outputs = [model.get_layer(name).output for name in names]
        activations = keras.Model(model.inputs, outputs)(images, training=False)
        with self._writing("train", step):
            for name, activation in zip(names, activations, strict=True):
                axes = list(range(len(activation.shape) - 1))
                dead = tf.reduce_max(activation, axis=axes) <= 0
                tf.summary.scalar(f"dead_units/{name}", np.mean(dead))

    def write_config(self, config: Config, origins: Mapping[str, str]) -> None:
        """Writes the configuration: as text with the command, and for the HParams tab.

        Args:
            config: Of the run.
            origins: Where its values came from.
        """
        for file in glob.glob(_event_files(self._model_dir)):
            os.remove(file)  # what an earlier start said
        values = dataclasses.asdict(config)
        rows = [f"|{name}|{value}|{origins[name]}|" for name, value in values.items()]
        text = "\n".join(["|setting|value|from|", "|---|---|---|", *rows])
        plain = {
            k: v for k, v in values.items() if isinstance(v, bool | int | float | str)
        }
        writer = tf.summary.create_file_writer(self._model_dir)
        with writer.as_default(step=0):
            tf.summary.text("configuration", text)
            tf.summary.text("command", "    " + shlex.join(sys.argv))
            hparams.hparams_config(
                hparams=[hparams.HParam(name) for name in plain],
                metrics=[
                    hparams.Metric(name, group="validation")
                    for name in ("top_1_error", "top_5_error", "cross_entropy")
                ],
            )
            hparams.hparams(plain)
        writer.close()


def _event_files(directory: str) -> str:
    return os.path.join(glob.escape(directory), "events.out.tfevents.*")


def _purge_events(directory: str, step: int) -> None:
    """Removes the events of steps after `step`, and an event that was cut short."""
    for path in glob.glob(_event_files(directory)):
        records = tf.data.TFRecordDataset(path).ignore_errors()
        kept = [
            record
            for record in records.as_numpy_iterator()
            if event_pb2.Event.FromString(record).step <= step
        ]
        with tf.io.TFRecordWriter(path + ".tmp") as writer:
            for record in kept:
                writer.write(record)
        os.replace(path + ".tmp", path)


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


class Progress:
    """One progress line on a terminal; plain lines at intervals elsewhere.

    Args:
        num_steps: Steps of the whole training.
        step: Step that it goes on from.
        seconds: Between two lines where the output is no terminal.
    """

    def __init__(self, num_steps: int, step: int, seconds: float = 30.0):
        self._num_steps, self._seconds = num_steps, seconds
        self._last_line = time.monotonic()
        self._bar, self._has_header = None, False
        if sys.stderr.isatty() and logging.level_info():
            self._bar = tqdm(
                total=num_steps,
                initial=step,
                dynamic_ncols=True,
                bar_format="{desc} step {n}/{total} |{bar:12}| {postfix} "
                "{remaining} left",
            )

    def update(self, step: int, epoch: str, **shown: str) -> None:
        """Shows where training is.

        Args:
            step: Steps done.
            epoch: "3/8".
            **shown: Values by the names to show them with.
        """
        text = "  ".join(f"{name} {value}" for name, value in shown.items())
        if self._bar is not None:
            self._bar.set_description_str(f"epoch {epoch}", refresh=False)
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step - self._bar.n)
        elif time.monotonic() - self._last_line >= self._seconds:
            self._last_line = time.monotonic()
            logging.info("epoch %s  step %d/%d  %s", epoch, step, self._num_steps, text)

    def row(self, is_best: bool = False, **columns: str) -> None:
        """Prints a row of the table of epochs, after the table's head.

        Args:
            is_best: Whether to make it stand out on a terminal.
            **columns: Values by the names of the columns, the same in every row.
        """
        widths = [max(len(name), 9) for name in columns]
        if not self._has_header:
            names = (name.replace("_", " ") for name in columns)
            self.line("  ".join(map(str.rjust, names, widths)))
            self._has_header = True
        text = "  ".join(map(str.rjust, columns.values(), widths))
        self.line(f"{_BOLD}{text}{_PLAIN}" if is_best and self._bar else text)

    def line(self, text: str) -> None:
        """Prints a line that stays, above the progress line."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            logging.info("%s", text)

    def close(self) -> None:
        """Ends the progress line."""
        if self._bar is not None:
            self._bar.close()

"""What a run says about itself: TensorBoard, metrics.jsonl, the terminal."""

import contextlib
import glob
import json
import os
import sys
import time
from collections.abc import Iterator

import tensorflow as tf
from absl import logging
from tensorboard.compat.proto import event_pb2
from tqdm import tqdm

_SCALARS = (
    "cross_entropy",
    "l2",
    "top_1_error",
    "top_5_error",
    "learning_rate",
    "images_per_second",
    "input_wait",
)
_BOLD, _PLAIN = "\033[1m", "\033[0m"


class MetricsLog:
    """Writes each record to `metrics.jsonl` and to TensorBoard.

    Args:
        model_dir: Directory of the run.
        metrics_file: Path of `metrics.jsonl`.
        step: Step that training goes on from; records of later steps, which an
            interrupted run left, are removed from both.
    """

    def __init__(self, model_dir: str, metrics_file: str, step: int):
        self.model_dir, self._metrics_file = model_dir, metrics_file
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
        with self.writing(split, step):
            for name, value in scalars.items():
                tf.summary.scalar(name, value)

    @contextlib.contextmanager
    def writing(self, split: str, step: int) -> Iterator[None]:
        """Lets `tf.summary` write to TensorBoard, all of it by the end."""
        with self._writers[split].as_default(step=step):
            yield
        self._writers[split].flush()


def _purge_events(directory: str, step: int) -> None:
    """Removes the events of steps after `step`, and an event that was cut short."""
    for path in glob.glob(os.path.join(glob.escape(directory), "events.*")):
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

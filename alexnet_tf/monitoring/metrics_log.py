"""Records of numbers, to metrics.jsonl and to TensorBoard."""

import contextlib
import functools
import io
import json
import os
import time

import tensorflow as tf
from absl import logging
from google.protobuf import message
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from alexnet_tf.errors import UserError
from alexnet_tf.evaluation.results import read_records
from alexnet_tf.files import writing

_SCALARS = (
    "cross_entropy",
    "l2",
    "top_1_error",
    "top_5_error",
    "learning_rate",
    "images_per_second",
    "input_wait",
)


class MetricsLog:
    """Writes each record to `metrics.jsonl` and to TensorBoard.

    A disk that refuses is a warning: what is missing is kept, and written with the next
    record; see `check`.

    Args:
        model_dir: Directory of the run.
        metrics_file: Path of `metrics.jsonl`.
        step: Step that training goes on from; records of later steps, which an
            interrupted run left, are removed from both.

    Attributes:
        records: All records of the run, as `metrics.jsonl` has them.
    """

    def __init__(self, model_dir: str, metrics_file: str, step: int):
        self.model_dir, self._failures = model_dir, {}
        self._whole_files = {}  # content by path, until it is written
        self.records = read_records(metrics_file, step)
        _write(metrics_file, "".join(map(_line, self.records)).encode())
        self._metrics = _GrowingFile(metrics_file)
        self._events = {}
        for split in ("train", "validation"):
            directory = os.path.join(model_dir, split)
            tf.io.gfile.makedirs(directory)
            _purge_events(directory, step)
            name = f"events.out.tfevents.{time.time():.6f}.{os.getpid()}"
            self._events[split] = _GrowingFile(os.path.join(directory, name))
            self._append(self._events[split], _frame(_version()))

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
        self.records.append(record)
        self._append(self._metrics, _line(record).encode())
        self.write_summaries(split, step, *(scalar_pb(*x) for x in scalars.items()))
        self._write_whole_files()

    def write_summaries(
        self, split: str, step: int, *summaries: summary_pb2.Summary
    ) -> None:
        """Writes to TensorBoard, all of it by the end."""
        events = (_frame(_event(step, summary=summary)) for summary in summaries)
        self._append(self._events[split], b"".join(events))

    def write_events(self, *events: dict) -> None:
        """Writes what TensorBoard is to know of the run itself, in place of before.

        Args:
            *events: Each the fields of an `Event`: a summary, a graph.
        """
        framed = [_frame(_version()), *(_frame(_event(0, **event)) for event in events)]
        self.write_file("events.out.tfevents.start", b"".join(framed))

    def write_file(self, name: str, content: bytes) -> None:
        """Writes a file in the run's directory, in place of one of that name."""
        self._whole_files[os.path.join(self.model_dir, name)] = content
        self._write_whole_files()

    def check(self) -> None:
        """Tries what is missing once more.

        Raises:
            UserError: If the disk still refuses.
        """
        self._write_whole_files()
        for file in (self._metrics, *self._events.values()):
            self._append(file, b"")
        if self._failures:
            path, reason = next(iter(self._failures.items()))
            raise UserError(
                f"{len(self._failures)} files of the run are not whole, first {path} "
                f"({reason}): training itself is done and its checkpoints are saved; "
                "free some space before the next run"
            )

    def _write_whole_files(self) -> None:
        for path, content in list(self._whole_files.items()):
            self._try(path, functools.partial(_write, path, content))
            if path not in self._failures:
                del self._whole_files[path]

    def _append(self, file: "_GrowingFile", data: bytes) -> None:
        self._try(file.path, lambda: file.append(data))

    def _try(self, path: str, write) -> None:
        """Writes; a disk that refuses is a warning, one until it takes again."""
        try:
            write()
            self._failures.pop(path, None)
        except (tf.errors.OpError, OSError) as error:
            # TensorFlow writes "path; what the operating system says".
            says = error.strerror if isinstance(error, OSError) else error.message
            reason = str(says).splitlines()[0].rsplit("; ", 1)[-1]
            if path not in self._failures:
                logging.warning(
                    "%s could not be written (%s); training goes on, and the next "
                    "record tries again",
                    path,
                    reason,
                )
            self._failures[path] = reason


class _GrowingFile:
    """Appends whole pieces only; what a disk refused goes before the next piece."""

    def __init__(self, path: str):
        self.path, self._pending, self._size = path, b"", 0
        if tf.io.gfile.exists(path):
            self._size = tf.io.gfile.stat(path).length

    def append(self, data: bytes) -> None:
        self._pending += data
        if not self._pending:
            return
        try:
            with tf.io.gfile.GFile(self.path, "ab") as file:
                file.write(self._pending)
        except (tf.errors.OpError, OSError):
            if os.path.exists(self.path):  # an object store keeps no half pieces
                os.truncate(self.path, self._size)
            raise
        self._size += len(self._pending)
        self._pending = b""


def _line(record: dict) -> str:
    return json.dumps(record) + "\n"


def _write(path: str, content: bytes) -> None:
    with writing(path, "wb") as file:
        file.write(content)


def _event(step: int, **fields) -> event_pb2.Event:
    return event_pb2.Event(wall_time=time.time(), step=step, **fields)


def _version() -> event_pb2.Event:
    """What every file of events begins with."""
    return _event(0, file_version="brain.Event:2")


def _frame(event: event_pb2.Event) -> bytes:
    """An event as it stands in a file.

    TensorFlow's own writer leaves half an event behind on a full disk, and TensorBoard
    reads no further than that.
    """
    record = io.BytesIO()
    RecordWriter(record).write(event.SerializeToString())
    return record.getvalue()


def _purge_events(directory: str, last_step: int) -> None:
    """Removes the events of later steps, and an event that was cut short."""
    for name in tf.io.gfile.listdir(directory):
        if ".tfevents." not in name:
            continue
        path, end = os.path.join(directory, name), 0
        with contextlib.suppress(tf.errors.DataLossError, message.DecodeError):
            for event in tf.data.TFRecordDataset(path).as_numpy_iterator():
                if event_pb2.Event.FromString(event).step > last_step:
                    break
                end += len(event) + 16  # its length and two checksums
        with tf.io.gfile.GFile(path, "rb") as file:
            content = file.read()
        if end < len(content):
            _write(path, content[:end])

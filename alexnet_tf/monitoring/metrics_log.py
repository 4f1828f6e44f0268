"""Records of numbers, to metrics.jsonl and to TensorBoard's event files.

metrics.jsonl is the run's own history, and is kept whole whatever a disk does. Event
files are for TensorBoard alone. Each start begins new ones with the mark by which
TensorBoard itself drops what earlier ones have after that step, so that nothing is read
again or cut. (`tf.summary` cannot write that mark.)
"""

import functools
import io
import os
import time
from collections.abc import Callable

import tensorflow as tf
from absl import logging
from tensorboard.compat.proto import event_pb2
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from alexnet_tf.errors import UserError
from alexnet_tf.files import explain, writing
from alexnet_tf.metrics_file import MetricsFile
from alexnet_tf.run import Run

# What metrics.jsonl holds. TensorBoard sorts by name, and shall open with the first.
_RESULTS = ("cross_entropy", "top_1_error", "top_5_error")
_VERSION = "brain.Event:2"  # what every file of events begins with
_SCALARS = (*_RESULTS, "l2", "learning_rate", "images_per_second", "input_wait")


class MetricsLog:
    """Writes each record to `metrics.jsonl` and to TensorBoard.

    A disk that refuses is a warning: what is missing of metrics.jsonl is written with
    the next record, or by `check`. Pictures and events are missing.

    Args:
        run: Where to write.
        step: Step that training goes on from. Records of later steps, which an
            interrupted run left, are removed.
    """

    def __init__(self, run: Run, step: int = 0):
        self.run, self._refused = run, set()  # paths that there was a warning of
        self._file = MetricsFile(run.metrics_file, keep=lambda x: x["step"] <= step)
        self._try(run.metrics_file, self._file.complete)
        # By folder of the run: where TensorBoard is to go on from, the open file.
        self._starts = {"train": step, "validation": step}
        self._writers: dict[str, RecordWriter] = {}

    @property
    def records(self) -> list[dict]:
        """All records of the run, as `metrics.jsonl` has them."""
        return self._file.records

    def write(self, split: str, step: int, epoch: float, **scalars: float) -> None:
        """Writes one record.

        Args:
            split: "train" or "validation".
            step: Steps done.
            epoch: Epochs done, a fraction counts.
            **scalars: Values by name; those of `_SCALARS` go to the file, all to
                TensorBoard.
        """
        record = {"step": step, "epoch": round(epoch, 6), "split": split}
        record |= {name: scalars[name] for name in _SCALARS if name in scalars}
        append = functools.partial(self._file.append, record, split == "validation")
        self._try(self._file.path, append)
        summaries = (
            scalar_pb(name if name in _RESULTS else f"training/{name}", value)
            for name, value in scalars.items()
        )
        self.write_events(split, step, *({"summary": x} for x in summaries))

    def write_events(self, folder: str, step: int, *events: dict) -> None:
        """Writes to TensorBoard; what a disk refuses is missing there.

        Args:
            folder: "train" or "validation"; "" for the run's own.
            step: Steps done.
            *events: Each the fields of an `Event`: a summary, a graph.
        """
        write = functools.partial(self._append_events, folder, step, events)
        self._try(os.path.join(self.run.model_dir, folder), write)

    def _append_events(self, folder: str, step: int, events) -> None:
        # After an error a new file: half an event would hide what comes after it.
        writer = self._writers.pop(folder, None) or self._open_writer(folder)
        for fields in events:
            writer.write(_event(step, **fields))
        writer.flush()
        self._writers[folder] = writer

    def _open_writer(self, folder: str) -> RecordWriter:
        directory = os.path.join(self.run.model_dir, folder)
        tf.io.gfile.makedirs(directory)
        name = f"events.out.tfevents.{time.time():.6f}.{os.getpid()}"
        writer = RecordWriter(tf.io.gfile.GFile(os.path.join(directory, name), "wb"))
        writer.write(_event(0, file_version=_VERSION))
        if (last := self._starts.pop(folder, None)) is not None:
            session = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            writer.write(_event(last + 1, session_log=session))
        return writer

    def write_start(self, folder: str, *events: dict) -> None:
        """Writes what holds for the whole run, in place of what an earlier start wrote.

        Args:
            folder: As that of `write_events`.
            *events: Each the fields of an `Event`.
        """
        content = io.BytesIO()
        writer = RecordWriter(content)
        for fields in ({"file_version": _VERSION}, *events):
            writer.write(_event(0, **fields))
        # TensorBoard reads the files of a folder by name, and this is the first.
        name = os.path.join(folder, "events.out.tfevents.0")
        self.write_file(name, content.getvalue())

    def write_file(self, name: str, content: bytes) -> None:
        """Writes a file in the run's directory, in place of one of that name."""
        path = os.path.join(self.run.model_dir, name)

        def write() -> None:
            with writing(path, "wb") as file:
                file.write(content)

        self._try(path, write)

    def check(self) -> None:
        """Tries what is missing of metrics.jsonl once more.

        Raises:
            UserError: If the disk still refuses.
        """
        self._try(self._file.path, self._file.complete)
        if self._file.path in self._refused:
            raise UserError(
                f"{self._file.path} is not whole: training itself is done and its "
                "checkpoints are saved; free some space before the next run"
            )

    def _try(self, path: str, write: Callable[[], None]) -> None:
        """Writes; a disk that refuses is a warning, one until it takes again."""
        try:
            write()
            self._refused.discard(path)
        except (tf.errors.OpError, OSError) as error:
            reason = (explain(error) or str(error).splitlines()[0]).split(";")[0]
            if path not in self._refused:
                logging.warning("%s is not whole (%s); training goes on", path, reason)
            self._refused.add(path)


def _event(step: int, **fields) -> bytes:
    event = event_pb2.Event(wall_time=time.time(), step=step, **fields)
    return event.SerializeToString()

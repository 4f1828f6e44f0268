"""metrics.jsonl, a run's history: a JSON object a line; how it is read and written."""

import json
from collections.abc import Callable

import tensorflow as tf

from alexnet_tf.files import writing
from alexnet_tf.paths import is_remote


def read_records(path: str) -> list[dict]:
    """Reads the records of a metrics.jsonl; none where there is no file.

    A line without its end was being written when the run was killed: it is left out.
    """
    if not tf.io.gfile.exists(path):
        return []
    with tf.io.gfile.GFile(path) as file:
        return [json.loads(line) for line in file if line.endswith("\n")]


class MetricsFile:
    """Writes a metrics.jsonl that is whole again as soon as its disk lets it.

    Args:
        path: Local or remote.
        keep: Which of the records that are there stay.

    Attributes:
        records: All that the file is to hold.
    """

    def __init__(self, path: str, keep: Callable[[dict], bool]):
        self.path = path
        self.records = list(filter(keep, read_records(path)))
        self._is_whole = False

    def append(self, record: dict, is_epoch: bool) -> None:
        """Adds a record, and writes.

        Args:
            record: The record.
            is_epoch: Whether much time has passed since it was so the last time. An
                object store rewrites a file that grows: there it grows only then.

        Raises:
            OSError: The disk refuses; the next call writes what is missing, too.
        """
        self.records.append(record)
        if is_remote(self.path):
            self._is_whole = False
            if is_epoch:
                self.complete()
        elif not self._is_whole:
            self.complete()
        else:
            self._is_whole = False  # half a line may be there if the disk refuses
            with open(self.path, "a") as file:
                file.write(_line(record))
            self._is_whole = True

    def complete(self) -> None:
        """Writes all records, where they are not all there.

        Raises:
            OSError: The disk refuses; or an error of TensorFlow's file systems.
        """
        if not self._is_whole:
            with writing(self.path) as file:
                file.write("".join(map(_line, self.records)))
            self._is_whole = True


def _line(record: dict) -> str:
    return json.dumps(record) + "\n"

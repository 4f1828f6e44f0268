"""metrics.jsonl, a run's history: a JSON object a line; how it is read and written."""

import json
from collections.abc import Callable

import tensorflow as tf

from alexnet_tf.errors import UserError
from alexnet_tf.files import read_whole, writing
from alexnet_tf.paths import is_remote

_MAX_BYTES = 2**28  # a million records


def read_records(path: str) -> list[dict]:
    """Reads the records of a metrics.jsonl; none where there is no file.

    A line without its end was being written when the run was killed: it is left out.

    Raises:
        UserError: If it cannot be read, or a line is no record.
    """
    if not tf.io.gfile.exists(path):
        return []
    try:
        *lines, _ = read_whole(path, _MAX_BYTES).split(b"\n")
    except UserError as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    return [_parse(line, f"{path}, line {i}") for i, line in enumerate(lines, 1)]


def _parse(line: bytes, where: str) -> dict:
    try:
        record = json.loads(line)
        numbers = {name: x for name, x in record.items() if name != "split"}
        is_record = isinstance(record["split"], str) and {"step", "epoch"} <= {*numbers}
    except (ValueError, AttributeError, KeyError, RecursionError):
        is_record = False
    if not is_record or not all(isinstance(x, int | float) for x in numbers.values()):
        raise UserError(f"{where} is damaged: remove the line")
    return record


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
        was_whole, self._is_whole = self._is_whole, False  # until it is written
        if was_whole and not is_remote(self.path):
            with open(self.path, "a") as file:
                file.write(_line(record))
            self._is_whole = True
        elif is_epoch or not is_remote(self.path):
            self.complete()

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

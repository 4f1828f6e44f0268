"""TFRecord files, as far as the headers of their records tell."""

import concurrent.futures
import contextlib
import gzip
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import IO

import tensorflow as tf

MAX_RECORD = 2**31  # bytes; protocol buffers hold no more
_BROKEN = (EOFError, zlib.error, gzip.BadGzipFile)  # of a compressed file


def find_compression(filename: str) -> str:
    """Returns "GZIP" or "", as `tf.data.TFRecordDataset` wants it."""
    with tf.io.gfile.GFile(filename, "rb") as file:
        if file.read(3) != b"\x1f\x8b\x08":
            return ""
        file.seek(0)
        # A record may be of such a length; then nothing can be unpacked.
        with contextlib.suppress(*_BROKEN), gzip.open(file) as it:
            it.read(1)
            return "GZIP"
    return ""


@contextlib.contextmanager
def _open(filename: str) -> Iterator[IO]:
    # tf.io's files read half a megabyte after every seek; Python's do not.
    opener = tf.io.gfile.GFile if "://" in filename else open
    with opener(filename, "rb") as file:
        if not find_compression(filename):
            yield file
            return
        with gzip.open(file) as content:
            yield content


def _is_reached(file: IO, position: int, size: int) -> bool:
    """Goes to a place, which may be behind the end of the file."""
    if isinstance(file, gzip.GzipFile):
        return file.seek(position) == position
    file.seek(position)
    return position <= size


def record_spans(filename: str) -> Iterator[tuple[int, int]]:
    """Finds the whole records of a TFRecord file, also a compressed one, by headers.

    Yields:
        Where the content of a record begins in the file, and its length, bytes.
    """
    size, position = tf.io.gfile.stat(filename).length, 0
    with _open(filename) as file, contextlib.suppress(*_BROKEN):
        while True:
            header = file.read(8)  # then its checksum, the content, its checksum
            if len(header) < 8:
                return
            (length,) = struct.unpack("<Q", header)
            begin, position = position + 8 + 4, position + 8 + 4 + length + 4
            if length > MAX_RECORD or not _is_reached(file, position, size):
                return
            yield begin, length


def count_records(filename: str) -> tuple[int, bool]:
    """Counts the whole records of a file; says whether it ends where the last does."""
    if not tf.io.gfile.exists(filename):
        return 0, False
    count = end = 0
    for begin, length in record_spans(filename):
        count, end = count + 1, begin + length + 4
    with _open(filename) as file:
        try:
            file.seek(end)
            return count, not file.read(1)
        except _BROKEN:
            return count, False


def count_all(filenames: Sequence[str]) -> dict[str, tuple[int, bool]]:
    """`count_records` of each file."""
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        return dict(zip(filenames, pool.map(count_records, filenames), strict=True))

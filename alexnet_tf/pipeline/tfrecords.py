"""TFRecord files, as far as the headers of their records tell.

TensorFlow's reader takes the memory that a record declares before it reads it, and an
absurd length ends the process. So lengths are looked at first. One whose checksum is
wrong is no danger: the reader calls the rest of the file corrupt.
"""

import concurrent.futures
import contextlib
import gzip
import os
import struct
import zlib
from collections.abc import Sequence
from typing import IO

from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from alexnet_tf.errors import UserError
from alexnet_tf.paths import is_remote, remote_files

_MAX_RECORD = 2**31  # bytes; protocol buffers hold no more


def find_compression(filename: str) -> str:
    """Returns "GZIP" or "", as `tf.data.TFRecordDataset` wants it."""
    with _open(filename) as file:
        return "GZIP" if file.read(3) == b"\x1f\x8b\x08" else ""


def count_records(filename: str) -> tuple[int, bool]:
    """Counts the whole records of a file, also of a compressed one.

    Returns:
        Their number; and whether the file ends where the last of them does.

    Raises:
        UserError: A record declares more bytes than one can have.
    """
    count = 0
    try:
        opened = gzip.open if find_compression(filename) else contextlib.nullcontext
        with _open(filename) as file, opened(file) as content:
            # A record's length and its checksum; then the content and its checksum.
            while header := content.read(12):
                length, checksum = struct.unpack("<QI", header.ljust(12, b"\xff"))
                if length > _MAX_RECORD:
                    if checksum == masked_crc32c(header[:8]):
                        raise UserError(
                            f"{filename} has a record at byte "
                            f"{content.tell() - 12} that declares {length:,} bytes: "
                            "copy the file again, or prepare the data set again"
                        )
                    return count, False
                content.seek(length + 3, os.SEEK_CUR)
                if not content.read(1):
                    return count, False
                count += 1
    except (FileNotFoundError, EOFError, zlib.error, gzip.BadGzipFile):
        return count, False
    return count, True


def check_lengths(filenames: Sequence[str]) -> None:
    """Checks the lengths that the records of local files declare, not the records.

    Raises:
        UserError: A record declares more bytes than one can have; names its file.
    """
    # Of remote ones it would take long.
    _count_each([name for name in filenames if not is_remote(name)])


def _count_each(filenames: Sequence[str]) -> list[tuple[int, bool]]:
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        return list(pool.map(count_records, filenames))


def count_whole(filenames: Sequence[str]) -> int:
    """Counts the records of local or remote files.

    Raises:
        UserError: One of them is not whole.
    """
    counts = _count_each(filenames)
    for filename, (count, is_whole) in zip(filenames, counts, strict=True):
        if not is_whole:
            raise UserError(
                f"{filename} is cut short, damaged or no TFRecord file (its "
                f"first {count:,} records are whole); copy it again"
            )
    return sum(count for count, _ in counts)


def first_line(error: Exception) -> str:
    """Returns what an error says, without the names of TensorFlow's operations."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return line.rsplit("}} ", 1)[-1].split(" [Op:")[0]


def _open(filename: str) -> IO:
    # tf.io's files read half a megabyte after every seek; Python's do not.
    if is_remote(filename):
        return remote_files().GFile(filename, "rb")
    return open(filename, "rb", buffering=0)

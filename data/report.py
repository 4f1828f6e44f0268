"""What became of every picture: counts, statistics, rejections, duplicates."""

import collections
import itertools
import os
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tensorflow as tf
import tqdm

from alexnet_tf.errors import UserError
from alexnet_tf.pipeline.data_set import color_statistics
from data.transcode import SAMPLE_SIDE, Record

# The copies of a picture, by the hash of its file.
_DUPLICATES = """
    FROM pictures WHERE digest IN
    (SELECT digest FROM pictures GROUP BY digest HAVING COUNT(*) > 1)
"""


class Report:
    """Counts records; its memory does not grow with their number."""

    def __init__(self, class_names: Sequence[str], max_errors: int):
        self._class_names = class_names
        self._max_errors = max_errors
        self._counts = collections.Counter()  # by (split, label)
        self._conversions = collections.Counter()
        self._rejected = []  # (name, reason)
        self._num_bytes = 0
        self._pixel_sum = np.zeros(3)
        self._pixel_products = np.zeros((3, 3))
        self._digests = sqlite3.connect("")  # a temporary file, gone with the process
        self._digests.execute("PRAGMA journal_mode = OFF")
        self._digests.execute("CREATE TABLE pictures (digest, split, label, name)")

    def count(self, records: Iterator[Record]) -> Iterator[Record]:
        """Counts records and passes on those that were not rejected.

        Raises:
            UserError: More than `max_errors` were rejected.
        """
        for record in records:
            if not record.rejected:
                self._count(record)
                yield record
                continue
            self._rejected.append((record.name, record.rejected))
            if len(self._rejected) > self._max_errors:
                raise UserError(
                    f"{len(self._rejected)} pictures cannot be used, the last one "
                    f"{record.name}: {record.rejected}; raise --max_errors to go on "
                    "without them"
                )

    def _count(self, record: Record) -> None:
        self._counts[record.split, record.label] += 1
        self._conversions.update(record.conversions)
        self._num_bytes += record.num_bytes
        row = (record.digest, record.split, record.label, record.name)
        self._digests.execute("INSERT INTO pictures VALUES (?, ?, ?, ?)", row)
        if record.split == "train":
            self._pixel_sum += record.pixel_sum
            self._pixel_products += record.pixel_products

    def num_pictures(self, split: str) -> int:
        """Returns how many pictures a split has."""
        return sum(n for (name, _), n in self._counts.items() if name == split)

    def statistics(self) -> dict:
        """Returns the RGB mean, 0..255, and the principal components of the covariance.

        Over a grid of the training split's pixels, before JPEG compression.
        """
        num_pixels = self.num_pictures("train") * SAMPLE_SIDE**2
        return color_statistics(
            self._pixel_sum / num_pixels, self._pixel_products / num_pixels
        )

    def write(self, directory: str) -> None:
        """Writes `rejected.tsv` and `duplicates.tsv`, where there are any."""
        _write_table(directory, "rejected.tsv", ("name", "reason"), self._rejected)
        order = "ORDER BY digest, split, name"
        columns = f"SELECT lower(hex(digest)), split, label, name {_DUPLICATES} {order}"
        rows = (
            (digest, split, self._class_names[label], name)
            for digest, split, label, name in self._digests.execute(columns)
        )
        header = ("content", "split", "class", "name")
        _write_table(directory, "duplicates.tsv", header, rows)

    def summary(self) -> str:
        """Returns what a person wants to know, in a few lines."""
        lines = [
            f"{sum(self._counts.values()):,} pictures, {self._num_bytes / 1e6:,.1f} MB"
        ]
        for split in sorted({split for split, _ in self._counts}):
            labels = range(len(self._class_names))
            counts = [self._counts[split, label] for label in labels]
            classes = describe_counts(self._class_names, counts)
            lines.append(f"{split}: {sum(counts):,}; {classes}")
        if self._conversions:
            kinds = [f"{kind} {n:,}" for kind, n in sorted(self._conversions.items())]
            lines.append(f"converted: {', '.join(kinds)}")
        if self._rejected:
            lines.append(f"rejected: {len(self._rejected):,}, see rejected.tsv")
        copies, pictures, across = self._digests.execute(
            "SELECT SUM(n), COUNT(*), SUM(splits > 1) FROM (SELECT COUNT(*) AS n, "
            f"COUNT(DISTINCT split) AS splits {_DUPLICATES} GROUP BY digest)"
        ).fetchone()
        if pictures:
            lines.append(
                f"exact duplicates: {copies - pictures:,} more copies of {pictures:,} "
                f"pictures, {across:,} of them in several splits; see duplicates.tsv"
            )
        return "\n  ".join(lines)


def progress_bar(items: Iterable | None, total: int | None, unit: str) -> tqdm.tqdm:
    """Shows the number, the rate and the time left; seldom where it fills a log."""
    seconds = 0.2 if sys.stderr.isatty() else 30
    return tqdm.tqdm(items, total=total, unit=f" {unit}", mininterval=seconds)


def describe_counts(class_names: Sequence[str], counts: Sequence[int]) -> str:
    """Returns the pictures by class in words, the range only of many classes."""
    if len(counts) <= 20:
        pairs = zip(class_names, counts, strict=True)
        return ", ".join(f"{name} {n:,}" for name, n in pairs)
    empty = f", {counts.count(0)} of them empty" if 0 in counts else ""
    return f"{len(counts)} classes of {min(counts):,} to {max(counts):,}{empty}"


def _write_table(directory: str, name: str, header, rows) -> None:
    rows = iter(sorted(rows) if isinstance(rows, list) else rows)
    first = next(rows, None)
    if first is None:
        return
    with tf.io.gfile.GFile(os.path.join(directory, name), "w") as file:
        for row in itertools.chain((header, first), rows):
            file.write("\t".join(" ".join(field.split()) for field in row) + "\n")

"""What became of every picture: counts, rejections, duplicates."""

import collections
import itertools
import os
from collections.abc import Iterator, Sequence

import tensorflow as tf

from alexnet_tf.errors import UserError, escape
from data.counting import Duplicates, describe_counts, describe_imbalance, find_gaps
from data.transcode import Record


class Report:
    """Counts records; its memory does not grow with their number."""

    def __init__(self, class_names: Sequence[str], max_errors: int):
        self._class_names = class_names
        self._max_errors = max_errors
        self._counts = collections.Counter()  # by (split, label)
        self._conversions = collections.Counter()
        self._rejected = []  # (name, reason)
        self._num_bytes = 0
        self._duplicates = Duplicates()

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
                    f"{len(self._rejected)} pictures cannot be used"
                    f"{self._describe_last()}; python -m data.prepare with a larger "
                    "--max_errors goes on without them"
                )

    def _count(self, record: Record) -> None:
        self._counts[record.split, record.label] += 1
        self._conversions.update(record.conversions)
        self._num_bytes += record.num_bytes
        self._duplicates.add(record.digest, record.split, record.label, record.name)

    def _describe_last(self) -> str:
        name, reason = (self._rejected or [("", "")])[-1]
        return f", the last one {name}: {reason}" if name else ""

    def write(self, directory: str) -> None:
        """Writes `rejected.tsv` and `duplicates.tsv`, where there are any.

        Raises:
            UserError: No picture was good.
        """
        if not self._counts:
            raise UserError("no picture can be used" + self._describe_last())
        _write_table(directory, "rejected.tsv", ("name", "reason"), self._rejected)
        rows = (
            (digest, split, self._class_names[label], name)
            for digest, split, label, name in self._duplicates.rows()
        )
        header = ("content", "split", "class", "name")
        _write_table(directory, "duplicates.tsv", header, rows)

    def summary(self) -> str:
        """Returns what a person wants to know, in a few lines."""
        lines = [f"{self._counts.total():,} pictures, {self._num_bytes / 1e6:,.1f} MB"]
        labels = range(len(self._class_names))
        splits = {
            split: [self._counts[split, label] for label in labels]
            for split in sorted({split for split, _ in self._counts})
        }
        for split, counts in splits.items():
            classes = describe_counts(self._class_names, counts)
            lines.append(f"{split}: {sum(counts):,}; {classes}")
        lines += [f"note: {gap}" for gap in find_gaps(self._class_names, splits)]
        if uneven := describe_imbalance(self._class_names, splits.get("train", ())):
            lines.append(f"note: {uneven}")
        if self._conversions:
            kinds = [f"{kind} {n:,}" for kind, n in sorted(self._conversions.items())]
            lines.append(f"converted: {', '.join(kinds)}")
        if self._rejected:
            lines.append(f"rejected: {len(self._rejected):,}, see rejected.tsv")
        if duplicates := self._duplicates.describe():
            lines.append(f"{duplicates}; see duplicates.tsv")
        return "\n  ".join(lines)


def _write_table(directory: str, name: str, header, rows) -> None:
    rows = iter(sorted(rows) if isinstance(rows, list) else rows)
    first = next(rows, None)
    if first is None:
        return
    with tf.io.gfile.GFile(os.path.join(directory, name), "w") as file:
        for row in itertools.chain((header, first), rows):
            file.write("\t".join(escape(" ".join(f.split())) for f in row) + "\n")

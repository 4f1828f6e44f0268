"""What prepare and check both tell: progress, counts by class, exact duplicates."""

import sqlite3
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence

import tqdm

from alexnet_tf.errors import escape

# The copies of a picture, by the hash of its content.
_COPIES = """
    FROM pictures WHERE digest IN
    (SELECT digest FROM pictures GROUP BY digest HAVING COUNT(*) > 1)
"""


def enumerate_some(names: Iterable[str]) -> str:
    """Returns the first three names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(map(escape, names[:3])) + more


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


def find_gaps(
    class_names: Sequence[str], counts: Mapping[str, Sequence[int]]
) -> list[str]:
    """Returns what stands in the way of training on a data set, a line each.

    Args:
        class_names: All of them.
        counts: Pictures of each class, by split.
    """
    if not any(counts.get("train", ())):
        return []  # for evaluation alone
    gaps = []
    if not any(counts.get("validation", ())):
        gaps.append("there is no picture for validation, and training needs some")
    if sum(map(bool, counts["train"])) == 1:
        gaps.append("train has pictures of one class only: there is nothing to learn")
    for split in ("train", "validation"):
        pairs = zip(class_names, counts.get(split, ()), strict=False)
        missing = [name for name, number in pairs if not number]
        if 0 < len(missing) < len(class_names):
            gaps.append(f"{split} has no picture of {enumerate_some(missing)}")
    return gaps


def describe_imbalance(class_names: Sequence[str], counts: Sequence[int]) -> str:
    """Returns a line where a class has ten times as many pictures as another."""
    filled = [(n, name) for n, name in zip(counts, class_names, strict=False) if n]
    if not filled or max(filled)[0] <= 10 * min(filled)[0]:
        return ""
    (most, common), (fewest, rare) = max(filled), min(filled)
    return (
        f"the classes of train are uneven, {common} {most:,} and {rare} {fewest:,}: "
        "accuracy alone will say little, and train.py --class_weights=balanced counts "
        "them alike"
    )


class Duplicates:
    """Finds pictures with equal content; its memory does not grow with their number."""

    def __init__(self):
        self._pictures = sqlite3.connect("")  # a temporary file, gone with the process
        self._pictures.execute("PRAGMA journal_mode = OFF")
        self._pictures.execute("CREATE TABLE pictures (digest, split, label, name)")

    def add(self, digest: bytes | int, split: str, label: int, name: str) -> None:
        """Adds a picture.

        Args:
            digest: Equal for equal pictures only.
            split: Its split.
            label: Its label.
            name: The picture's name.
        """
        row = (digest, split, label, name)
        self._pictures.execute("INSERT INTO pictures VALUES (?, ?, ?, ?)", row)

    def rows(self) -> Iterator[tuple[str, str, int, str]]:
        """Yields (digest, split, label, name) of all pictures that are not unique."""
        return self._pictures.execute(
            f"SELECT lower(hex(digest)), split, label, name {_COPIES} "
            "ORDER BY digest, split, name"
        )

    def describe(self) -> str:
        """Returns one line on the duplicates; "" where there are none."""
        copies, pictures, across, unclear = self._count()
        if not pictures:
            return ""
        return (
            f"exact duplicates: {copies - pictures:,} more copies of {pictures:,} "
            f"pictures, {across:,} of them in several splits"
            + (f", {unclear:,} in several classes" if unclear else "")
        )

    def num_across(self) -> int:
        """Returns the number of pictures that are in several splits."""
        return self._count()[2] or 0

    def _count(self) -> tuple[int, int, int, int]:
        """Counts copies, and pictures: all, in several splits, in several classes."""
        return self._pictures.execute(
            "SELECT SUM(n), COUNT(*), SUM(splits > 1), SUM(labels > 1) FROM (SELECT "
            "COUNT(*) AS n, COUNT(DISTINCT split) AS splits, "
            f"COUNT(DISTINCT label) AS labels {_COPIES} GROUP BY digest)"
        ).fetchone()

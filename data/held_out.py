"""Which pictures of a class are held out for validation: a quota, by their content."""

import array
import collections
import concurrent.futures
import hashlib
import itertools
from collections.abc import Iterable, Mapping

from data.source import Item

_ITEMS_AT_ONCE = 256


def content_digest(content: bytes) -> bytes:
    """Returns 20 bytes, the hash of a picture file."""
    return hashlib.sha1(content, usedforsecurity=False).digest()


def find_thresholds(items: Iterable[Item], fraction: float) -> dict[int, int]:
    """Reads the pictures without a split, and finds how many of a class to hold out.

    Every class of two or more different pictures gives `fraction` of them, at least
    one, and keeps at least one. They are the first in the order of their content's
    hash, so that few move when pictures are added, and equal ones stay together.

    Returns:
        {label: threshold} for `split_of`.
    """
    positions = collections.defaultdict(lambda: array.array("Q"))
    items = (item for item in items if not item.split)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        while batch := list(itertools.islice(items, _ITEMS_AT_ONCE)):
            found = pool.map(_read_position, batch)
            for item, position in zip(batch, found, strict=True):
                if position is not None:
                    positions[item.label].append(position)
    return {label: _threshold(p, fraction) for label, p in positions.items()}


def split_of(item: Item, digest: bytes, thresholds: Mapping[int, int]) -> str:
    """Returns an item's own split, else the one that its content's hash gives."""
    if item.split:
        return item.split
    is_held_out = _position(digest) < thresholds.get(item.label, 0)
    return "validation" if is_held_out else "train"


def _read_position(item: Item) -> int | None:
    try:
        return _position(content_digest(item.read()))
    except OSError:
        return None  # it will be rejected, with the reason


def _position(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "big")


def _threshold(positions: Iterable[int], fraction: float) -> int:
    ordered = sorted(set(positions))
    if len(ordered) < 2 or not fraction:
        return 0
    return ordered[min(max(round(fraction * len(ordered)), 1), len(ordered) - 1)]

"""Which pictures of train are held out for validation, where nothing else is.

A picture's place in an order decides: the hash of its content, so that equal pictures
stay together and few move when others are added. With `--group_by` it is the hash of
its group's name: all pictures of one patient, camera or burst stay together.
"""

import array
import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping

from alexnet_tf.errors import UserError
from data.source import Item, Source

_ITEMS_AT_ONCE = 256


def content_digest(content: bytes) -> bytes:
    """Returns 20 bytes, the hash of a picture file."""
    return hashlib.sha1(content, usedforsecurity=False).digest()


def find_thresholds(items: Iterable[Item], fraction: float) -> dict[int | None, int]:
    """Finds how much of each class is held out.

    Every class of two or more different pictures gives `fraction` of them, at least
    one, and keeps at least one: the first in their order. Groups may have pictures of
    several classes, so they are one order: `fraction` of the groups is held out.

    Returns:
        {label, or None for groups: threshold} for `split_of`.

    Raises:
        UserError: There is one group only.
    """
    positions = collections.defaultdict(lambda: array.array("Q"))
    items = (item for item in items if item.split == "train")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        while batch := list(itertools.islice(items, _ITEMS_AT_ONCE)):
            found = pool.map(_read_position, batch)
            for item, position in zip(batch, found, strict=True):
                if position is not None:
                    positions[_order_of(item)].append(position)
    if len(set(positions.get(None, (1, 2)))) < 2:
        raise UserError("--group_by finds one group only; it needs two")
    return {key: _threshold(p, fraction) for key, p in positions.items()}


def split_of(item: Item, digest: bytes, thresholds: Mapping[int | None, int]) -> str:
    """Returns an item's split, "validation" where it is held out of "train".

    Args:
        item: The picture.
        digest: The hash of its content.
        thresholds: What `find_thresholds` found; {} where nothing is held out.
    """
    if item.split != "train":
        return item.split
    is_held_out = _position(item, digest) < thresholds.get(_order_of(item), 0)
    return "validation" if is_held_out else "train"


def _order_of(item: Item) -> int | None:
    return None if item.group else item.label


def _read_position(item: Item) -> int | None:
    try:
        return _position(item, b"" if item.group else content_digest(item.read()))
    except OSError:
        return None  # it will be rejected, with the reason


def _position(item: Item, digest: bytes) -> int:
    if item.group:
        digest = content_digest(item.group.encode())
    return int.from_bytes(digest[:8], "big")


def _threshold(positions: Iterable[int], fraction: float) -> int:
    ordered = sorted(set(positions))
    if len(ordered) < 2 or not fraction:
        return 0
    return ordered[min(max(round(fraction * len(ordered)), 1), len(ordered) - 1)]


def group_by_name(source: Source, group_by: str) -> Source:
    """Returns a source whose pictures have groups.

    Args:
        source: The pictures. Those that have a group, by a column of a list, keep it.
        group_by: A regular expression whose first group, or else its whole match, is
            searched in their names.

    Raises:
        UserError: It is no regular expression, and later, a picture has no group.
    """
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise UserError(f"--group_by={group_by} is no column, and {error}") from None
    items = functools.partial(_with_groups, source.items, pattern)
    return dataclasses.replace(source, items=items)


def _with_groups(items, pattern: re.Pattern, part) -> Iterator[Item]:
    for item in items(part):
        match = pattern.search(item.name)
        group = item.group or (match and match[min(1, pattern.groups)]) or ""
        if not group and item.split == "train":
            raise UserError(
                f"--group_by={pattern.pattern} is no column with a value for "
                f"{item.name}, and finds nothing in that name"
            )
        yield item._replace(group=group)

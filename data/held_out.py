"""Which pictures are held out for validation: a quota of a class, or whole groups.

Without groups the pictures' content decides, so that equal ones stay together.
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


# Groups: the pictures of one patient, camera or burst.


def split_by_groups(source: Source, group_by: str, fraction: float) -> Source:
    """Gives the pictures without a split one by their group.

    Groups are held out in the order of their names' hashes until they have `fraction`
    of the pictures; at least one is, and at least one is not.

    Args:
        source: The pictures.
        group_by: A column of the list that they are from; or a regular expression whose
            first group, or else its whole match, is searched in their names.
        fraction: Part of the pictures to hold out.

    Returns:
        The source with a split for every picture.

    Raises:
        UserError: There are fewer than two groups, or a picture without one.
    """
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise UserError(f"--group_by={group_by} is no column, and {error}") from None
    sizes = collections.Counter()
    for item in source.all_items():
        if not item.split:
            sizes[_group_of(item, pattern)] += 1
    if len(sizes) < 2 and source.holds_out:
        raise UserError(
            f"--group_by={group_by} finds {len(sizes)} groups; it needs two"
        )
    ordered = sorted(sizes, key=lambda group: content_digest(group.encode()))
    held_out, number = set(), 0
    for group in ordered[:-1]:
        if not fraction or number >= fraction * sizes.total():
            break
        held_out.add(group)
        number += sizes[group]
    items = functools.partial(_items_by_group, source.items, pattern, held_out)
    note = (
        f"groups: {len(held_out):,} of {len(sizes):,} are held out, {number:,} pictures"
    )
    notes = [*source.notes, note] if source.holds_out else source.notes
    return dataclasses.replace(source, items=items, holds_out=False, notes=notes)


def _items_by_group(
    items, pattern: re.Pattern, held_out: set[str], part
) -> Iterator[Item]:
    for item in items(part):
        if not item.split:
            is_held_out = _group_of(item, pattern) in held_out
            item = item._replace(split="validation" if is_held_out else "train")
        yield item


def _group_of(item: Item, pattern: re.Pattern) -> str:
    match = pattern.search(item.name)
    if not item.group and not match:
        raise UserError(
            f"--group_by={pattern.pattern} is no column with a value for {item.name}, "
            "and finds nothing in that name"
        )
    return item.group or match[min(1, pattern.groups)]

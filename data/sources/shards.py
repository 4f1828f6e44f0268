"""Files of one data set by their names: the split of each, and what is missing."""

import collections
import os
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from alexnet_tf.errors import UserError
from alexnet_tf.paths import is_remote, list_names
from alexnet_tf.pictures.listing import LeftOut, find_folders
from data.source import find_splits


class Shard(NamedTuple):
    """A file by its name: which set of shards it is of, and which of them it is."""

    path: str  # in the folder that is read
    folder: str
    prefix: str
    index: int
    total: int  # 0 where the name does not say it


def find_shards(root: str, parse: Callable[[str], Shard | None]) -> list[Shard]:
    """Returns the shards in a folder by their names, or the one that it is.

    Args:
        root: A folder or a file.
        parse: From a path to what its name says; None for another file.
    """
    if shard := parse(os.path.basename(root)):
        return [shard]
    # A remote folder is not walked through.
    folders = ("", "train", "validation", "test")
    if not is_remote(root):
        folders = find_folders(root, LeftOut()) if os.path.isdir(root) else ()
    names = (
        os.path.join(folder, name)
        for folder in folders
        for name in list_names(os.path.join(root, folder))
    )
    return list(filter(None, map(parse, names)))


def find_parts(
    shards: Sequence[Shard], input: str
) -> tuple[str, list[tuple[str, str]], LeftOut]:
    """Finds the split of each shard: folders tell it, or else the names of files.

    Args:
        shards: All of them.
        input: What a person gave: the folder of them, or the only one.

    Returns:
        The folder, (path, split) of the shards that have a split, and what is left out.

    Raises:
        UserError: Shards are missing.
    """
    root = input
    if os.path.basename(input) == shards[0].path:
        root = os.path.dirname(input)
    by_folder = find_splits({shard.folder for shard in shards}, root)
    groups, left_out = collections.defaultdict(list), LeftOut()
    for shard in shards:
        groups[shard.folder if by_folder else shard.prefix].append(shard)
    found, parts = by_folder or find_splits(groups, root), []
    for group, members in groups.items():
        if found and group not in found:
            left_out.add("files of no split", members[0].path, len(members))
            continue
        _check_complete(members, root)
        split = found.get(group, "train")
        parts += [(os.path.join(root, shard.path), split) for shard in members]
    return root, parts, left_out


def _check_complete(shards: Sequence[Shard], root: str) -> None:
    """Raises a UserError where a shard is missing."""
    sets = collections.defaultdict(dict)
    for shard in shards:
        sets[shard.folder, shard.prefix, shard.total][shard.index] = shard.path
    for (_, _, total), members in sets.items():
        missing = sorted(set(range(total)) - set(members))
        if missing:
            example = next(iter(members.values()))
            first = re.sub(r"\d{5}(?=-of-)", f"{missing[0]:05d}", example)
            raise UserError(
                f"{root} is incomplete: {len(missing)} of {total} shards such "
                f"as {example} are missing, the first of them {first}"
            )

"""Files of one data set by their names: the split of each, and what is missing."""

import collections
import os
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from alexnet_tf.errors import UserError
from alexnet_tf.paths import is_remote, list_names
from alexnet_tf.pictures.listing import LeftOut, find_folders, is_litter
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
    shard = parse(os.path.basename(root))
    if shard and not os.path.isdir(root):
        return [shard]
    # A remote folder is not walked through.
    folders = ("", "train", "validation", "test")
    if not is_remote(root):
        folders = find_folders(root, LeftOut()) if os.path.isdir(root) else ()
    paths = (
        os.path.join(folder, name)
        for folder in folders
        for name in list_names(os.path.join(root, folder))
        if not is_litter(name)
    )
    found = filter(None, map(parse, paths))
    return [s for s in found if not os.path.isdir(os.path.join(root, s.path))]


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
        UserError: Shards are missing, or are of several data sets.
    """
    root = input
    if os.path.basename(input) == shards[0].path and not os.path.isdir(input):
        root = os.path.dirname(input)
    groups, found = _group_by_split(shards, root)
    parts, left_out = [], LeftOut()
    for group, members in groups.items():
        if found and group not in found:
            left_out.add("files of no split", members[0].path, len(members))
            continue
        _check_complete(members, root)
        split = found.get(group, "train")
        parts += [(os.path.join(root, shard.path), split) for shard in members]
    return root, parts, left_out


def _group_by_split(
    shards: Sequence[Shard], root: str
) -> tuple[dict[str, list[Shard]], dict[str, str]]:
    """Returns the shards by names, and which of the names mean a split.

    The names are those of the uppermost folders that mean one, else those of the files.
    """
    depth = max(len(shard.folder.split("/")) for shard in shards)
    names = {s: [*s.folder.split("/"), *[""] * depth][:depth] for s in shards}
    for level in range(depth + 1):
        groups, above = collections.defaultdict(list), {}
        for shard in shards:
            groups[[*names[shard], shard.prefix][level]].append(shard)
        if found := find_splits(groups, root):
            break
    for group in found:
        above |= {tuple(names[s][:level]): s.path for s in groups[group]}
    if len(above) > 1:
        first, second, *_ = above.values()
        raise UserError(
            f"{root} has several data sets, of which are {first} and {second}: give "
            "the folder of one of them"
        )
    return groups, found


def _check_complete(shards: Sequence[Shard], root: str) -> None:
    """Raises a UserError where a shard is missing, or there is one too many."""
    sets = collections.defaultdict(list)
    for shard in shards:
        sets[shard.folder, shard.prefix].append(shard)
    for members in sets.values():
        example, total = members[0].path, members[0].total
        found = {shard.index for shard in members if shard.total == total}
        missing = sorted(set(range(total)) - found)
        if missing:
            first = re.sub(r"\d{5}(?=-of-)", f"{missing[0]:05d}", example)
            raise UserError(
                f"{root} is incomplete: {len(missing)} of {total} shards such "
                f"as {example} are missing, the first of them {first}"
            )
        if 0 < total < len(members) or len({shard.total for shard in members}) > 1:
            raise UserError(
                f"{root} has {len(members)} shards such as {example}, which are of "
                "several versions: move the older ones away"
            )

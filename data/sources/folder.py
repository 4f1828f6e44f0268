"""A folder of pictures for each class, with or without folders for the splits.

Any two folders of pictures could be classes. Where something shows that they may be
something else, that is an error, which says what was seen and the commands that read
the whole set: each was tried here before it is shown.
"""

import collections
import contextlib
import functools
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from alexnet_tf.command_line import command
from alexnet_tf.errors import UserError
from alexnet_tf.pictures.listing import LeftOut, find_folders, list_pictures, shown
from data.source import (
    Item,
    Reading,
    Source,
    check_class_names,
    data_set_name,
    find_splits,
    hold_out,
    our_splits,
)
from data.sources import csv, doubts

TAKES = ("label_from",)
FIRST_FOLDER, LAST_FOLDER = "^([^/]+)/", "([^/]+)/[^/]*$"
# Classes in the pictures' own names: "cat.0.jpg", "0001_cat.jpg".
_IN_NAMES = (r"([^/\d]+?)[ ._-]*\d[^/]*$", r"[._-]([^/._\d-]+)\.\w+$")


class Layout(NamedTuple):
    """Where the pictures lie.

    Attributes:
        root: The directory.
        counts: Pictures directly in each folder that has any, relative to the root.
        splits: The split of each folder that has the folders of classes: {"": ""} where
            that is the root itself.
        flat: The split of each folder that is called so and has pictures only.
        others: Folders beside those of the splits.
    """

    root: str
    counts: Mapping[str, int]
    splits: Mapping[str, str]
    flat: Mapping[str, str]
    others: list[str]


def open_source(input: str, reading: Reading) -> Source:
    """Returns the pictures below `input`.

    A folder named as a split (`data.source.find_splits`) is one if it has folders with
    pictures, else it is a class.

    Raises:
        UserError: It is not clear what the classes are, and `label_from` is not given.
    """
    left_out = LeftOut()
    layout = find_layout(os.path.abspath(os.path.expanduser(input)), left_out)
    _check_levels(layout)
    if reading.label_from:
        return _open_by_pattern(layout, reading.label_from, left_out)
    _check_doubts(layout)
    return _open_by_folders(layout, left_out)


def count_pictures(root: str, left_out: LeftOut) -> dict[str, int]:
    """Returns the number of pictures directly in each folder that has any.

    Raises:
        UserError: There is no such folder, or no picture in it.
    """
    if not os.path.isdir(root):
        raise UserError(f"no such directory: {shown(root)}")
    counts = {}
    folders = find_folders(root, left_out)
    for folder in folders:
        number = sum(1 for _ in list_pictures(os.path.join(root, folder), left_out))
        if number:
            counts[folder] = number
    full = {""}
    for folder in counts:
        while folder not in full:
            full.add(folder)
            folder = os.path.dirname(folder)
    for folder in folders:
        if folder not in full and os.path.dirname(folder) in full:
            left_out.add("folders without a picture", folder)
    if not counts:
        raise UserError(f"no picture in {shown(root)} or in the folders below it")
    return counts


def list_items(part: tuple[str, str, int, str]) -> Iterator[Item]:
    """Lists the pictures directly in one folder.

    Args:
        part: The input directory, the folder in it, its label, the split.
    """
    root, folder, label, split = part
    for path in list_pictures(os.path.join(root, folder), LeftOut()):
        name = os.path.join(folder, os.path.basename(path))
        yield Item(_as_utf8(name), label, path, split)


def _list_part(part: tuple | list[Item]) -> Iterator[Item]:
    """Lists the pictures of a folder, or those that a list in it names."""
    return list_items(part) if isinstance(part, tuple) else iter(part)


def _as_utf8(name: str) -> str:
    return os.fsencode(name).decode(errors="backslashreplace")


def find_layout(root: str, left_out: LeftOut) -> Layout:
    """Finds the folders of the splits and of the classes, through folders of one."""
    counts = count_pictures(root, left_out)
    while len(names := _names(counts, "")) == 1 and "" not in counts:
        (name,) = names
        if find_splits(names, root) or not _names(counts, name):
            break
        root = os.path.join(root, name)
        counts = {k[len(name) + 1 :]: number for k, number in counts.items()}
    named = find_splits(names, root)
    splits = {f: split for f, split in named.items() if _has_classes(counts, f)}
    flat = {f: split for f, split in named.items() if f not in splits}
    if not splits and len(flat) < 2:
        return Layout(root, counts, {"": ""}, {}, [])  # a class may be called "train"
    others = [name for name in names if name not in named]
    splits = hold_out({_pass_through(counts, f): split for f, split in splits.items()})
    return Layout(root, counts, splits, flat, others)


def _by_class(counts: Mapping[str, int], folder: str) -> Iterator[tuple[str, str]]:
    """Yields the folders in a folder with their class, "" for the folder itself."""
    beginning = os.path.join(folder, "")
    for path in counts:
        if path == folder:
            yield path, ""
        elif path.startswith(beginning):
            yield path, path[len(beginning) :].split("/")[0]


def _names(counts: Mapping[str, int], folder: str) -> list[str]:
    """Returns the names of the folders in a folder that have pictures."""
    return sorted({name for _, name in _by_class(counts, folder) if name})


def _has_classes(counts: Mapping[str, int], folder: str) -> bool:
    """Whether a folder has others than one by a name such as "images"."""
    names = _names(counts, folder)
    return bool(names) and not (len(names) == 1 and doubts.has_role(names[0]))


def _pass_through(counts: Mapping[str, int], folder: str) -> str:
    """Goes into `train/train`, which unpacking an archive likes to make."""
    name = os.path.basename(folder)
    inner = os.path.join(folder, name)
    is_alone = folder not in counts and _names(counts, folder) == [name]
    return inner if is_alone and _names(counts, inner) else folder


def _check_doubts(layout: Layout) -> None:
    """Raises a UserError, with advice, where the folders may not be the classes."""
    folders = _find_classes(layout)
    if reason := _see_no_classes(layout, folders):
        above = "" if folders else advise_above(layout.root)
        raise UserError(reason + (_advise(layout, ()) or above))
    if reason := doubts.find(layout.root, folders):
        pictures = [f for f in folders if doubts.has_role(f)]
        if pictures and pictures[0] in layout.counts:
            layout = find_layout(os.path.join(layout.root, pictures[0]), LeftOut())
        advice = _advise(layout, folders)
        hint = f"; if they are the classes, give --label_from='{FIRST_FOLDER}'"
        raise UserError(reason + advice + hint)


def _find_classes(layout: Layout) -> dict[str, list[str]]:
    """Returns the folders of each class, in all splits."""
    folders = collections.defaultdict(list)
    for split in layout.splits:
        for path, name in _by_class(layout.counts, split):
            if name:
                folders[name].append(path)
    return folders


def _see_no_classes(layout: Layout, folders: Mapping[str, list[str]]) -> str:
    """Returns why folders cannot be classes, or which of them; "" where they can."""
    root, counts, splits, flat, others = layout
    where = shown(root)
    if "train" in flat.values() or not splits:
        named = " and ".join(map(shown, flat))
        return f"{named} in {where} should have a folder for each class, and have none"
    names = {folder: _names(counts, folder) for folder in splits}
    trained = _class_names(splits, names)
    if len(trained) < 2:
        return (
            f"expected a folder for each of two or more classes in {where}, found "
            + (", ".join(map(shown, trained)) or "none with a picture")
        )
    classes = [f for f in others if f in counts]
    if classes and len(splits) + len(flat) == 1:
        return (
            f"{shown(min(splits))} in {where} may be a split, or a class beside "
            f"{shown(classes[0])}: rename it, or give a directory of classes only or "
            "of splits only"
        )
    below = {_below(path, name) for name, paths in folders.items() for path in paths}
    if "" not in below and len(below) > 1:
        first = next(iter(folders.values()))[0]
        return (
            f"the pictures in {where} lie two folders down, as in {shown(first)}: the "
            "upper folders or the lower ones may be the classes"
        )
    return ""


def _check_levels(layout: Layout) -> None:
    """Raises a UserError where folders of splits are not side by side at the top."""
    for folder in {*layout.others, *_names(layout.counts, "")} - {*layout.splits}:
        inner = find_splits(_names(layout.counts, folder), folder)
        if len(set(inner.values())) > 1:
            raise UserError(
                f"{shown(layout.root)} has a split inside another folder, "
                f"{shown(os.path.join(folder, min(inner)))}: put the folders of splits "
                "side by side, and those of the classes into them"
            )


def _below(path: str, name: str) -> str:
    """Returns the part of a folder's path below that of its class."""
    parts = path.split("/")
    return "/".join(parts[parts.index(name) + 1 :])


def _open_by_folders(layout: Layout, left_out: LeftOut) -> Source:
    root, counts, splits, flat, others = layout
    for folder in others:
        left_out.add("folders beside the splits", folder)
    if "" in counts and splits != {"": ""}:
        left_out.add("pictures outside the folders of the splits", root, counts[""])
    names = {folder: _class_names_in(counts, folder) for folder in splits}
    class_names = _class_names(splits, names)
    labels = {name: label for label, name in enumerate(class_names)}
    parts, used = [], set()
    for folder, split in splits.items():
        for path, name in _by_class(counts, folder):
            label = labels.get(unicodedata.normalize("NFC", name))
            if label is not None:
                parts.append((root, path, label, split))
                used.add(folder)
            elif name:
                reason = (
                    f"pictures of {shown(name)}, a class of {split} but not of train"
                )
                left_out.add(reason, path, counts[path])
            else:
                what = "pictures outside the folders of the classes"
                left_out.add(what, path or root, counts[path])
    for folder, split in flat.items():
        if listed := _read_beside(layout, folder, split, labels):
            parts.append(listed)
            used.add(folder)
            continue
        reason = f"pictures of {split} in no folder of a class"
        left_out.add(reason, folder, _count(counts, folder))
    _check_validation(layout, used)
    splits_used = {p[3] if isinstance(p, tuple) else p[0].split for p in parts}
    return Source(
        data_set_name(root),
        class_names,
        parts,
        _list_part,
        splits=our_splits({split: split for split in splits_used}),
        holds_out="" in splits_used,
        num_items=sum(counts[p[1]] if isinstance(p, tuple) else len(p) for p in parts),
        notes=[*_describe_splits(splits), *left_out.lines()],
    )


def _check_validation(layout: Layout, used: set[str]) -> None:
    """Asks about a validation split that cannot be used: it would change the split."""
    for folder, split in (layout.splits | layout.flat).items():
        if split == "validation" and folder not in used:
            raise UserError(
                f"{shown(folder)} in {shown(layout.root)} cannot validate, because its "
                "pictures are in no folder of a class that train has: mend it, or move "
                "it away to have a part of train held out instead"
            )


def _read_beside(layout: Layout, folder: str, split: str, labels) -> list[Item]:
    """Returns the pictures of a flat split, if a list in it gives them classes."""
    directory, items = os.path.join(layout.root, folder), {}
    for table in csv.find_lists(directory, Reading()):
        files = csv.Files(table.path, Reading())
        for row in table.rows:
            path = files.find(row.image)
            if path and row.label in labels:
                name = _as_utf8(os.path.relpath(path, layout.root))
                items[name] = Item(name, labels[row.label], path, split)
    return list(items.values())


def _class_names_in(counts: Mapping[str, int], folder: str) -> list[str]:
    names = [unicodedata.normalize("NFC", name) for name in _names(counts, folder)]
    check_class_names(names)
    return names


def _class_names(splits: Mapping[str, str], names) -> list[str]:
    """Returns the names of the classes: those of the training pictures if any."""
    trained = [f for f in names if splits[f] in ("", "train")]
    return sorted({n for f in trained or names for n in names[f]})


def _describe_splits(splits: Mapping[str, str]) -> list[str]:
    ours = {f: split or "train" for f, split in splits.items() if f}
    renamed = [f"{shown(f)}/ is {split}" for f, split in ours.items() if f != split]
    return [f"splits: {', '.join(renamed)}"] if renamed else []


# Classes in the pictures' paths, by a pattern.


def _open_by_pattern(layout: Layout, pattern: str, left_out: LeftOut) -> Source:
    """Returns the pictures whose path, below the folder of its split, has a class."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"--label_from={pattern} is no regular expression: {error}"
        ) from None
    splits = hold_out({**layout.splits, **layout.flat})
    parts = [
        (layout.root, path, folder, split)
        for folder, split in splits.items()
        for path, _ in _by_class(layout.counts, folder)
    ]
    found = collections.defaultdict(collections.Counter)
    for part in parts:
        for _, name in _find_labels(compiled, part):
            found[part[3]][name] += 1
    trained = found.get("") or found.get("train")
    trained = trained or sum(found.values(), collections.Counter())
    class_names = sorted(set(trained) - {None})
    if len(class_names) < 2:
        raise UserError(
            f"--label_from={pattern} finds {len(class_names)} classes in the paths of "
            f"the pictures in {shown(layout.root)}; it should find two or more"
        )
    labels = {name: label for label, name in enumerate(class_names)}
    number = _count_labelled(found, labels, left_out)
    splits_used = {split for split in found if set(found[split]) & set(labels)}
    return Source(
        data_set_name(layout.root),
        class_names,
        parts,
        functools.partial(_match_items, compiled, labels),
        splits=our_splits({split: split for split in splits_used}),
        holds_out="" in splits_used,
        num_items=number,
        notes=left_out.lines(),
    )


def _count_labelled(found, labels: Mapping[str, int], left_out: LeftOut) -> int:
    """Returns the number of pictures with a class; the others are left out by name."""
    number = 0
    for split, counts in found.items():
        for name, times in counts.items():
            if name in labels:
                number += times
            elif name is None:
                reason = f"pictures of {split or 'train'} without a class"
                left_out.add(reason, "", times)
            else:
                reason = f"pictures of {shown(name)}, a class of {split} but not train"
                left_out.add(reason, "", times)
    return number


def _count(counts: Mapping[str, int], folder: str) -> int:
    """Returns the number of pictures in a folder and below it."""
    return sum(counts[path] for path, _ in _by_class(counts, folder))


def _find_labels(pattern: re.Pattern, part) -> Iterator[tuple[str, str | None]]:
    """Yields the pictures in a folder with the name of their class, or None."""
    root, folder, split_folder, _ = part
    for path in list_pictures(os.path.join(root, folder), LeftOut()):
        below = _as_utf8(os.path.relpath(path, os.path.join(root, split_folder)))
        match = pattern.search(below)
        name = match[min(1, pattern.groups)] if match else None
        yield path, unicodedata.normalize("NFC", name).strip() or None if name else None


def _match_items(
    pattern: re.Pattern, labels: Mapping[str, int], part
) -> Iterator[Item]:
    for path, name in _find_labels(pattern, part):
        if name in labels:
            item_name = _as_utf8(os.path.relpath(path, part[0]))
            yield Item(item_name, labels[name], path, part[3])


# Advice.


def _advise(layout: Layout, doubted: Iterable[str]) -> str:
    """Returns the commands that read the whole set, each of them tried.

    Args:
        layout: What is there.
        doubted: The names of classes that no command should lead to.
    """
    counts, flat = layout.counts, layout.flat
    unlabelled = (_count(counts, f) for f, split in flat.items() if split == "test")
    whole = sum(counts.values()) - sum(unlabelled)
    output = f"--output={os.path.join('runs', data_set_name(layout.root))}"
    advice = {}  # by what it leads to
    for table in csv.find_lists(layout.root, Reading(), in_splits=False):
        read = functools.partial(csv.open_source, table.path, Reading())
        if classes := _classes_of_whole(read, whole):
            advice.setdefault(classes, [f"--input={table.path}"])
    for pattern in (*_IN_NAMES, LAST_FOLDER, FIRST_FOLDER):
        read = functools.partial(_open_by_pattern, layout, pattern, LeftOut())
        if classes := _classes_of_whole(read, whole, 2 if pattern in _IN_NAMES else 1):
            words = [f"--label_from={pattern}", f"--input={layout.root}"]
            advice.setdefault(classes, words)
    unread = "".join(f"; {error}" for error in csv.find_unclear(layout.root))
    return unread + "".join(
        f"; for the classes {doubts.enumerate_some(classes)} type "
        + command("python", "-m", "data.prepare", *words, output)
        for classes, words in advice.items()
        if set(classes) != set(doubted)
    )


def advise_above(given: str) -> str:
    """Says which folder above a picture or a folder may be meant, if it is clear."""
    given = path = os.path.abspath(given)
    for _ in range(2):
        path = os.path.dirname(path)
        if path in ("/", os.path.expanduser("~")):
            break  # which nobody walks through
        with contextlib.suppress(UserError):
            layout = find_layout(path, LeftOut())
            folders = _find_classes(layout)
            below = os.path.relpath(given, layout.root)
            if os.path.isfile(given):
                below = os.path.dirname(below)
            is_clear = below in layout.counts and not _see_no_classes(layout, folders)
            if is_clear and not doubts.find(layout.root, folders):
                return f"; if its folder is a class, give the one above: {shown(path)}"
    return ""


def _classes_of_whole(read, number: int, each: int = 1) -> tuple[str, ...]:
    """The classes of what reads so many pictures, `each` in a class; () for others."""
    try:
        source = read()
    except UserError:
        return ()
    is_whole = source.num_items == number >= each * len(source.class_names)
    return tuple(source.class_names) if is_whole else ()

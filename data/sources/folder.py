"""A folder of pictures for each class, with or without folders for the splits."""

import os
import unicodedata
from collections.abc import Iterator, Mapping

from alexnet_tf.errors import UserError
from alexnet_tf.pictures.listing import LeftOut, find_folders, list_pictures, shown
from data.source import (
    Item,
    Source,
    check_class_names,
    data_set_name,
    find_splits,
    hold_out,
    our_splits,
)


def open_source(input: str, **_) -> Source:
    """Returns the pictures below `input`; the class names are the folders' names.

    A folder named as a split (`data.source.find_splits`) is one if it has folders with
    pictures, else it is a class.
    """
    root, left_out = os.path.abspath(os.path.expanduser(input)), LeftOut()
    counts = count_pictures(root, left_out)
    theirs = _find_split_folders(root, counts, left_out)
    splits = hold_out(theirs) or {"": ""}
    class_names = _class_names(root, theirs, {f: _names(counts, f) for f in splits})
    labels = {name: label for label, name in enumerate(class_names)}
    parts = []
    for folder, split in splits.items():
        for path, name in _by_class(counts, folder):
            if name:
                label = labels[unicodedata.normalize("NFC", name)]
                parts.append((root, path, label, split))
            else:
                what = "pictures outside the folders of the classes"
                left_out.add(what, path or root, counts[path])
    return Source(
        data_set_name(root),
        class_names,
        parts,
        list_items,
        splits=our_splits(splits),
        holds_out="" in splits.values(),
        num_items=sum(counts[folder] for _, folder, _, _ in parts),
        notes=[*_describe_splits(theirs), *left_out.lines()],
    )


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
        name = os.fsencode(os.path.join(folder, os.path.basename(path)))
        yield Item(name.decode(errors="backslashreplace"), label, path, split)


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


def _find_split_folders(root: str, counts, left_out: LeftOut) -> dict[str, str]:
    """Finds the folders of the splits; {} where the root has the classes itself."""
    names = _names(counts, "")
    named = find_splits(names, root)
    with_classes = {f: split for f, split in named.items() if _names(counts, f)}
    flat = [f for f in named if f not in with_classes]
    others = [f for f in names if f not in named]
    if not with_classes and len(flat) < 2:
        return {}  # a class may be called "train"
    if not with_classes or "train" in [named[f] for f in flat]:
        raise UserError(
            f"{' and '.join(map(shown, flat))} in {shown(root)} should have a folder "
            "for each class, and have pictures only; sort them into such folders"
        )
    classes = [f for f in others if f in counts]
    if classes and len(named) == 1:
        raise UserError(
            f"{shown(min(named))} in {shown(root)} may be a split, or a class "
            f"beside {shown(classes[0])}; rename it, or give as --input a directory "
            "of classes only or of splits only"
        )
    for folder in others:
        left_out.add("folders beside the splits", folder)
    if "" in counts:
        left_out.add("pictures outside the folders of the splits", root, counts[""])
    for folder in flat:
        left_out.add("splits without folders of classes", folder)
    return {_pass_through(counts, f): split for f, split in with_classes.items()}


def _pass_through(counts: Mapping[str, int], folder: str) -> str:
    """Goes into `train/train`, which unpacking an archive likes to make."""
    name = os.path.basename(folder)
    inner = os.path.join(folder, name)
    is_alone = folder not in counts and _names(counts, folder) == [name]
    return inner if is_alone and _names(counts, inner) else folder


def _class_names(root: str, splits: Mapping[str, str], folders) -> list[str]:
    """Returns the names of the classes: those of the training pictures if any."""
    names = {}
    for folder, found in folders.items():
        names[folder] = [unicodedata.normalize("NFC", name) for name in found]
        check_class_names(names[folder])
    trained = [f for f in names if splits.get(f, "train") == "train"]
    class_names = sorted({n for f in trained or names for n in names[f]})
    if len(class_names) < 2:
        raise UserError(
            f"expected a folder for each of two or more classes in {shown(root)}, "
            f"found {', '.join(class_names) or 'none with a picture'}"
        )
    for folder in names:
        if extra := set(names[folder]) - set(class_names):
            raise UserError(
                f"{min(extra)} is a class of {splits[folder]} but not of train in "
                f"{shown(root)}"
            )
    return class_names


def _describe_splits(splits: Mapping[str, str]) -> list[str]:
    renamed = [f"{shown(f)}/ is {split}" for f, split in splits.items() if f != split]
    return [f"splits: {', '.join(renamed)}"] if renamed else []

"""A folder of pictures for each class, with or without `train/` and `validation/`."""

import os
from collections.abc import Iterator

from alexnet_tf.errors import UserError
from data.source import Item, Source, data_set_name, map_splits, our_splits


def open_source(input: str, **_) -> Source:
    """Returns the pictures below `input`; the class names are the folders' names."""
    root = os.path.abspath(os.path.expanduser(input))
    splits = map_splits(list_folders(root)) or {".": ""}
    folders = {
        split: list_folders(os.path.normpath(os.path.join(root, folder)))
        for folder, split in splits.items()
    }
    class_names = next(iter(folders.values()))
    if len(class_names) < 2:
        raise UserError(
            f"expected a folder for each of two or more classes in {root}, "
            f"found {class_names}"
        )
    for split, names in folders.items():
        if extra := set(names) - set(class_names):
            raise UserError(
                f"{min(extra)} is a class of {split} but not of train in {root}"
            )
    parts = [
        (root, os.path.normpath(os.path.join(folder, name)), label, split)
        for folder, split in splits.items()
        for label, name in enumerate(class_names)
    ]
    num_items = sum(1 for part in parts for _ in list_pictures(part))
    return Source(
        data_set_name(root),
        class_names,
        parts,
        list_pictures,
        splits=our_splits(splits),
        num_items=num_items,
    )


def list_folders(directory: str) -> list[str]:
    """Returns the names of the folders in a directory, sorted, without hidden ones."""
    if not os.path.isdir(directory):
        raise UserError(f"no such directory: {directory}")
    with os.scandir(directory) as entries:
        return sorted(e.name for e in entries if e.is_dir() and e.name[0] != ".")


def list_pictures(part: tuple[str, str, int, str]) -> Iterator[Item]:
    """Lists the files of one class at any depth, without hidden ones.

    Args:
        part: The input directory, the class's folder in it, its label, the split.
    """
    root, folder, label, split = part
    for directory, folders, files in os.walk(os.path.join(root, folder)):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        for file in sorted(name for name in files if name[0] != "."):
            path = os.path.join(directory, file)
            name = os.fsencode(path[len(root) + 1 :])
            yield Item(name.decode(errors="backslashreplace"), label, path, split)

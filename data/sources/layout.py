"""Where the pictures of a folder lie: in which folders, and which of those are splits.

Nothing here says whether the folders of a split are classes; `doubts.py` does.
"""

import dataclasses
import functools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from alexnet_tf.errors import UserError
from alexnet_tf.pictures.listing import LeftOut, find_folders, list_pictures
from data.source import find_splits

# What people call the folder of all pictures.
_PICTURES = "image images img imgs jpegimages pictures picture photos pics jpegs"


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the pictures lie. All folders are relative to the root.

    Attributes:
        root: The directory.
        pictures: The names of the pictures directly in each folder that has any.
        splits: The split of each folder that has the folders of classes: {"": "train"}
            where that is the root itself.
        flat: The split of each folder that is called so and has pictures only.
        others: Folders beside those of the splits.
    """

    root: str
    pictures: Mapping[str, Sequence[str]]
    splits: Mapping[str, str]
    flat: Mapping[str, str] = dataclasses.field(default_factory=dict)
    others: Sequence[str] = ()

    def walk(self, folder: str) -> Iterator[tuple[str, str]]:
        """Yields a folder and those below it that have pictures.

        Args:
            folder: In the root; "" is the root itself.

        Yields:
            Their path in the root; and the first folder below `folder` on the way
            there, "" for `folder` itself.
        """
        return _walk(self.pictures, folder)

    @functools.cached_property
    def classes(self) -> dict[str, list[str]]:
        """The first folders below those of the splits: {name: paths with pictures}."""
        folders = {}
        for split in self.splits:
            for path, name in self.walk(split):
                if name:
                    folders.setdefault(name, []).append(path)
        return folders

    def count(self, folder: str) -> int:
        """Returns the number of pictures in a folder and below it."""
        return sum(len(self.pictures[path]) for path, _ in self.walk(folder))


def find_layout(root: str, left_out: LeftOut) -> Layout:
    """Finds the folders of the splits and of the classes, through folders of one.

    A folder named as a split (`data.source.find_splits`) is one if it has folders with
    pictures, else it is a class.

    Raises:
        UserError: There is no picture, or splits are not side by side.
    """
    pictures = find_pictures(root, left_out)
    while len(names := _names(pictures, "")) == 1 and "" not in pictures:
        (name,) = names
        if find_splits(names, root) or not _names(pictures, name):
            break
        root = os.path.join(root, name)
        pictures = {k[len(name) + 1 :]: found for k, found in pictures.items()}
    named = find_splits(names, root)
    inner = {folder: _pass_through(pictures, folder) for folder in named}
    flat = {f: named[f] for f in named if not _names(pictures, inner[f])}
    splits = {inner[f]: named[f] for f in named if f not in flat}
    others = [name for name in names if name not in named]
    _check_levels(root, pictures, [*others, *flat])
    if not splits and len(flat) < 2:  # a class may be called "train"
        return Layout(root, pictures, {"": "train"})
    return Layout(root, pictures, splits, flat, others)


def find_pictures(root: str, left_out: LeftOut) -> dict[str, list[str]]:
    """Returns the names of the pictures directly in each folder that has any.

    Raises:
        UserError: There is no such folder, or no picture in it.
    """
    if not os.path.isdir(root):
        raise UserError(f"no such directory: {root}")
    pictures, above = {}, {""}
    folders = find_folders(root, left_out)
    for folder in folders:
        paths = list_pictures(os.path.join(root, folder), left_out)
        if names := [os.path.basename(path) for path in paths]:
            pictures[folder] = names
            above |= {folder[: match.start()] for match in re.finditer("/", folder)}
    used = above | pictures.keys()
    for folder in folders:
        if folder not in used and os.path.dirname(folder) in used:
            left_out.add("folders without a picture", folder)
    if not pictures:
        raise UserError(f"no picture in {root} or in the folders below it")
    return pictures


def has_role(name: str, words: str = _PICTURES) -> bool:
    """Says whether a folder is called as one that has all pictures."""
    return re.sub(r"[\W\d_]", "", name.lower()) in words.split()


def _walk(pictures: Mapping, folder: str) -> Iterator[tuple[str, str]]:
    beginning = os.path.join(folder, "")
    for path in pictures:
        if path == folder:
            yield path, ""
        elif path.startswith(beginning):
            yield path, path[len(beginning) :].split("/")[0]


def _names(pictures: Mapping, folder: str) -> list[str]:
    """Returns the names of the folders in a folder that have pictures."""
    return sorted({name for _, name in _walk(pictures, folder) if name})


def _pass_through(pictures: Mapping, folder: str) -> str:
    """Goes into `train/train`, which unpacking an archive makes, and `train/images`."""
    names = _names(pictures, folder)
    if len(names) != 1 or folder in pictures:
        return folder
    inner = os.path.join(folder, names[0])
    is_role = has_role(names[0])
    is_twin = names[0] == os.path.basename(folder) and _names(pictures, inner)
    return inner if is_role or is_twin else folder


def _check_levels(root: str, pictures: Mapping, names: Iterable[str]) -> None:
    """Raises a UserError where folders of splits are not side by side at the top."""
    for folder in sorted(names):
        inner = find_splits(_names(pictures, folder), folder)
        if len(set(inner.values())) > 1:
            raise UserError(
                f"{root} has a split inside another folder, "
                f"{os.path.join(folder, min(inner))}: put the folders of splits "
                "side by side, and those of the classes into them"
            )

"""What makes it doubtful that folders of pictures are classes.

Each sign is a function from what was seen to a reason in words, "" where there is none.
"""

import collections
import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from alexnet_tf.pictures.listing import shown
from data.source import Reading, split_meant_by
from data.sources import csv

_MAX_FOLDERS = 20  # more are classes, or have other signs
_NAMES_READ, _ROWS_READ = 2000, 1000  # of a folder, of a list
_ALIKE = 0.9  # part of the names that must agree
# What people call the folder of all pictures, and what belongs to pictures.
PICTURES = "image images img imgs jpegimages pictures picture photos pics jpegs"
_BELONGINGS = (
    "annotations annotation segmentation segmentations segmentationclass "
    "segmentationobject groundtruth bboxes trimaps"
)
_PARTS = (
    "part parts batch batches fold folds chunk shard image images imgs volume vol disk "
    "archive set split subset"
)
# How pictures are called that nobody has named.
_UNNAMED = (
    "img image images dsc dscn dscf pic picture photo p pxl screenshot download frame "
    "imgp mvimg vid scan wp unnamed file"
)


class Seen(NamedTuple):
    """What lies in the folders that may be classes.

    Attributes:
        root: The directory.
        folders: For each class the paths, in the root, of its folders with pictures.
        names: The names of the first pictures of each class, where classes are few.
    """

    root: str
    folders: Mapping[str, Sequence[str]]
    names: Mapping[str, Sequence[str]]


def find(root: str, folders: Mapping[str, Sequence[str]]) -> str:
    """Returns why the classes are not clear, "" where they are.

    Args:
        root: The directory.
        folders: For each class the folders with its pictures, relative to the root.
    """
    names = {}
    if len(folders) <= _MAX_FOLDERS:
        for name, paths in folders.items():
            listed = (os.listdir(os.path.join(root, path)) for path in paths)
            listed = itertools.islice(
                itertools.chain.from_iterable(listed), _NAMES_READ
            )
            names[name] = [n for n in listed if "." in n and not n.startswith(".")]
    seen = Seen(root, folders, names)
    return next(filter(None, (sign(seen) for sign in _SIGNS)), "")


def _see_list(seen: Seen) -> str:
    """A list that names the pictures, and parts them otherwise than the folders do."""
    class_of = {path: name for name, paths in seen.folders.items() for path in paths}
    for table in csv.find_lists(seen.root, Reading(), in_splits=False):
        files, pairs = csv.Files(table.path, Reading()), set()
        for row in table.rows[:_ROWS_READ]:
            if path := files.find(row.image):
                folder = os.path.relpath(os.path.dirname(path), seen.root)
                pairs.add((class_of.get(folder, folder), row.label))
        sides = [{pair[i] for pair in pairs} for i in range(2)]
        if not len(pairs) == len(sides[0]) == len(sides[1]):
            return (
                f"the list {shown(table.path)} gives the pictures other classes than "
                f"their folders {enumerate_some(seen.folders)}"
            )
    return ""


def _see_roles(seen: Seen) -> str:
    """Folders called "images", "annotations"."""
    roles = [n for n in seen.folders if has_role(n) or has_role(n, _BELONGINGS)]
    if not roles or len(seen.folders) > _MAX_FOLDERS:
        return ""
    return (
        f"the folders {enumerate_some(seen.folders)} in {shown(seen.root)} look like "
        "pictures and what belongs to them, not like classes"
    )


def has_role(name: str, words: str = PICTURES) -> bool:
    """Says whether a folder is called as one that has all pictures."""
    return re.sub(r"[\W\d_]", "", name.lower()) in words.split()


def _see_parts(seen: Seen) -> str:
    """Folders whose names differ in a number only, after a word such as "part"."""
    stems = {re.sub(r"\d+", "#", name.lower()) for name in seen.folders}
    words = set(re.split(r"[\W\d_]+", next(iter(stems))))
    is_part = words & {*_PARTS.split()} or any(map(split_meant_by, words))
    if len(stems) > 1 or "#" not in next(iter(stems)) or not is_part:
        return ""
    return (
        f"the folders {enumerate_some(seen.folders)} in {shown(seen.root)} look like "
        "parts of one set, not like classes"
    )


def _see_twins(seen: Seen) -> str:
    """The same names in two folders, and not because somebody counted in each."""
    stems = {
        k: {os.path.splitext(n)[0] for n in names} for k, names in seen.names.items()
    }
    for first, second in itertools.combinations(stems, 2):
        fewer = min(len(stems[first]), len(stems[second]))
        shared = stems[first] & stems[second]
        if fewer > 1 and len(shared) >= _ALIKE * fewer and not _are_counted(shared):
            return (
                f"{shown(first)} and {shown(second)} in {shown(seen.root)} have "
                f"pictures of the same names, such as {shown(min(shared))}: they look "
                "like two versions of the same pictures, not like classes"
            )
    return ""


def _are_counted(stems: set[str]) -> bool:
    """Whether names are but a number in a row, which many folders have."""
    digits = [re.sub(r"\D", "", stem)[-18:] for stem in stems]
    if len({re.sub(r"\d+", "", stem) for stem in stems}) > 1 or not all(digits):
        return len(stems) < 3
    numbers = sorted(map(int, digits))
    return numbers[-1] - numbers[0] < 2 * len(numbers) + 8


def _see_own_names(seen: Seen) -> str:
    """Pictures whose own names begin with a class, the same ones in every folder."""
    beginnings = {}
    for folder, names in seen.names.items():
        words = [re.match(r"[^\W\d_]+(?=[\W\d_]*\d)", name) for name in names]
        counts = collections.Counter(w[0].lower() for w in words if w)
        if sum(counts.values()) < _ALIKE * len(names) or len(counts) < 2:
            return ""
        beginnings[folder] = set(counts)
    shared = set.intersection(*beginnings.values()) if beginnings else set()
    if (
        len(shared) < 2
        or shared & {*_UNNAMED.split()}
        or any(b - shared for b in beginnings.values())
    ):
        return ""
    return (
        f"the names of the pictures in {enumerate_some(seen.folders)} begin with "
        f"{enumerate_some(sorted(shared))}, which look like the classes"
    )


def enumerate_some(names) -> str:
    """Returns the first three names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(shown, names[:3])) + more


_SIGNS: tuple[Callable[[Seen], str], ...] = (
    _see_list,
    _see_roles,
    _see_parts,
    _see_twins,
    _see_own_names,
)

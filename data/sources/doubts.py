"""Why the folders of a layout may not be the classes of the pictures in them.

Any two folders of pictures could be classes. Each sign that they are something else is
a function from the layout to a reason in words, "" where it does not see any.
"""

import collections
import itertools
import os
import re

from data.counting import enumerate_some
from data.source import Reading, split_meant_by
from data.sources import csv
from data.sources.layout import Layout, has_role

_MAX_FOLDERS = 20  # more of them are classes, whatever they are called
_ALIKE = 0.9  # part of the names that must agree
_BELONGINGS = (
    "annotations annotation segmentation segmentations segmentationclass "
    "segmentationobject groundtruth bboxes trimaps"
)
_PARTS = (
    "part parts batch batches fold folds chunk shard image images imgs volume vol disk "
    "archive set split subset"
)
_MASK = re.compile(r"(?P<picture>.+)(?P<end>[ _-]masks?)([ _-]?\d+)?", re.IGNORECASE)
# How pictures are called that nobody has named.
_UNNAMED = (
    "img image images dsc dscn dscf pic picture photo p pxl screenshot download frame "
    "imgp mvimg vid scan wp unnamed file"
)


def see_no_classes(layout: Layout) -> str:
    """Returns why the folders cannot be the classes; "" where they can."""
    where, splits, flat = layout.root, layout.splits, layout.flat
    if "train" in flat.values() or not splits:
        named = " and ".join(flat)
        return f"{named} in {where} should have a folder for each class, and have none"
    trained = [f for f, split in splits.items() if split == "train"] or splits
    names = {name for folder in trained for _, name in layout.walk(folder)} - {""}
    if len(names) < 2:
        found = ", ".join(names) or "none with a picture"
        where = os.path.join(layout.root, min(trained)).rstrip("/")
        return (
            f"expected a folder for each of two or more classes in {where}, found "
            + found
        )
    return _see_two_levels(layout)


def _see_two_levels(layout: Layout) -> str:
    below = {
        path.removeprefix(os.path.join(split, name)).strip("/"): path
        for split in layout.splits
        for path, name in layout.walk(split)
        if name
    }
    if "" in below or len(below) < 2:
        return ""
    first = min(below.values())
    return (
        f"the pictures in {layout.root} lie two folders down, as in "
        f"{first}: the upper folders or the lower ones may be the classes, or "
        "the upper ones splits, which are called train, val and test"
    )


def see_doubt(layout: Layout) -> str:
    """Returns why the folders are perhaps not the classes; "" where they are clear."""
    signs = [_see_left_out, _see_list, _see_classes_inside, _see_masks]
    if len(layout.classes) <= _MAX_FOLDERS:
        signs += [_see_roles, _see_parts, _see_twins, _see_own_names]
    return next(filter(None, (sign(layout) for sign in signs)), "")


def _see_left_out(layout: Layout) -> str:
    """Folders beside those of the splits that are perhaps a split, too."""
    for folder in layout.others:
        names = {name for _, name in layout.walk(folder)}
        if "train" not in layout.splits.values() or len(names & {*layout.classes}) > 1:
            return (
                f"{enumerate_some(layout.others)} in {layout.root} would be "
                f"left out beside {enumerate_some(layout.splits)}: call the folders of "
                "splits train, val and test, and move the rest away"
            )
    return ""


def _see_list(layout: Layout) -> str:
    """A list that names the pictures, and parts them otherwise than the folders do."""
    class_of = {path: name for name, paths in layout.classes.items() for path in paths}
    for table in csv.find_lists(layout.root, Reading()):
        files, pairs = csv.Files(table.path, Reading()), set()
        for row in table.rows:
            if path := files.find(row.image):
                folder = os.path.relpath(os.path.dirname(path), layout.root)
                if folder in class_of:
                    pairs.add((class_of[folder], row.label))
        sides = [{pair[i] for pair in pairs} for i in range(2)]
        if not len(pairs) == len(sides[0]) == len(sides[1]):
            return (
                f"the list {table.path} gives the pictures other classes than "
                f"their folders {enumerate_some(layout.classes)}"
            )
    return ""


def _see_classes_inside(layout: Layout) -> str:
    """A folder with folders that are called as other classes."""
    for name, paths in layout.classes.items():
        inner = {*map(os.path.basename, paths)} & {*layout.classes} - {name}
        if len(inner) > 1:
            return (
                f"{name} in {layout.root} has folders of the classes "
                f"{enumerate_some(sorted(inner))} in it"
            )
    return ""


def _see_masks(layout: Layout) -> str:
    """Pictures that are called as another one's mask."""
    for name, stems in _names_by_class(layout).items():
        known, matches = {*stems}, filter(None, map(_MASK.fullmatch, stems))
        masks = [match for match in matches if match["picture"] in known]
        if len(masks) > 1:
            return (
                f"{name} in {layout.root} has masks beside the pictures, "
                f"such as {masks[0][0]}, which "
                f"--label_from='^([^/]+)/(?!.*{masks[0]['end']})' leaves out"
            )
    return ""


def _see_roles(layout: Layout) -> str:
    """Folders called "images", "annotations"."""
    if not any(has_role(n) or has_role(n, _BELONGINGS) for n in layout.classes):
        return ""
    return _describe(layout, "pictures and what belongs to them")


def _see_parts(layout: Layout) -> str:
    """Folders whose names differ in a number only, after a word such as "part"."""
    stem, *others = {re.sub(r"\d+", "#", name.lower()) for name in layout.classes}
    words = re.split(r"[\W\d_]+", stem)
    is_part = {*words} & {*_PARTS.split()} or any(map(split_meant_by, words))
    if others or "#" not in stem or not is_part:
        return ""
    return _describe(layout, "parts of one set")


def _describe(layout: Layout, what: str) -> str:
    folders, where = enumerate_some(layout.classes), layout.root
    return f"the folders {folders} in {where} look like {what}, not like classes"


def _names_by_class(layout: Layout) -> dict[str, list[str]]:
    """Returns the names of each class's pictures, without their suffixes."""
    return {
        name: [
            os.path.splitext(picture)[0]
            for path in paths
            for picture in layout.pictures[path]
        ]
        for name, paths in layout.classes.items()
    }


def _see_twins(layout: Layout) -> str:
    """The same names in two folders, and not because somebody counted in each."""
    stems = {name: set(names) for name, names in _names_by_class(layout).items()}
    for first, second in itertools.combinations(stems, 2):
        shared = stems[first] & stems[second]
        fewer = min(len(stems[first]), len(stems[second]))
        if fewer > 1 and len(shared) >= _ALIKE * fewer and not _are_counted(shared):
            return (
                f"{first} and {second} in {layout.root} have "
                f"pictures of the same names, such as {min(shared)}: they look "
                "like two versions of the same pictures, not like classes"
            )
    return ""


def _are_counted(stems: set[str]) -> bool:
    """Whether names are but numbers in a row, which many folders have."""
    numbers = collections.defaultdict(list)
    for stem in stems:
        digits = re.sub(r"\D", "", stem)
        numbers[re.sub(r"\d+", "", stem)].append(int(digits[-18:] or -1))
    if len(numbers) > 3 or min(map(min, numbers.values())) < 0:
        return len(stems) < 3  # names of other kinds: two may be alike by chance
    return all(max(n) - min(n) < 2 * len(n) + 8 for n in numbers.values())


def _see_own_names(layout: Layout) -> str:
    """Pictures whose own names begin with a class, the same ones in every folder."""
    beginnings = []
    for names in _names_by_class(layout).values():
        words = [re.match(r"[^\W\d_]+(?=[\W\d_]*\d)", name) for name in names]
        if words.count(None) > (1 - _ALIKE) * len(names):
            return ""
        beginnings.append({word[0].lower() for word in words if word})
    shared = set.intersection(*beginnings)
    if len(shared) < 2 or set.union(*beginnings) > shared:
        return ""
    if shared & {*_UNNAMED.split()} or any(map(split_meant_by, shared)):
        return ""
    return (
        f"the names of the pictures in {enumerate_some(layout.classes)} begin with "
        f"{enumerate_some(sorted(shared))}, which look like the classes"
    )

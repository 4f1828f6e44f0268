"""A folder of pictures for each class, with or without folders for the splits.

A pattern finds the class in the picture's path, below the folder of its split: by
default it takes the first folder there. Where something shows that those folders may be
no classes, that is an error, which says what was seen and the commands that read the
whole set: each was tried here before it is shown.
"""

import functools
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from alexnet_tf.command_line import command
from alexnet_tf.errors import UserError
from alexnet_tf.pictures.listing import LeftOut, list_pictures
from data.counting import enumerate_some
from data.source import Item, Reading, Source, Tally, data_set_name, picture_name
from data.sources import csv, doubts
from data.sources.layout import Layout, find_layout, has_role

TAKES = ("label_from",)
FIRST_FOLDER, LAST_FOLDER = "^([^/]+)/", "([^/]+)/[^/]*$"
# Classes in the pictures' own names: "cat.0.jpg", "0001_cat.jpg".
_IN_NAMES = (r"([^\W\d_][^/\d]*?)[ ._(-]*\d[^/]*$", r"[._-]([^/._\d-]+)\.\w+$")


class _Part(NamedTuple):
    """The pictures directly in one folder.

    Attributes:
        root: The input directory.
        folder: The folder, relative to it.
        top: The folder, in the root, below which the pattern sees the paths.
        split: "train", "validation" or "test".
        classes: The classes of pictures by path, where a list tells them.
    """

    root: str
    folder: str
    top: str
    split: str
    classes: Mapping[str, str]


def open_source(input: str, reading: Reading) -> Source:
    """Returns the pictures below `input`.

    Raises:
        UserError: It is not clear what the classes are, and `label_from` is not given.
    """
    left_out = LeftOut()
    layout = find_layout(os.path.abspath(input), left_out)
    if not reading.label_from:
        _check_doubts(layout)
    return _open_by_pattern(layout, reading.label_from or FIRST_FOLDER, left_out)


def _open_by_pattern(layout: Layout, pattern: str, left_out: LeftOut) -> Source:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"--label_from={pattern} is no regular expression: {error}"
        ) from None
    root, parts, tally = layout.root, _find_parts(layout, left_out), Tally()
    for part in parts:
        for name in layout.pictures[part.folder]:
            path = os.path.join(root, part.folder, name)
            tally.add(part.split, _find_class(compiled, part, path), path)
    labels = tally.choose_classes(left_out)
    if len(labels) < 2:
        raise UserError(
            f"--label_from={pattern} finds {len(labels)} classes in the paths of the "
            f"pictures in {root}; it should find two or more"
        )
    renamed = [
        f"{folder}/ is {split}"
        for folder, split in layout.splits.items()
        if folder not in ("", split)
    ]
    notes = [f"splits: {', '.join(renamed)}"] if renamed else []
    return Source(
        data_set_name(root),
        list(labels),
        parts,
        functools.partial(_list_items, compiled, labels),
        splits=tally.splits,
        num_items=tally.total,
        notes=[*notes, *left_out.lines()],
    )


def _find_parts(layout: Layout, left_out: LeftOut) -> list[_Part]:
    """Returns the folders of the splits; names what lies beside them."""
    if layout.splits != {"": "train"}:
        for folder in layout.others:
            left_out.add("folders beside the splits", folder)
        if number := len(layout.pictures.get("", ())):
            what = "pictures outside the folders of the splits"
            left_out.add(what, layout.root, number)
    parts = [
        _Part(layout.root, path, folder, split, {})
        for folder, split in layout.splits.items()
        for path, _ in layout.walk(folder)
    ]
    for folder, split in layout.flat.items():
        classes = _read_lists(layout.root, folder)
        for path, _ in layout.walk(folder):
            parts.append(_Part(layout.root, path, path, split, classes))
    return parts


def _read_lists(root: str, folder: str) -> dict[str, str]:
    """Returns the classes that lists in the root, and in a folder of it, tell."""
    classes = {}
    for directory in (root, os.path.join(root, folder)):
        for table in csv.find_lists(directory, Reading()):
            files = csv.Files(table.path, Reading())
            classes |= {files.find(row.image): row.label for row in table.rows}
    return classes


def _find_class(pattern: re.Pattern, part: _Part, path: str) -> str | None:
    """Returns the class of a picture, in the one form of letters with accents."""
    top = os.path.join(part.root, part.top, "")
    match = pattern.search(path.removeprefix(top))
    found = match[min(1, pattern.groups)] if match else None
    name = part.classes.get(path, found)
    return unicodedata.normalize("NFC", name) if name else None


def _list_items(
    pattern: re.Pattern, labels: Mapping[str, int], part: _Part
) -> Iterator[Item]:
    for path in list_pictures(os.path.join(part.root, part.folder), LeftOut()):
        label = labels.get(_find_class(pattern, part, path))
        if label is not None:
            yield Item(picture_name(path, part.root), label, path, part.split)


def _check_doubts(layout: Layout) -> None:
    """Raises a UserError, with advice, where the folders may not be the classes."""
    if reason := doubts.see_no_classes(layout):
        raise UserError(reason + _advise(layout, layout))
    if reason := doubts.see_doubt(layout):
        inner = layout
        for folder in filter(has_role, layout.classes):  # images/ beside annotations/
            if folder in layout.pictures:
                inner = find_layout(os.path.join(layout.root, folder), LeftOut())
        as_it_is = _command(layout, f"--label_from={FIRST_FOLDER}")
        advice = f"{_advise(layout, inner)}; to go on as it is type {as_it_is}"
        raise UserError(reason + advice)


def _advise(layout: Layout, inner: Layout) -> str:
    """Returns the commands that read the whole set, each of them tried.

    Args:
        layout: What is there; its classes are doubted, and no command leads to them.
        inner: The part of it that has the pictures.
    """
    whole = inner.count("") - sum(
        inner.count(folder) for folder, split in inner.flat.items() if split == "test"
    )
    advice, unclear = {}, []
    for table in csv.find_lists(inner.root, Reading(), unclear):
        read = functools.partial(csv.open_source, table.path, Reading())
        words = _command(inner, input=table.path)
        advice[words] = _classes_of_whole(read, whole)
    for pattern in (*_IN_NAMES, LAST_FOLDER, FIRST_FOLDER):
        read = functools.partial(_open_by_pattern, inner, pattern, LeftOut())
        words = _command(inner, f"--label_from={pattern}")
        advice[words] = _classes_of_whole(read, whole, 2 * (pattern in _IN_NAMES))
    named, lines = [set(), set(layout.classes)], [f"; {error}" for error in unclear]
    for words, classes in advice.items():
        if set(classes) not in named:
            named.append(set(classes))
            lines.append(f"; for the classes {enumerate_some(classes)} type {words}")
    return "".join(lines)


def _command(layout: Layout, *words: str, input: str = "") -> str:
    output = f"--output={os.path.join('runs', data_set_name(layout.root))}"
    words = *words, f"--input={input or layout.root}", output
    return command("python", "-m", "data.prepare", *words)


def _classes_of_whole(read, number: int, each: int = 1) -> tuple[str, ...]:
    """The classes of what reads so many pictures, `each` in a class; () for others."""
    try:
        source = read()
    except UserError:
        return ()
    is_whole = source.num_items == number >= each * len(source.class_names)
    return tuple(source.class_names) if is_whole else ()

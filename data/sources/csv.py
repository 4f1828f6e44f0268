"""Lists of pictures with their labels: CSV and its kin, JSON lines, "path label".

A list is a table with a column for the picture, one for the label, perhaps one for the
split. Columns are known by their names, or given; a table without names has the picture
and the label first. A directory's lists may be one for each split.
"""

import collections
import csv
import itertools
import json
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from alexnet_tf.errors import UserError
from alexnet_tf.files import MAX_PICTURE_BYTES
from alexnet_tf.pictures.listing import LeftOut, find_pictures, shown
from data.source import (
    Item,
    Reading,
    Source,
    data_set_name,
    find_splits,
    hold_out,
    our_splits,
    sort_classes,
    split_meant_by,
)
from data.sources.names import find_classes, read_names

TAKES = [
    "class_names",
    "label_offset",
    "images",
    "image_column",
    "label_column",
    "split_column",
]
_SUFFIXES = (".csv", ".tsv", ".txt", ".lst", ".list", ".jsonl", ".ndjson", ".json")
_MAX_BYTES = 1 << 28
# What columns are called, compared without case, "_" and blanks; the first that fits.
_NAMES = {
    "image": "filename filepath path imagepath file image img imgpath imagename "
    "imgname picture photo imageid imgid id name",
    "label": "label class category classname labelname labels target classid labelid "
    "categoryid y",
    "split": "split set subset partition",
}
_ROLES = tuple(_NAMES)
_PATH = re.compile(r"\.\w{2,4}$|[/\\]")
_TRIED = 100  # rows that show whether a table is a list of pictures


class _Row(NamedTuple):
    image: str
    label: str
    split: str
    group: str


class List(NamedTuple):
    """A list of pictures.

    Attributes:
        path: Its file.
        rows: What it says of each picture.
        columns: The names of its columns; () where it has no header.
    """

    path: str
    rows: list[_Row]
    columns: tuple[str, ...]


def is_list(path: str) -> bool:
    """Says whether a file may be a list, by its name."""
    return path.lower().endswith(_SUFFIXES) and os.path.isfile(path)


def is_only_list(path: str) -> bool:
    """Says whether nothing but a list tells the classes of the pictures in `path`.

    It is a list itself; or a directory with a list, and without folders that could be
    classes; or one with a list by the name that Hugging Face gives it.
    """
    if not os.path.isdir(path):
        return is_list(path)
    lists = find_lists(path, Reading())
    if any(os.path.basename(table.path).startswith("metadata.") for table in lists):
        return True
    folders = [n for n in os.listdir(path) if os.path.isdir(os.path.join(path, n))]
    splits = find_splits(folders, path)
    inner = [n for f in splits for n in os.scandir(os.path.join(path, f)) if n.is_dir()]
    return bool(lists) and len(folders) - len(splits) < 2 and not inner


def find_lists(root: str, reading: Reading, *, in_splits: bool = True) -> list[List]:
    """Finds the lists in a directory, and its splits' folders, that name pictures."""
    found = []
    for folder in ("", *(_folders(root) if in_splits else ())):
        directory = os.path.join(root, folder)
        for name in sorted(os.listdir(directory)):
            path = os.path.join(directory, name)
            if not is_list(path) or os.path.getsize(path) > _MAX_BYTES:
                continue
            if "submission" in name.lower():  # Kaggle's form for answers
                continue
            try:
                table = read_list(path, reading)
            except UserError:
                continue
            files = Files(path, reading)
            tried = table.rows[:_TRIED]
            if sum(1 for row in tried if files.find(row.image)) * 2 >= len(tried) > 0:
                found.append(table)
    return found


def find_unclear(root: str) -> list[str]:
    """Returns what is not clear about the lists with a header in a directory."""
    errors = []
    for path in sorted(os.path.join(root, name) for name in os.listdir(root)):
        try:
            if path.lower().endswith((".csv", ".tsv", ".jsonl")) and is_list(path):
                read_list(path, Reading())
        except UserError as error:
            errors.append(f"{error}, and --input={shown(path)}")
    return errors


def _folders(root: str) -> list[str]:
    folders = [n for n in os.listdir(root) if os.path.isdir(os.path.join(root, n))]
    return sorted(f for f in folders if split_meant_by(f))


def open_source(input: str, reading: Reading) -> Source:
    """Returns the pictures that the list `input` names, or those in that directory."""
    if os.path.isdir(input):
        lists = find_lists(input, reading)
        if not lists:
            raise UserError(f"no list in {shown(input)} names pictures that are there")
    else:
        lists = [read_list(input, reading)]
    names = {table.path: _name_of(table.path, input) for table in lists}
    splits = hold_out(find_splits(names.values(), input))
    if len(lists) > 1 and not splits:
        paths = " or ".join(shown(table.path) for table in lists[:3])
        raise UserError(f"{shown(input)} has several lists: give --input={paths}")
    left_out, rows = LeftOut(), {}
    for table in lists:
        if len(lists) > 1 and names[table.path] not in splits:
            left_out.add("lists of no split", table.path)
            continue
        split = splits.get(names[table.path], "") if len(lists) > 1 else ""
        _collect(table, split, Files(table.path, reading), rows, left_out)
    return _make_source(input, lists[0], rows, left_out, reading)


def _name_of(path: str, root: str) -> str:
    """What tells a list's split: its folder, or its own name."""
    folder = os.path.dirname(os.path.relpath(path, root)) if os.path.isdir(root) else ""
    return folder or os.path.splitext(os.path.basename(path))[0]


def _make_source(input: str, table: List, rows, left_out, reading: Reading) -> Source:
    """Makes a source of {path of a picture: its row}."""
    if not rows:
        lines = "; ".join(left_out.lines())
        raise UserError(f"no row of {shown(table.path)} can be used: {lines}")
    names = sort_classes(row.label for row in rows.values())
    if len(names) < 2 or (len(rows) >= 20 and 2 * len(names) > len(rows)):
        raise UserError(
            f"the labels in {shown(table.path)} have {len(names)} different values for "
            f"{len(rows)} pictures, and are no classes: give --label_column, one of "
            f"{', '.join(map(shown, table.columns)) or 'a table with a header'}"
        )
    labels = {name: label for label, name in enumerate(names)}
    if reading.class_names:
        if not all(name.isdecimal() for name in names):
            raise UserError("--class_names is for labels that are numbers, not names")
        counts = {(int(name), "", ""): 1 for name in names}
        given = read_names(reading.class_names)
        classes = find_classes(counts, given, reading.label_offset)
        labels = {name: int(name) - classes.offset for name in names}
        names = list(classes.names)
    splits = {row.split for row in rows.values()}
    if "validation" not in splits and "train" in splits:
        splits = splits - {"train"} | {""}
        held = {split: split.replace("train", "") for split in ("train", "test", "")}
        rows = {path: row._replace(split=held[row.split]) for path, row in rows.items()}
    root = os.path.commonpath([os.path.dirname(path) for path in rows])
    items = [
        Item(_item_name(path, root), labels[r.label], path, r.split, group=r.group)
        for path, r in rows.items()
    ]
    return Source(
        data_set_name(os.path.splitext(os.path.abspath(input))[0]),
        names,
        [items],
        iter,
        splits=our_splits({split: split for split in splits}),
        holds_out="" in splits,
        num_items=len(items),
        notes=left_out.lines(),
    )


def _item_name(path: str, root: str) -> str:
    name = os.fsencode(os.path.relpath(path, root))
    return name.decode(errors="backslashreplace")


def _collect(table: List, split: str, files, rows: dict[str, _Row], left_out) -> None:
    """Adds a list's rows by their pictures, and counts those that cannot be used."""
    values = {row.split for row in table.rows}
    meant = {value: split_meant_by(value) for value in values}
    if not any(meant.values()):
        meant = dict.fromkeys(values, split)
    several = 0
    for row in table.rows:
        path = files.find(row.image)
        if not row.label:
            left_out.add("rows without a label", row.image)
        elif not path:
            left_out.add("rows without a picture that is there", row.image)
        elif not meant[row.split] and any(meant.values()):
            left_out.add("rows of no split that is known", f"{row.image}: {row.split}")
        elif path in rows and rows[path].label != row.label:
            several += 1
            left_out.add("rows that give a picture a second class", row.image)
        elif path in rows:
            left_out.add("rows for a picture that has one already", row.image)
        else:
            rows[path] = row._replace(split=meant[row.split])
    if several > len(rows) / 10:
        raise UserError(
            f"{shown(table.path)} gives {several:,} pictures several classes; training "
            "needs a list with one class for each picture"
        )


class Files:
    """Finds the pictures that a list names, with or without folder and extension."""

    def __init__(self, path: str, reading: Reading):
        self._folder = reading.images or os.path.dirname(path) or "."
        self._is_given = bool(reading.images)
        self._by_name = None

    def find(self, name: str) -> str | None:
        """Returns the path of a picture; None where there is none, or are several."""
        if not name or "\0" in name:
            return None
        name = os.path.normpath(name.replace("\\", "/"))
        path = os.path.join(self._folder, name)
        if os.path.isfile(path) and os.path.getsize(path) <= MAX_PICTURE_BYTES:
            return path
        if self._by_name is None:
            self._by_name = self._index(self._folder)
            if not self._by_name and not self._is_given:  # labels/x.csv, images/1.jpg
                self._by_name = self._index(os.path.join(self._folder, os.pardir))
        parts = name.split("/")
        endings = ("/".join(parts[i:]) for i in range(len(parts)))
        return next(filter(None, map(self._by_name.get, endings)), None)

    def _index(self, folder: str) -> dict[str, str | None]:
        by_name = {}
        for path in find_pictures(folder, LeftOut()):
            parts = os.path.relpath(path, folder).split("/")
            for i in range(len(parts)):
                ending = "/".join(parts[i:])
                for key in {ending, os.path.splitext(ending)[0]}:
                    by_name[key] = None if key in by_name else path
        return by_name


def read_list(path: str, reading: Reading) -> List:
    """Reads a list.

    Raises:
        UserError: It cannot be read, or its columns are not clear.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            text = file.read(_MAX_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{shown(path)} cannot be read as a list: {error}") from None
    if path.lower().endswith((".json", ".jsonl", ".ndjson")):
        columns, table = _parse_json(text, path)
    else:
        columns, table = _parse_text(text, reading)
    if not table:
        raise UserError(f"{shown(path)} has no row of two columns")
    used = _find_columns(path, columns, table, reading)

    def cell(row: Sequence[str], column: int | None) -> str:
        return row[column].strip() if column is not None and column < len(row) else ""

    rows = [_Row(*(cell(row, column) for column in used)) for row in table]
    return List(path, rows, columns)


def _parse_json(text: str, path: str) -> tuple[tuple[str, ...], list[list[str]]]:
    """Reads an object a line, a list of objects, or one object {picture: label}."""
    try:
        if path.lower().endswith(".json"):
            content = json.loads(text)
        else:
            content = [json.loads(line) for line in text.splitlines() if line.strip()]
        if isinstance(content, dict):
            content = [{"image": k, "label": v} for k, v in content.items()]
        columns = tuple(dict.fromkeys(itertools.chain.from_iterable(content)))
        rows = [[_as_text(row.get(name)) for name in columns] for row in content]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{shown(path)} is no list in JSON: {error}") from None
    return columns, rows


def _as_text(value: object) -> str:
    return str(value) if isinstance(value, str | int) else ""


def _parse_text(text: str, reading: Reading) -> tuple[tuple[str, ...], list[list[str]]]:
    """Reads a table, with the delimiter that gives all rows the same columns."""
    lines = [line for line in text.splitlines() if line.strip()]
    table = []
    for delimiter in "\t,;| ":
        rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
        try:
            rows = list(rows)
        except csv.Error:
            continue
        widths = collections.Counter(map(len, rows))
        width, number = widths.most_common(1)[0] if widths else (0, 0)
        if width > 1 and number >= 0.9 * len(rows):
            table = rows
            break
    else:  # a path with blanks, and the label
        table = [line.rsplit(None, 1) for line in lines]
    given = [reading.image_column, reading.label_column, reading.split_column]
    first = table[0] if table else []
    known = " ".join(_NAMES.values()).split()
    is_header = any(_plain(cell) in known or cell in given for cell in first)
    is_header |= not any(map(_PATH.search, first))
    columns = tuple(cell.strip() for cell in first) if is_header else ()
    return columns, [row for row in table[is_header:] if len(row) > 1]


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())


def _find_columns(path, columns: Sequence[str], table, reading: Reading) -> list:
    """Returns the numbers of the columns of the roles, and of the groups, or None."""
    given = reading.image_column, reading.label_column, reading.split_column
    by_role: dict[str, int | None] = {}
    for role, name in zip(_ROLES, given, strict=True):
        if name and name not in columns:
            raise UserError(
                f"{shown(path)} has no column {shown(name)}; it has "
                f"{', '.join(map(shown, columns)) or 'no header'}"
            )
        by_role[role] = columns.index(name) if name else None
        plain = [_plain(column) for column in columns]
        for known in () if name else _NAMES[role].split():
            if known in plain and plain.index(known) not in by_role.values():
                by_role[role] = plain.index(known)
                break
    width = len(table[0])
    if not columns:  # the picture and the label come first
        first, second = (_has_suffixes(table, column) for column in range(2))
        by_role["image"], by_role["label"] = (0, 1) if first >= second else (1, 0)
    for role, other in (("label", "image"), ("image", "label")):
        if by_role[role] is None and by_role[other] is not None and width == 2:
            by_role[role] = 1 - by_role[other]
    for role in ("image", "label"):
        if by_role[role] is None:
            raise UserError(
                f"{shown(path)} has no column that is known to be the {role}: give "
                f"--{role}_column=NAME, one of {', '.join(map(shown, columns))}"
            )
    group = columns.index(reading.group_by) if reading.group_by in columns else None
    return [*by_role.values(), group]


def _has_suffixes(table: Sequence[Sequence[str]], column: int) -> int:
    cells = (row[column] for row in table[:_TRIED])
    return sum(1 for cell in cells if _PATH.search(cell.strip()))

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
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from alexnet_tf.class_names import read_class_names
from alexnet_tf.errors import UserError
from alexnet_tf.files import MAX_PICTURE_BYTES, read_whole
from alexnet_tf.paths import list_names
from alexnet_tf.pictures.listing import LeftOut, find_pictures
from data.source import (
    Item,
    Reading,
    Source,
    Tally,
    choose_key,
    data_set_name,
    find_splits,
    picture_name,
    split_meant_by,
)
from data.sources.layout import find_layout
from data.sources.names import find_classes

TAKES = ("class_names", "label_offset", "images")
TAKES += ("image_column", "label_column", "split_column")
_SUFFIXES = (".csv", ".tsv", ".txt", ".lst", ".list", ".jsonl", ".ndjson")
_MAX_BYTES = 1 << 28
# What columns are called, compared without case, "_" and blanks; the first that fits.
_NAMES = {
    "image": "filename filepath path imagepath file image img imgpath imagename "
    "imgname picture photo imageid imgid id name",
    "label": "label class category classname labelname labels target classid labelid "
    "categoryid y",
    "split": "split set subset partition",
}
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
        unused: Those of them that say nothing here.
    """

    path: str
    rows: tuple[_Row, ...]
    columns: tuple[str, ...]
    unused: tuple[str, ...]


def is_list(path: str) -> bool:
    """Says whether a file may be a list, by its name."""
    return path.lower().endswith(_SUFFIXES) and os.path.isfile(path)


def is_only_list(path: str, reading: Reading) -> bool:
    """Says whether nothing but a list tells the classes of the pictures in `path`.

    It is a list itself; or a directory with a list, and without folders that could be
    classes; or one with a list by the name that Hugging Face gives it, or with one of
    which somebody has named a column.
    """
    if not os.path.isdir(path):
        return is_list(path)
    names = [os.path.basename(table.path) for table in _find_all(path, reading)]
    is_asked = reading.image_column or reading.label_column or reading.split_column
    if is_asked or any(name.startswith("metadata.") for name in names):
        return bool(names)
    return bool(names) and len(find_layout(path, LeftOut()).classes) < 2


def _find_all(root: str, reading: Reading) -> list[List]:
    """Finds the lists in a directory and in the folders of its splits."""
    folders = sorted(name for name in os.listdir(root) if split_meant_by(name))
    paths = [root, *(os.path.join(root, name) for name in folders)]
    return [
        t for path in paths if os.path.isdir(path) for t in find_lists(path, reading)
    ]


def find_lists(
    directory: str, reading: Reading, unclear: list[str] | None = None
) -> list[List]:
    """Finds the lists directly in a directory that name pictures below it.

    Args:
        directory: Local.
        reading: How they are read.
        unclear: It gets what is not clear about other tables in the directory.
    """
    found, errors = [], [] if unclear is None else unclear
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        if not is_list(path) or "submission" in name.lower():  # Kaggle's for answers
            continue
        try:
            table = read_list(path, reading)
        except UserError as error:
            if not name.lower().endswith((".txt", ".lst", ".list")):
                errors.append(f"{error}, and --input={path}")
            continue
        files, tried = Files(path, reading), table.rows[:_TRIED]
        if sum(1 for row in tried if files.find(row.image)) * 2 >= len(tried):
            found.append(table)
    return found


def open_source(input: str, reading: Reading) -> Source:
    """Returns the pictures that the list `input` names, or those in that directory."""
    is_folder = os.path.isdir(input)
    lists = _find_all(input, reading) if is_folder else [read_list(input, reading)]
    if not lists:
        raise UserError(f"no list in {input} names pictures that are there")
    left_out, rows = LeftOut(), {}
    for table, split in _find_splits(input, lists, left_out):
        _collect(table, split, reading, rows, left_out)
    if not rows:
        lines = "; ".join(left_out.lines())
        raise UserError(f"no row of {lists[0].path} can be used: {lines}")
    if reading.class_names:
        rows = _name_labels(rows, reading)
    return _make_source(input, lists[0], rows, left_out)


def _find_splits(input: str, lists: list[List], left_out) -> list[tuple[List, str]]:
    """Returns the lists with their splits, by their folders or else their names."""
    if len(lists) == 1:
        return [(lists[0], "train")]
    paths = [os.path.relpath(table.path, input) for table in lists]
    names = [os.path.dirname(p) or os.path.splitext(p)[0] for p in paths]
    found = find_splits(names, input)
    if not found:
        paths = " or ".join(table.path for table in lists[:3])
        raise UserError(f"{input} has several lists: give --input={paths}")
    for name, table in zip(names, lists, strict=True):
        if name not in found:
            left_out.add("lists of no split", table.path)
    pairs = zip(names, lists, strict=True)
    return [(table, found[name]) for name, table in pairs if name in found]


def _collect(table: List, split: str, reading, rows: dict[str, _Row], left_out) -> None:
    """Adds a list's rows by their pictures, and counts those that cannot be used."""
    files, several = Files(table.path, reading), 0
    meant = {row.split: split_meant_by(row.split) for row in table.rows}
    unknown = sorted(value for value in meant if value and not meant[value])
    if not any(meant.values()):
        meant = dict.fromkeys(meant, split)
    elif unknown and "validation" not in meant.values():
        raise UserError(
            f"{table.path} has rows of {unknown[0]}, which is no split: "
            "call the splits train, val and test, or take those rows out"
        )
    for column in table.unused:
        left_out.add("columns", column)
    for row in table.rows:
        path = files.find(row.image)
        if not row.label:
            left_out.add("rows without a label", row.image)
        elif not path:
            left_out.add("rows whose picture is not there, or is twice", row.image)
        elif not meant[row.split]:
            left_out.add("rows of no split that is known", f"{row.image}: {row.split}")
        elif path not in rows:
            rows[path] = row._replace(split=meant[row.split])
        elif rows[path].label == row.label:
            left_out.add("rows for a picture that has one already", row.image)
        else:
            several += 1
            left_out.add("rows that give a picture a second class", row.image)
    if several > len(rows) / 10:
        raise UserError(
            f"{table.path} gives {several:,} pictures several classes; training "
            "needs a list with one class for each picture"
        )


def _name_labels(rows: Mapping[str, _Row], reading: Reading) -> dict[str, _Row]:
    """Puts names for labels that are numbers."""
    labels = {row.label for row in rows.values()}
    if not all(label.isdecimal() for label in labels):
        raise UserError("--class_names is for labels that are numbers, not names")
    counts = {(int(label), "", ""): 1 for label in labels}
    given = read_class_names(reading.class_names)
    classes = find_classes(counts, given, reading.label_offset)
    return {
        path: row._replace(label=classes.names[classes.find_label(int(row.label))])
        for path, row in rows.items()
    }


def _make_source(
    input: str, table: List, rows: Mapping[str, _Row], left_out: LeftOut
) -> Source:
    tally = Tally()
    for path, row in rows.items():
        tally.add(row.split, row.label, path)
    labels = tally.choose_classes(left_out)
    if len(labels) < 2 or (len(rows) >= 20 and 2 * len(labels) > len(rows)):
        raise UserError(
            f"the labels in {table.path} have {len(labels)} different values "
            f"for {len(rows)} pictures: they are no classes; give --label_column, one "
            f"of {', '.join(table.columns) or 'a table with a header'}"
        )
    root = os.path.commonpath([os.path.dirname(path) for path in rows])
    items = [
        Item(picture_name(p, root), labels[r.label], p, r.split, group=r.group)
        for p, r in rows.items()
        if r.label in labels
    ]
    name = data_set_name(os.path.splitext(os.path.abspath(input))[0])
    return Source(
        name,
        list(labels),
        [items],
        iter,
        splits=tally.splits,
        num_items=len(items),
        notes=left_out.lines(),
    )


class Files:
    """Finds the pictures that a list names, with or without folder and extension."""

    def __init__(self, path: str, reading: Reading):
        directory, name = os.path.split(os.path.abspath(path))
        stem = os.path.splitext(name)[0]
        # Kaggle has train.csv beside train/ or train_images/; others have labels/x.csv
        # beside images/1.jpg.
        named = [name for name in list_names(directory) if name.startswith(stem)]
        beside = [os.path.join(directory, name) for name in (*sorted(named), "", "..")]
        self._folders = [os.path.abspath(reading.images)] if reading.images else beside
        self._by_name = {}

    def find(self, name: str) -> str | None:
        """Returns the path of a picture; None where there is none, or are several."""
        if not name or "\0" in name:
            return None
        name = os.path.normpath(name.replace("\\", "/"))
        for folder in self._folders:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and os.path.getsize(path) <= MAX_PICTURE_BYTES:
                return path
        parts = name.split("/")
        endings = ["/".join(parts[i:]) for i in range(len(parts))]
        for folder in self._folders:
            if folder not in self._by_name:
                self._by_name[folder] = _index(folder)
            if self._by_name[folder]:
                found = map(self._by_name[folder].get, endings)
                return next(filter(None, found), None)
        return None


def _index(folder: str) -> dict[str, str | None]:
    """Returns the pictures by all endings of their paths; None for those of several."""
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
        text = read_whole(path, _MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8: save it as UTF-8") from None
    except UserError as error:
        raise UserError(f"{path} cannot be read as a list: {error}") from None
    if path.lower().endswith((".jsonl", ".ndjson")):
        columns, table = _parse_json(text, path)
    else:
        columns, table = _parse_text(text, reading)
    if not table:
        raise UserError(
            f"{path} has no rows of a picture and its label; all rows must have "
            "the same number of columns"
        )
    used = _find_columns(path, columns, table, reading)
    unused = (name for i, name in enumerate(columns) if i not in used and name)

    def cell(row: Sequence[str], column: int | None) -> str:
        return row[column].strip() if column is not None and column < len(row) else ""

    rows = [_Row(*(cell(row, column) for column in used)) for row in table]
    return List(path, tuple(rows), columns, tuple(unused))


def _parse_json(text: str, path: str) -> tuple[tuple[str, ...], list[list[str]]]:
    """Reads an object a line, whose values are texts or numbers."""
    try:
        content = [json.loads(line) for line in text.splitlines() if line.strip()]
        columns = tuple(dict.fromkeys(itertools.chain.from_iterable(content)))
        rows = [[_as_text(row.get(name)) for name in columns] for row in content]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is no list in JSON: {error}") from None
    return columns, rows


def _as_text(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
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
        is_blank = delimiter == " " and width > 2 and not _has_known(rows[0], reading)
        if width > 1 and number >= 0.9 * (len(rows) - 1) and not is_blank:
            table = rows
            break
    else:  # a path with blanks, and the label
        table = [line.rsplit(None, 1) for line in lines]
    first = table[0] if table else []
    is_header = _has_known(first, reading) or not any(map(_PATH.search, first))
    columns = tuple(cell.strip() for cell in first) if is_header else ()
    return columns, [row for row in table[is_header:] if len(row) > 1]


def _has_known(row: Sequence[str], reading: Reading) -> bool:
    """Whether a row has the name of a column."""
    known = " ".join(_NAMES.values()).split()
    given = reading.image_column, reading.label_column, reading.split_column
    return any(_plain(cell) in known or cell in given for cell in row)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())


def _find_columns(path, columns: Sequence[str], table, reading: Reading) -> list:
    """Returns the numbers of the columns of the roles, and of the groups, or None."""
    given = reading.image_column, reading.label_column, reading.split_column
    for role, name in zip(_NAMES, given, strict=True):
        if name:
            choose_key(path, role, name, (), columns)
    if not columns:  # the picture and the label come first
        first, second = (_count_paths(table, column) for column in range(2))
        if 2 * max(first, second) < len(table[:_TRIED]):
            raise UserError(f"{path} names no pictures in its first two columns")
        return [0, 1, None, None] if first >= second else [1, 0, None, None]
    by_plain_name = {_plain(column): column for column in reversed(columns)}
    image, label, split = (
        name or next(filter(None, map(by_plain_name.get, known.split())), None)
        for name, known in zip(given, _NAMES.values(), strict=True)
    )
    if len(columns) == 2 and (image in columns or label in columns):
        first, second = columns
        image = image or (second if label == first else first)
        label = label or (second if image == first else first)
    image = choose_key(path, "image", image, (), columns)
    label = choose_key(path, "label", label, (), [c for c in columns if c != image])
    names = image, label, split, reading.group_by
    return [columns.index(name) if name in columns else None for name in names]


def _count_paths(table: Sequence[Sequence[str]], column: int) -> int:
    cells = (row[column] for row in table[:_TRIED])
    return sum(1 for cell in cells if _PATH.search(cell.strip()))

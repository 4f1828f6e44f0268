"""Parquet files with a picture and a label in each row, as on Hugging Face's hub.

A picture is bytes, or a pair of bytes and a path. Labels are texts or numbers; the file
may hold the names of numbers, which are their own names else.
"""

import collections
import contextlib
import functools
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from alexnet_tf.class_names import read_class_names
from alexnet_tf.errors import UserError
from alexnet_tf.pipeline.tfrecords import first_line
from data.source import (
    Item,
    Reading,
    Source,
    choose_key,
    data_set_name,
    sort_classes,
)
from data.sources.names import Classes, find_classes
from data.sources.shards import Shard, find_parts, find_shards

TAKES = ("class_names", "label_offset", "image_column", "label_column")
# "train-00000-of-00008.parquet", which may end in a hash; "train/0000.parquet".
_FILE = re.compile(
    r"(?P<prefix>.*?)[-_.]?(?P<index>\d+)?(-of-(?P<total>\d+))?(-[0-9a-f]{16})?\.parquet"
)
_IMAGE_COLUMNS = ("image", "img", "picture", "jpg", "png", "webp", "pixel_values")
_LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target", "category", "cls")
_BYTES = ("binary", "large_binary", "binary_view")
_TEXTS = ("string", "large_string", "string_view")
_ROWS = 16  # at a time


class _Columns(NamedTuple):
    image: str
    label: str
    is_text: bool  # the label
    class_names: tuple[str, ...]  # of labels that are numbers; () where nothing tells

    def read_label(self, row: Mapping[str, object]) -> int | str | None:
        """Returns a label, as a text where nothing names numbers; None for none."""
        label = row.get(self.label)
        if label is None or (isinstance(label, int) and label < 0):  # of a test split
            return None
        return label if self.class_names else str(label)


def find_files(root: str) -> list[Shard]:
    """Returns the Parquet files in a folder by their names, or the one that it is."""
    return find_shards(root, _parse)


def _parse(path: str) -> Shard | None:
    folder, name = os.path.split(path)
    if not (match := _FILE.fullmatch(name)):
        return None
    index, total = int(match["index"] or 0), int(match["total"] or 0)
    return Shard(path, folder, match["prefix"], index, total)


def open_source(input: str, reading: Reading) -> Source:
    """Returns the pictures in the Parquet files that `input` is, or holds."""
    files = find_files(input)
    if not files:
        raise UserError(f"there is no Parquet file in {input}")
    root, parts, left_out = find_parts(files, input)
    columns = _find_columns(parts[0][0], reading)
    counts, labelled = collections.Counter(), []
    for path, split in parts:
        if _find_columns(path, reading) != columns:
            raise UserError(
                f"{path} and {parts[0][0]} differ in their columns or in the names of "
                "their classes: move one of them away"
            )
        rows = _read(path, [columns.label])
        found = collections.Counter(map(columns.read_label, rows))
        if missing := found.pop(None, 0):
            left_out.add("rows with no label, or a negative one", path, missing)
        if found:
            labelled.append((path, split))
        counts += found
    if not counts:
        raise UserError(f"no row of {files[0].path} has a {columns.label}")
    names, offset = columns.class_names or sort_classes(counts), reading.label_offset
    if offset is not None and not columns.class_names:
        raise UserError(
            f"the labels of {files[0].path} are their own names: leave --label_offset "
            "out, or give --class_names, too"
        )
    if not reading.class_names:
        offset = offset or 0
    labels = {(label, "", ""): number for label, number in counts.items()}
    classes = find_classes(labels, names, offset)
    return Source(
        data_set_name(os.path.abspath(input).removesuffix(".parquet")),
        classes.names,
        labelled,
        functools.partial(_items, root, columns, classes),
        splits={split for _, split in labelled},
        num_items=counts.total(),
        notes=left_out.lines(),
    )


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
    """Inside, what is wrong with a file is an error that a person understands."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, UnicodeError) as error:
        raise UserError(
            f"{path} cannot be read: {first_line(error)}; copy it again"
        ) from None


def _find_columns(path: str, reading: Reading) -> _Columns:
    """Chooses the columns of a file by its schema."""
    import pyarrow.parquet
    from pyarrow import types

    with _reading(path):
        schema = pyarrow.parquet.read_schema(path)
    images, labels = [], {}
    for field in schema:
        kind = field.type
        if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        elif types.is_dictionary(kind):
            kind = kind.value_type
        if str(kind) in _BYTES:
            images.append(field.name)
        elif str(kind) in _TEXTS or types.is_integer(kind) or types.is_boolean(kind):
            labels[field.name] = str(kind) in _TEXTS
    if not images or not labels:
        what = "labels, as texts or whole numbers" if images else "pictures, as bytes"
        raise UserError(f"{path} has no column of {what}: write one or move it away")
    image = choose_key(path, "image", reading.image_column, _IMAGE_COLUMNS, images)
    label = choose_key(path, "label", reading.label_column, _LABEL_COLUMNS, [*labels])
    names = _read_names(schema.metadata or {}, label)
    if reading.class_names:
        names = read_class_names(reading.class_names)
    return _Columns(image, label, labels[label], names)


def _read_names(metadata: dict[bytes, bytes], label: str) -> tuple[str, ...]:
    """The names of the classes, where Hugging Face's library wrote the file."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return tuple(map(str, features[label]["names"]))
    except (LookupError, TypeError, ValueError, RecursionError):
        return ()


def _read(path: str, columns: list[str]) -> Iterator[dict]:
    """Yields the rows of a file by the names of columns."""
    import pyarrow.parquet

    # Without these two, all of a group of rows is read at once: gigabytes.
    buffers = {"pre_buffer": False, "buffer_size": 2**20}
    with _reading(path), pyarrow.parquet.ParquetFile(path, **buffers) as file:
        for batch in file.iter_batches(_ROWS, columns=columns):
            yield from batch.to_pylist()


def _items(
    root: str, columns: _Columns, classes: Classes, part: tuple[str, str]
) -> Iterator[Item]:
    """Yields the pictures of a file; what has none has no content, and is rejected."""
    path, split = part
    shard = os.path.relpath(path, root or ".")
    rows = _read(path, [columns.image, columns.label])
    for index, row in enumerate(rows):
        label = columns.read_label(row)
        if label is not None:
            image = row.get(columns.image)
            pair = image if isinstance(image, dict) else {"bytes": image}
            content, own = pair["bytes"], pair.get("path")
            if own and not content:
                raise UserError(
                    f"{path} has the path {own} in place of the picture: write the "
                    "picture into it, or make a CSV list of the paths"
                )
            name = f"{shard}/{index:06d}" + (f"/{own}" if own else "")
            yield Item(name, classes.find_label(label), content or b"", split)

"""Parquet files of pictures, as Hugging Face's hub has them, read by `pyarrow`."""

import collections
import functools
import json
import os
import re
from collections.abc import Iterator

from alexnet_tf.errors import UserError
from alexnet_tf.pictures.listing import LeftOut, find_folders, shown
from data.source import (
    Item,
    Reading,
    Source,
    data_set_name,
    find_splits,
    hold_out,
    our_splits,
    sort_classes,
)

TAKES = ("image_column", "label_column")


def find_files(root: str) -> list[str]:
    """Returns the Parquet files that a path is, or has below it."""
    if root.endswith(".parquet"):
        return [root]
    return [
        os.path.join(root, folder, name)
        for folder in (find_folders(root, LeftOut()) if os.path.isdir(root) else ())
        for name in sorted(os.listdir(os.path.join(root, folder)))
        if name.endswith(".parquet")
    ]


def open_source(input: str, reading: Reading) -> Source:
    """Returns the pictures of files such as `train-00000-of-00002.parquet`."""
    try:
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise UserError(
            f"{shown(input)} needs pyarrow; run: pip install pyarrow"
        ) from None
    files, groups = find_files(input), collections.defaultdict(list)
    for path in files:
        groups[re.sub(r"[-_.\d]+(of[-_.\d]+)?$", "", os.path.basename(path)[:-8])] += [
            path
        ]
    splits = hold_out(find_splits(groups, input)) or dict.fromkeys(groups, "")
    image, label = reading.image_column or "image", reading.label_column or "label"
    parts = [(path, splits[group]) for group in splits for path in groups[group]]
    try:
        tables = [parquet.ParquetFile(path) for path, _ in parts]
        labels = {
            v for t in tables for b in t.iter_batches(columns=[label]) for v in b[0]
        }
        known = json.loads(
            (tables[0].schema_arrow.metadata or {}).get(b"huggingface", "{}")
        )
    except Exception as error:  # pyarrow's own, of each version
        reason = " ".join(str(error).split())
        raise UserError(f"{shown(input)} cannot be read: {reason}") from None
    features = known.get("info", {}).get("features", {})
    names = features.get(label, {}).get("names")
    values = {value.as_py() for value in labels} - {None, -1}
    names = names or sort_classes(map(str, values))
    by_value = {
        v: v if features.get(label, {}).get("names") else names.index(str(v))
        for v in values
    }
    return Source(
        data_set_name(input.removesuffix(".parquet")),
        names,
        parts,
        functools.partial(_items, image, label, by_value),
        splits=our_splits(splits),
        holds_out="" in splits.values(),
        num_items=sum(table.metadata.num_rows for table in tables),
        files=[path for path, _ in parts],
    )


def _items(image: str, label: str, labels, part) -> Iterator[Item]:
    from pyarrow import parquet

    path, split = part
    rows = parquet.ParquetFile(path).iter_batches(64, columns=[image, label])
    rows = (row for batch in rows for row in batch.to_pylist())
    for index, row in enumerate(rows):
        content = row[image]["bytes"] if isinstance(row[image], dict) else row[image]
        name = f"{os.path.basename(path)}/{index:06d}"
        yield Item(name, labels.get(row[label], -1), content or b"", split)

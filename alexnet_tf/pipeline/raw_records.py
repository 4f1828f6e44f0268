"""Where the pixels and the labels of raw records are, found without reading them all.

A record is a `tf.train.Example`, a message of protocol buffers: features, a map whose
entries hold a key and a list of values. Only what stands around the values is read.
"""

import mmap
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from alexnet_tf.pipeline.data_set import DataSet, Split
from alexnet_tf.pipeline.tfrecords import record_spans

# Kinds of a `tf.train.Feature`, by their numbers in its definition.
_BYTES, _INT64 = 1, 3
# Kinds of a field on the wire: a number itself; a string or a message with its length.
_NUMBER, _STRING = 0, 2


def index_pixels(data_set: DataSet, split: Split) -> dict[str, np.ndarray]:
    """Finds the pixels in the raw records of a split.

    Returns:
        "begins": int64 `(n,)`, where in its file the pixels of a record begin, -1 for a
        record without a picture of the data set's shape; "labels": int64 `(n,)`, as
        stored.
    """
    begins = np.full(split.num_examples, -1, np.int64)
    labels = np.zeros(split.num_examples, np.int64)
    shards = zip(split.filenames, split.first_ids, split.shard_lengths, strict=True)
    for filename, first, length in shards:
        records = zip(range(length), _find_pixels(filename, data_set), strict=False)
        for i, found in records:
            if found:
                begins[first + i], labels[first + i] = found
    return {"begins": begins, "labels": labels}


def _find_pixels(filename: str, data_set: DataSet) -> Iterator[tuple[int, int] | None]:
    """Where the pixels of each record begin, and its label; None: no picture."""
    num_bytes = int(np.prod(data_set.image_shape))
    try:
        spans = list(record_spans(filename))
        with open(filename, "rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError, tf.errors.OpError):  # gone, or empty
        return
    with content:
        content.madvise(mmap.MADV_RANDOM)
        for begin, length in spans:
            try:
                found = _find_values(content, begin, begin + length)
                begin, end = found[data_set.image_key.encode(), _BYTES]
                label, _ = found[data_set.label_key.encode(), _INT64]
                label, _ = _read_number(content, label)
                yield (begin, label) if end - begin == num_bytes else None
            except (KeyError, ValueError, IndexError):
                yield None


def _find_values(content: mmap.mmap, begin: int, end: int) -> dict:
    """Where the features of an example with one value have it: by (key, kind)."""
    values = {}
    for _, *features in _read_fields(content, begin, end):
        for _, *entry in _read_fields(content, *features):
            parts = {number: span for number, *span in _read_fields(content, *entry)}
            key = content[slice(*parts[1])]
            for kind, *values_span in _read_fields(content, *parts[2]):
                spans = [span for _, *span in _read_fields(content, *values_span)]
                if len(spans) == 1:
                    values[key, kind] = spans[0]
    return values


def _read_fields(
    content: mmap.mmap, begin: int, end: int
) -> Iterator[tuple[int, int, int]]:
    """Yields number, begin and end of every field of a protocol buffer's message."""
    while begin < end:
        tag, begin = _read_number(content, begin)
        number, stop = _read_number(content, begin)
        if tag & 7 == _STRING:
            begin, stop = stop, stop + number
        if tag & 7 not in (_NUMBER, _STRING) or not begin <= stop <= end:
            raise ValueError("not the message of an example")
        yield tag >> 3, begin, stop
        begin = stop


def _read_number(content: mmap.mmap, begin: int) -> tuple[int, int]:
    """Reads a varint: 7 bits a byte, the lowest first; returns it and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = content[begin]
        begin += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value - 2**64 if value >= 2**63 else value, begin
    raise ValueError("not a varint")

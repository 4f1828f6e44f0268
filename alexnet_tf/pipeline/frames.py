"""Decoded images that can be had in any order: in memory, or raw records in files.

There is nothing to decode, so a crop is a slice of a tensor. Of raw records on a local
disk it is a slice of the file itself, which the system maps into memory.
"""

import ctypes
import dataclasses
import functools
import os
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from alexnet_tf.errors import UserError
from alexnet_tf.pipeline.data_set import DataSet, Split
from alexnet_tf.pipeline.examples import BadRecords, decode_in_order
from alexnet_tf.pipeline.measurements import describe_files, measured_once
from alexnet_tf.pipeline.raw_records import index_pixels
from alexnet_tf.pipeline.reading import read_all


def check_memory(num_images: int, size: int, split: str) -> None:
    """Says how much memory images will take; refuses what cannot fit."""
    needed = num_images * size * size * 3 / 2**30
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    what = f"{needed:.2f} GiB for the {num_images:,} decoded images of {split}"
    if needed > total:
        raise UserError(f"the cache needs {what}, of {total:.2f}; go without it")
    logging.info("caching in memory %s", what)


@dataclasses.dataclass(frozen=True)
class MemoryFrames:
    """Decoded images in memory.

    Attributes:
        images: uint8 `(n, frame, frame, 3)`.
        labels: int32 `(n,)`, -1 for a bad record.
        rows: int64 `(n,)`, which of `images` belongs to a record's id.
    """

    images: tf.Tensor
    labels: tf.Tensor
    rows: tf.Tensor

    @classmethod
    def load(
        cls, data_set: DataSet, split: str, frame: int, bad_records: BadRecords | None
    ) -> "MemoryFrames":
        """Decodes a split."""
        records = data_set.splits[split]
        number = records.num_examples
        check_memory(number, frame, split)
        chunks = decode_in_order(data_set, split, frame, frame, bad_records)
        images, labels = chunks.rebatch(number).get_single_element()
        order = read_all(records, ids_only=True).map(lambda record_id, _: record_id)
        order = order.batch(number).get_single_element()
        return cls(images, labels, tf.argsort(order))

    def crop(
        self, record_id: tf.Tensor, corner: tf.Tensor, size: int
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the crop, uint8 `(size, size, 3)`, and the label, an int64 scalar."""
        row = tf.gather(self.rows, record_id)  # cheaper than rows[record_id]
        begin = tf.concat([[tf.cast(row, tf.int32)], corner, [0]], axis=0)
        crop = tf.slice(self.images, begin, [1, size, size, 3])
        return crop[0], tf.cast(tf.gather(self.labels, row), tf.int64)


@dataclasses.dataclass(frozen=True)
class MappedFrames:
    """Raw records on a local disk.

    Checksums are left to `data.check`: to compute them would take as long as the rest.

    Attributes:
        shards: A list, of TensorFlow's, of the files' bytes, uint8.
        first_ids: int64, of the shards.
        begins: int64 `(n,)`, where in its shard the pixels of a record begin.
        labels: int64 `(n,)`, -1 for a bad record.
        width: Of the images, pixels.
    """

    shards: tf.Tensor
    first_ids: tf.Tensor
    begins: tf.Tensor
    labels: tf.Tensor
    width: int

    @staticmethod
    def suits(data_set: DataSet, split: Split, frame: int) -> bool:
        """Whether crops of a frame can be read like this."""
        is_local = "://" not in split.filenames[0]
        is_frame = data_set.image_shape == (frame, frame, 3)
        return data_set.encoding == "raw" and is_local and is_frame

    @classmethod
    def open(cls, data_set: DataSet, split: Split) -> "MappedFrames":
        """Maps the files, and finds the pixels in them."""
        files = describe_files(data_set.data_dir, split.filenames)
        measured_on = {
            "files": files,
            "shard_lengths": split.shard_lengths,
            "shape": data_set.image_shape,
            "keys": (data_set.image_key, data_set.label_key),
        }
        index = measured_once(
            data_set.data_dir,
            "pixels",
            measured_on,
            lambda: index_pixels(data_set, split),
        )
        with tf.device("CPU"):
            return cls(
                _map_files(split.filenames, files.values()),
                tf.constant(split.first_ids, tf.int64),
                tf.constant(index["begins"]),
                tf.constant(index["labels"] - data_set.label_offset),
                data_set.image_shape[1],
            )

    def crop(
        self, record_id: tf.Tensor, corner: tf.Tensor, size: int
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the crop, uint8 `(size, size, 3)`, and the label, an int64 scalar.

        Raises:
            InvalidArgumentError: The record has no pixels.
        """
        shard = tf.searchsorted(self.first_ids, [record_id], side="right")[0] - 1
        content = tf.raw_ops.TensorListGetItem(
            input_handle=self.shards,
            index=shard,
            element_shape=[-1],
            element_dtype=tf.uint8,
        )
        top, left = tf.unstack(tf.cast(corner, tf.int64))
        row = self.width * 3
        begin = tf.gather(self.begins, record_id)
        # No slice begins at -1, nor so far before it: that is an error.
        begin = tf.where(begin < 0, begin, begin + top * row)
        rows = tf.slice(content, [begin], [size * row])
        rows = tf.reshape(rows, [size, self.width, 3])
        crop = tf.slice(rows, [0, left, 0], [size, size, 3])
        return crop, tf.gather(self.labels, record_id)


def _map_files(filenames: Sequence[str], facts: Iterable[tuple]) -> tf.Tensor:
    """A list, of TensorFlow's, of the contents of files, in which nothing is copied."""
    contents = tf.raw_ops.TensorListReserve(
        element_shape=[-1], num_elements=len(filenames), element_dtype=tf.uint8
    )
    for i, (filename, size_and_date) in enumerate(zip(filenames, facts, strict=True)):
        contents = tf.raw_ops.TensorListSetItem(
            input_handle=contents, index=i, item=_map_file(filename, *size_and_date)
        )
    return contents


@functools.cache
def _map_file(filename: str, size: int = 0, _: int = 0) -> tf.Tensor:
    """Maps a file of a size, bytes, and a date."""
    if not size:
        return tf.zeros([0], tf.uint8)
    # As a constant it would be copied. "c": DLPack wants to be able to write.
    content = np.memmap(filename, np.uint8, mode="c")
    tensor = tf.experimental.dlpack.from_dlpack(content.__dlpack__())
    # Never freed: for that, a thread of TensorFlow would have to enter Python.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(tensor))
    return tensor

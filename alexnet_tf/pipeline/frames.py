"""Images that can be had in any order: in memory, or raw records on a local disk.

There is nothing to decode, so what would be small change beside a JPEG file decides
here: a chunk of images is one call, and pixels are copied as rarely as possible.
"""

import atexit
import functools
import math
import os
import threading
import time
import weakref
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from alexnet_tf.pipeline.data_set import DataSet, Split, record_spans
from alexnet_tf.pipeline.reading import BLOCK_SHARDS, find_record


class MemoryImages:
    """Decoded images in memory.

    Args:
        record_ids: int64 `(n,)`, those of the images.
        labels: int32 `(n,)`, -1 for a bad record.
        images: uint8 `(n, height, width, 3)`.
    """

    def __init__(self, record_ids: np.ndarray, labels: np.ndarray, images: np.ndarray):
        self._places = np.argsort(record_ids)
        self._labels = labels
        self._images = images

    def read(self, record_id: int) -> tuple[int, np.ndarray]:
        """Returns the label and the image, uint8 `(height, width, 3)`."""
        place = self._places[record_id]
        return self._labels[place], self._images[place]


class _Shard:
    """A TFRecord file of which any part can be read."""

    def __init__(self, filename: str):
        self._filename = filename
        self._file = os.open(filename, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file).atexit = False

    @functools.cached_property
    def spans(self) -> list[tuple[int, int]]:
        """Where the records are, and their lengths, bytes."""
        return list(record_spans(self._filename))

    def read(self, begin: int, length: int) -> bytes:
        return os.pread(self._file, length, begin)


class RawRecords:
    """Raw records on a local disk.

    A record is parsed when it is first asked for, to find its pixels; later they alone
    are read. Checksums are left to `data.check`: to compute them would take as long as
    all the rest.

    Args:
        data_set: With the encoding "raw", in files that the system can open.
        split: The part of it.
        report_bad: Is called with the id of a record that cannot be used, and what was
            read of it.
    """

    def __init__(
        self, data_set: DataSet, split: Split, report_bad: Callable[[int, bytes], None]
    ):
        self._data_set = data_set
        self._split = split
        self._report_bad = report_bad
        self._open = functools.lru_cache(maxsize=4 * BLOCK_SHARDS)(_Shard)
        self._labels = np.zeros(split.num_examples, np.int64)
        # Where in its shard the pixels of a record begin; 0 as long as not known.
        self._begins = np.zeros(split.num_examples, np.int64)

    @staticmethod
    def suits(data_set: DataSet, split: Split, frame: int) -> bool:
        """Whether crops of a frame can be read like this."""
        is_local = "://" not in split.filenames[0]
        is_frame = data_set.image_shape == (frame, frame, 3)
        return data_set.encoding == "raw" and is_local and is_frame

    def read(self, record_id: int) -> tuple[int, np.ndarray]:
        """Returns the label and the image, uint8 `(height, width, 3)`.

        Of a record that cannot be used, -1 and zeros.

        Raises:
            ValueError: The label is out of range.
        """
        filename, index = find_record(self._split, record_id)
        record, shape = b"", self._data_set.image_shape
        try:
            shard = self._open(filename)
            if not self._begins[record_id]:
                begin, length = shard.spans[index]
                record = shard.read(begin, length)
                self._labels[record_id], place = self._find_pixels(record)
                self._begins[record_id] = begin + place
            pixels = shard.read(self._begins[record_id], math.prod(shape))
            image = np.frombuffer(pixels, np.uint8).reshape(shape)
        except (OSError, IndexError, DecodeError, ValueError):
            self._report_bad(record_id, record)
            return -1, np.zeros(shape, np.uint8)
        label = self._labels[record_id]
        if not 0 <= label < self._data_set.num_classes:
            raise ValueError(f"[label out of range] [{record_id}] [{label}]")
        return label, image

    def _find_pixels(self, record: bytes) -> tuple[int, int]:
        """Returns the label, and where in the record the pixels begin."""
        data_set = self._data_set
        features = tf.train.Example.FromString(record).features.feature
        (label,) = features[data_set.label_key].int64_list.value
        (pixels,) = features[data_set.image_key].bytes_list.value
        if len(pixels) != math.prod(data_set.image_shape):
            raise ValueError("not of the shape of the others")
        place = record.index(pixels[:64])  # to look for all of them is slow
        while not record.startswith(pixels, place):
            place = record.index(pixels[:64], place + 1)
        return label - data_set.label_offset, place


def read_crops(
    images: MemoryImages | RawRecords,
    record_ids: tf.Tensor,
    corners: tf.Tensor,
    mirrored: tf.Tensor,
    size: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Reads crops of a chunk of images.

    Args:
        images: Where to read them.
        record_ids: int64 `(n,)`, which ones.
        corners: int32 `(n, 2)`, top and left of each crop, pixels.
        mirrored: bool `(n,)`, whether to turn it left to right.
        size: Height and width of the crops, pixels.

    Returns:
        int32 labels `(n,)` and uint8 images `(n, size, size, 3)`; -1 and zeros for a
        record that cannot be used.
    """

    def read():
        labels, *crops = tf.numpy_function(
            functools.partial(_copy_crops, images, size),
            [record_ids, corners, mirrored],
            [tf.int32, tf.uint8, tf.uint8],
        )
        # Of TensorFlow's ways to reverse, and to gather, the fast ones.
        crops = [tf.reshape(x, [-1, size, 3]) for x in crops]
        crops = [crops[0], tf.reverse(crops[1], [1])]
        crops = [tf.reshape(x, [-1, size, size, 3]) for x in crops]
        places = [tf.where(x)[:, 0] for x in (~mirrored, mirrored)]
        places = [tf.cast(x, tf.int32) for x in places]
        return labels, tf.dynamic_stitch(places, crops)

    def read_nothing():
        number = tf.size(record_ids)
        return tf.fill([number], -1), tf.zeros([number, size, size, 3], tf.uint8)

    return tf.cond(_calls.gate.is_closed(), read_nothing, read)


class Calls:
    """The calls from TensorFlow's threads to Python, for the end of the process.

    A thread that wants to run Python after the interpreter has begun to end is stopped
    for ever, and TensorFlow waits for it as long. So the calls end first: what passes
    the gate is counted, and nothing passes when it is closed.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._running = self._seen = 0

    @functools.cached_property
    def gate(self) -> tf.queue.QueueBase:
        """A resource of TensorFlow, asked for being closed before each call."""
        with tf.init_scope():
            return tf.queue.FIFOQueue(1, tf.bool)

    def __enter__(self):
        with self._lock:
            self._running += 1
            self._seen += 1

    def __exit__(self, *_):
        with self._lock:
            self._running -= 1

    def end(self) -> None:
        """Closes the gate and waits for the calls that had passed it, at most 10 s."""
        if "gate" not in vars(self):
            return
        self.gate.close()
        # A thread between the gate and Python is not seen: twenty times in a row there
        # must be none. Seconds would not do, the whole machine may stop for a while.
        quiet = 0
        for _ in range(2000):
            seen = self._seen
            time.sleep(0.005)
            quiet = 0 if self._running or self._seen != seen else quiet + 1
            if quiet == 20:
                break


_calls = Calls()
atexit.register(_calls.end)


def _copy_crops(images, size, record_ids, corners, mirrored) -> list[np.ndarray]:
    """The labels, the crops that stay as they are, and those to be mirrored."""
    labels = np.empty(len(record_ids), np.int32)
    counts = np.bincount(mirrored, minlength=2)
    crops = [_empty((count, size, size, 3)) for count in counts]
    free = [iter(x) for x in crops]
    examples = (x.tolist() for x in (record_ids, corners, mirrored))
    examples = zip(*examples, strict=True)
    with _calls:
        for place, (record_id, (top, left), side) in enumerate(examples):
            labels[place], image = images.read(record_id)
            next(free[side])[:] = image[top : top + size, left : left + size]
    return [labels, *crops]


def _empty(shape: tuple[int, ...]) -> np.ndarray:
    """An array whose memory TensorFlow takes over; it copies one at an odd address."""
    size, alignment = int(np.prod(shape)), 64
    memory = np.empty(size + alignment, np.uint8)
    begin = -memory.ctypes.data % alignment
    return memory[begin : begin + size].reshape(shape)

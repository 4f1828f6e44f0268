"""From records to labelled images, chunk by chunk; bad records are named, not fatal."""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from absl import logging
from google.protobuf.message import DecodeError

from alexnet_tf.errors import UserError
from alexnet_tf.pipeline.data_set import DataSet, Split
from alexnet_tf.pipeline.reading import find_record
from alexnet_tf.pipeline.tfrecords import first_line

# Images, at most, that one call decodes, one after another: twice as many fall out of
# the processor's cache before their colours change.
CHUNK = 64
_JPEG = {"channels": 3, "dct_method": "INTEGER_ACCURATE"}
_LOST = "missing, because the shard is gone, cut short or corrupt"


class BadRecords:
    """Collects the records that cannot be used, and warns once of each.

    The pipeline's threads put the records' ids into queues of TensorFlow; what is wrong
    with them is found out when somebody asks. So no thread of TensorFlow ever enters
    Python: one that did after the interpreter has begun to end would hang the process.
    To ask is also what tells a bad record from a bad disk or a full memory, which the
    pipeline cannot: a record that is good when it is read again is an error.
    """

    def __init__(self):
        self._reasons: dict[tuple[str, int], str] = {}
        self._sources = []
        self._lost_from: dict[str, int] = {}  # what follows a lost record is lost, too

    def __len__(self) -> int:
        return len(self.reasons)

    @property
    def reasons(self) -> dict[tuple[str, int], str]:
        """What is wrong, by (shard's path, index of the record in it).

        Raises:
            UserError: Nothing is wrong with a record that could not be read before.
        """
        for queue, data_set, split in self._sources:
            for record_id in queue.dequeue_many(queue.size()).numpy().tolist():
                if record_id >= 0:  # others only fill the last batch up
                    self._add(*find_record(split, record_id), data_set)
        return self._reasons

    def _add(self, filename: str, index: int, data_set: DataSet) -> None:
        if (filename, index) in self._reasons:
            return
        reason = _LOST
        if index < self._lost_from.get(filename, index + 1):
            reason = _why_bad(filename, index, data_set)
        if reason == _LOST:
            self._lost_from[filename] = min(index, self._lost_from.get(filename, index))
        self._reasons[filename, index] = reason
        logging.warning("bad record %d of %s: %s", index, filename, reason)

    def add_source(self, data_set: DataSet, split: Split) -> Callable:
        """Returns a function for graphs that takes ids of bad records of a split."""
        with tf.init_scope(), tf.device("CPU"):
            queue = tf.queue.FIFOQueue(-1, [tf.int64], [[]])  # -1: no limit
        self._sources.append((queue, data_set, split))
        return queue.enqueue_many


def _why_bad(filename: str, index: int, data_set: DataSet) -> str:
    """What is wrong with a record, which is read and decoded again."""
    name = f"record {index} of {filename}"
    try:
        records = tf.data.TFRecordDataset(filename).skip(index).take(1)
        record = next(records.as_numpy_iterator(), None)
        if record is None:
            return _LOST
        decode_record(record, data_set)
    except ValueError as error:
        return str(error)
    except (tf.errors.NotFoundError, tf.errors.DataLossError):
        return _LOST
    except tf.errors.OpError as error:  # of the disk, the network, the memory
        raise UserError(f"{name} cannot be read: {first_line(error)}") from None
    raise UserError(
        f"{name} is good, but could not be read or decoded before: see to the disk "
        "or the network that it lies on, and to the memory that is free"
    )


def decode_record(record: bytes, data_set: DataSet) -> tuple[np.ndarray, int]:
    """Returns the picture, uint8 `(size, size, 3)`, and the label of one record.

    Raises:
        ValueError: In words, why the record cannot be used.
    """
    try:
        features = tf.train.Example.FromString(record).features.feature
        (image_bytes,) = features["image"].bytes_list.value
        (label,) = features["label"].int64_list.value
    except (DecodeError, ValueError):
        raise ValueError(
            "not a tf.train.Example of one image (bytes) and one label (an integer)"
        ) from None
    if not 0 <= label < data_set.num_classes:
        last = data_set.num_classes - 1
        raise ValueError(f"label {label} is out of range: expected 0..{last}")
    corner, size = tf.constant([0, 0]), data_set.image_size
    try:
        return decode_crop(image_bytes, data_set, corner, size).numpy(), label
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(first_line(error)) from None


def decode_crop(
    image_bytes: tf.Tensor, data_set: DataSet, corner: tf.Tensor, size: int
) -> tf.Tensor:
    """Decodes a stored picture and cuts out a crop.

    Args:
        image_bytes: string scalar.
        data_set: Its data set.
        corner: int32 `(2,)`, top and left of the crop, pixels.
        size: Height and width of the crop, pixels.

    Returns:
        uint8 `(size, size, 3)`.

    Raises:
        InvalidArgumentError: It is no picture of the data set's size.
    """
    shape = [data_set.image_size, data_set.image_size, 3]
    if data_set.encoding == "raw":
        image = tf.reshape(tf.io.decode_raw(image_bytes, tf.uint8), shape)
    else:
        # Before a small file is decoded that declares a picture of gigabytes.
        declared = tf.io.extract_jpeg_shape(image_bytes)
        message = f"not a JPEG of {shape[0]}×{shape[1]} pixels"
        check = tf.debugging.assert_equal(declared, shape, message)
        with tf.control_dependencies([check]):
            image = tf.io.decode_jpeg(image_bytes, **_JPEG)
    return tf.slice(image, tf.concat([corner, [0]], axis=0), [size, size, 3])


def decode_chunk(
    decode: Callable,
    window: Sequence[tf.data.Dataset],
    num_classes: int,
    report_bad: Callable | None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes some examples one after another; one that fails gets the label -1.

    Args:
        decode: Function from an example's number in the chunk, its id and its record to
            the image, of static shape, and the label, int64.
        window: Ids and records of at most `CHUNK` examples.
        num_classes: Labels outside 0..num_classes-1 are failures too.
        report_bad: From `BadRecords.add_source`.

    Returns:
        uint8 images and int32 labels, batched; zeros and -1 where it failed.
    """
    classes = tf.range(num_classes)

    def decode_good(number, *example):
        image, label = decode(number, *example)
        return number, image, tf.gather(classes, label)  # an error where there is none

    # An error leaves its example out, at no cost for the others; of which sort it was
    # is found out afterwards (`BadRecords`).
    numbered = tf.data.Dataset.zip(tf.data.Dataset.range(CHUNK), *window)
    good = numbered.map(decode_good).ignore_errors()
    none = [tf.zeros([0, *spec.shape], spec.dtype) for spec in good.element_spec]
    good = good.batch(CHUNK).concatenate(tf.data.Dataset.from_tensors(tuple(none)))
    numbers, images, labels = good.take(1).get_single_element()

    def fill_gaps():
        ids = window[0].batch(CHUNK).get_single_element()
        at, shape = numbers[:, tf.newaxis], tf.shape(ids, tf.int64)
        all_labels = tf.scatter_nd(at, labels + 1, shape) - 1
        if report_bad:
            report_bad(ids[all_labels < 0])
        shape = tf.concat([shape, images.shape[1:]], 0)
        return tf.scatter_nd(at, images, shape), all_labels

    all_good = tf.size(labels, tf.int64) == window[0].cardinality()
    return tf.cond(all_good, lambda: (images, labels), fill_gaps)

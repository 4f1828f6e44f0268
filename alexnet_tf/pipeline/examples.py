"""From records to labelled images, chunk by chunk; bad records are named, not fatal."""

from collections.abc import Callable, Sequence

import tensorflow as tf
from absl import logging
from google.protobuf.message import DecodeError

from alexnet_tf.pipeline.data_set import DataSet, Split, parse_record
from alexnet_tf.pipeline.decoding import decode_any, decode_crop
from alexnet_tf.pipeline.reading import find_record, read_all
from alexnet_tf.pipeline.tfrecords import read_record

# Images, at most, that one call decodes, one after another: twice as many fall out of
# the processor's cache before their colours change.
CHUNK = 64
NAME_KEYS = ("file_name", "image/filename")  # of data.prepare and of ImageNet's shards


class BadRecords:
    """Collects the records that cannot be used, and warns once of each.

    The pipeline's threads put the records' ids into queues of TensorFlow; what is wrong
    with them is found out when somebody asks. So no thread of TensorFlow ever enters
    Python: one that did after the interpreter has begun to end would hang the process.
    """

    def __init__(self):
        self._reasons: dict[tuple[str, int], str] = {}
        self._sources = []

    def __len__(self) -> int:
        return len(self.reasons)

    @property
    def reasons(self) -> dict[tuple[str, int], str]:
        """What is wrong, by (shard's path, index of the record in it)."""
        for queue, data_set, split in self._sources:
            for record_id in queue.dequeue_many(queue.size()).numpy().tolist():
                self._add(*find_record(split, record_id), data_set)
        return self._reasons

    def _add(self, filename: str, index: int, data_set: DataSet) -> None:
        if (filename, index) not in self._reasons:
            reason = _why_bad(filename, index, data_set)
            self._reasons[filename, index] = reason
            logging.warning("bad record %d of %s: %s", index, filename, reason)

    def add_source(self, data_set: DataSet, split: Split) -> Callable:
        """Returns a function for graphs that takes ids of bad records of a split."""
        with tf.init_scope(), tf.device("CPU"):
            queue = tf.queue.FIFOQueue(-1, [tf.int64], [[]])  # -1: no limit
        self._sources.append((queue, data_set, split))
        return queue.enqueue_many


def _why_bad(filename: str, index: int, data_set: DataSet) -> str:
    record = read_record(filename, index)
    lost = "missing, because the shard is gone, cut short or corrupt"
    if record is None:
        return lost
    try:
        features = tf.train.Example.FromString(record).features.feature
    except DecodeError:
        return "not a tf.train.Example"
    image_key, label_key = data_set.image_key, data_set.label_key
    if len(features[image_key].bytes_list.value) != 1:
        return f"{image_key} is not one string of bytes"
    if len(features[label_key].int64_list.value) != 1:
        return f"{label_key} is not one integer"
    label, first = features[label_key].int64_list.value[0], data_set.label_offset
    if not first <= label < first + data_set.num_classes:
        last = first + data_set.num_classes - 1
        return f"label {label} is out of range: expected {first}..{last}"
    return _why_no_picture(features[image_key].bytes_list.value[0], data_set) or lost


def _why_no_picture(image_bytes: bytes, data_set: DataSet) -> str | None:
    shape = data_set.image_shape
    if data_set.encoding == "raw":
        is_picture = len(image_bytes) == tf.TensorShape(shape).num_elements()
        return None if is_picture else f"not the pixels of a picture of {shape}"
    try:
        image = decode_any(tf.constant(image_bytes))
    except tf.errors.OpError as error:  # between the names of the operations
        return error.message.splitlines()[0].split("}} ")[-1].split(" [Op:")[0]
    if shape and image.shape != shape:
        return f"a picture of {tuple(image.shape)}, not of {shape}"
    return None


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
    numbered = tf.data.Dataset.zip(tf.data.Dataset.range(CHUNK), *window)
    # An error leaves its example out, at no cost for the others.
    good = numbered.map(lambda *args: (args[0], *decode(*args))).ignore_errors()
    none = [tf.zeros([0, *spec.shape], spec.dtype) for spec in good.element_spec]
    good = good.batch(CHUNK).concatenate(tf.data.Dataset.from_tensors(tuple(none)))
    numbers, images, labels = good.take(1).get_single_element()
    in_range = (labels >= 0) & (labels < num_classes)
    labels = tf.cast(tf.where(in_range, labels, -1), tf.int32)

    def fill_gaps():
        ids = window[0].batch(CHUNK).get_single_element()
        at, shape = numbers[:, tf.newaxis], tf.shape(ids, tf.int64)
        all_labels = tf.scatter_nd(at, labels + 1, shape) - 1
        if report_bad:
            report_bad(ids[all_labels < 0])
        shown = tf.where(labels[:, None, None, None] >= 0, images, 0)
        shape = tf.concat([shape, images.shape[1:]], 0)
        return tf.scatter_nd(at, shown, shape), all_labels

    all_decoded = tf.size(labels, tf.int64) == window[0].cardinality()
    all_good = all_decoded & tf.reduce_all(in_range)
    return tf.cond(all_good, lambda: (images, labels), fill_gaps)


def decode_in_order(
    data_set: DataSet,
    split: str,
    size: int,
    frame: int,
    bad_records: BadRecords | None = None,
    chunk: int = CHUNK,
    *,
    start: int = 0,
    with_names: bool = False,
) -> tf.data.Dataset:
    """Every example of a split once, centrally cropped, in chunks.

    Args:
        data_set: The data.
        split: Name of the split.
        size: Height and width of the crops, pixels.
        frame: Of what they are cut from.
        bad_records: Collects the records that cannot be used.
        chunk: Examples in a chunk, at most `CHUNK`.
        start: Examples to leave out first.
        with_names: Whether to yield the pictures' names, too.

    Returns:
        (images, labels), as `decode_chunk` has them, or (images, labels, names), string
        `(chunk,)`, "" where a record has none.
    """
    records = data_set.splits[split]
    report_bad = None
    if bad_records is not None:
        report_bad = bad_records.add_source(data_set, records)
    corner = tf.constant([(frame - size) // 2] * 2)

    def decode(_, __, record):
        image_bytes, label = parse_record(record, data_set)
        return decode_crop(image_bytes, data_set, corner, size, frame), label

    @tf.autograph.experimental.do_not_convert  # which takes longer than to trace it
    def decode_window(*window):
        decoded = decode_chunk(decode, window, data_set.num_classes, report_bad)
        return (*decoded, _find_names(*window)) if with_names else decoded

    chunks = read_all(records).skip(start).window(chunk)
    return chunks.map(decode_window, tf.data.AUTOTUNE)


def _find_names(ids: tf.data.Dataset, records: tf.data.Dataset) -> tf.Tensor:
    """The names of the pictures of some records, "" for those that cannot be read."""
    absent = tf.io.FixedLenFeature((), tf.string, default_value="")

    def find(number, record):
        parsed = tf.io.parse_single_example(record, dict.fromkeys(NAME_KEYS, absent))
        return number, tf.strings.join([parsed[key] for key in NAME_KEYS])

    numbered = tf.data.Dataset.zip(tf.data.Dataset.range(CHUNK), records)
    good = numbered.map(find).ignore_errors().batch(CHUNK)
    none = tf.data.Dataset.from_tensors(
        (tf.zeros([0], tf.int64), tf.zeros([0], "string"))
    )
    numbers, names = good.concatenate(none).take(1).get_single_element()
    empty = tf.fill([ids.cardinality()], "")
    return tf.tensor_scatter_nd_update(empty, numbers[:, tf.newaxis], names)

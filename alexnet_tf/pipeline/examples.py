"""From records to labelled images, chunk by chunk; bad records are named, not fatal."""

from collections.abc import Callable, Sequence

import tensorflow as tf
from absl import logging

from alexnet_tf.pipeline.data_set import DataSet, Split, parse_record
from alexnet_tf.pipeline.decoding import decode_any, decode_crop
from alexnet_tf.pipeline.reading import find_record, read_all

# Images, at most, that one call decodes, one after another: twice as many fall out of
# the processor's cache before their colours change.
CHUNK = 64


class BadRecords:
    """Collects the records that could not be decoded, and warns once of each.

    Attributes:
        reasons: By (shard's path, index of the record in it).
    """

    def __init__(self):
        self.reasons: dict[tuple[str, int], str] = {}

    def __len__(self) -> int:
        return len(self.reasons)

    def add(self, filename: str, index: int, reason: str) -> None:
        """Adds a record, once however often it is met."""
        if (filename, index) not in self.reasons:
            self.reasons[filename, index] = reason
            logging.warning("bad record %d of %s: %s", index, filename, reason)


def _why_bad(record: bytes, data_set: DataSet) -> str:
    if not record:
        return "missing, because the shard is gone, cut short or corrupt"
    try:
        image_bytes, _ = parse_record(tf.constant(record), data_set)
        decode_any(image_bytes)
    except tf.errors.OpError as error:
        return error.message.splitlines()[0]
    return f"not a picture of the shape {data_set.image_shape}"


def report_bad(
    bad_records: BadRecords | None,
    data_set: DataSet,
    split: Split,
    record_id: int,
    record: bytes,
) -> None:
    """Adds a record of a split to the bad ones, with what is wrong with it."""
    if bad_records is not None:
        place = find_record(split, record_id)
        bad_records.add(*place, _why_bad(record, data_set))


def decode_chunk(
    decode: Callable,
    window: Sequence[tf.data.Dataset],
    data_set: DataSet,
    split: Split,
    bad_records: BadRecords | None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes some examples one after another; one that fails gets the label -1.

    Args:
        decode: Function from an example's place in the chunk, its id and its record to
            the label and the image, of static shape.
        window: Ids and records of at most `CHUNK` examples.
        data_set: Where they are from.
        split: The part of it.
        bad_records: Collects what fails.

    Returns:
        int32 labels and uint8 images, batched; zeros where it failed.
    """
    num_examples = window[0].cardinality()[tf.newaxis]
    numbered = tf.data.Dataset.zip(tf.data.Dataset.range(CHUNK), *window)
    # An error leaves its example out, at no cost for the others.
    good = numbered.map(
        lambda place, record_id, record: (
            place,
            record_id,
            *decode(place, record_id, record),
        )
    ).ignore_errors()
    none = [tf.zeros([0, *spec.shape], spec.dtype) for spec in good.element_spec]
    good = good.batch(CHUNK).concatenate(tf.data.Dataset.from_tensors(tuple(none)))
    places, good_ids, labels, images = good.take(1).get_single_element()
    wrong = (labels < 0) | (labels >= data_set.num_classes)
    message = ["label out of range", good_ids[wrong], labels[wrong]]
    check = tf.debugging.Assert(~tf.reduce_any(wrong), message, summarize=1)

    def report(ids, records, good_ids):
        for record_id, record in zip(ids, records, strict=True):
            if record_id not in good_ids:
                report_bad(bad_records, data_set, split, int(record_id), record)

    def fill():
        if bad_records is not None:
            examples = tf.data.Dataset.zip(*window).batch(CHUNK)
            arguments = [*examples.get_single_element(), good_ids]
            tf.numpy_function(report, arguments, [])
        filled = [
            tf.scatter_nd(places[:, None], x, tf.concat([num_examples, x.shape[1:]], 0))
            for x in (labels + 1, images)
        ]
        return filled[0] - 1, filled[1]

    with tf.control_dependencies([check]):
        some_are_bad = tf.size(places, tf.int64) < num_examples[0]
        return tf.cond(some_are_bad, fill, lambda: (labels, images))


def decode_in_order(
    data_set: DataSet,
    split: str,
    size: int,
    frame: int,
    chunk: int,
    bad_records: BadRecords | None,
) -> tf.data.Dataset:
    """Every example of a split once, centrally cropped: (images, labels), in chunks."""
    records = data_set.splits[split]
    corner = tf.constant([(frame - size) // 2] * 2)

    def decode(_, __, record):
        image_bytes, label = parse_record(record, data_set)
        return label, decode_crop(image_bytes, data_set, corner, size, frame)

    def decode_window(*window):
        args = (decode, window, data_set, records, bad_records)
        labels, images = decode_chunk(*args)
        return images, labels

    return read_all(records).window(chunk).map(decode_window, tf.data.AUTOTUNE)

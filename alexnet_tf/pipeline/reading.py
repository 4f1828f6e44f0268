"""The records of a split, in the order on disk and in the order of training.

A record's id counts through the shards of its split. The examples of a training run
stand at positions 0, 1, 2, …: position p is the (p mod N)-th example of epoch p div N.
An epoch draws an order of its shards, reads a group of them side by side, a record of
each in turn, then the next group, and draws at random from the next few thousand
records of a group. All draws depend on the seed and the epoch or group alone, so the
order is the same wherever a run starts. One that starts inside a group reads what comes
before in it and throws that away: more than 100,000 records a second from memory, and
as fast as the disk is else, a few seconds for ImageNet.
"""

import bisect
import os

import numpy as np
import tensorflow as tf

from alexnet_tf.pipeline.data_set import DataSet, Split

SIDE_BY_SIDE = 16  # shards
# What the shuffle draws from: the records are in random order on disk already, so that
# no more is needed than that neighbours are not the same in each epoch.
SHUFFLE_RECORDS, SHUFFLE_BYTES = 10_000, 256 * 2**20
_JPEG_PART = 4  # of its pixels' size a JPEG of quality 95 has less than a 4th


def find_record(split: Split, record_id: int) -> tuple[str, int]:
    """The shard and the index in it of the record_id-th record of a split."""
    shard = bisect.bisect_right(split.first_ids, record_id) - 1
    return split.filenames[shard], record_id - split.first_ids[shard]


def parse_record(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Parses one record, without decoding the picture.

    Args:
        serialized: string scalar, a `tf.train.Example`.

    Returns:
        The picture's bytes, a string scalar, and its label, an int64 scalar; it may be
        out of range.
    """
    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }
    example = tf.io.parse_single_example(serialized, features)
    return example["image"], example["label"]


def _shard_reader(split: Split, ids_only: bool):
    """A function from a shard's number to its (id, record)."""
    filenames = tf.constant(split.filenames)
    first_ids = tf.constant(split.first_ids, tf.int64)
    lengths = tf.constant(split.shard_lengths, tf.int64)
    nothing = tf.data.Dataset.from_tensors("").repeat()

    def read(shard):
        ids = tf.data.Dataset.range(first_ids[shard], first_ids[shard] + lengths[shard])
        if ids_only:
            return tf.data.Dataset.zip(ids, nothing)
        records = tf.data.TFRecordDataset(filenames[shard])
        # A shard that is gone, corrupt or cut short gives empty records from there on:
        # bad ones, each with its name, and the positions of all others stay what they
        # were. The ids, one of which goes with each error, put an end to the errors.
        records = tf.data.Dataset.zip(ids, records).ignore_errors()
        records = records.map(lambda _, record: record).concatenate(nothing)
        return tf.data.Dataset.zip(ids, records)

    return read


def records_in_order(split: Split) -> tf.data.Dataset:
    """(id, record) of a split once, by their ids."""
    shards = tf.data.Dataset.range(len(split.filenames))
    return shards.flat_map(_shard_reader(split, ids_only=False))


def shuffled_records(
    data_set: DataSet, split: str, seed: int, start: int, ids_only: bool
) -> tf.data.Dataset:
    """(position, (id, record)) of every example from a position on, without end.

    Args:
        data_set: The data.
        split: Name of the split.
        seed: The seed of the order.
        start: The first position.
        ids_only: Whether to read nothing and give empty records.
    """
    records, window = data_set.splits[split], shuffle_window(data_set)
    read, lengths = _shard_reader(records, ids_only), np.array(records.shard_lengths)
    groups_per_epoch = -(-len(lengths) // SIDE_BY_SIDE)
    # One thread is enough for a local disk, and cheaper where cores are few.
    in_parallel = "://" in records.filenames[0] or os.cpu_count() > 8
    num_parallel_calls = tf.data.AUTOTUNE if in_parallel else None

    @tf.autograph.experimental.do_not_convert  # which takes longer than to trace it
    def read_group(group):
        # The epoch draws an order of all shards; this group has some of them.
        epoch = group // groups_per_epoch
        begin = group % groups_per_epoch * SIDE_BY_SIDE
        seeds = tf.stack([tf.constant(seed, tf.int64), -1 - epoch])
        keys = tf.random.stateless_uniform([len(lengths)], seeds)
        order = tf.argsort(keys, stable=True)
        before, shards = order[:begin], order[begin : begin + SIDE_BY_SIDE]
        position = tf.reduce_sum(tf.gather(lengths, before))
        position += epoch * records.num_examples
        end = position + tf.reduce_sum(tf.gather(lengths, shards))
        # A group that ends before the start is left out, and none of it is opened.
        shards = shards[: tf.where(end > start, SIDE_BY_SIDE, 0)]
        examples = tf.data.Dataset.from_tensor_slices(shards).interleave(
            read, cycle_length=SIDE_BY_SIDE, num_parallel_calls=num_parallel_calls
        )
        examples = _shuffle(examples, window, seed, group)
        positions = tf.data.Dataset.range(position, tf.int64.max)
        examples = tf.data.Dataset.zip(positions, examples)
        return examples.skip(tf.maximum(start - position, 0))

    first = start // records.num_examples * groups_per_epoch
    return tf.data.Dataset.range(first, tf.int64.max).flat_map(read_group)


def shuffle_window(data_set: DataSet) -> int:
    """Records that the shuffle draws from, as the card alone has it."""
    num_bytes = 3 * data_set.image_size**2
    if data_set.encoding == "jpeg":
        num_bytes = -(-num_bytes // _JPEG_PART)
    return max(1, min(SHUFFLE_RECORDS, SHUFFLE_BYTES // num_bytes))


def _shuffle(dataset, buffer_size, seed, group) -> tf.data.Dataset:
    """`Dataset.shuffle` that does not depend on TensorFlow's global seed."""
    variant = tf.raw_ops.ShuffleDataset(
        input_dataset=tf.data.experimental.to_variant(dataset),
        buffer_size=tf.constant(buffer_size, tf.int64),
        seed=tf.constant(seed, tf.int64),
        seed2=group + 1,  # two zeros would mean any seed
        reshuffle_each_iteration=False,
        output_types=[tf.int64, tf.string],
        output_shapes=[[], []],
    )
    return tf.data.experimental.from_variant(variant, dataset.element_spec)

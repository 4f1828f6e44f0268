"""The records of a split in the order of training, from any place of a run on.

The examples of a training run stand at positions 0, 1, 2, …; position p is place
p mod N of epoch p div N. An epoch takes its shards in a random order, a block of them
at a time: the shards of a block are read in turn, a record of each, and every window of
that stream is shuffled. So any place of a run is reached by opening the shards of one
block and skipping records there.

An epoch of the shards A (a1 a2 a3), B (b1 b2) and C (c1 c2), with blocks of two shards
and windows of three records:

    order of the shards, drawn:     C A B
    block 1, C and A in turn:       c1 a1 c2 | a2 a3      windows: c1 a1 c2, a2 a3
    block 2, B alone:               b1 b2                 window: b1 b2
    each window shuffled:           a1 c1 c2   a3 a2   b2 b1
    to start at position 4 (a2):    skip c1 c2 of C and a1 of A; shuffle; skip one
"""

import bisect
import contextlib
import dataclasses
import os

import numpy as np
import tensorflow as tf

from alexnet_tf.pipeline.data_set import Split

BLOCK_SHARDS = 16  # shards that are read side by side
SHUFFLE_RECORDS = 10_000  # of a window
SHUFFLE_BYTES = 128 * 2**20  # of a window; two of them are in memory


def find_record(split: Split, record_id: int) -> tuple[str, int]:
    """The shard and the index in it of the record_id-th record of a split."""
    shard = bisect.bisect_right(split.first_ids, record_id) - 1
    return split.filenames[shard], record_id - split.first_ids[shard]


def _read_in_turn(
    split: Split, shards: tf.Tensor, skips: tf.Tensor, ids_only: bool = False
) -> tf.data.Dataset:
    """(id, record) of up to `BLOCK_SHARDS` shards, a record of each in turn.

    Args:
        split: Whose records; ids count through its shards.
        shards: int64 `(n,)`, which ones.
        skips: int64 `(n,)`, records to skip in each.
        ids_only: Whether to read nothing and give empty records.
    """
    filenames = tf.constant(split.filenames)
    first_ids = tf.constant(split.first_ids, tf.int64)
    lengths = tf.constant(split.shard_lengths, tf.int64)
    whole_lengths = tf.constant(split.whole_lengths or split.shard_lengths, tf.int64)
    nothing = tf.data.Dataset.from_tensors("").repeat()

    def read(shard, skip):
        first, length = first_ids[shard], lengths[shard]
        ids = tf.data.Dataset.range(first + skip, first + length)
        if ids_only:
            return tf.data.Dataset.zip(ids, nothing)
        records = tf.data.TFRecordDataset(filenames[shard], split.compression)
        records = records.take(whole_lengths[shard]).skip(skip)
        # A shard that is corrupt or cut short gives empty records from there on: bad
        # ones, each with its name, and the places of all others stay what they were.
        # One that cannot be opened gives the same error at every attempt: the ids, one
        # of which goes with each, put an end to them.
        records = tf.data.Dataset.zip(ids, records).ignore_errors()
        records = records.map(lambda _, record: record).concatenate(nothing)
        return tf.data.Dataset.zip(ids, records)

    # One thread is enough for a local disk, and cheaper where cores are few.
    in_parallel = "://" in split.filenames[0] or os.cpu_count() > 8
    return tf.data.Dataset.from_tensor_slices((shards, skips)).interleave(
        read,
        cycle_length=BLOCK_SHARDS,
        num_parallel_calls=tf.data.AUTOTUNE if in_parallel else None,
    )


def read_all(split: Split, ids_only: bool = False) -> tf.data.Dataset:
    """(id, record) of a split, once, in a fixed order."""
    shards = tf.range(len(split.filenames), dtype=tf.int64)
    return _read_in_turn(split, shards, tf.zeros_like(shards), ids_only)


def _shuffle_shards(split: Split, seed: int, epoch: tf.Tensor | int) -> tf.Tensor:
    """The shards of an epoch in their order, int64."""
    seeds = tf.stack([seed, -1 - tf.cast(epoch, tf.int64)])
    keys = tf.random.stateless_uniform([len(split.filenames)], seeds)
    return tf.cast(tf.argsort(keys, stable=True), tf.int64)


@dataclasses.dataclass(frozen=True)
class _Start:
    """What to open and what to skip in order to start inside an epoch.

    Attributes:
        block: Block of the epoch.
        shards: Of that block, in the order of reading.
        skips: Records to skip in each of `shards`.
        window: First window of the block.
        skip: Examples of that window to skip once it is shuffled.
    """

    block: int
    shards: np.ndarray
    skips: np.ndarray
    window: int
    skip: int


def _find_start(split: Split, seed: int, position: int, window_size: int) -> _Start:
    lengths = np.array(split.shard_lengths, np.int64)
    epoch, place = divmod(position, split.num_examples)
    shards = _shuffle_shards(split, seed, epoch).numpy()
    blocks = np.split(shards, range(BLOCK_SHARDS, len(shards), BLOCK_SHARDS))
    ends = np.cumsum([lengths[block].sum() for block in blocks])
    number = int(np.searchsorted(ends, place, side="right"))
    shards = blocks[number]
    place -= int(ends[number] - lengths[shards].sum())
    window, skip = divmod(place, window_size)
    # Reading in turn gives all first records, then all second ones, and so on.
    slots = np.repeat(np.arange(len(shards)), lengths[shards])
    turns = np.concatenate([np.arange(length) for length in lengths[shards]])
    slots = slots[np.lexsort((slots, turns))]
    done = window * window_size
    skips = np.bincount(slots[:done], minlength=len(shards))
    next_slot = slots[done]
    return _Start(
        number, np.roll(shards, -next_slot), np.roll(skips, -next_slot), window, skip
    )


def _bytes_per_record(split: Split) -> int:
    """Of the longest shard that is there; 0 if none is."""
    for shard in np.argsort(split.shard_lengths)[::-1]:
        with contextlib.suppress(tf.errors.NotFoundError):
            size = tf.io.gfile.stat(split.filenames[shard]).length
            return size // max(1, split.shard_lengths[shard])
    return 0


def _shuffle(dataset, buffer_size, seed, position) -> tf.data.Dataset:
    """`Dataset.shuffle` that does not depend on TensorFlow's global seed."""
    variant = tf.raw_ops.ShuffleDataset(
        input_dataset=tf.data.experimental.to_variant(dataset),
        buffer_size=tf.constant(buffer_size, tf.int64),
        seed=tf.constant(seed, tf.int64),
        seed2=position + 1,  # two zeros would mean any seed
        reshuffle_each_iteration=False,
        output_types=[tf.int64, tf.string],
        output_shapes=[[], []],
    )
    return tf.data.experimental.from_variant(variant, dataset.element_spec)


def shuffled_records(
    split: Split, seed: int, start: int, ids_only: bool
) -> tf.data.Dataset:
    """(position, (id, record)) of every example from a position on, without end.

    Args:
        split: Whose records; ids count through its shards.
        seed: Of the order.
        start: The first position.
        ids_only: Whether to read nothing and give empty records.
    """
    bytes_per_record = max(1, _bytes_per_record(split))
    window_size = max(1, min(SHUFFLE_RECORDS, SHUFFLE_BYTES // bytes_per_record))
    num_blocks = -(-len(split.filenames) // BLOCK_SHARDS)
    first = _find_start(split, seed, start, window_size)
    first_block = start // split.num_examples * num_blocks + first.block

    @tf.autograph.experimental.do_not_convert  # which takes longer than to trace it
    def read_block(block):
        epoch, number = block // num_blocks, block % num_blocks
        shards = _shuffle_shards(split, seed, epoch)
        before, shards = tf.split(shards, [number * BLOCK_SHARDS, -1])
        lengths = tf.constant(split.shard_lengths, tf.int64)
        position = epoch * split.num_examples + tf.reduce_sum(
            tf.gather(lengths, before)
        )
        shards, skips, window = tf.cond(
            block == first_block,
            lambda: (first.shards, first.skips, np.int64(first.window)),
            lambda: (
                shards[:BLOCK_SHARDS],
                tf.zeros_like(shards[:BLOCK_SHARDS]),
                np.int64(0),
            ),
        )
        windows = _read_in_turn(split, shards, skips, ids_only).window(window_size)
        positions = tf.data.Dataset.range(
            position + window * window_size, tf.int64.max, window_size
        )
        return tf.data.Dataset.zip(positions, windows)

    @tf.autograph.experimental.do_not_convert
    def shuffle_window(position, window):
        examples = _shuffle(tf.data.Dataset.zip(*window), window_size, seed, position)
        positions = tf.data.Dataset.range(position, tf.int64.max)
        skip = tf.where(position + first.skip == start, np.int64(first.skip), 0)
        return tf.data.Dataset.zip(positions, examples).skip(skip)

    blocks = tf.data.Dataset.range(first_block, tf.int64.max)
    windows = blocks.flat_map(read_block).prefetch(1)
    return windows.flat_map(shuffle_window)

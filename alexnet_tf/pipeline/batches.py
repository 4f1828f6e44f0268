"""Records → shuffled, augmented, batched uint8 images, the same ones every time.

`reading.py` says which record stands at a position of a run; what the augmentation
draws from (seed, position) is the same wherever a run starts.
"""

import functools
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from alexnet_tf.errors import UserError
from alexnet_tf.pipeline import augmentation
from alexnet_tf.pipeline.data_set import DataSet, parse_record
from alexnet_tf.pipeline.decoding import decode_crop, frame_size
from alexnet_tf.pipeline.examples import (
    CHUNK,
    BadRecords,
    decode_chunk,
    decode_in_order,
)
from alexnet_tf.pipeline.frames import MappedFrames, MemoryFrames, check_memory
from alexnet_tf.pipeline.reading import shuffled_records
from alexnet_tf.pipeline.statistics import PixelStatistics, pixel_statistics

COLORS = ("jitter", "pca", "none")
_READ_BATCH = 128


def training_batches(
    data_set: DataSet,
    *,
    global_batch_size: int,
    seed: int,
    split: str = "train",
    start_step: int = 0,
    image_size: int = 224,
    color: str = "jitter",
    pca_source_2012: bool = False,
    statistics: PixelStatistics | None = None,
    color_until_epoch: float | None = None,
    cache: bool = False,
    data_service: str | None = None,
    input_context: tf.distribute.InputContext | None = None,
    bad_records: BadRecords | None = None,
) -> tf.data.Dataset:
    """The batches of a training run from a step on, without end.

    Args:
        data_set: The data.
        global_batch_size: Images in a step, over all replicas.
        seed: Of the order and of the augmentation.
        split: Name of the split.
        start_step: Steps done; the batches are those that an uninterrupted run yields
            from there on.
        image_size: Height and width of the crops, pixels.
        color: "jitter" (brightness, contrast, saturation), "pca" (section 4.1) or
            "none".
        pca_source_2012: Whether "pca" is that of the source of 2012.
        statistics: What "pca" needs; None for those of the data set.
        color_until_epoch: Epoch from which on colours stay as they are.
        cache: Whether to decode all images into memory first. The batches are the same,
            but for the rounding of pictures that have to be scaled.
        data_service: Address of a tf.data service, "grpc://host:port", that reads and
            augments in place of this machine. Its workers take a block of shards each:
            every example still comes once an epoch, but batches arrive in any order.
        input_context: This worker's place among the input workers; together they get
            the batches that a single one would.
        bad_records: Collects the records that cannot be used (not those that a data
            service meets).

    Returns:
        Batches of this worker, of the size that one replica takes: uint8 RGB
        `(batch, image_size, image_size, 3)` and int32 labels `(batch,)`, -1 where a
        record could not be used.

    Raises:
        UserError: An argument is out of its range, or the cache does not fit.
    """
    if color not in COLORS:
        raise UserError(f"color must be one of {', '.join(COLORS)}, received {color!r}")
    if cache and data_service:
        raise UserError("cache and data_service exclude each other; choose one")
    records = data_set.splits[split]
    if not records.num_examples:
        raise UserError(f"the split {split} of {data_set.data_dir} holds no examples")
    if data_service:
        bad_records = None  # its queue is out of reach there
    frame = frame_size(data_set, image_size)
    frames = None
    if cache:
        frames = MemoryFrames.load(data_set, split, frame, bad_records)
    elif not data_service and MappedFrames.suits(data_set, records, frame):
        frames = MappedFrames.open(data_set, records)
    crop = _make_crop(data_set, frame, image_size, frames)
    report_bad = None
    if bad_records is not None:
        report_bad = bad_records.add_source(data_set, records)
    last_position = tf.int64.max
    if color_until_epoch is not None:
        last_position = round(color_until_epoch * records.num_examples)
    if color == "pca" and statistics is None:
        statistics = pixel_statistics(data_set, image_size)
    recolor = _make_recolor(color, seed, statistics, pca_source_2012)
    context = input_context or tf.distribute.InputContext()
    batch_size = context.get_per_replica_batch_size(global_batch_size)
    chunk_size = min(batch_size, CHUNK)

    def make_chunk(positions, window):
        positions = positions.batch(chunk_size).get_single_element()
        positions = tf.ensure_shape(positions, [chunk_size])
        uniform = augmentation.draw_uniform(seed, positions)
        corners = tf.cast(uniform[:, :2] * (frame - image_size + 1), tf.int32)
        decode = functools.partial(crop, corners, uniform[:, 2] < 0.5)
        decoded = decode_chunk(decode, window, data_set.num_classes, report_bad)
        images = tf.ensure_shape(decoded[0], [chunk_size, image_size, image_size, 3])
        labels = tf.ensure_shape(decoded[1], [chunk_size])
        active = (positions < last_position) & (labels >= 0)
        return recolor(images, positions, uniform[:, 3:], active), labels

    start = start_step * global_batch_size
    examples = shuffled_records(records, seed, start, ids_only=frames is not None)
    if not data_service:
        worker = context.input_pipeline_id
        examples = examples.shard(context.num_input_pipelines, worker)
    batches = examples.window(chunk_size).map(make_chunk, tf.data.AUTOTUNE)
    batches = batches.rebatch(batch_size, drop_remainder=True)
    if data_service:
        name = f"alexnet_tf-{seed}-{start_step}"  # the hosts of a run share a job
        job_name = name if context.num_input_pipelines > 1 else None
        batches = _distribute(batches, data_service, job_name)
    endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    return batches.apply(endless).prefetch(2).with_options(_options())


def _make_crop(
    data_set: DataSet,
    frame: int,
    size: int,
    frames: MemoryFrames | MappedFrames | None,
) -> Callable:
    """Makes what `decode_chunk` calls for each example of a chunk in training."""

    def crop(corners, mirrored, number, record_id, record):
        corner = tf.gather(corners, number)
        if frames:
            image, label = frames.crop(record_id, corner, size)
        else:
            image_bytes, label = parse_record(record, data_set)
            image = decode_crop(image_bytes, data_set, corner, size, frame)
        mirror = functools.partial(tf.reverse, image, [1])
        return tf.cond(tf.gather(mirrored, number), mirror, lambda: image), label

    return crop


def _make_recolor(
    color: str, seed: int, statistics: PixelStatistics | None, pca_source_2012: bool
) -> Callable:
    """Makes the function that changes the colours of the active images of a chunk."""

    def jitter(images, _, uniform, active):
        return augmentation.jitter(images, uniform, active)

    def add_pca_noise(images, positions, _, active):
        normal = augmentation.draw_normal(seed, positions)
        return augmentation.add_pca_noise(
            images, normal, active, statistics, pca_source_2012
        )

    def keep(images, *_):
        return images

    return {"jitter": jitter, "pca": add_pca_noise, "none": keep}[color]


def _distribute(
    batches: tf.data.Dataset, address: str, job_name: str | None
) -> tf.data.Dataset:
    """Has the workers of a tf.data service make the batches."""
    service = tf.data.experimental.service
    sharding = service.ShardingPolicy.DYNAMIC
    return batches.with_options(_options()).apply(
        service.distribute(sharding, address, job_name=job_name, compression=None)
    )


def evaluation_batches(
    data_set: DataSet,
    split: str,
    *,
    global_batch_size: int,
    image_size: int = 224,
    views: int = 1,
    cache: bool = False,
    bad_records: BadRecords | None = None,
) -> tf.data.Dataset:
    """The batches of one pass over a split, every example once.

    Args:
        data_set: The data.
        split: Name of the split.
        global_batch_size: Images in a batch.
        image_size: Height and width of the crops, pixels.
        views: 1, the central crop, or 10 (section 4.1).
        cache: Whether the first pass keeps the decoded images in memory for later
            passes over the same `tf.data.Dataset`.
        bad_records: Collects the records that cannot be used.

    Returns:
        uint8 RGB `(global_batch_size, image_size, image_size, 3)`, or
        `(global_batch_size, 10, image_size, image_size, 3)`, and int32 labels
        `(global_batch_size,)`, -1 where the last batch is filled up and where a record
        could not be used.
    """
    if views not in (1, 10):
        raise UserError(f"views must be 1 or 10, received {views}")
    frame = frame_size(data_set, image_size)
    size = image_size if views == 1 else frame

    def fill_up(images, labels):
        missing = global_batch_size - tf.size(labels)
        images = tf.pad(images, [[0, missing], [0, 0], [0, 0], [0, 0]])
        images = tf.ensure_shape(images, [global_batch_size, size, size, 3])
        labels = tf.pad(labels, [[0, missing]], constant_values=-1)
        if views == 10:
            images = augmentation.ten_views(images, image_size)
        return images, tf.ensure_shape(labels, [global_batch_size])

    chunk_size = min(global_batch_size, CHUNK)
    batches = decode_in_order(data_set, split, size, frame, bad_records, chunk_size)
    if cache:
        check_memory(data_set.splits[split].num_examples, size, split)
        batches = batches.cache()
    batches = batches.rebatch(global_batch_size).map(fill_up)
    return batches.prefetch(2).with_options(_options())


def read_pictures(
    data_set: DataSet, split: str, positions: np.ndarray, size: int
) -> np.ndarray:
    """Reads the central crops at places of the order of evaluation.

    Args:
        data_set: The data.
        split: Name of the split.
        positions: `(n,)`.
        size: Height and width, pixels.

    Returns:
        uint8 `(n, size, size, 3)`.
    """
    found = np.zeros((len(positions), size, size, 3), np.uint8)
    batches = evaluation_batches(
        data_set, split, global_batch_size=_READ_BATCH, image_size=size
    )
    last = max(positions, default=-1) // _READ_BATCH
    for number, (images, _) in enumerate(batches.take(last + 1)):
        here = positions // _READ_BATCH == number
        found[here] = images.numpy()[positions[here] % _READ_BATCH]
    return found


def _options() -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    return options


def timed_next(batches: Iterator, waited: tf.Variable) -> tuple:
    """Takes the next batch, in a `tf.function` too, and adds up the time it took.

    Args:
        batches: Iterator of a (distributed) data set.
        waited: float64 scalar, seconds spent waiting so far; is increased.

    Returns:
        The batch.
    """
    start = tf.timestamp()
    with tf.control_dependencies([start]):
        batch = next(batches)
    with tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)):
        waited.assign_add(tf.timestamp() - start)
    return batch

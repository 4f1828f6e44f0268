"""Records → shuffled, augmented, batched uint8 images, the same ones every time.

`reading.py` says which record stands at a position of a run; what the augmentation
draws from (seed, position) is the same wherever a run starts.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from alexnet_tf.errors import UserError
from alexnet_tf.pipeline import augmentation
from alexnet_tf.pipeline.data_set import DataSet, Split, parse_record
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
from alexnet_tf.recipes import Recipe

_ENDLESS = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
_READ_BATCH = 128


def training_batches(
    data_set: DataSet,
    recipe: Recipe,
    *,
    seed: int,
    split: str = "train",
    start_step: int = 0,
    statistics: PixelStatistics | None = None,
    cache: bool = False,
    data_service: str | None = None,
    input_context: tf.distribute.InputContext | None = None,
    bad_records: BadRecords | None = None,
) -> tf.data.Dataset:
    """The batches of a training run from a step on, without end.

    Args:
        data_set: The data.
        recipe: Says how large batches and images are, and how images are changed.
        seed: Of the order and of the augmentation.
        split: Name of the split.
        start_step: Steps done; the batches are those that an uninterrupted run yields
            from there on.
        statistics: What the colours "pca" need; None for those of the data set.
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
        UserError: The split is empty, or the cache does not fit.
    """
    records = _check_arguments(data_set, split, cache, data_service)
    context = input_context or tf.distribute.InputContext()
    batch_size = context.get_per_replica_batch_size(recipe.global_batch_size)
    if recipe.color == "pca":
        statistics = statistics or pixel_statistics(data_set, recipe.image_size)
    frame = frame_size(data_set, recipe.image_size)
    if data_service:
        bad_records = frames = None  # out of reach there
    else:
        frames = _open_frames(data_set, split, frame, cache, bad_records)
    chunk = _Chunk(
        size=min(batch_size, CHUNK),
        seed=seed,
        recipe=recipe,
        data_set=data_set,
        frame=frame,
        frames=frames,
        statistics=statistics,
        colored_until=_position(records, recipe.color_until_epoch),
        report_bad=_reporter(bad_records, data_set, records),
    )
    start = start_step * recipe.global_batch_size
    examples = shuffled_records(records, seed, start, ids_only=frames is not None)
    if not data_service:
        examples = _part_of_worker(examples, recipe.global_batch_size, context)
    batches = examples.window(chunk.size).map(chunk.make, tf.data.AUTOTUNE)
    batches = batches.rebatch(batch_size, drop_remainder=True)
    if data_service:
        is_shared = context.num_input_pipelines > 1  # the hosts of a run share a job
        name = f"alexnet_tf-{seed}-{start_step}" if is_shared else None
        batches = _distribute(batches, data_service, name)
    return batches.apply(_ENDLESS).prefetch(2).with_options(_options())


def _check_arguments(data_set, split, cache, data_service) -> Split:
    """Returns the split; raises `UserError` for what cannot be."""
    if cache and data_service:
        raise UserError("cache and data_service exclude each other; choose one")
    records = data_set.splits[split]
    if not records.num_examples:
        raise UserError(f"the split {split} of {data_set.data_dir} holds no examples")
    return records


def _reporter(bad_records, data_set: DataSet, records: Split) -> Callable | None:
    if bad_records is None:  # an empty one is there, too
        return None
    return bad_records.add_source(data_set, records)


def _position(records: Split, epoch: float | None) -> int:
    """Where in a run an epoch begins; its end where there is none."""
    return tf.int64.max if epoch is None else round(epoch * records.num_examples)


def _open_frames(
    data_set: DataSet,
    split: str,
    frame: int,
    cache: bool,
    bad_records: BadRecords | None,
) -> MemoryFrames | MappedFrames | None:
    """Decoded images that can be had in any order, where there are some."""
    if cache:
        return MemoryFrames.load(data_set, split, frame, bad_records)
    if MappedFrames.suits(data_set, data_set.splits[split], frame):
        return MappedFrames.open(data_set, data_set.splits[split])
    return None


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """Makes some images: draws, decodes and crops, mirrors, changes colours.

    Attributes:
        size: Images in a chunk.
        seed: Of the draws.
        recipe: Says how images are changed.
        data_set: Where they are from.
        frame: Height and width of what they are cut from, pixels.
        frames: Decoded images, where there are some.
        statistics: What the colours "pca" need.
        colored_until: The position from which on colours stay as they are.
        report_bad: What `decode_chunk` tells of records that cannot be used.
    """

    size: int
    seed: int
    recipe: Recipe
    data_set: DataSet
    frame: int
    frames: MemoryFrames | MappedFrames | None
    statistics: PixelStatistics | None
    colored_until: int
    report_bad: Callable | None

    @tf.autograph.experimental.do_not_convert  # which takes longer than to trace it
    def make(self, positions, window) -> tuple[tf.Tensor, tf.Tensor]:
        """From the positions of examples and their ids and records."""
        positions = positions.batch(self.size).get_single_element()
        positions = tf.ensure_shape(positions, [self.size])
        uniform = augmentation.draw_uniform(self.seed, positions)
        image_size, num_classes = self.recipe.image_size, self.data_set.num_classes
        space = self.frame - image_size
        corners = tf.cast(uniform[:, :2] * (space + 1), tf.int32)
        if not self.recipe.random_crops:
            corners = tf.fill([self.size, 2], space // 2)
        mirrored = (uniform[:, 2] < 0.5) & self.recipe.mirror
        decode = functools.partial(self._crop, corners, mirrored)
        images, labels = decode_chunk(decode, window, num_classes, self.report_bad)
        images = tf.ensure_shape(images, [self.size, image_size, image_size, 3])
        labels = tf.ensure_shape(labels, [self.size])
        active = (positions < self.colored_until) & (labels >= 0)
        return self._recolor(images, positions, uniform[:, 3:], active), labels

    def _crop(self, corners, mirrored, number, record_id, record):
        """What `decode_chunk` calls for each example."""
        corner, size = tf.gather(corners, number), self.recipe.image_size
        if self.frames:
            image, label = self.frames.crop(record_id, corner, size)
        else:
            image_bytes, label = parse_record(record, self.data_set)
            image = decode_crop(image_bytes, self.data_set, corner, size, self.frame)
        mirror = functools.partial(tf.reverse, image, [1])
        return tf.cond(tf.gather(mirrored, number), mirror, lambda: image), label

    def _recolor(self, images, positions, uniform, active):
        """Changes the colours of the active images."""
        if self.recipe.color == "jitter":
            return augmentation.jitter(images, uniform, active)
        if self.recipe.color == "pca":
            normal = augmentation.draw_normal(self.seed, positions)
            source_2012 = self.recipe.pca_source_2012
            return augmentation.add_pca_noise(
                images, normal, active, self.statistics, source_2012
            )
        return images


def _part_of_worker(
    examples: tf.data.Dataset,
    global_batch_size: int,
    context: tf.distribute.InputContext,
) -> tf.data.Dataset:
    """The rows of each global batch that a worker's replicas take, one after another.

    So the place of an image in the global batch, which dropout masks depend on, is the
    same on any number of workers.
    """
    workers = context.num_input_pipelines
    if workers == 1:
        return examples
    blocks = examples.window(global_batch_size // workers)
    blocks = blocks.shard(workers, context.input_pipeline_id)
    return blocks.flat_map(lambda *block: tf.data.Dataset.zip(block))


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

    @tf.autograph.experimental.do_not_convert  # which takes longer than to trace it
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


def named_batches(
    data_set: DataSet,
    split: str,
    image_size: int,
    start: int = 0,
    bad_records: BadRecords | None = None,
) -> tf.data.Dataset:
    """What evaluation sees, and the names of the pictures, from a place on.

    Args:
        data_set: The data.
        split: Name of the split.
        image_size: Height and width of the crops, pixels.
        start: Examples to leave out first.
        bad_records: Collects the records that cannot be used.

    Returns:
        Batches of `CHUNK`, the last one may be smaller: uint8 RGB
        `(batch, image_size, image_size, 3)`; int32 labels `(batch,)`, -1 where a record
        could not be used; names, string `(batch,)`, "" where a record has none.
    """
    frame = frame_size(data_set, image_size)
    batches = decode_in_order(
        data_set, split, image_size, frame, bad_records, start=start, with_names=True
    )
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
    parts = tf.nest.flatten(batch, expand_composites=True)
    with tf.control_dependencies(parts):
        added = waited.assign_add(tf.timestamp() - start)
    # Where one thread does everything, it might else take the step before the time.
    with tf.control_dependencies([added]):
        parts = [_identity(part) for part in parts]
    return tf.nest.pack_sequence_as(batch, parts, expand_composites=True)


def _identity(tensor: tf.Tensor) -> tf.Tensor:
    with tf.device(tensor.device):  # else a replica's part travels to the first device
        return tf.identity(tensor)

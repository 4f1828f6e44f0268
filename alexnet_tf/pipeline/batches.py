"""Records → batches of uint8 images: training's chain, and evaluation's beside it.

Both read records, hand each worker its own, decode and crop them in chunks, and batch.
Training's chain shuffles and augments; every draw of it is a function of the seed and
the example's position in the run, so a run that was interrupted goes on with the very
batches that it would have had. Evaluation's chain takes every record once, in the order
on disk, and fills the last batch up, so that counts are exact on any number of workers.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from alexnet_tf.errors import UserError
from alexnet_tf.pipeline import augmentation
from alexnet_tf.pipeline.cache import load_images
from alexnet_tf.pipeline.data_set import DataSet, PixelStatistics, Split
from alexnet_tf.pipeline.examples import CHUNK, BadRecords, decode_chunk, decode_crop
from alexnet_tf.pipeline.reading import (
    parse_record,
    records_in_order,
    shuffled_records,
)
from alexnet_tf.recipes import Recipe

_READ_BATCH = 128


def training_batches(
    data_set: DataSet,
    recipe: Recipe,
    *,
    seed: int,
    start: int = 0,
    cache: bool = False,
    data_service: str | None = None,
    input_context: tf.distribute.InputContext | None = None,
    bad_records: BadRecords | None = None,
) -> tf.data.Dataset:
    """The batches of a training run from an image on, without end.

    Args:
        data_set: The data, whose split "train" is read.
        recipe: Says how large batches and images are, and how images are changed.
        seed: The seed of the order and of the augmentation.
        start: Images seen; the batches are those that an uninterrupted run yields from
            there on.
        cache: Whether to decode all images into memory first; the batches are the same.
        data_service: Address of a tf.data service, "grpc://host:port", that reads and
            augments in place of this machine. Its workers take shards in turn: every
            example still comes once an epoch, but batches arrive in any order.
        input_context: This worker's place among the input workers; together they get
            the batches that a single one would.
        bad_records: Collects the records that cannot be used (not those that a data
            service meets).

    Returns:
        Batches of this worker, of the size that one replica takes: uint8 RGB
        `(batch, image_size, image_size, 3)` and int32 labels `(batch,)`, -1 where a
        record could not be used.

    Raises:
        UserError: The split is empty, its pictures are too small, or the cache does not
            fit.
    """
    records = _check_arguments(data_set, "train", recipe.image_size)
    if cache and data_service:
        raise UserError("cache and data_service exclude each other; choose one")
    context = input_context or tf.distribute.InputContext()
    batch_size = context.get_per_replica_batch_size(recipe.global_batch_size)
    cached = _load_cache(data_set, bad_records) if cache else None
    if cache or data_service:  # the cache has told of them, a service cannot
        bad_records = None
    augment = _Augmenter(
        size=min(batch_size, CHUNK),
        seed=seed,
        recipe=recipe,
        data_set=data_set,
        statistics=data_set.statistics() if recipe.color == "pca" else None,
        cached=cached,
        report_bad=_reporter(bad_records, data_set, records),
    )
    # Shuffled, then split among workers: a batch is the same on any number of them.
    examples = shuffled_records(data_set, "train", seed, start, ids_only=cache)
    if not data_service:
        examples = _part_of_worker(examples, recipe.global_batch_size, context)
    # Decoded in chunks: a call for each image would take as long as its colours.
    batches = examples.window(augment.size).map(augment, tf.data.AUTOTUNE)
    batches = batches.rebatch(batch_size, drop_remainder=True)
    if data_service:
        is_shared = context.num_input_pipelines > 1  # the hosts of a run share a job
        name = f"alexnet_tf-{seed}-{start}" if is_shared else None
        batches = _distribute(batches, data_service, name)
    # Else all workers would ask each other before every step whether one has no more.
    endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    options = tf.data.Options()
    options.experimental_warm_start = True  # the first batch is made during the tracing
    return batches.apply(endless).prefetch(2).with_options(options)


def evaluation_batches(
    data_set: DataSet,
    split: str,
    *,
    global_batch_size: int,
    image_size: int = 224,
    views: int = 1,
    start: int = 0,
    input_context: tf.distribute.InputContext | None = None,
    bad_records: BadRecords | None = None,
) -> tf.data.Dataset:
    """The batches of one pass over a split, every example once.

    Args:
        data_set: The data.
        split: Name of the split.
        global_batch_size: Images in a batch of all replicas.
        image_size: Height and width of the crops, pixels.
        views: 1, the central crop, or 10 (section 4.1).
        start: Examples to leave out first.
        input_context: This worker's place among the input workers; each decodes its own
            part of every batch.
        bad_records: Collects the records that cannot be used.

    Returns:
        Batches of this worker, of the size that one replica takes: uint8 RGB
        `(batch, image_size, image_size, 3)`, or
        `(batch, 10, image_size, image_size, 3)`, and int32 labels `(batch,)`, -1 where
        the last batch is filled up and where a record could not be used.

    Raises:
        UserError: The split is empty, or its pictures are too small.
    """
    if views not in (1, 10):
        raise UserError(f"views must be 1 or 10, received {views}")
    records = _check_arguments(data_set, split, image_size)
    context = input_context or tf.distribute.InputContext()
    batch_size = context.get_per_replica_batch_size(global_batch_size)
    size = image_size if views == 1 else data_set.image_size
    # Filled up with records that are none, so that every worker has as many batches.
    missing = (start - records.num_examples) % global_batch_size
    nothing = tf.data.Dataset.from_tensors((np.int64(-1), "")).repeat(missing)
    examples = records_in_order(records).skip(start).concatenate(nothing)
    examples = _part_of_worker(examples, global_batch_size, context)
    report_bad = _reporter(bad_records, data_set, records)
    decode = functools.partial(_decode_centres, data_set, size, report_bad)
    batches = examples.window(min(batch_size, CHUNK)).map(decode, tf.data.AUTOTUNE)
    batches = batches.rebatch(batch_size, drop_remainder=True)
    if views == 10:
        batches = batches.map(
            lambda images, labels: (augmentation.ten_views(images, image_size), labels)
        )
    return batches.prefetch(2)


def read_pictures(
    data_set: DataSet, split: str, positions: np.ndarray, size: int
) -> np.ndarray:
    """Reads the central crops of some records.

    Args:
        data_set: The data.
        split: Name of the split.
        positions: `(n,)`, ids of records, which are positions in evaluation's order.
        size: Height and width, pixels.

    Returns:
        uint8 `(n, size, size, 3)`.
    """
    pictures = np.zeros((len(positions), size, size, 3), np.uint8)
    batches = evaluation_batches(
        data_set, split, global_batch_size=_READ_BATCH, image_size=size
    )
    last = max(positions, default=-1) // _READ_BATCH
    for number, (images, _) in enumerate(batches.take(last + 1)):
        chosen = positions // _READ_BATCH == number
        pictures[chosen] = images.numpy()[positions[chosen] % _READ_BATCH]
    return pictures


def _check_arguments(data_set: DataSet, split: str, image_size: int) -> Split:
    """Returns the split; raises `UserError` for what cannot be."""
    records = data_set.splits[split]
    if not records.num_examples:
        raise UserError(f"the split {split} of {data_set.data_dir} holds no examples")
    check_image_size(data_set, image_size)
    return records


def check_image_size(data_set: DataSet, image_size: int) -> None:
    """Raises a `UserError` where the pictures are smaller than what a network takes."""
    if data_set.image_size < image_size:
        raise UserError(
            f"the pictures of {data_set.data_dir} have {data_set.image_size} pixels a "
            f"side, the network takes {image_size}: prepare them with data.prepare "
            f"--image_size={max(256, image_size)}, or train with a smaller --image_size"
        )


def _reporter(bad_records, data_set: DataSet, records: Split) -> Callable | None:
    if bad_records is None:  # an empty one is there, too
        return None
    return bad_records.add_source(data_set, records)


def _load_cache(
    data_set: DataSet, bad_records: BadRecords | None
) -> tuple[tf.Tensor, tf.Tensor]:
    records, size = data_set.splits["train"], data_set.image_size
    batches = evaluation_batches(
        data_set,
        "train",
        global_batch_size=CHUNK,
        image_size=size,
        bad_records=bad_records,
    )
    return load_images(batches, records.num_examples, size)


@dataclasses.dataclass(frozen=True)
class _Augmenter:
    """Makes training images of some examples: crops, mirrors, changes colours.

    Attributes:
        size: Images in a chunk.
        seed: The seed of the draws.
        recipe: Says how images are changed.
        data_set: Their data set.
        statistics: What the colours "pca" need.
        cached: Its decoded pictures and their labels, where they are in memory.
        report_bad: What `decode_chunk` tells of records that cannot be used.
    """

    size: int
    seed: int
    recipe: Recipe
    data_set: DataSet
    statistics: PixelStatistics | None
    cached: tuple[tf.Tensor, tf.Tensor] | None
    report_bad: Callable | None

    @tf.autograph.experimental.do_not_convert  # which takes longer than to trace it
    def __call__(self, positions, window) -> tuple[tf.Tensor, tf.Tensor]:
        """From the positions of examples and their ids and records."""
        positions = positions.batch(self.size).get_single_element()
        positions = tf.ensure_shape(positions, [self.size])
        # The draws of all images at once; each belongs to its position.
        uniform = augmentation.draw_uniform(self.seed, positions)
        image_size, num_classes = self.recipe.image_size, self.data_set.num_classes
        space = self.data_set.image_size - image_size
        corners = tf.cast(uniform[:, :2] * (space + 1), tf.int32)
        if not self.recipe.random_crops:
            corners = tf.fill([self.size, 2], space // 2)
        mirrored = (uniform[:, 2] < 0.5) & self.recipe.mirror
        # One image after another is decoded, cropped and mirrored …
        decode = functools.partial(self._decode, corners, mirrored)
        images, labels = decode_chunk(decode, window, num_classes, self.report_bad)
        images = tf.ensure_shape(images, [self.size, image_size, image_size, 3])
        labels = tf.ensure_shape(labels, [self.size])
        # … and the colours of all are changed by one loop over their bytes.
        return self._recolor(images, labels, positions, uniform[:, 3:]), labels

    def _decode(self, corners, mirrored, number, record_id, record):
        """What `decode_chunk` calls for each example."""
        corner, size = corners[number], self.recipe.image_size
        if self.cached:
            images, labels = self.cached
            begin = tf.concat([[tf.cast(record_id, tf.int32)], corner, [0]], axis=0)
            image = tf.slice(images, begin, [1, size, size, 3])[0]
            label = tf.cast(labels[record_id], tf.int64)
        else:
            image_bytes, label = parse_record(record)
            image = decode_crop(image_bytes, self.data_set, corner, size)
        mirror = functools.partial(tf.reverse, image, [1])
        return tf.cond(mirrored[number], mirror, lambda: image), label

    def _recolor(self, images, labels, positions, uniform):
        """Changes the colours of images that are there, in the epochs that have it."""
        recipe, active = self.recipe, labels >= 0
        if recipe.color_until_epoch is not None:
            num_examples = self.data_set.splits["train"].num_examples
            active &= positions < round(recipe.color_until_epoch * num_examples)
        if recipe.color == "jitter":
            return augmentation.jitter(images, uniform, active)
        if recipe.color == "pca":
            normal = augmentation.draw_normal(self.seed, positions)
            return augmentation.add_pca_noise(
                images, normal, active, self.statistics, recipe.pca_source_2012
            )
        return images


@tf.autograph.experimental.do_not_convert  # which takes longer than to trace it
def _decode_centres(
    data_set: DataSet, size: int, report_bad: Callable | None, *window
) -> tuple[tf.Tensor, tf.Tensor]:
    """Central crops and labels of a window of examples."""
    corner = tf.constant([(data_set.image_size - size) // 2] * 2)

    def decode(_, __, record):
        image_bytes, label = parse_record(record)
        return decode_crop(image_bytes, data_set, corner, size), label

    return decode_chunk(decode, window, data_set.num_classes, report_bad)


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
    return batches.apply(
        service.distribute(sharding, address, job_name=job_name, compression=None)
    )


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

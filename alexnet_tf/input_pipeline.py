"""Records → shuffled, augmented, batched uint8 images, the same ones every time.

The examples of a training run stand at positions 0, 1, 2, …; position p is place
p mod N of epoch p div N. An epoch takes its shards in a random order, a block of them
at a time: the shards of a block are read in turn, a record of each, and every window of
that stream is shuffled. So any place of a run is reached by opening the shards of one
block and skipping records there, and what is drawn from (seed, position) is the same.
"""

import contextlib
import dataclasses
import functools
import re
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from absl import logging

from alexnet_tf import augmentation
from alexnet_tf.errors import UserError
from alexnet_tf.records import DataSet, Split, parse_record

BLOCK_SHARDS = 16  # shards that are read side by side
SHUFFLE_RECORDS = 10_000  # of a window
SHUFFLE_BYTES = 256 * 2**20  # of a window; two of them are in memory
RESIZED = 256  # shorter side, pixels, of a picture before the crop (section 2)
_CHUNK = 32  # images that one call decodes, one after another
_JPEG = {"channels": 3, "dct_method": "INTEGER_ACCURATE"}


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


def _find_record(split: Split, record_id: int) -> tuple[str, int]:
    """The shard and the index in it of the record_id-th record of a split."""
    ends = np.cumsum(split.shard_lengths)
    shard = int(np.searchsorted(ends, record_id, side="right"))
    return split.filenames[shard], int(
        record_id - ends[shard] + split.shard_lengths[shard]
    )


@contextlib.contextmanager
def label_errors(data_set: DataSet, split: str) -> Iterator[None]:
    """Turns the pipeline's error about a label into a `UserError` with its place."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = re.search(r"\[label out of range\] \[(\d+)\] \[(-?\d+)\]", str(error))
        if not found:
            raise
        filename, index = _find_record(data_set.splits[split], int(found[1]))
        raise UserError(
            f"label {found[2]} of record {index} of {filename} is out of range: "
            f"expected 0..{data_set.num_classes - 1}; check the data with data.check"
        ) from None


def _read_shard(split: Split, shard: tf.Tensor, skip: tf.Tensor) -> tf.data.Dataset:
    """(id, record) of a shard's records from `skip` on; ids count through the split."""
    lengths = np.array(split.shard_lengths, np.int64)
    first = tf.constant(np.cumsum(lengths) - lengths)[shard]
    ids = tf.data.Dataset.range(first + skip, first + tf.constant(lengths)[shard])
    # A shard that is corrupt or cut short gives empty records from there on: bad ones,
    # each with its name, and the places of all others stay what they were.
    records = tf.data.TFRecordDataset(tf.constant(split.filenames)[shard])
    records = records.skip(skip).ignore_errors(log_warning=True)
    missing = tf.data.Dataset.from_tensors("").repeat()
    return tf.data.Dataset.zip(ids, records.concatenate(missing))


def _read_in_turn(split: Split, shards: tf.Tensor, skips: tf.Tensor) -> tf.data.Dataset:
    """(id, record) of up to `BLOCK_SHARDS` shards, a record of each in turn."""
    return tf.data.Dataset.from_tensor_slices((shards, skips)).interleave(
        functools.partial(_read_shard, split),
        cycle_length=BLOCK_SHARDS,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )


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


def _shuffled_records(split: Split, seed: int, start: int) -> tf.data.Dataset:
    """(position, (id, record)) of every example from a position on, without end."""
    file_size = tf.io.gfile.stat(split.filenames[0]).length
    bytes_per_record = max(1, file_size // max(1, split.shard_lengths[0]))
    window_size = max(1, min(SHUFFLE_RECORDS, SHUFFLE_BYTES // bytes_per_record))
    num_blocks = -(-len(split.filenames) // BLOCK_SHARDS)
    first = _find_start(split, seed, start, window_size)
    first_block = start // split.num_examples * num_blocks + first.block

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
        windows = _read_in_turn(split, shards, skips).window(window_size)
        positions = tf.data.Dataset.range(
            position + window * window_size, tf.int64.max, window_size
        )
        return tf.data.Dataset.zip(positions, windows)

    def shuffle_window(position, window):
        examples = _shuffle(tf.data.Dataset.zip(*window), window_size, seed, position)
        positions = tf.data.Dataset.range(position, tf.int64.max)
        return tf.data.Dataset.zip(positions, examples)

    blocks = tf.data.Dataset.range(first_block, tf.int64.max)
    windows = blocks.flat_map(read_block).prefetch(1)
    return windows.flat_map(shuffle_window).skip(first.skip)


def _frame(data_set: DataSet, image_size: int) -> tuple[int, int]:
    """Height and width, pixels, of the picture that a crop is cut from."""
    if data_set.image_shape and min(data_set.image_shape[:2]) >= image_size:
        return data_set.image_shape[:2]
    return max(RESIZED, image_size), max(RESIZED, image_size)


def _decode(
    image_bytes: tf.Tensor, data_set: DataSet, window: tf.Tensor | list
) -> tf.Tensor:
    """Decodes (top, left, height, width) of a picture: uint8 `(height, width, 3)`."""
    top, left, height, width = tf.unstack(window)
    if data_set.encoding == "raw":
        image = tf.reshape(
            tf.io.decode_raw(image_bytes, tf.uint8), data_set.image_shape
        )
        return image[top : top + height, left : left + width]
    return tf.cond(
        tf.io.is_jpeg(image_bytes),
        lambda: tf.io.decode_and_crop_jpeg(image_bytes, window, **_JPEG),
        lambda: tf.io.decode_image(image_bytes, 3, expand_animations=False)[
            top : top + height, left : left + width
        ],
    )


def _picture_size(image_bytes: tf.Tensor, data_set: DataSet) -> tf.Tensor:
    """Height and width of a picture, int32 `(2,)`, from a JPEG's header only."""
    if data_set.image_shape:
        return tf.constant(data_set.image_shape[:2])
    shape = tf.cond(
        tf.io.is_jpeg(image_bytes),
        lambda: tf.io.extract_jpeg_shape(image_bytes),
        lambda: tf.shape(tf.io.decode_image(image_bytes, 3, expand_animations=False)),
    )
    return shape[:2]


def _decode_crop(
    image_bytes: tf.Tensor, data_set: DataSet, corner: tf.Tensor, size: int
) -> tf.Tensor:
    """Decodes a crop of a picture, after scaling it to its frame where needed.

    Pictures of other sizes are scaled, antialiased, until the shorter side fits the
    frame, the middle of the longer one being kept (section 2). Only the part of the
    picture that the crop depends on is decoded, only the crop is computed.

    Args:
        image_bytes: string scalar.
        data_set: Where it is from.
        corner: int32 `(2,)`, top and left of the crop in the frame, pixels.
        size: Height and width of the crop, pixels.

    Returns:
        uint8 `(size, size, 3)`.
    """
    frame = _frame(data_set, size)
    if data_set.image_shape and frame == data_set.image_shape[:2]:
        window = tf.concat([corner, [size, size]], 0)
        return tf.ensure_shape(_decode(image_bytes, data_set, window), [size, size, 3])
    picture = _picture_size(image_bytes, data_set)
    scale = frame[0] / tf.reduce_min(picture)
    scale = tf.cast(scale, tf.float32)
    corner = tf.cast(corner, tf.float32)
    corner += (scale * tf.cast(picture, tf.float32) - frame) / 2.0
    # In the picture's own pixels, with the reach of the filter.
    reach = tf.maximum(1.0, 1.0 / scale) + 1.0
    begin = tf.cast(tf.maximum(corner / scale - reach, 0.0), tf.int32)
    end = tf.cast(tf.math.ceil((corner + size) / scale + reach), tf.int32)
    end = tf.minimum(end, picture)
    part = _decode(image_bytes, data_set, tf.concat([begin, end - begin], 0))
    crop = tf.raw_ops.ScaleAndTranslate(
        images=part[tf.newaxis],
        size=[size, size],
        scale=tf.stack([scale, scale]),
        translation=scale * tf.cast(begin, tf.float32) - corner,
        kernel_type="triangle",
        antialias=True,
    )
    return tf.cast(tf.clip_by_value(tf.round(crop[0]), 0.0, 255.0), tf.uint8)


def _why_bad(record: bytes, data_set: DataSet) -> str:
    if not record:
        return "missing, because the shard is cut short or corrupt"
    try:
        image_bytes, _ = parse_record(tf.constant(record), data_set)
        tf.io.decode_image(image_bytes)
    except tf.errors.OpError as error:
        return error.message.splitlines()[0]
    return f"not a picture of shape {data_set.image_shape}"


def _decode_chunk(
    decode,
    ids: tf.Tensor,
    records: tf.Tensor,
    data_set: DataSet,
    split: Split,
    bad_records: BadRecords | None,
) -> list[tf.Tensor]:
    """Decodes records one after another; one that fails gets the label -1.

    Args:
        decode: Function from an index in the chunk and an image's bytes to a tuple of
            tensors of static shape.
        ids: int64 `(chunk,)`.
        records: string `(chunk,)`.
        data_set: Where they are from.
        split: The part of it.
        bad_records: Collects what fails.

    Returns:
        int32 labels `(chunk,)`, then what `decode` returns, batched; zeros where a
        record failed.
    """
    num_records = tf.shape(ids, out_type=tf.int64)

    def decode_one(index, record):
        image_bytes, label = parse_record(record, data_set)
        return (index, label, *decode(index, image_bytes))

    examples = tf.data.Dataset.from_tensor_slices(records)
    examples = tf.data.Dataset.zip(tf.data.Dataset.range(num_records[0]), examples)
    examples = examples.map(decode_one).ignore_errors()
    none = [tf.zeros([0, *spec.shape], spec.dtype) for spec in examples.element_spec]
    none = tf.data.Dataset.from_tensors(tuple(none))
    examples = examples.batch(_CHUNK).concatenate(none).take(1)
    indices, labels, *rest = examples.get_single_element()
    out_of_range = (labels < 0) | (labels >= data_set.num_classes)
    wrong = [tf.gather(ids, indices[out_of_range]), labels[out_of_range]]
    check = tf.debugging.Assert(
        ~tf.reduce_any(out_of_range), ["label out of range", *wrong], summarize=1
    )

    def report(ids, records):
        for record_id, record in zip(ids, records, strict=True):
            place = _find_record(split, int(record_id))
            bad_records.add(*place, _why_bad(record, data_set))

    def fill():
        scatter = functools.partial(tf.scatter_nd, indices[:, tf.newaxis])
        bad = scatter(tf.ones_like(labels), num_records) == 0
        if bad_records is not None:
            tf.numpy_function(report, [ids[bad], records[bad]], [])
        filled = [scatter(x, tf.concat([num_records, x.shape[1:]], 0)) for x in rest]
        return [scatter(labels + 1, num_records) - 1, *filled]

    with tf.control_dependencies([check]):
        decoded = tf.cond(
            tf.size(labels, tf.int64) < num_records[0], fill, lambda: [labels, *rest]
        )
    for x, spec in zip(decoded, [labels, *rest], strict=True):
        x.set_shape([ids.shape[0], *spec.shape[1:]])
    return decoded


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
    color_until_epoch: float | None = None,
    input_context: tf.distribute.InputContext | None = None,
    bad_records: BadRecords | None = None,
) -> tf.data.Dataset:
    """The batches of a training run from a step on, without end.

    Args:
        data_set: The data.
        global_batch_size: Images in a step, over all replicas.
        seed: Of the order and the augmentation, >= 0.
        split: Name of the split.
        start_step: Steps done; the batches are those that an uninterrupted run yields
            from there on.
        image_size: Height and width of the crops, pixels.
        color: "jitter" (brightness, contrast, saturation), "pca" (section 4.1) or
            "none".
        pca_source_2012: Whether "pca" is that of the source of 2012.
        color_until_epoch: Epoch from which on colours stay as they are.
        input_context: This worker's place among the input workers; together they get
            the batches that a single one would.
        bad_records: Collects the records that cannot be decoded.

    Returns:
        Batches of this worker, of the size that one replica takes: uint8 RGB
        `(batch, image_size, image_size, 3)` and int32 labels `(batch,)`, -1 where a
        record could not be decoded.
    """
    context = input_context or tf.distribute.InputContext()
    records = data_set.splits[split]
    examples = _shuffled_records(records, seed, start_step * global_batch_size)
    examples = examples.shard(context.num_input_pipelines, context.input_pipeline_id)
    frame = np.array(_frame(data_set, image_size))
    last_position = tf.int64.max
    if color_until_epoch is not None:
        last_position = round(color_until_epoch * records.num_examples)

    def augment(positions, ids_and_records):
        def decode(index, image_bytes):
            uniform, normal = augmentation.draw(seed, positions[index])
            corner = tf.cast(uniform[:2] * (frame - image_size + 1), tf.int32)
            image = _decode_crop(image_bytes, data_set, corner, image_size)
            if_mirrored = functools.partial(tf.cond, uniform[2] < 0.5)
            image = if_mirrored(lambda: tf.reverse(image, [1]), lambda: image)
            return image, uniform[3:], normal

        labels, images, uniform, normal = _decode_chunk(
            decode, *ids_and_records, data_set, records, bad_records
        )
        active = positions < last_position
        if color == "jitter":
            images = augmentation.jitter(images, uniform, active)
        elif color == "pca":
            images = augmentation.add_pca_noise(
                images, normal, active, data_set, pca_source_2012
            )
        return images, labels

    batch_size = context.get_per_replica_batch_size(global_batch_size)
    batches = examples.batch(_CHUNK, drop_remainder=True)
    batches = batches.map(augment, num_parallel_calls=tf.data.AUTOTUNE)
    batches = batches.rebatch(batch_size, drop_remainder=True).prefetch(2)
    return batches.with_options(_options())


def evaluation_batches(
    data_set: DataSet,
    split: str,
    *,
    global_batch_size: int,
    image_size: int = 224,
    views: int = 1,
    bad_records: BadRecords | None = None,
) -> tf.data.Dataset:
    """The batches of one pass over a split, every example once.

    Args:
        data_set: The data.
        split: Name of the split.
        global_batch_size: Images in a batch.
        image_size: Height and width of the crops, pixels.
        views: 1, the central crop, or 10 (section 4.1).
        bad_records: Collects the records that cannot be decoded.

    Returns:
        uint8 RGB `(global_batch_size, image_size, image_size, 3)`, or
        `(global_batch_size, 10, image_size, image_size, 3)`, and int32 labels
        `(global_batch_size,)`, -1 where the last batch is filled up and where a record
        could not be decoded.
    """
    if views not in (1, 10):
        raise UserError(f"views must be 1 or 10, received {views}")
    records = data_set.splits[split]
    frame = np.array(_frame(data_set, image_size))
    size = image_size if views == 1 else int(min(frame))

    def decode(_, image_bytes):
        corner = tf.constant((frame - size) // 2, tf.int32)
        return (_decode_crop(image_bytes, data_set, corner, size),)

    def decode_chunk(ids, chunk):
        args = (decode, ids, chunk, data_set, records, bad_records)
        labels, images = _decode_chunk(*args)
        return images, labels

    def finish(images, labels):
        missing = global_batch_size - tf.size(labels)
        images = tf.pad(images, [[0, missing], [0, 0], [0, 0], [0, 0]])
        labels = tf.pad(labels, [[0, missing]], constant_values=-1)
        images = tf.ensure_shape(images, [global_batch_size, size, size, 3])
        if views == 10:
            images = augmentation.ten_views(images, image_size)
        return images, tf.ensure_shape(labels, [global_batch_size])

    shards = tf.range(len(records.filenames), dtype=tf.int64)
    examples = _read_in_turn(records, shards, tf.zeros_like(shards))
    batches = examples.batch(_CHUNK)
    batches = batches.map(decode_chunk, num_parallel_calls=tf.data.AUTOTUNE)
    batches = batches.rebatch(global_batch_size).map(finish).prefetch(2)
    return batches.with_options(_options())


def _options() -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    return options

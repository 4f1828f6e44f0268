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
import os
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from alexnet_tf import augmentation
from alexnet_tf.errors import UserError
from alexnet_tf.records import DataSet, Split, parse_record

BLOCK_SHARDS = 16  # shards that are read side by side
SHUFFLE_RECORDS = 10_000  # of a window
SHUFFLE_BYTES = 128 * 2**20  # of a window; two of them are in memory
RESIZED = 256  # shorter side, pixels, of a picture before the crop (section 2)
COLORS = ("jitter", "pca", "none")
# Images, at most, that one call decodes, one after another: twice as many fall out of
# the processor's cache before their colours change.
_CHUNK = 64
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


def find_record(split: Split, record_id: int) -> tuple[str, int]:
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
        filename, index = find_record(data_set.splits[split], int(found[1]))
        raise UserError(
            f"label {found[2]} of record {index} of {filename} is out of range: "
            f"expected 0..{data_set.num_classes - 1}; check the data with data.check"
        ) from None


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
    filenames, lengths = tf.constant(split.filenames), np.array(split.shard_lengths)
    first_ids = tf.constant(np.cumsum(lengths) - lengths, tf.int64)
    lengths = tf.constant(lengths, tf.int64)
    nothing = tf.data.Dataset.from_tensors("").repeat()

    def read(shard, skip):
        first, length = first_ids[shard], lengths[shard]
        ids = tf.data.Dataset.range(first + skip, first + length)
        if ids_only:
            return tf.data.Dataset.zip(ids, nothing)
        records = tf.data.TFRecordDataset(filenames[shard]).skip(skip)
        # A shard that is corrupt or cut short gives empty records from there on: bad
        # ones, each with its name, and the places of all others stay what they were.
        records = records.ignore_errors(log_warning=True).concatenate(nothing)
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


def _shuffled_records(
    split: Split, seed: int, start: int, ids_only: bool
) -> tf.data.Dataset:
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
        windows = _read_in_turn(split, shards, skips, ids_only).window(window_size)
        positions = tf.data.Dataset.range(
            position + window * window_size, tf.int64.max, window_size
        )
        return tf.data.Dataset.zip(positions, windows)

    def shuffle_window(position, window):
        examples = _shuffle(tf.data.Dataset.zip(*window), window_size, seed, position)
        positions = tf.data.Dataset.range(position, tf.int64.max)
        skip = tf.where(position + first.skip == start, np.int64(first.skip), 0)
        return tf.data.Dataset.zip(positions, examples).skip(skip)

    blocks = tf.data.Dataset.range(first_block, tf.int64.max)
    windows = blocks.flat_map(read_block).prefetch(1)
    return windows.flat_map(shuffle_window)


class _AnyPicture:
    """In place of a data set, for pictures that are from none."""

    encoding, image_shape = "jpeg", None


def _frame_size(data_set: DataSet, image_size: int) -> int:
    """Height and width, pixels, of the square that crops are cut from."""
    height, width, _ = data_set.image_shape or (0, 0, 3)
    if height == width >= image_size:
        return height
    return max(RESIZED, image_size)


def _decode(
    image_bytes: tf.Tensor, data_set: DataSet, window: tf.Tensor, **jpeg_options
) -> tf.Tensor:
    """Decodes (top, left, height, width) of a picture: uint8 `(height, width, 3)`."""
    top, left, height, width = tf.unstack(window)
    rows, columns = slice(top, top + height), slice(left, left + width)
    if data_set.encoding == "raw":
        image = tf.io.decode_raw(image_bytes, tf.uint8)
        return tf.reshape(image, data_set.image_shape)[rows, columns]
    return tf.cond(
        tf.io.is_jpeg(image_bytes),
        lambda: tf.io.decode_and_crop_jpeg(
            image_bytes, window, **_JPEG, **jpeg_options
        ),
        lambda: _decode_any(image_bytes)[rows, columns],
    )


def _decode_any(image_bytes: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_image(image_bytes, channels=3, expand_animations=False)


def _decode_crop(
    image_bytes: tf.Tensor,
    data_set: DataSet,
    corner: tf.Tensor,
    size: int,
    frame: int,
    **jpeg_options,
) -> tf.Tensor:
    """Decodes a crop of a picture, after scaling it to the frame where needed.

    Pictures of other sizes are scaled, antialiased, until the shorter side fits the
    frame; of the longer one the middle is kept (section 2). Only what the crop depends
    on is decoded, only the crop is computed.

    Args:
        image_bytes: string scalar.
        data_set: Where it is from.
        corner: int32 `(2,)`, top and left of the crop in the frame, pixels.
        size: Height and width of the crop, pixels.
        frame: Height and width of the frame, pixels.
        **jpeg_options: For `tf.io.decode_and_crop_jpeg`.

    Returns:
        uint8 `(size, size, 3)`.
    """
    if data_set.image_shape == (frame, frame, 3):
        window = tf.concat([corner, [size, size]], axis=0)
        image = _decode(image_bytes, data_set, window)
        return tf.ensure_shape(image, [size, size, 3])
    if data_set.image_shape:
        picture = tf.constant(data_set.image_shape[:2])
    else:
        picture = tf.cond(
            tf.io.is_jpeg(image_bytes),
            lambda: tf.io.extract_jpeg_shape(image_bytes),
            lambda: tf.shape(_decode_any(image_bytes)),
        )[:2]
    window, resample = _plan_crop(picture, corner, size, frame)
    part = _decode(image_bytes, data_set, window, **jpeg_options)
    return resample(part[tf.newaxis])[0]


def _plan_crop(picture: tf.Tensor, corner: tf.Tensor, size: int, frame: int) -> tuple:
    """How to get the crop of `_decode_crop` out of a picture of another size.

    Args:
        picture: int32 `(2,)`, height and width of the picture, pixels.
        corner: As there.
        size: As there.
        frame: As there.

    Returns:
        int32 `(4,)`, top, left, height and width of the part of the picture that the
        crop depends on; a function from a batch of such parts to their crops, uint8.
    """
    scale = tf.cast(frame / tf.reduce_min(picture), tf.float32)
    corner = tf.cast(corner, tf.float32)
    corner += (scale * tf.cast(picture, tf.float32) - frame) / 2.0
    # What the crop covers in the picture's own pixels, and the reach of the filter. At
    # scale 1 nothing more: at its border, a decoded JPEG depends on where that is.
    reach = tf.where(scale == 1.0, 0.0, tf.maximum(1.0, 1.0 / scale) + 1.0)
    begin = tf.cast(tf.maximum(corner / scale - reach, 0.0), tf.int32)
    end = tf.cast(tf.math.ceil((corner + size) / scale + reach), tf.int32)
    end = tf.minimum(end, picture)

    def resample(parts):
        crops = tf.raw_ops.ScaleAndTranslate(
            images=parts,
            size=[size, size],
            scale=tf.stack([scale, scale]),
            translation=scale * tf.cast(begin, tf.float32) - corner,
            kernel_type="triangle",
            antialias=True,
        )
        return tf.cast(tf.clip_by_value(tf.round(crops), 0.0, 255.0), tf.uint8)

    return tf.concat([begin, end - begin], axis=0), resample


def decode_central_crop(image_bytes: tf.Tensor, size: int) -> tf.Tensor:
    """Decodes the crop that evaluation takes of a picture of any size.

    Args:
        image_bytes: string scalar: what `tf.io.decode_image` takes. Of a JPEG that
            is cut short, what is missing is grey.
        size: Height and width of the crop, pixels.

    Returns:
        uint8 RGB `(size, size, 3)`.
    """
    frame = _frame_size(_AnyPicture, size)
    corner = tf.constant([(frame - size) // 2] * 2)
    return _decode_crop(
        image_bytes, _AnyPicture, corner, size, frame, try_recover_truncated=True
    )


def central_crop(images: tf.Tensor, size: int) -> tf.Tensor:
    """The crops that evaluation takes of pictures of any one size.

    Args:
        images: uint8 RGB `(batch, height, width, 3)`.
        size: Height and width of the crops, pixels.

    Returns:
        uint8 RGB `(batch, size, size, 3)`.
    """
    frame = _frame_size(_AnyPicture, size)
    corner = tf.constant([(frame - size) // 2] * 2)
    window, resample = _plan_crop(tf.shape(images)[1:3], corner, size, frame)
    top, left, height, width = tf.unstack(window)
    return resample(images[:, top : top + height, left : left + width])


def _why_bad(record: bytes, data_set: DataSet) -> str:
    if not record:
        return "missing, because the shard is cut short or corrupt"
    try:
        image_bytes, _ = parse_record(tf.constant(record), data_set)
        _decode_any(image_bytes)
    except tf.errors.OpError as error:
        return error.message.splitlines()[0]
    return f"not a picture of the shape {data_set.image_shape}"


def _decode_chunk(
    decode: Callable,
    window: Sequence[tf.data.Dataset],
    data_set: DataSet,
    split: Split,
    bad_records: BadRecords | None,
) -> list[tf.Tensor]:
    """Decodes some examples one after another; one that fails gets the label -1.

    Args:
        decode: Function from a position, an id and a record to the label and other
            tensors of static shape.
        window: Positions, ids and records of at most `_CHUNK` examples.
        data_set: Where they are from.
        split: The part of it.
        bad_records: Collects what fails.

    Returns:
        What `decode` returns, batched; zeros where it failed.
    """
    num_examples = window[0].cardinality()[tf.newaxis]
    numbered = tf.data.Dataset.zip(tf.data.Dataset.range(_CHUNK), *window)
    # An error leaves its example out, at no cost for the others.
    good = numbered.map(
        lambda number, *example: (number, example[1], *decode(*example))
    ).ignore_errors()
    none = [tf.zeros([0, *spec.shape], spec.dtype) for spec in good.element_spec]
    good = good.batch(_CHUNK).concatenate(tf.data.Dataset.from_tensors(tuple(none)))
    numbers, good_ids, labels, *rest = good.take(1).get_single_element()
    wrong = (labels < 0) | (labels >= data_set.num_classes)
    message = ["label out of range", good_ids[wrong], labels[wrong]]
    check = tf.debugging.Assert(~tf.reduce_any(wrong), message, summarize=1)

    def report(ids, records, good_ids):
        for record_id, record in zip(ids, records, strict=True):
            if record_id not in good_ids:
                place = find_record(split, int(record_id))
                bad_records.add(*place, _why_bad(record, data_set))

    def fill():
        if bad_records is not None:
            examples = tf.data.Dataset.zip(*window[1:]).batch(_CHUNK)
            arguments = [*examples.get_single_element(), good_ids]
            tf.numpy_function(report, arguments, [])
        filled = [
            tf.scatter_nd(
                numbers[:, None], x, tf.concat([num_examples, x.shape[1:]], 0)
            )
            for x in (labels + 1, *rest)
        ]
        return [filled[0] - 1, *filled[1:]]

    with tf.control_dependencies([check]):
        some_are_bad = tf.size(numbers, tf.int64) < num_examples[0]
        return tf.cond(some_are_bad, fill, lambda: [labels, *rest])


def _decode_in_order(
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
        return label, _decode_crop(image_bytes, data_set, corner, size, frame)

    def decode_chunk(ids, chunk):
        window = (ids, ids, chunk)
        args = (decode, window, data_set, records, bad_records)
        labels, images = _decode_chunk(*args)
        return images, labels

    return read_all(records).window(chunk).map(decode_chunk, tf.data.AUTOTUNE)


def _announce_cache(data_set: DataSet, split: str, size: int) -> None:
    """Says what will be kept in memory; refuses what cannot fit."""
    num_examples = data_set.splits[split].num_examples
    needed = num_examples * size * size * 3 / 2**30
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    what = f"{needed:.2f} GiB for the {num_examples:,} decoded images of {split}"
    if needed > total:
        raise UserError(f"the cache needs {what}, of {total:.2f}; go without it")
    logging.info("caching in memory %s", what)


def _load(
    data_set: DataSet, split: str, frame: int, bad_records: BadRecords | None
) -> Callable:
    """Decodes a split into memory; returns what takes a crop from there."""
    _announce_cache(data_set, split, frame)
    records = data_set.splits[split]
    batches = _decode_in_order(data_set, split, frame, frame, _CHUNK, bad_records)
    images, labels = batches.rebatch(records.num_examples).get_single_element()
    order = read_all(records, ids_only=True).map(lambda record_id, _: record_id)
    places = tf.argsort(order.batch(records.num_examples).get_single_element())

    def crop(record_id, corner, size):
        place = places[record_id]
        label = labels[place]
        begin = tf.concat([[place], corner, [0]], axis=0)
        with tf.control_dependencies([tf.debugging.Assert(label >= 0, ["bad record"])]):
            return label, tf.slice(images, begin, [1, size, size, 3])[0]

    return crop


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
        color_until_epoch: Epoch from which on colours stay as they are.
        cache: Whether to decode all images into memory first. The batches are the same,
            but for the rounding of pictures that have to be scaled.
        data_service: Address of a tf.data service, "grpc://host:port", that reads and
            augments in place of this machine. Its workers take a block of shards each:
            every example still comes once an epoch, but batches arrive in any order.
        input_context: This worker's place among the input workers; together they get
            the batches that a single one would.
        bad_records: Collects the records that cannot be decoded (not those that a data
            service meets).

    Returns:
        Batches of this worker, of the size that one replica takes: uint8 RGB
        `(batch, image_size, image_size, 3)` and int32 labels `(batch,)`, -1 where a
        record could not be decoded.

    Raises:
        UserError: An argument is out of its range, or the cache does not fit.
    """
    if color not in COLORS:
        raise UserError(f"color must be one of {', '.join(COLORS)}, received {color!r}")
    if cache and data_service:
        raise UserError("cache and data_service exclude each other; choose one")
    context = input_context or tf.distribute.InputContext()
    batch_size = context.get_per_replica_batch_size(global_batch_size)
    chunk_size = min(batch_size, _CHUNK)
    records = data_set.splits[split]
    if not records.num_examples:
        raise UserError(f"the split {split} of {data_set.data_dir} holds no examples")
    frame = _frame_size(data_set, image_size)
    last_position = tf.int64.max
    if color_until_epoch is not None:
        last_position = round(color_until_epoch * records.num_examples)
    if data_service:
        bad_records = None  # a list here is out of reach there
    cached = _load(data_set, split, frame, bad_records) if cache else None

    def decode(position, record_id, record):
        uniform = augmentation.draw_uniform(seed, position)
        draws = uniform[3:]
        if color == "pca":
            draws = augmentation.draw_normal(seed, position)
        corner = tf.cast(uniform[:2] * (frame - image_size + 1), tf.int32)
        if cache:
            label, image = cached(record_id, corner, image_size)
        else:
            image_bytes, label = parse_record(record, data_set)
            image = _decode_crop(image_bytes, data_set, corner, image_size, frame)
        mirror = functools.partial(tf.reverse, image, [1])
        image = tf.cond(uniform[2] < 0.5, mirror, lambda: image)
        return label, image, draws, position < last_position

    def augment(positions, ids_and_records):
        window = (positions, *ids_and_records)
        chunk = _decode_chunk(decode, window, data_set, records, bad_records)
        chunk = [tf.ensure_shape(x, [chunk_size, *x.shape[1:]]) for x in chunk]
        labels, images, draws, active = chunk
        if color == "jitter":
            images = augmentation.jitter(images, draws, active)
        elif color == "pca":
            images = augmentation.add_pca_noise(
                images, draws, active, data_set, pca_source_2012
            )
        return images, labels

    start = start_step * global_batch_size
    examples = _shuffled_records(records, seed, start, ids_only=cache)
    if not data_service:
        shard = context.num_input_pipelines, context.input_pipeline_id
        examples = examples.shard(*shard)
    batches = examples.window(chunk_size).map(augment, tf.data.AUTOTUNE)
    batches = batches.rebatch(batch_size, drop_remainder=True)
    if data_service:
        service = tf.data.experimental.service
        name = f"alexnet_tf-{seed}-{start_step}"  # the hosts of a run share a job
        batches = batches.with_options(_options()).apply(
            service.distribute(
                service.ShardingPolicy.DYNAMIC,
                data_service,
                job_name=name if context.num_input_pipelines > 1 else None,
                compression=None,
            )
        )
    endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    return batches.apply(endless).prefetch(2).with_options(_options())


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
        bad_records: Collects the records that cannot be decoded.

    Returns:
        uint8 RGB `(global_batch_size, image_size, image_size, 3)`, or
        `(global_batch_size, 10, image_size, image_size, 3)`, and int32 labels
        `(global_batch_size,)`, -1 where the last batch is filled up and where a record
        could not be decoded.
    """
    if views not in (1, 10):
        raise UserError(f"views must be 1 or 10, received {views}")
    frame = _frame_size(data_set, image_size)
    size = image_size if views == 1 else frame

    def fill_up(images, labels):
        missing = global_batch_size - tf.size(labels)
        images = tf.pad(images, [[0, missing], [0, 0], [0, 0], [0, 0]])
        images = tf.ensure_shape(images, [global_batch_size, size, size, 3])
        labels = tf.pad(labels, [[0, missing]], constant_values=-1)
        if views == 10:
            images = augmentation.ten_views(images, image_size)
        return images, tf.ensure_shape(labels, [global_batch_size])

    chunk_size = min(global_batch_size, _CHUNK)
    batches = _decode_in_order(data_set, split, size, frame, chunk_size, bad_records)
    if cache:
        _announce_cache(data_set, split, size)
        batches = batches.cache()
    batches = batches.rebatch(global_batch_size).map(fill_up)
    return batches.prefetch(2).with_options(_options())


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

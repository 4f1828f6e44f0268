"""What a prepared data set is on disk: opening one, parsing a record of it.

Two formats: the directory of TensorFlow Datasets that `data.prepare` writes, and the
older convention for ImageNet, `train-00000-of-01024`, with `image/encoded` and
`image/class/label`.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
import os
import re
import struct
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from alexnet_tf import files
from alexnet_tf.errors import UserError
from alexnet_tf.pipeline.measurements import describe_files, measured_once

INCOMPLETE_SUFFIX = ".incomplete"
INFO_FILE = "dataset_info.json"
_SHARD = re.compile(r"(train|validation|test)-(\d{5})-of-(\d{5})(\.tfrecord)?")
_SAMPLED_LABELS = 20_000  # a class of ImageNet is absent from so many with odds of 2e-9


@dataclasses.dataclass(frozen=True)
class Split:
    """A part of a data set.

    Attributes:
        name: "train", "validation" or "test".
        filenames: Absolute paths of the TFRecord shards, in order.
        shard_lengths: Records in each shard.
    """

    name: str
    filenames: tuple[str, ...]
    shard_lengths: tuple[int, ...]

    @property
    def num_examples(self) -> int:
        """Records in all shards."""
        return sum(self.shard_lengths)

    @functools.cached_property
    def first_ids(self) -> list[int]:
        """The id of each shard's first record; ids count through the shards."""
        return list(itertools.accumulate(self.shard_lengths[:-1], initial=0))


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set on disk.

    Attributes:
        data_dir: Where it is.
        name: What it is: "elpv", "imagenet2012", …
        class_names: Readable; the index is the label.
        splits: By name.
        encoding: "jpeg" (anything that `tf.io.decode_image` takes) or "raw" (the uint8
            pixels of a picture of `image_shape`).
        image_shape: (height, width, 3), None where the pictures' sizes vary.
        image_key: Key of the picture in a `tf.train.Example`.
        label_key: Key of the label.
        label_offset: What to subtract from a stored label: 1 for labels 1..1000.
        fit: How the pictures were fitted to their shape: "crop" (scaled, the centre cut
            out) or "pad" (the whole picture on its mean colour).
    """

    data_dir: str
    name: str
    class_names: tuple[str, ...]
    splits: dict[str, Split]
    encoding: str
    image_shape: tuple[int, int, int] | None
    image_key: str
    label_key: str
    label_offset: int
    fit: str = "crop"

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


def open_data_set(data_dir: str) -> DataSet:
    """Opens a data set made by `data.prepare`, or another one that it can read.

    Args:
        data_dir: The directory with `dataset_info.json`, or one above it; or one with
            ImageNet's older shards, or with folders of them.

    Raises:
        UserError: It is missing, empty, half-written or in an unknown format.
    """
    if "://" not in data_dir:
        data_dir = os.path.abspath(os.path.expanduser(data_dir))
    if not files.list_names(data_dir) and _is_unfinished(data_dir):
        raise UserError(
            f"the preparation of {data_dir} did not finish; run data.prepare again"
        )
    if not tf.io.gfile.isdir(data_dir):
        raise UserError(f"no such data_dir: {data_dir}; make one with data.prepare")
    shards = _find_shards(data_dir)
    if shards:
        return _open_shards(data_dir, shards)
    return _open_tfds(_find_version_dir(data_dir))


def _is_unfinished(data_dir: str) -> bool:
    """Whether there is beside it what a killed preparation left."""
    parent, name = os.path.split(data_dir.rstrip("/"))
    return any(
        entry.startswith(f".{name}.") and entry.endswith(INCOMPLETE_SUFFIX)
        for entry in files.list_names(parent)
    )


def _find_version_dir(data_dir: str) -> str:
    """Finds the one directory with a `dataset_info.json`, at most three levels down."""
    level = [data_dir]
    for _ in range(4):
        found = [d for d in level if tf.io.gfile.exists(os.path.join(d, INFO_FILE))]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(
                f"{data_dir} holds several data sets; give one of: {', '.join(found)}"
            )
        entries = [os.path.join(d, name) for d in level for name in _list_names(d)]
        level = [entry for entry in entries if tf.io.gfile.isdir(entry)]
    raise UserError(
        f"no data set in {data_dir}: expected {INFO_FILE} or shards such as "
        "train-00000-of-01024; make one with data.prepare"
    )


def _list_names(directory: str) -> list[str]:
    names = (name.rstrip("/") for name in tf.io.gfile.listdir(directory))
    return sorted(n for n in names if not n.endswith(INCOMPLETE_SUFFIX))


def _open_tfds(version_dir: str) -> DataSet:
    import tensorflow_datasets as tfds

    try:
        info = tfds.builder_from_directory(version_dir).info
    except Exception as error:  # TFDS says it in a dozen ways
        raise UserError(f"{version_dir}/{INFO_FILE} cannot be read: {error}") from None
    image_key, label_key = picture_and_label(info, version_dir)
    image, label = info.features[image_key], info.features[label_key]
    if info.file_format is not tfds.core.FileFormat.TFRECORD:
        raise UserError(
            f"{version_dir} is in the format {info.file_format.value}, not tfrecord; "
            "prepare it with --source=tfds"
        )
    splits = {}
    for name, split in info.splits.items():
        _check_complete(version_dir, name, split.filenames, _list_names(version_dir))
        filenames = tuple(os.path.join(version_dir, f) for f in split.filenames)
        splits[name] = Split(name, filenames, tuple(split.shard_lengths))
    return DataSet(
        data_dir=version_dir,
        name=info.name,
        class_names=tuple(label.names),
        splits=splits,
        encoding="jpeg" if isinstance(image, tfds.features.Image) else "raw",
        image_shape=None if None in image.shape else tuple(image.shape),
        image_key=image_key,
        label_key=label_key,
        label_offset=0,
        fit=(info.metadata or {}).get("fit", "crop"),
    )


def picture_and_label(info, where: str) -> tuple[str, str]:
    """Returns the keys of the picture and of its class in a data set of TFDS.

    Args:
        info: Its `tfds.core.DatasetInfo`.
        where: Its name or directory, for the error.

    Raises:
        UserError: There is no picture, encoded or uint8 RGB, with a class label.
    """
    import tensorflow_datasets as tfds

    image_key, label_key = info.supervised_keys or ("image", "label")
    features = dict(info.features.items())
    image, label = features.get(image_key), features.get(label_key)
    is_raw = isinstance(image, tfds.features.Tensor) and (
        len(image.shape) == 3 and image.shape[2] == 3 and image.np_dtype == np.uint8
    )
    if not (is_raw or isinstance(image, tfds.features.Image)) or not isinstance(
        label, tfds.features.ClassLabel
    ):
        raise UserError(
            f"{where} has no picture with a class label; it has "
            + ", ".join(sorted(features))
        )
    return image_key, label_key


def _check_complete(directory, split, wanted: Sequence[str], found: Sequence[str]):
    missing = sorted(set(wanted) - set(found))
    if missing:
        raise UserError(
            f"{directory} is incomplete: of {len(wanted)} shards of {split} "
            f"{len(missing)} are missing, {missing[0]} first"
        )


def _find_shards(data_dir: str) -> dict[str, list[str]]:
    """Finds shards of the older convention, here or in `train/` and `validation/`."""
    shards = collections.defaultdict(list)
    for folder in ("", "train", "validation", "test"):
        directory = os.path.join(data_dir, folder)
        if not tf.io.gfile.isdir(directory):
            continue
        names = _list_names(directory)
        matches = [match for match in map(_SHARD.fullmatch, names) if match]
        for split, count, suffix in sorted({match.group(1, 3, 4) for match in matches}):
            wanted = [
                f"{split}-{index:05d}-of-{count}{suffix or ''}"
                for index in range(int(count))
            ]
            _check_complete(directory, split, wanted, names)
            shards[split] += [os.path.join(directory, name) for name in wanted]
    return shards


def _open_shards(data_dir: str, shards: dict[str, list[str]]) -> DataSet:
    """Opens ImageNet in the older convention, whose facts have to be measured."""
    paths = [path for split in shards.values() for path in split]

    def build(facts: dict) -> DataSet:
        lengths = dict(zip(paths, facts["shard_lengths"].tolist(), strict=True))
        splits = {
            name: Split(name, tuple(paths), tuple(lengths[path] for path in paths))
            for name, paths in shards.items()
        }
        return DataSet(
            data_dir=data_dir,
            name="imagenet2012",
            class_names=tuple(imagenet_class_names()),
            splits=splits,
            encoding="jpeg",
            image_shape=None,
            image_key="image/encoded",
            label_key="image/class/label",
            label_offset=int(facts["label_offset"]),
        )

    def measure() -> dict:
        logging.info("Reading %d shards in %s, once.", len(paths), data_dir)
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            lengths = np.array(list(pool.map(count_records, paths)), np.int64)
        facts = {"shard_lengths": lengths, "label_offset": np.array(0)}
        offset = _find_label_offset(_sample_labels(build(facts)))
        return facts | {"label_offset": np.array(offset)}

    measured_on = describe_files(data_dir, paths)
    return build(measured_once(data_dir, "records", measured_on, measure))


def imagenet_class_names() -> list[str]:
    """Returns a readable, unique name for each of ImageNet's 1000 classes."""
    from tensorflow_datasets.datasets.siscore import labels

    names = []
    for synonyms in labels.IMAGENET_LABELS_LIST:
        name = synonyms.split(",")[0]
        names.append(synonyms if name in names else name)
    return names


def record_spans(filename: str) -> Iterator[tuple[int, int]]:
    """Finds the whole records of a TFRecord file by their headers.

    Yields:
        Where the content of a record begins in the file, and its length, bytes.
    """
    # tf.io's files read half a megabyte after every seek; Python's do not.
    opener = tf.io.gfile.GFile if "://" in filename else open
    size, position = tf.io.gfile.stat(filename).length, 0
    with opener(filename, "rb") as file:
        while position < size:
            file.seek(position)
            header = file.read(8)  # then its checksum, the content, its checksum
            if len(header) < 8:
                return
            (length,) = struct.unpack("<Q", header)
            begin, position = position + 8 + 4, position + 8 + 4 + length + 4
            if position <= size:
                yield begin, length


def count_records(filename: str) -> int:
    """Counts the records of a TFRecord file by their headers.

    Raises:
        UserError: The file does not end where a record does.
    """
    count, end = 0, 0
    for begin, length in record_spans(filename):
        count, end = count + 1, begin + length + 4
    if end != tf.io.gfile.stat(filename).length:
        raise UserError(
            f"{filename} is cut short or damaged after {count} records; copy it again"
        )
    return count


def _first_records(filenames: Sequence[str], number: int) -> tf.data.Dataset:
    """Takes equally many records from the beginning of every file."""
    each = -(-number // len(filenames))
    return tf.data.Dataset.from_tensor_slices(list(filenames)).flat_map(
        lambda filename: tf.data.TFRecordDataset(filename).take(each)
    )


def _sample_labels(data_set: DataSet) -> np.ndarray:
    filenames = [f for split in data_set.splits.values() for f in split.filenames]
    records = _first_records(filenames, _SAMPLED_LABELS)
    try:
        labels = records.map(lambda record: parse_record(record, data_set)[1])
        return np.fromiter(labels.as_numpy_iterator(), int)
    except tf.errors.InvalidArgumentError:
        example = tf.train.Example.FromString(next(records.as_numpy_iterator()))
        keys = ", ".join(sorted(example.features.feature))
        raise UserError(
            f"the records in {data_set.data_dir} lack {data_set.image_key} or "
            f"{data_set.label_key}; they have {keys}"
        ) from None


def _find_label_offset(labels: np.ndarray) -> int:
    """Tells labels 0..999 from 1..1000, where 0 is a background without pictures."""
    if not labels.size:
        raise UserError("the shards are empty")
    low, high = labels.min(), labels.max()
    if low >= 1 and high <= 1000:
        offset = 1
    elif low == 0 and high <= 999:
        offset = 0
    else:
        raise UserError(f"expected labels 0..999 or 1..1000, found {low}..{high}")
    logging.info("Labels %d..%d: ImageNet's %d..%d.", low, high, offset, 999 + offset)
    return offset


def parse_record(
    serialized: tf.Tensor, data_set: DataSet
) -> tuple[tf.Tensor, tf.Tensor]:
    """Parses one record, without decoding the picture.

    Args:
        serialized: string scalar, a `tf.train.Example`.
        data_set: Where it is from.

    Returns:
        The picture's bytes, a string scalar, and its label, an int64 scalar counted
        from 0; it may be out of range.
    """
    example = tf.io.parse_single_example(
        serialized,
        {
            data_set.image_key: tf.io.FixedLenFeature([], tf.string),
            data_set.label_key: tf.io.FixedLenFeature([], tf.int64),
        },
    )
    label = example[data_set.label_key] - data_set.label_offset
    return example[data_set.image_key], label

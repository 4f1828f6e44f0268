"""What a prepared data set is on disk: opening one, parsing a record of it.

Two formats: the directory of TensorFlow Datasets that `data.prepare` writes, and the
older convention for ImageNet, `train-00000-of-01024`, with `image/encoded` and
`image/class/label`.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from alexnet_tf.errors import UserError
from alexnet_tf.paths import expand, is_remote, list_names
from alexnet_tf.pipeline import older_shards
from alexnet_tf.pipeline.measurements import describe_files, measured_once
from alexnet_tf.pipeline.tfrecords import count_all, read_record

INCOMPLETE_SUFFIX = ".incomplete"
INFO_FILE = "dataset_info.json"
FIRST_EXAMPLES = 100  # of a split; where none of them has a label, the split has none
_FEATURES_FILE = "features.json"
_TFDS_FEATURE = re.compile(r"tensorflow_datasets\.core\.features(\.\w+)+")


@dataclasses.dataclass(frozen=True)
class Split:
    """A part of a data set.

    Attributes:
        name: "train", "validation" or "test".
        filenames: Absolute paths of the TFRecord shards, in order.
        shard_lengths: Records in each shard.
        compression: Of the shards, "" or "GZIP".
        whole_lengths: Records in each shard that are whole, which alone are read; () if
            that is not known.
    """

    name: str
    filenames: tuple[str, ...]
    shard_lengths: tuple[int, ...]
    compression: str = ""
    whole_lengths: tuple[int, ...] = ()

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
        given_offset: The `label_offset`, where the user told what labels mean; None
            where the data tell it.
        fit: How the pictures were fitted to their shape, or how they are to be where
            their sizes vary: "crop" (scaled, the centre cut out), "warp" (both sides
            scaled) or "pad" (the whole picture on its mean colour).
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
    given_offset: int | None = None
    fit: str = "crop"

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


def open_data_set(
    data_dir: str,
    *,
    class_names: str | Sequence[str] | None = None,
    label_offset: int | None = None,
) -> DataSet:
    """Opens a data set made by `data.prepare`, or another one that it can read.

    Args:
        data_dir: The directory with `dataset_info.json`, or one above it; or one with
            ImageNet's older shards, or with folders of them.
        class_names: The names of the classes, or a text file of them, one a line, for
            older shards whose records do not tell them.
        label_offset: The label of the first class in older shards.

    Raises:
        UserError: It is missing, empty, half-written or in an unknown format.
    """
    data_dir = expand(data_dir)
    if not is_remote(data_dir):
        data_dir = os.path.abspath(data_dir)
    if not list_names(data_dir) and _is_unfinished(data_dir):
        raise UserError(
            f"the preparation of {data_dir} did not finish; run data.prepare again"
        )
    if not tf.io.gfile.isdir(data_dir):
        raise UserError(f"no such data_dir: {data_dir}; make one with data.prepare")
    shards = older_shards.find_shards(data_dir)
    if shards:
        if isinstance(class_names, str):
            class_names = _read_names(class_names)
        return _open_shards(data_dir, shards, class_names, label_offset)
    if class_names is not None or label_offset is not None:
        raise UserError(
            f"{data_dir} holds no shards such as train-00000-of-01024: its labels need "
            "neither --class_names nor --label_offset"
        )
    return _open_tfds(_find_version_dir(data_dir))


def _read_names(path: str) -> list[str]:
    """The lines of a file of class names."""
    try:
        with tf.io.gfile.GFile(expand(path), "rb") as file:
            names = file.read().decode("utf-8-sig").splitlines()
    except (tf.errors.OpError, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--class_names={path} cannot be read: {reason}") from None
    names = [name.strip() for name in names]
    if not all(names) or len(set(names)) < len(names) or not names:
        raise UserError(
            f"--class_names={path} must have a name on each line, each of them once"
        )
    return names


def _is_unfinished(data_dir: str) -> bool:
    """Whether there is beside it what a killed preparation left."""
    parent, name = os.path.split(data_dir.rstrip("/"))
    return f".{name}.unfinished" in list_names(parent)


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
        entries = [
            os.path.join(directory, name)
            for directory in level
            for name in list_names(directory)
            if not name.endswith(INCOMPLETE_SUFFIX)
        ]
        level = [entry for entry in entries if tf.io.gfile.isdir(entry)]
    raise UserError(
        f"no data set in {data_dir}: expected {INFO_FILE} or shards such as "
        "train-00000-of-01024; make one with data.prepare"
    )


def _open_tfds(version_dir: str) -> DataSet:
    import tensorflow_datasets as tfds

    check_features(os.path.join(version_dir, _FEATURES_FILE))
    try:
        with _readable_metadata(version_dir) as directory:
            info = tfds.builder_from_directory(directory).info
            shards = {
                name: (list(split.filenames), tuple(split.shard_lengths))
                for name, split in info.splits.items()
            }
    except Exception as error:  # TFDS says it in a dozen ways
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{os.path.join(version_dir, INFO_FILE)} and what belongs to it cannot be "
            f"read: {reason}"
        ) from None
    image_key, label_key = picture_and_label(info, version_dir)
    image, label = info.features[image_key], info.features[label_key]
    if info.file_format is not tfds.core.FileFormat.TFRECORD:
        raise UserError(
            f"{version_dir} is in the format {info.file_format.value}, not tfrecord; "
            "prepare it with --source=tfds"
        )
    splits, found = {}, list_names(version_dir)
    for name, (filenames, lengths) in shards.items():
        older_shards.check_complete(version_dir, name, filenames, found)
        paths = tuple(os.path.join(version_dir, filename) for filename in filenames)
        splits[name] = Split(name, paths, lengths)
    if not is_remote(version_dir):  # a request for each record would take long
        splits = _with_whole_lengths(version_dir, splits)
    data_set = DataSet(
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
    labelled = {n: s for n, s in splits.items() if not _is_unlabelled(s, data_set)}
    return dataclasses.replace(data_set, splits=labelled)


def check_features(path: str) -> None:
    """Refuses a data set that names a class of others, which TFDS would import and run.

    Args:
        path: Of its `features.json`.

    Raises:
        UserError: It does, or the file is damaged.
    """

    def check(content: dict) -> dict:
        for key in ("pythonClassName", "python_class_name", "type"):
            name = content.get(key)
            if isinstance(name, str) and not _TFDS_FEATURE.fullmatch(name):
                raise UserError(
                    f"{path} names the class {name[:100]!a}, which is none of TFDS's "
                    "features and could run a program; do not use this data set"
                )
        return content

    try:
        with tf.io.gfile.GFile(path) as file:
            json.load(file, object_hook=check)
    except UserError:
        raise
    except (tf.errors.OpError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read: {reason}") from None


@contextlib.contextmanager
def _readable_metadata(version_dir: str) -> Iterator[str]:
    """Where TFDS can read all but the records: it knows few file systems."""
    if not is_remote(version_dir):
        yield version_dir
        return
    with tempfile.TemporaryDirectory() as copy:
        for name in list_names(version_dir):
            if name.endswith((".json", ".txt")):
                target = os.path.join(copy, name)
                tf.io.gfile.copy(os.path.join(version_dir, name), target)
        yield copy


def _with_whole_lengths(version_dir: str, splits: dict[str, Split]) -> dict[str, Split]:
    """Adds how many records are whole: TensorFlow crashes at one of absurd length."""
    paths = [path for split in splits.values() for path in split.filenames]

    def measure() -> dict[str, np.ndarray]:
        return {"counts": np.array([count for count, _ in count_all(paths).values()])}

    described = describe_files(version_dir, paths)
    counts = measured_once(version_dir, "headers", described, measure)["counts"]
    counts = dict(zip(paths, counts.tolist(), strict=True))
    return {
        name: dataclasses.replace(
            split, whole_lengths=tuple(counts[path] for path in split.filenames)
        )
        for name, split in splits.items()
    }


def _is_unlabelled(split: Split, data_set: DataSet) -> bool:
    """Whether -1 stands for every label, as in the test split of TFDS's ImageNet."""
    labels = _first_labels(split, data_set)
    is_unlabelled = next(labels, 0) < 0 and all(label < 0 for label in labels)
    if is_unlabelled:
        logging.info("left out: the split %s, which has no labels", split.name)
    return is_unlabelled


def _first_labels(split: Split, data_set: DataSet) -> Iterator[int]:
    """Those of the first shard's first records that can be parsed."""
    for filename, length in zip(split.filenames[:1], split.shard_lengths, strict=False):
        for index in range(min(length, FIRST_EXAMPLES)):
            record = read_record(filename, index)
            with contextlib.suppress(tf.errors.OpError, UnicodeDecodeError):
                if record is not None:
                    yield int(parse_record(record, data_set)[1])


def picture_and_label(info, where: str) -> tuple[str, str]:
    """Returns the keys of the picture and of its class in a data set of TFDS.

    Args:
        info: Its `tfds.core.DatasetInfo`.
        where: Its name or directory, for the error.

    Raises:
        UserError: There is no picture, encoded or uint8 RGB, with a class label.
    """
    import tensorflow_datasets as tfds

    image_key, label_key, *_ = info.supervised_keys or ("image", "label")
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


def _open_shards(
    data_dir: str,
    shards: dict[str, list[str]],
    class_names: Sequence[str] | None,
    label_offset: int | None,
) -> DataSet:
    """Opens data in ImageNet's older convention, whose facts have to be measured."""
    is_given = class_names is not None or label_offset is not None
    paths = list(itertools.chain.from_iterable(shards.values()))
    facts = older_shards.measure_shards(data_dir, paths)
    try:
        classes = older_shards.find_classes(facts.classes, class_names, label_offset)
    except UserError as error:
        raise UserError(f"{data_dir}: {error}") from None
    splits = {
        name: Split(
            name,
            tuple(paths),
            tuple(facts.shard_lengths[path] for path in paths),
            facts.compression,
        )
        for name, paths in shards.items()
    }
    return DataSet(
        data_dir=data_dir,
        name="imagenet2012" if classes.are_imagenets else os.path.basename(data_dir),
        class_names=classes.names,
        splits=splits,
        encoding="jpeg",
        image_shape=None,
        image_key=older_shards.IMAGE_KEY,
        label_key=older_shards.LABEL_KEY,
        label_offset=classes.offset,
        given_offset=classes.offset if is_given else None,
    )


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

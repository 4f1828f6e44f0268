"""What a prepared data set is on disk: opening one, parsing a record of it."""

import dataclasses
import os

import numpy as np
import tensorflow as tf

from alexnet_tf.errors import UserError

INCOMPLETE_SUFFIX = ".incomplete"
_INFO_FILE = "dataset_info.json"


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
        image_mean: RGB, 0..255, of the training split.
        color_eigenvalues: Of the training split's RGB covariance, descending, in
            squared units of 0..255.
        color_eigenvectors: 3×3, column i belongs to eigenvalue i.
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
    image_mean: tuple[float, float, float]
    color_eigenvalues: tuple[float, ...]
    color_eigenvectors: tuple[tuple[float, ...], ...]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


def open_data_set(data_dir: str) -> DataSet:
    """Opens a data set made by `data.prepare`, or another one that it can read.

    Args:
        data_dir: The directory with `dataset_info.json`, or one above it.

    Raises:
        UserError: It is missing, empty, half-written or in an unknown format.
    """
    data_dir = os.path.abspath(os.path.expanduser(data_dir))
    if data_dir.endswith(INCOMPLETE_SUFFIX):
        raise UserError(
            f"{data_dir} was left by a preparation that did not finish; "
            "run data.prepare again"
        )
    if not tf.io.gfile.isdir(data_dir):
        if tf.io.gfile.isdir(data_dir + INCOMPLETE_SUFFIX):
            raise UserError(
                f"the preparation of {data_dir} did not finish; run data.prepare again"
            )
        raise UserError(f"no such data_dir: {data_dir}; make one with data.prepare")
    version_dir = _find_version_dir(data_dir)
    return _open_tfds(version_dir)


def _find_version_dir(data_dir: str) -> str:
    """Finds the one directory with a `dataset_info.json`, at most three levels down."""
    level = [data_dir]
    for _ in range(4):
        found = [d for d in level if tf.io.gfile.exists(os.path.join(d, _INFO_FILE))]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(
                f"{data_dir} holds several data sets; give one of: {', '.join(found)}"
            )
        entries = [os.path.join(d, name) for d in level for name in _list_names(d)]
        level = [entry for entry in entries if tf.io.gfile.isdir(entry)]
    raise UserError(
        f"no data set in {data_dir}: expected {_INFO_FILE} or shards such as "
        "train-00000-of-01024; make one with data.prepare"
    )


def _list_names(directory: str) -> list[str]:
    names = (name.rstrip("/") for name in tf.io.gfile.listdir(directory))
    return sorted(n for n in names if not n.endswith(INCOMPLETE_SUFFIX))


def _open_tfds(version_dir: str) -> DataSet:
    import tensorflow_datasets as tfds

    info = tfds.builder_from_directory(version_dir).info
    image_key, label_key = info.supervised_keys or ("image", "label")
    image, label = info.features[image_key], info.features[label_key]
    metadata = info.metadata or {}
    names = set(_list_names(version_dir))
    splits = {}
    for name, split in info.splits.items():
        missing = [f for f in split.filenames if f not in names]
        if missing:
            raise UserError(
                f"{version_dir} is incomplete: of {len(split.filenames)} shards of "
                f"{name} {len(missing)} are missing, {missing[0]} first"
            )
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
        image_mean=tuple(metadata["image_mean"]),
        color_eigenvalues=tuple(metadata["color_eigenvalues"]),
        color_eigenvectors=tuple(map(tuple, metadata["color_eigenvectors"])),
    )


def parse_record(
    serialized: tf.Tensor, data_set: DataSet
) -> tuple[tf.Tensor, tf.Tensor]:
    """Parses one record, without decoding the picture.

    Args:
        serialized: string scalar, a `tf.train.Example`.
        data_set: Where it is from.

    Returns:
        The picture's bytes, a string scalar, and its label, an int32 scalar counted
        from 0.
    """
    example = tf.io.parse_single_example(
        serialized,
        {
            data_set.image_key: tf.io.FixedLenFeature([], tf.string),
            data_set.label_key: tf.io.FixedLenFeature([], tf.int64),
        },
    )
    label = example[data_set.label_key] - data_set.label_offset
    return example[data_set.image_key], tf.cast(label, tf.int32)


def principal_components(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the eigenvalues, descending, and the eigenvectors as columns.

    The sign of a vector is arbitrary; here its largest component is positive.
    """
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    eigenvalues, eigenvectors = eigenvalues[::-1], eigenvectors[:, ::-1]
    largest = np.abs(eigenvectors).argmax(axis=0)
    return eigenvalues.clip(0), eigenvectors * np.sign(eigenvectors[largest, range(3)])

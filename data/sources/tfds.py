"""Any data set that TensorFlow Datasets loads; CIFAR-100 also from its own archive."""

import functools
import itertools
import json
import os
import pathlib
import re
import tarfile
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from alexnet_tf.errors import UserError
from alexnet_tf.paths import is_remote
from alexnet_tf.pickles import load_arrays
from data.source import Item, Source, find_splits, hold_out, our_splits

FIRST_EXAMPLES = 100  # of a split; where none of them has a label, the split has none
_TFDS_FEATURE = re.compile(r"tensorflow_datasets\.core\.features(\.\w+)+")


def open_source(input: str | None, name: str | None, **_) -> Source:
    """Returns the data set `name` of TFDS, or the CIFAR-100 archive `input`.

    Args:
        input: `cifar-100-python.tar.gz`; or TFDS's data directory, where data sets are
            already prepared or shall be downloaded; None for TFDS's default one.
        name: As TFDS calls it, such as "cifar100" or "imagenette/320px-v2".
    """
    if input and os.path.isfile(input):
        return _cifar_100(input)
    if not name:
        raise UserError("--source=tfds needs --name, such as --name=cifar100")
    import tensorflow_datasets as tfds

    data_dir = input or os.path.expanduser(tfds.core.constants.DATA_DIR)
    if not is_remote(data_dir):
        for path in pathlib.Path(data_dir, name.split(":")[0]).rglob("features.json"):
            check_features(str(path))
    try:
        builder = tfds.builder(name, data_dir=input)
        builder.download_and_prepare()
    except Exception as error:  # of the network, of the disk, of each data set's code
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"TFDS cannot load {name!r}: {reason}") from error
    image_key, label_key = picture_and_label(builder.info, name)
    items = functools.partial(_items, builder, image_key, label_key)
    splits, notes = _find_splits(builder, name, items)
    return Source(
        name=builder.name,
        class_names=builder.info.features[label_key].names,
        parts=list(splits.items()),
        items=items,
        splits=our_splits(splits),
        holds_out="" in splits.values(),
        num_items=sum(builder.info.splits[split].num_examples for split in splits),
        metadata={"tfds": builder.info.full_name},
        notes=notes,
    )


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


def _find_splits(builder, name: str, items) -> tuple[dict[str, str], list[str]]:
    """Returns {their split: ours}, and a line for each split that is left out."""
    splits, notes = {}, []
    found = find_splits(builder.info.splits, name)
    for split in builder.info.splits:
        first = itertools.islice(items((split, "")), FIRST_EXAMPLES)
        if split not in found:
            notes.append(f"left out: the split {split}, which is none of ours")
        elif all(item.label < 0 for item in first):
            notes.append(f"left out: the split {split}, which has no labels")
        else:
            splits[split] = found[split]
    if not splits:
        raise UserError(
            f"{name} has no split to train on or to evaluate, but "
            + (", ".join(builder.info.splits) or "none")
        )
    return hold_out(splits), notes


def _items(builder, image_key: str, label_key: str, part) -> Iterator[Item]:
    import tensorflow_datasets as tfds

    their_split, split = part
    is_encoded = isinstance(builder.info.features[image_key], tfds.features.Image)
    undecoded = {image_key: tfds.decode.SkipDecoding()} if is_encoded else None
    examples = builder.as_dataset(split=their_split, decoders=undecoded)
    for index, example in enumerate(examples.as_numpy_iterator()):
        name, image = f"{their_split}/{index:08d}", example[image_key]
        content = image if isinstance(image, bytes) else _as_file(image)
        yield Item(name, int(example[label_key]), content, split)


def _as_file(pixels: np.ndarray) -> bytes:
    """Makes a picture file, in the portable pixmap format, of uint8 RGB pixels."""
    height, width, _ = pixels.shape
    return b"P6 %d %d 255\n" % (width, height) + pixels.tobytes()


def _cifar_100(archive: str) -> Source:
    try:
        with tarfile.open(archive) as tar:
            train, test, meta = (
                load_arrays(tar.extractfile(f"cifar-100-python/{member}").read())
                for member in ("train", "test", "meta")
            )
            while tar.fileobj.read(2**20):
                pass  # the checksum comes last
        class_names = meta["fine_label_names"]
        if not all(isinstance(name, str) for name in class_names):
            raise TypeError("expected names of classes")
        batches = [_check_batch(batch, len(class_names)) for batch in (train, test)]
    except Exception as error:  # a damaged or foreign file raises all sorts of things
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise UserError(
            f"{archive} is not cifar-100-python.tar.gz, or damaged: {reason}"
        ) from None
    return Source(
        name="cifar100",
        class_names=class_names,
        parts=[("train", "", *batches[0]), ("test", "test", *batches[1])],
        items=_cifar_items,
        splits=("train", "validation", "test"),
        holds_out=True,
        num_items=sum(len(pixels) for pixels, _ in batches),
    )


def _check_batch(batch: dict, num_classes: int) -> tuple[np.ndarray, list[int]]:
    """Returns uint8 `(pictures, 32, 32, 3)` and as many labels."""
    pixels, labels = np.asarray(batch["data"].values), batch["fine_labels"]
    if pixels.dtype != np.uint8:
        raise ValueError("expected an array of bytes")
    if pixels.shape != (len(labels), 3072):
        raise ValueError(f"{pixels.shape} pixels for {len(labels)} labels")
    if not all(type(n) is int and 0 <= n < num_classes for n in labels):
        raise ValueError(f"expected labels 0..{num_classes - 1}")
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def _cifar_items(part) -> Iterator[Item]:
    their_split, split, pictures, labels = part
    for index, (pixels, label) in enumerate(zip(pictures, labels, strict=True)):
        yield Item(f"{their_split}/{index:05d}", label, _as_file(pixels), split)

"""Data sets of TensorFlow Datasets: one by its name, or a directory that it wrote.

A directory may be in any file format that TFDS reads, and need not say which of its
features are the picture and the label.
"""

import functools
import itertools
import json
import os
import re
from collections.abc import Iterator

import numpy as np

from alexnet_tf.errors import UserError
from alexnet_tf.paths import is_remote
from alexnet_tf.pictures.listing import LeftOut, find_folders, shown
from data.source import (
    Item,
    Reading,
    Source,
    encode_pixels,
    find_splits,
    hold_out,
    our_splits,
)
from data.sources.names import read_names

TAKES = ("name", "class_names", "image_column", "label_column")
_FEATURES, _INFO = "features.json", "dataset_info.json"
_DEPTH = 3  # of name/config/version
_FIRST = 100  # examples of a split; where none of them has a label, the split has none
_OWN_FEATURE = re.compile(r"tensorflow_datasets\.core\.features(\.\w+)+")


def find_directories(root: str) -> list[str]:
    """Returns the directories of data sets that TFDS wrote, at most three levels down.

    Only the newest version of a data set is taken.
    """
    found = {}
    for folder in find_folders(root, LeftOut()) if os.path.isdir(root) else ():
        directory = os.path.join(root, folder)
        is_near = folder.count("/") < _DEPTH
        if is_near and os.path.isfile(os.path.join(directory, _INFO)):
            *above, version = directory.rstrip("/").split("/")
            numbers = [int(number) for number in re.findall(r"\d+", version)]
            found.setdefault("/".join(above), []).append((numbers, directory))
    return [max(versions)[1] for versions in found.values()]


def open_source(input: str | None, reading: Reading) -> Source:
    """Returns the data set `reading.name`, or the one in the directory `input`.

    Args:
        input: A directory of a data set, or one above it; with a name TFDS's data
            directory, where data sets are prepared already or shall be downloaded.
        reading: Its name, such as "cifar100" or "imagenette/320px-v2".
    """
    import tensorflow_datasets as tfds

    directory = input
    try:
        if reading.name:
            directory = input or os.path.expanduser(tfds.core.constants.DATA_DIR)
            _check_all(os.path.join(directory, reading.name.split(":")[0]))
            builder = tfds.builder(reading.name, data_dir=input)
            builder.download_and_prepare()
        else:
            directory = _only_directory(input)
            _check_all(directory)
            builder = tfds.builder_from_directory(directory)
    except UserError:
        raise
    except Exception as error:  # of the network, of the disk, of each data set's code
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        what = reading.name or directory
        raise UserError(f"TFDS cannot load {shown(what)}: {reason}") from error
    keys = _find_keys(builder, reading)
    items = functools.partial(_items, builder, *keys)
    splits, notes = _find_splits(builder, items)
    return Source(
        name=builder.name,
        class_names=_class_names(builder, keys[1], reading),
        parts=list(splits.items()),
        items=items,
        splits=our_splits(splits),
        holds_out="" in splits.values(),
        num_items=sum(builder.info.splits[split].num_examples for split in splits),
        metadata={"tfds": builder.info.full_name},
        notes=notes,
        files=[str(path) for split in splits for path in _files_of(builder, split)],
    )


def _files_of(builder, split: str) -> list:
    return builder.info.splits[split].filepaths


def _only_directory(root: str | None) -> str:
    if not root:
        raise UserError(
            "--source=tfds needs --name, such as --name=cifar100, or --input"
        )
    found = [root] if is_remote(root) else find_directories(root)
    if len(found) == 1:
        return found[0]
    if not found:
        raise UserError(f"no data set of TFDS in {shown(root)}: there is no {_INFO}")
    raise UserError(
        f"{shown(root)} holds several data sets; give one of: "
        + ", ".join(map(shown, found))
    )


def _check_all(directory: str) -> None:
    """Checks the features of a local data set, in all its versions."""
    for folder in (
        find_folders(directory, LeftOut()) if os.path.isdir(directory) else ()
    ):
        path = os.path.join(directory, folder, _FEATURES)
        if os.path.exists(path):
            _check_features(path)


def _check_features(path: str) -> None:
    """Refuses a data set that names a class of others, which TFDS would import and run.

    Args:
        path: The path of its `features.json`.

    Raises:
        UserError: It does, or the file is damaged.
    """

    def check(content: dict) -> dict:
        for key in ("pythonClassName", "python_class_name", "type"):
            name = content.get(key)
            if isinstance(name, str) and not _OWN_FEATURE.fullmatch(name):
                raise UserError(
                    f"{path} names the class {name[:100]!a}, which is none of TFDS's "
                    "features and could run a program; do not use this data set"
                )
        return content

    try:
        with open(path) as file:
            json.load(file, object_hook=check)
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read: {reason}") from None


def _find_keys(builder, reading: Reading) -> tuple[str, str]:
    """Returns the keys of the picture and of its label: those given, or the only ones.

    Raises:
        UserError: There is no picture, encoded or uint8 RGB, or no integer label; or
            there are several, and none is the usual one.
    """
    import tensorflow_datasets as tfds

    features = dict(builder.info.features.items())
    usual = dict(
        zip(("image", "label"), builder.info.supervised_keys or (), strict=False)
    )

    def is_image(feature) -> bool:
        is_raw = isinstance(feature, tfds.features.Tensor) and (
            len(feature.shape) == 3 and feature.np_dtype == np.uint8
        )
        return is_raw or isinstance(feature, tfds.features.Image)

    def is_label(feature) -> bool:
        is_class = isinstance(feature, tfds.features.ClassLabel)
        return is_class or (
            feature.shape == () and np.issubdtype(feature.np_dtype, int)
        )

    def choose(role: str, is_fitting, given: str | None) -> str:
        fitting = [key for key in features if is_fitting(features[key])]
        for key in (given, *((usual.get(role), role) if not given else ())):
            if key in fitting:
                return key
        classes = [
            k for k in fitting if isinstance(features[k], tfds.features.ClassLabel)
        ]
        for only in (fitting, classes):
            if len(only) == 1 and not given:
                return only[0]
        raise UserError(
            f"{builder.name} has {len(fitting)} features that may be its {role}; give "
            f"--{role}_column=KEY, one of its {', '.join(sorted(features))}"
        )

    image = choose("image", is_image, reading.image_column)
    return image, choose("label", is_label, reading.label_column)


def _class_names(builder, label_key: str, reading: Reading) -> list[str]:
    names = getattr(builder.info.features[label_key], "names", None)
    if reading.class_names:
        return read_names(reading.class_names)
    if not names:
        raise UserError(
            f"{builder.name} does not name its classes: give --class_names=FILE, a "
            "name on each line"
        )
    return names


def _find_splits(builder, items) -> tuple[dict[str, str], list[str]]:
    """Returns {their split: ours}, and a line for each split that is left out."""
    splits, notes = {}, []
    found = find_splits(builder.info.splits, builder.name)
    for split in builder.info.splits:
        first = itertools.islice(items((split, "")), _FIRST)
        if split not in found:
            notes.append(f"left out: the split {split}, which is none of ours")
        elif all(item.label < 0 for item in first):
            notes.append(f"left out: the split {split}, which has no labels")
        else:
            splits[split] = found[split]
    if not splits:
        raise UserError(
            f"{builder.name} has no split to train on or to evaluate, but "
            + (", ".join(builder.info.splits) or "none")
        )
    return hold_out(splits), notes


def _items(builder, image_key: str, label_key: str, part) -> Iterator[Item]:
    import tensorflow_datasets as tfds

    their_split, split = part
    is_encoded = isinstance(builder.info.features[image_key], tfds.features.Image)
    undecoded = {image_key: tfds.decode.SkipDecoding()} if is_encoded else None
    try:
        examples = builder.as_dataset(split=their_split, decoders=undecoded)
        examples = examples.as_numpy_iterator()
    except NotImplementedError:  # of formats without an order of reading: array_record
        examples = builder.as_data_source(split=their_split, decoders=undecoded)
    for index, example in enumerate(examples):
        name, image = f"{their_split}/{index:08d}", example[image_key]
        content = image if isinstance(image, bytes) else encode_pixels(image)
        yield Item(name, int(example[label_key]), content, split)

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

from alexnet_tf.class_names import read_class_names
from alexnet_tf.errors import UserError
from alexnet_tf.files import read_whole
from alexnet_tf.paths import is_remote, list_names, local_only
from alexnet_tf.pictures.listing import LeftOut, find_folders
from alexnet_tf.pipeline.tfrecords import count_whole, first_line
from data.source import (
    Item,
    Reading,
    Source,
    choose_key,
    data_set_name,
    encode_pixels,
    find_splits,
)

TAKES = ("name", "class_names", "image_column", "label_column")
_FEATURES, _INFO = "features.json", "dataset_info.json"
_CLASS_KEYS = ("pythonClassName", "python_class_name", "type")
_MAX_BYTES = 2**22
_DEPTH = 3  # of name/config/version
_FIRST = 100  # examples of a split; where none of them has a label, the split has none
_OWN_FEATURE = re.compile(r"tensorflow_datasets\.core\.features(\.\w+)+")


def find_directories(root: str) -> list[str]:
    """Returns the directories that TFDS wrote, at most three levels down."""
    folders = find_folders(root, LeftOut()) if os.path.isdir(root) else ()
    near = [os.path.join(root, f) for f in folders if f.count("/") < _DEPTH]
    return [folder for folder in near if os.path.isfile(os.path.join(folder, _INFO))]


def open_source(input: str | None, reading: Reading) -> Source:
    """Returns the data set `reading.name`, or the one in the directory `input`.

    Args:
        input: A directory of a data set, or one above it; with a name TFDS's data
            directory, where data sets are prepared already or shall be downloaded.
        reading: Its name, such as "cifar100" or "imagenette/320px-v2".
    """
    builder = _load(input, reading.name)
    image, label = _find_keys(builder, reading)
    items = functools.partial(_items, builder, image, label)
    splits, left_out = _find_splits(builder, items)
    return Source(
        name=data_set_name(builder.name),
        class_names=_class_names(builder, label, reading),
        parts=list(splits.items()),
        items=items,
        splits=set(splits.values()),
        num_items=sum(builder.info.splits[split].num_examples for split in splits),
        metadata={"tfds": builder.info.full_name},
        notes=left_out.lines(),
    )


def _load(input: str | None, name: str | None):
    import tensorflow_datasets as tfds

    if name:
        data_dir = input or os.path.expanduser(tfds.core.constants.DATA_DIR)
        local_only(data_dir, "the directory of --name")
        directory = os.path.join(data_dir, name.split(":")[0])
    else:
        directory = _find_directory(input)
    _check_metadata(directory)
    try:
        if name:
            builder = tfds.builder(name, data_dir=input)
            builder.download_and_prepare()
        else:
            builder = tfds.builder_from_directory(directory)
        _check_shards(builder)
    except UserError:
        raise
    except Exception as error:  # of the network, of the disk, of each data set's code
        raise UserError(
            f"TFDS cannot load {name or directory}: {first_line(error)}"
        ) from error
    return builder


def _find_directory(root: str | None) -> str:
    if not root:
        raise UserError(
            "--source=tfds needs --name, such as --name=cifar100, or --input"
        )
    found = [root] if is_remote(root) else find_directories(root)
    if not found:
        raise UserError(f"no data set of TFDS in {root}: there is no {_INFO}")
    if len(found) > 1:
        raise UserError(
            f"{root} holds several data sets or versions of one; give one of: "
            + ", ".join(found)
        )
    return found[0]


def _check_metadata(directory: str) -> None:
    """Checks what tells of a data set, of a local one in all its versions.

    Raises:
        UserError: A file is none of the directory itself, too large, or unsafe.
    """
    folders = find_folders(directory, LeftOut()) if os.path.isdir(directory) else [""]
    for folder in (os.path.join(directory, folder) for folder in folders):
        if _FEATURES not in list_names(folder):
            continue
        for entry in () if is_remote(folder) else os.scandir(folder):
            is_own = entry.is_file(follow_symlinks=False) or entry.is_dir()
            if entry.is_symlink() or not is_own:
                raise UserError(
                    f"{entry.path} is a link, or no file: copy the file itself there"
                )
            if not entry.name.endswith((".json", ".txt")):
                continue
            if entry.stat().st_size > _MAX_BYTES:
                raise UserError(f"{entry.path} is too large for what it is")
        _check_features(os.path.join(folder, _FEATURES))


def _check_shards(builder) -> None:
    """Refuses a data set whose shards are not in its directory, or are damaged."""
    directory = str(builder.data_dir)
    files = {os.path.join(directory, name) for name in list_names(directory)}
    for split in builder.info.splits.values():
        # So many that they cannot be there are not even named.
        paths = split.filepaths if split.num_shards <= len(files) else [""]
        if not files.issuperset(map(str, paths)):
            raise UserError(f"shards of {split.name} are missing in {directory}")
        if builder.info.file_format.value == "tfrecord" and not is_remote(directory):
            count_whole(list(map(str, paths)))


def _check_features(path: str) -> None:
    """Refuses a data set that names a class of others, which TFDS would import and run.

    Args:
        path: The path of its `features.json`.

    Raises:
        UserError: It does, or the file is damaged.
    """
    classes = []

    def collect(content: dict) -> None:
        classes.extend(map(content.get, _CLASS_KEYS))

    try:
        json.loads(read_whole(path, _MAX_BYTES), object_hook=collect)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read: {reason}") from None
    for name in classes:
        if isinstance(name, str) and not _OWN_FEATURE.fullmatch(name):
            raise UserError(
                f"{path} names the class {name[:100]!a}, which is none of TFDS's "
                "features and could run a program; do not use this data set"
            )


def _find_keys(builder, reading: Reading) -> tuple[str, str]:
    """Returns the keys of the picture and of its label: those given, or the usual ones.

    A picture is encoded, or uint8 RGB; a label is an integer.
    """
    import tensorflow_datasets as tfds

    features = builder.info.features

    def is_image(feature) -> bool:
        is_raw = len(feature.shape or ()) == 3 and feature.np_dtype == np.uint8
        return is_raw or isinstance(feature, tfds.features.Image)

    def is_label(feature) -> bool:
        return feature.shape == () and np.issubdtype(feature.np_dtype, np.integer)

    def choose(role: str, is_fitting, given: str | None, usual: str | None) -> str:
        keys = [key for key in features if is_fitting(features[key])]
        known = [usual, role, *keys[: len(keys) == 1]]
        return choose_key(builder.name, role, given, known, keys)

    image, label = (builder.info.supervised_keys or (None, None))[:2]
    return (
        choose("image", is_image, reading.image_column, image),
        choose("label", is_label, reading.label_column, label),
    )


def _class_names(builder, label_key: str, reading: Reading) -> list[str]:
    names = getattr(builder.info.features[label_key], "names", None)
    if reading.class_names:
        return read_class_names(reading.class_names)
    if not names:
        raise UserError(
            f"{builder.name} does not name its classes: give --class_names=FILE, a "
            "name on each line"
        )
    return names


def _find_splits(builder, items) -> tuple[dict[str, str], LeftOut]:
    """Returns {their split: ours}, and which are left out."""
    splits, left_out = {}, LeftOut()
    found = find_splits(builder.info.splits, builder.name)
    for split in builder.info.splits:
        first = itertools.islice(items((split, "train")), _FIRST)
        if split not in found:
            left_out.add("splits that are none of ours", split)
        elif all(item.label < 0 for item in first):
            left_out.add("splits without labels", split)
        else:
            splits[split] = found[split]
    if not splits:
        raise UserError(
            f"{builder.name} has no split to train on or to evaluate, but "
            + (", ".join(builder.info.splits) or "none")
        )
    return splits, left_out


def _items(builder, image_key: str, label_key: str, part) -> Iterator[Item]:
    import tensorflow as tf
    import tensorflow_datasets as tfds

    their_split, split = part
    is_encoded = isinstance(builder.info.features[image_key], tfds.features.Image)
    undecoded = {image_key: tfds.decode.SkipDecoding()} if is_encoded else None
    try:
        try:
            examples = builder.as_dataset(split=their_split, decoders=undecoded)
            examples = examples.as_numpy_iterator()
        except NotImplementedError:  # array_record has no order of reading
            examples = builder.as_data_source(split=their_split, decoders=undecoded)
        for index, example in enumerate(examples):
            name, image = f"{their_split}/{index:08d}", example[image_key]
            content = image if isinstance(image, bytes) else encode_pixels(image)
            yield Item(name, int(example[label_key]), content, split)
    except (tf.errors.OpError, ValueError, OSError) as error:
        where = f"{their_split} of {builder.data_dir}"
        raise UserError(f"{where} cannot be read: {first_line(error)}") from None

"""CIFAR-10 and CIFAR-100 as their author gives them: the python and binary versions."""

import os
from collections.abc import Iterator

import numpy as np

from alexnet_tf.errors import UserError
from alexnet_tf.files import read_whole
from alexnet_tf.pickles import load_arrays
from alexnet_tf.pictures.listing import LeftOut, find_folders
from data.source import Item, Source, encode_pixels

TAKES = ()
_SIDE = 32  # pixels
_MAX_BYTES = 2**28
_BATCHES = [f"data_batch_{i}" for i in range(1, 6)]
_BINARY_BATCHES = [f"{batch}.bin" for batch in _BATCHES]
# The files of each version: those to train on, the one to test with, that of the names;
# then the keys of labels and names, or how many bytes of labels precede each picture.
_VERSIONS = [
    ("cifar10", _BATCHES, "test_batch", "batches.meta", ("labels", "label_names")),
    ("cifar100", ["train"], "test", "meta", ("fine_labels", "fine_label_names")),
    ("cifar10", _BINARY_BATCHES, "test_batch.bin", "batches.meta.txt", 1),
    ("cifar100", ["train.bin"], "test.bin", "fine_label_names.txt", 2),
]


def find_version(root: str) -> tuple | None:
    """Returns the folder that has the files of a version, and the version."""
    for folder in find_folders(root, LeftOut())[:20]:
        directory = os.path.join(root, folder)
        for version in _VERSIONS:
            _, train, test, names, _ = version
            paths = [os.path.join(directory, file) for file in (*train, test, names)]
            if all(map(os.path.isfile, paths)):
                return directory, *version
    return None


def open_source(input: str, _=None) -> Source:
    """Returns the pictures of a folder with the files of CIFAR."""
    found = find_version(input)
    if not found:
        raise UserError(f"no file of CIFAR-10 or CIFAR-100 in {input}")
    directory, name, train, test, names, keys = found
    try:
        class_names = _read_names(os.path.join(directory, names), keys)
        parts = []
        for file in (*train, test):
            pixels, labels = _read(os.path.join(directory, file), keys)
            _check(pixels, labels, len(class_names))
            parts.append((file, "test" if file == test else "train", pixels, labels))
    except Exception as error:  # a damaged or foreign file raises all sorts of things
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise UserError(
            f"{directory} is not {name} as it is published: {reason}"
        ) from None
    number = sum(len(labels) for *_, labels in parts)
    return Source(name, class_names, parts, _items, {"train", "test"}, number)


def _read_names(path: str, keys) -> list[str]:
    content = read_whole(path, _MAX_BYTES)
    if isinstance(keys, int):
        return content.decode().split()
    names = load_arrays(content)[keys[1]]
    if not all(isinstance(name, str) for name in names):
        raise TypeError("expected names of classes")
    return names


def _read(path: str, keys) -> tuple[np.ndarray, list[int]]:
    """Returns pixels, uint8 `(pictures, 3072)` if all is well, and labels."""
    content = read_whole(path, _MAX_BYTES)
    if isinstance(keys, int):  # the last of the labels is the class
        rows = np.frombuffer(content, np.uint8).reshape(-1, keys + 3 * _SIDE**2)
        return rows[:, keys:], rows[:, keys - 1].tolist()
    batch = load_arrays(content)
    return np.asarray(batch["data"].values), batch[keys[0]]


def _check(pixels: np.ndarray, labels: list[int], num_classes: int) -> None:
    if pixels.dtype != np.uint8:
        raise ValueError("expected an array of bytes")
    if pixels.shape != (len(labels), 3 * _SIDE**2):
        raise ValueError(f"{pixels.shape} pixels for {len(labels)} labels")
    if not all(type(n) is int and 0 <= n < num_classes for n in labels):
        raise ValueError(f"expected labels 0..{num_classes - 1}")


def _items(part: tuple[str, str, np.ndarray, list[int]]) -> Iterator[Item]:
    file, split, pictures, labels = part
    pictures = pictures.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
    for index, (pixels, label) in enumerate(zip(pictures, labels, strict=True)):
        yield Item(f"{file}/{index:05d}", label, encode_pixels(pixels), split)

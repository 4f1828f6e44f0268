"""CIFAR-10 and CIFAR-100 as their author gives them: the python and binary versions."""

import functools
import os
from collections.abc import Iterator

import numpy as np

from alexnet_tf.errors import UserError
from alexnet_tf.pickles import load_arrays
from alexnet_tf.pictures.listing import LeftOut, find_folders, shown
from data.source import Item, Source, encode_pixels

TAKES = ()
_SIDE = 32  # pixels
_BATCHES = [f"data_batch_{i}" for i in range(1, 6)]
# What lies in the folder of each version: the training files, the test file, the file
# of the names; the keys of labels and names, or the bytes before each picture.
_PYTHON = {
    "cifar10": (_BATCHES, "test_batch", "batches.meta", "labels", "label_names"),
    "cifar100": (["train"], "test", "meta", "fine_labels", "fine_label_names"),
}
_BINARY = {
    "cifar10": (
        [f"{b}.bin" for b in _BATCHES],
        "test_batch.bin",
        "batches.meta.txt",
        1,
    ),
    "cifar100": (["train.bin"], "test.bin", "fine_label_names.txt", 2),
}


def find_folder(root: str) -> tuple[str, str, bool] | None:
    """Returns (folder, name, whether it is the python version), or None."""
    for folder in find_folders(root, LeftOut())[:20]:
        directory = os.path.join(root, folder)
        for versions in (_PYTHON, _BINARY):
            for name, (train, test, meta, *_) in versions.items():
                files = (*train, test, meta)
                if all(os.path.isfile(os.path.join(directory, f)) for f in files):
                    return directory, name, versions is _PYTHON
    return None


def open_source(input: str, _=None) -> Source:
    """Returns the pictures of a folder with the files of CIFAR."""
    found = find_folder(input)
    if not found:
        raise UserError(f"no file of CIFAR-10 or CIFAR-100 in {shown(input)}")
    directory, name, is_python = found
    train, test, meta, *keys = (_PYTHON if is_python else _BINARY)[name]
    read = functools.partial(_read_python if is_python else _read_binary, *keys[:1])
    paths = [os.path.join(directory, file) for file in (*train, test)]
    try:
        class_names = _read_names(os.path.join(directory, meta), *keys[1:])
        batches = [_check(*read(path), len(class_names)) for path in paths]
    except Exception as error:  # a damaged or foreign file raises all sorts of things
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise UserError(
            f"{shown(directory)} is not {name} as it is published: {reason}"
        ) from None
    parts = [
        (file, "test" if file == test else "", *batch)
        for file, batch in zip((*train, test), batches, strict=True)
    ]
    return Source(
        name=name,
        class_names=class_names,
        parts=parts,
        items=_items,
        splits=("train", "validation", "test"),
        holds_out=True,
        num_items=sum(len(labels) for _, labels in batches),
        files=paths,
    )


def _read_names(path: str, key: str = "") -> list[str]:
    with open(path, "rb") as file:
        content = file.read()
    names = load_arrays(content)[key] if key else content.decode().split()
    if not all(isinstance(name, str) for name in names):
        raise TypeError("expected names of classes")
    return names


def _read_python(label_key: str, path: str) -> tuple[np.ndarray, list[int]]:
    with open(path, "rb") as file:
        batch = load_arrays(file.read())
    return np.asarray(batch["data"].values), batch[label_key]


def _read_binary(num_labels: int, path: str) -> tuple[np.ndarray, list[int]]:
    """Reads rows of the labels, of which the last is the class, and the pixels."""
    rows = np.fromfile(path, np.uint8).reshape(-1, num_labels + 3 * _SIDE**2)
    return rows[:, num_labels:], rows[:, num_labels - 1].tolist()


def _check(pixels: np.ndarray, labels: list[int], num_classes: int):
    """Returns uint8 `(pictures, 32, 32, 3)` and as many labels."""
    if pixels.dtype != np.uint8:
        raise ValueError("expected an array of bytes")
    if pixels.shape != (len(labels), 3 * _SIDE**2):
        raise ValueError(f"{pixels.shape} pixels for {len(labels)} labels")
    if not all(type(n) is int and 0 <= n < num_classes for n in labels):
        raise ValueError(f"expected labels 0..{num_classes - 1}")
    return pixels.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1), labels


def _items(part) -> Iterator[Item]:
    file, split, pictures, labels = part
    for index, (pixels, label) in enumerate(zip(pictures, labels, strict=True)):
        yield Item(f"{file}/{index:05d}", label, encode_pixels(pixels), split)

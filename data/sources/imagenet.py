"""ImageNet (ILSVRC 2012): the two archives as downloaded, or an unpacked tree.

Trees are known as people have them: `train/n01440764/…` and `val/`, in folders or flat;
Kaggle's `ILSVRC/Data/CLS-LOC`; Hugging Face's flat folders with synsets in the names.
"""

import functools
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from alexnet_tf.errors import UserError
from alexnet_tf.imagenet_classes import (
    NUM_CLASSES,
    class_names,
    synsets,
    validation_labels,
)
from alexnet_tf.paths import list_names
from alexnet_tf.pictures.listing import LeftOut, list_pictures
from data.source import Item, Source, picture_name, split_meant_by
from data.sources.layout import find_pictures

TAKES = ()

TRAIN_ARCHIVE, VALIDATION_ARCHIVE = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
NUM_PICTURES = 1_281_167 + 50_000
_OWN_NAME = re.compile(r"(n\d{8}|ILSVRC2012_val)_\d+\.JPEG")
_SYNSET = re.compile(r"n\d{8}")
# In one folder for all classes: the validation pictures, or Hugging Face's.
_FLAT_NAME = re.compile(r"ILSVRC2012_val_\d+\.JPEG|n\d{8}_\d+_n\d{8}\.JPEG")
_KAGGLE = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC")


class _Archive(NamedTuple):
    """A tar file, or one inside another: `size` bytes of `path` from `offset` on."""

    path: str
    offset: int
    size: int
    label: int | None  # None where the picture's number says it
    split: str


def find_root(path: str) -> str | None:
    """Returns the directory of the archives, or of the whole tree; None for others.

    A tree is ImageNet's if it has a thousand folders of synsets, or its validation
    pictures: some of the synsets are another data set, such as Imagenette.
    """
    for root in (path, *(os.path.join(path, folder) for folder in _KAGGLE)):
        names = list_names(root)
        if TRAIN_ARCHIVE in names or VALIDATION_ARCHIVE in names:
            return root
        for name in filter(_split_of_folder, names):
            inner = list_names(os.path.join(root, name))
            num_synsets = sum(1 for n in inner if _SYNSET.fullmatch(n))
            if num_synsets >= NUM_CLASSES or any(map(_FLAT_NAME.fullmatch, inner[:1])):
                return root
    return None


def _split_of_folder(name: str) -> str:
    """Returns the split that a word of a name means: "val_images", "train_images_0"."""
    return next(filter(None, map(split_meant_by, re.split(r"[\W\d_]+", name))), "")


def open_source(input: str, _=None) -> Source:
    """Returns the pictures in a directory with both archives, or `train/`, `val/`."""
    root, left_out = os.path.abspath(find_root(input) or input), LeftOut()
    archives = {
        name: os.path.join(root, name)
        for name in (TRAIN_ARCHIVE, VALIDATION_ARCHIVE)
        if os.path.exists(os.path.join(root, name))
    }
    if archives:
        for name in sorted(set(list_names(root)) - set(archives)):
            left_out.add("what stands beside the archives", name)
        parts, items = _archive_parts(archives), _archive_items
        num_items = NUM_PICTURES if len(parts) == NUM_CLASSES + 1 else None
    else:
        pictures = find_pictures(root, left_out)
        parts, items = _tree_parts(root, pictures, left_out), _tree_items
        num_items = sum(len(pictures[folder]) for _, folder, _ in parts)
    return Source(
        "imagenet2012",
        class_names(),
        parts,
        items,
        splits={part[-1] for part in parts},
        num_items=num_items,
        metadata={"synsets": list(synsets())},
        notes=left_out.lines(),
    )


def _archive_parts(archives: dict[str, str]) -> list[_Archive]:
    """Returns the archives of the classes, and that of the validation pictures."""
    parts = []
    if train := archives.get(TRAIN_ARCHIVE):
        whole = _Archive(train, 0, os.path.getsize(train), None, "train")
        parts = [
            _Archive(
                train,
                member.offset_data,
                member.size,
                _label(os.path.splitext(member.name)[0]),
                "train",
            )
            for member in _members(whole)
        ]
    if path := archives.get(VALIDATION_ARCHIVE):
        parts.append(_Archive(path, 0, os.path.getsize(path), None, "validation"))
    return parts


@functools.cache
def _label(synset: str) -> int:
    try:
        return synsets().index(synset)
    except ValueError:
        raise UserError(f"{synset!r} is none of ImageNet's 1000 synsets") from None


def _label_by_name(name: str) -> int:
    """The label that a picture's own name tells, by its number or by its synset."""
    if synset := re.search(r"n\d{8}(?=\.\w+$)", name) or _SYNSET.match(name):
        return _label(synset[0])
    number = re.search(r"ILSVRC2012_val_(\d{8})[._]", name)
    if not number or not 1 <= int(number[1]) <= len(validation_labels()):
        raise UserError(f"{name!r} is no validation picture of ImageNet")
    return validation_labels()[int(number[1]) - 1]


def _members(archive: _Archive) -> Iterator[tarfile.TarInfo]:
    """Reads an archive's headers; nothing is unpacked."""
    end, number = archive.offset + archive.size, 0
    with open(archive.path, "rb") as file:
        file.seek(archive.offset)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    if member.offset_data + member.size > end:
                        raise tarfile.ReadError("it ends inside a file")
                    if member.isfile():
                        number += 1
                        yield member
                    tar.members.clear()  # it would keep them all
                # A damaged header ends the loop too, and would drop what follows it.
                file.seek(tar.offset)
                if tar.offset >= end or any(file.read(tarfile.BLOCKSIZE)):
                    raise tarfile.ReadError(f"a bad header after {number} files")
            if not number:
                raise tarfile.ReadError("there is no file in it")
        except tarfile.TarError as error:
            label = archive.label
            inner = "" if label is None else f", in it {synsets()[label]}.tar,"
            raise UserError(
                f"{archive.path}{inner} is damaged or cut short ({error}); download it "
                "again"
            ) from None


def _archive_items(archive: _Archive) -> Iterator[Item]:
    for member in _members(archive):
        label = archive.label
        if label is None:
            label = _label_by_name(member.name)
        location = (archive.path, archive.split, member.offset_data, member.size)
        yield Item(os.path.basename(member.name), label, *location)


def _tree_parts(
    root: str, pictures: Mapping[str, list[str]], left_out: LeftOut
) -> list[tuple[str, str, str]]:
    """Returns the folders of pictures: (root, folder, split)."""
    parts = []
    for folder, names in pictures.items():
        first, *below = folder.split("/")
        split = _split_of_folder(first)
        if not split:
            left_out.add("pictures beside the splits", folder or root, len(names))
        elif split == "test" and not below:
            left_out.add("pictures without a class", folder, len(names))
        else:
            parts.append((root, folder, split))
    if not parts:
        raise UserError(
            f"expected {TRAIN_ARCHIVE} and {VALIDATION_ARCHIVE}, or folders train "
            f"and val, in {root}"
        )
    return parts


def _tree_items(part: tuple[str, str, str]) -> Iterator[Item]:
    root, folder, split = part
    _, *below = folder.split("/")
    for path in list_pictures(os.path.join(root, folder), LeftOut()):
        # ImageNet's own names are unique, and those in its archives.
        name = os.path.basename(path)
        label = _label(below[0]) if below else _label_by_name(name)
        if len(below) > 1 or not _OWN_NAME.fullmatch(name):
            name = picture_name(path, root)
        yield Item(name, label, path, split)

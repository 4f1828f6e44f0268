"""ImageNet (ILSVRC 2012): the two archives as downloaded, or the unpacked tree."""

import functools
import os
import re
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

from alexnet_tf.errors import UserError
from alexnet_tf.pipeline.data_set import imagenet_class_names
from data.source import Item, Source
from data.sources.folder import list_folders, list_pictures

TRAIN_ARCHIVE, VALIDATION_ARCHIVE = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
NUM_PICTURES = 1_281_167 + 50_000


class _Archive(NamedTuple):
    """A tar file, or one inside another: `size` bytes of `path` from `offset` on."""

    path: str
    offset: int
    size: int
    label: int | None  # None where the picture's number says it


def open_source(input: str, **_) -> Source:
    """Returns the pictures in a directory with both archives, or `train/`, `val/`."""
    root = os.path.abspath(os.path.expanduser(input))
    train, validation = (
        os.path.join(root, name) for name in (TRAIN_ARCHIVE, VALIDATION_ARCHIVE)
    )
    if os.path.exists(train) and os.path.exists(validation):
        whole = _Archive(train, 0, os.path.getsize(train), None)
        parts = [
            _Archive(train, m.offset_data, m.size, _label(os.path.splitext(m.name)[0]))
            for m in _members(whole)
        ]
        num_items = NUM_PICTURES if len(parts) == len(synset_ids()) else None
        parts.append(_Archive(validation, 0, os.path.getsize(validation), None))
        items = _archive_items
    else:
        parts = _tree_parts(root)
        num_items = sum(1 for part in parts for _ in list_pictures(part))
        items = _tree_items
    return Source(
        "imagenet2012",
        imagenet_class_names(),
        parts,
        items,
        num_items=num_items,
        metadata={"synsets": synset_ids()},
    )


@functools.cache
def synset_ids() -> list[str]:
    """Returns the 1000 synset ids; the index is the label."""
    return _tfds_list("labels.txt")


@functools.cache
def validation_labels() -> list[int]:
    """Returns the labels of validation pictures 1 to 50,000."""
    return [_label(synset) for synset in _tfds_list("validation_labels.txt")]


def _tfds_list(name: str) -> list[str]:
    import tensorflow_datasets as tfds

    return (
        tfds.core.tfds_path("datasets/imagenet2012").joinpath(name).read_text().split()
    )


@functools.cache
def _label(synset: str) -> int:
    try:
        return synset_ids().index(synset)
    except ValueError:
        raise UserError(f"{synset!r} is none of ImageNet's 1000 synsets") from None


def _validation_label(name: str) -> int:
    number = re.search(r"ILSVRC2012_val_(\d{8})\.", name)
    if not number or not 1 <= int(number[1]) <= len(validation_labels()):
        raise UserError(f"{name!r} is no validation picture of ImageNet")
    return validation_labels()[int(number[1]) - 1]


def _members(archive: _Archive) -> Iterator[tarfile.TarInfo]:
    """Reads an archive's headers; nothing is unpacked."""
    with open(archive.path, "rb") as file:
        file.seek(archive.offset)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    if member.offset >= archive.offset + archive.size:
                        return
                    if member.isfile():
                        yield member
                    tar.members.clear()  # it would keep them all
        except tarfile.TarError as error:
            raise UserError(
                f"{archive.path} is damaged or cut short ({error}); download it again"
            ) from None


def _archive_items(archive: _Archive) -> Iterator[Item]:
    for member in _members(archive):
        label, split = archive.label, "train"
        if label is None:
            label, split = _validation_label(member.name), "validation"
        location = (archive.path, split, member.offset_data, member.size)
        yield Item(os.path.basename(member.name), label, *location)


def _tree_parts(root: str) -> list[tuple[str, str, int | None, str]]:
    parts = []
    folders = list_folders(root)
    held_out = "val" if "val" in folders else "validation"
    for folder, split in (("train", "train"), (held_out, "validation")):
        if folder not in folders:
            raise UserError(
                f"expected {TRAIN_ARCHIVE} and {VALIDATION_ARCHIVE}, or folders train "
                f"and val, in {root}; found folders {folders}"
            )
        synsets = list_folders(os.path.join(root, folder))
        parts += [(root, os.path.join(folder, s), _label(s), split) for s in synsets]
        if not synsets:
            parts.append((root, folder, None, split))
    return parts


def _tree_items(part: tuple[str, str, int | None, str]) -> Iterator[Item]:
    for item in list_pictures(part):
        label = _validation_label(item.name) if item.label is None else item.label
        yield item._replace(name=os.path.basename(item.name), label=label)

"""Where pictures come from: one module per source, each with `open_source`.

`recognise` says which of them reads an input; every program asks it alone.
"""

import dataclasses
import functools
import importlib
import os

from alexnet_tf.errors import UserError
from alexnet_tf.paths import is_remote, list_names, local_only
from alexnet_tf.pictures.listing import LeftOut, find_folders
from data.source import Reading, Source, check_class_names

# `elpv` brings its own pictures; all others read an input.
NAMES = ("folder", "csv", "imagenet", "tfrecord", "parquet", "tfds", "cifar", "elpv")


def recognise(input: str, reading: Reading) -> str:
    """Returns the name of the source that reads an input.

    What only one source can read comes first: files that are called in its own way. A
    list is read where no folder but those of the splits says a class, or where one of
    its columns is given.

    Args:
        input: A file or a directory, local or remote; no archive.
        reading: How it is read.
    """
    from data.sources import cifar, csv, imagenet, parquet, tfds, tfrecord

    readers = {
        "tfds": tfds.find_directories,
        "tfrecord": tfrecord.find_files,
        "parquet": parquet.find_files,
        "imagenet": imagenet.find_root,
        "cifar": cifar.find_version,
        "csv": functools.partial(csv.is_only_list, reading=reading),
    }
    return next((name for name, finds in readers.items() if finds(input)), "folder")


def open_source(name: str, input: str | None, reading: Reading) -> Source:
    """Opens a source.

    Args:
        name: One of `NAMES`, or "auto" for what the input is recognised as.
        input: What it reads; None for `elpv`, and for what TFDS downloads.
        reading: How it is read.

    Raises:
        UserError: The input cannot be used, or `reading` has what the source would not
            use.
    """
    if name == "auto":
        name = "tfds" if reading.name else recognise(input, reading)
    if name in ("folder", "imagenet") and os.path.isfile(input):
        raise UserError(
            f"{input} is a file that is no list of pictures (.csv, .txt, "
            ".jsonl), no TFRecord file and no zip or tar archive"
        )
    module = importlib.import_module(f"data.sources.{name}")
    takes = {*module.TAKES, "group_by"}
    for field, value in dataclasses.asdict(reading).items():
        if value is not None and field not in takes:
            what = f"{input} is read as --source={name}, which" if input else ""
            raise UserError(
                f"{what or f'--source={name}'} has no --{field}; leave it out"
            )
    try:
        source = module.open_source(input, reading)
    except UserError:
        if name == "folder":
            _refuse_webdataset(input)
        raise
    check_class_names(source.class_names)
    return source


def _refuse_webdataset(input: str) -> None:
    """Refuses pictures whose labels are in files of their own, beside them."""
    for folder in find_folders(input, LeftOut()):
        for name in list_names(os.path.join(input, folder)):
            if name.endswith(".cls"):
                raise UserError(
                    f"files of WebDataset, such as {name}, are not read here: put each "
                    "picture into a folder that is called as its class"
                )


def open_unpacked(name: str, input: str, reading: Reading, directory: str) -> Source:
    """Opens a source; of an archive, or a folder of archives, what is in them.

    Archives may hold archives, but those no more. ImageNet's own are read in place.

    Args:
        name: As `open_source` takes it.
        input: What a person gave.
        reading: How it is read.
        directory: Where to unpack.
    """
    from data.sources import archive, imagenet

    given = input
    if input and not is_remote(input) and not imagenet.find_root(input):
        stem = archive.stem_of(os.path.abspath(input))
        for level in ("1", "2"):
            if archives := archive.find_archives(input):
                local_only(directory, "--output for an archive")
                folder = os.path.join(directory, level, stem)
                archive.unpack(archives, folder)
                archive.link_files(input, set(archives), folder)
                input = folder
    if input == given:
        return open_source(name, input, reading)
    above = os.path.dirname(input) + os.sep
    try:
        source = open_source(name, input, reading)
    except UserError as error:
        inside = str(error).replace(above, "")
        raise UserError(
            f"{inside} (unpack {given} first, into a folder of its name)"
        ) from None
    notes = [note.replace(above, "") for note in source.notes]
    return dataclasses.replace(source, notes=notes)

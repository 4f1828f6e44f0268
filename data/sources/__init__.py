"""Where pictures come from: one module per source, each with `open_source`.

`recognise` says which of them reads an input; every program asks it alone.
"""

import dataclasses
import importlib
import os

from alexnet_tf.errors import UserError
from alexnet_tf.paths import is_remote
from alexnet_tf.pictures.listing import shown
from data.source import Reading, Source
from data.sources import folder

# `elpv` brings its own pictures; all others read an input.
NAMES = ("folder", "csv", "imagenet", "tfrecord", "tfds", "cifar", "elpv")


def recognise(input: str) -> str:
    """Returns the name of the source that reads an input.

    What only one source can read comes first: files that are called in its own way. A
    list is read where no folder but those of the splits says a class.

    Args:
        input: A file or a directory, local or remote; no archive.
    """
    from data.sources import cifar, csv, imagenet, tfds, tfrecord

    readers = {
        "tfds": tfds.find_directories,
        "tfrecord": tfrecord.find_files,
        "imagenet": imagenet.find_root,
        "cifar": cifar.find_folder,
        "csv": csv.is_only_list,
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
        name = "tfds" if reading.name else recognise(input)
    if name in ("folder", "imagenet") and os.path.isfile(input):
        raise UserError(
            f"{shown(input)} is a file that is no list of pictures (.csv, .txt, "
            ".jsonl), no TFRecord file and no zip or tar archive"
            + folder.advise_above(input)
        )
    if name == "folder":
        _refuse_parquet(input)
    module = importlib.import_module(f"data.sources.{name}")
    takes = {*module.TAKES, "group_by"}
    for field, value in dataclasses.asdict(reading).items():
        if value is not None and field not in takes:
            what = f"{shown(input)} is read as --source={name}, which" if input else ""
            raise UserError(
                f"{what or f'--source={name}'} has no --{field}; leave it out"
            )
    return module.open_source(input, reading)


def _refuse_parquet(input: str) -> None:
    """Says how the Parquet files of Hugging Face's hub become folders."""
    names = os.listdir(input) if os.path.isdir(input) else [input]
    if any(name.endswith(".parquet") for name in names):
        raise UserError(
            f"{shown(input)} has Parquet files, which are not read here: after pip "
            'install pyarrow, unpack each with python -c "import os, sys, '
            "pyarrow.parquet as p; [(os.makedirs(d := 'out/' + str(r['label']), "
            "exist_ok=True), open(d + '/' + os.path.basename(sys.argv[1]) + str(i), "
            "'wb').write(r['image']['bytes'])) for i, r in "
            'enumerate(p.read_table(sys.argv[1]).to_pylist())]" FILE, and give out'
        )


def unpack_archives(input: str | None, directory: str) -> str | None:
    """Returns the input; or, where it is or holds archives only, what is in them.

    ImageNet's own archives are read in place.

    Args:
        input: What a person gave.
        directory: Where to unpack.
    """
    from data.sources import archive, imagenet

    if not input or is_remote(input) or imagenet.find_root(input):
        return input
    archives = archive.find_archives(input)
    return archive.unpack(archives, directory) if archives else input

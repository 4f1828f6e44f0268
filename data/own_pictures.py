"""A folder of pictures where a data set is expected: prepared once, then found again.

Paths are looked at without TensorFlow, so that mistakes are said at once.
"""

import dataclasses
import glob
import hashlib
import itertools
import os
import unicodedata

from alexnet_tf.command_line import command
from alexnet_tf.errors import UserError
from alexnet_tf.paths import is_remote, list_names
from alexnet_tf.pictures.listing import LeftOut, list_pictures, shown
from data.prepare import prepare
from data.source import Source, data_set_name
from data.sources.folder import list_items, open_source

_INFO, _SHARD = "dataset_info.json", f"*-{'[0-9]' * 5}-of-{'[0-9]' * 5}"
_DATA_SETS = (_INFO, *(f"{depth}/{_INFO}" for depth in ("*", "*/*", "*/*/*")))
# As `open_data_set` looks for them; pictures may be called so, with a suffix.
_DATA_SETS += (_SHARD, f"{_SHARD}.tfrecord", f"*/{_SHARD}", f"*/{_SHARD}.tfrecord")
_WANTED = "a folder with a folder of pictures for each class, or a data set"


@dataclasses.dataclass(frozen=True)
class OwnPictures:
    """Pictures in folders, and where a data set is made of them.

    Attributes:
        folder: It has a folder for each class, or such folders in folders of splits.
        directory: Of the data set; another one when a picture is added or changed.
    """

    folder: str
    directory: str

    def prepare(self) -> str:
        """Prepares the data set unless it is there, and returns its directory."""
        if list_names(self.directory):
            print(f"{shown(self.folder)} is prepared in {shown(self.directory)}")
        else:
            print(
                f"preparing {shown(self.folder)} in {shown(self.directory)}, where the "
                "next run finds it until a picture changes"
            )
            prepare(source="folder", input=self.folder, output=self.directory)
        return self.directory


def find_own_pictures(data_dir: str, prepared_dir: str) -> OwnPictures | None:
    """Says whether pictures were given where a data set is expected.

    Args:
        data_dir: What was given.
        prepared_dir: In which data sets are made of pictures.

    Returns:
        The pictures; None for a data set, and for what a killed preparation left.

    Raises:
        UserError: It is a file, or a folder above or below the one to give.
    """
    if is_remote(data_dir) or _is_data_set(data_dir):
        return None
    if os.path.isfile(data_dir):
        parents = os.path.dirname(data_dir), os.path.dirname(os.path.dirname(data_dir))
        raise _mistake(f"--data_dir={shown(data_dir)} is a file", parents)
    if not list_names(data_dir):
        return None
    try:
        source = open_source(input=data_dir)
    except UserError as error:
        near = *_folders(data_dir), os.path.dirname(data_dir.rstrip("/"))
        raise _mistake(str(error), near) from None
    _check_level(data_dir, source)
    name = f"{data_set_name(os.path.abspath(data_dir))}-{_fingerprint(source)}"
    return OwnPictures(data_dir, os.path.join(prepared_dir, name))


def _is_data_set(folder: str) -> bool:
    patterns = (os.path.join(glob.escape(folder), pattern) for pattern in _DATA_SETS)
    return any(next(glob.iglob(pattern), None) for pattern in patterns)


def _has_picture(folder: str) -> bool:
    return next(list_pictures(folder, LeftOut()), None) is not None


def _folders(folder: str) -> list[str]:
    names = list_names(folder or ".")
    return [p for name in names if os.path.isdir(p := os.path.join(folder, name))]


def _mistake(reason: str, near: tuple[str, ...]) -> UserError:
    """An error with the command to type, where a folder near by is the right one."""
    for folder in near:
        classes = list(itertools.islice(filter(_has_picture, _folders(folder)), 2))
        if len(classes) == 2 or os.path.exists(os.path.join(folder, _INFO)):
            return UserError(f"{reason}: type {_command(folder)}")
    return UserError(f"{reason}: give {_WANTED}")


def _command(folder: str) -> str:
    return command("python", "train.py", f"--data_dir={folder or '.'}")


def _check_level(folder: str, source: Source) -> None:
    """Refuses to guess whether the first folders are the classes, or those below."""
    for _, path, label, _ in source.parts:
        name = unicodedata.normalize("NFC", os.path.basename(path))
        if name == source.class_names[label]:
            return
    first = os.path.join(folder, source.class_names[0])
    output = os.path.join("runs", data_set_name(folder.rstrip("/")))
    words = "-m", "data.prepare", "--source=folder", f"--input={folder}"
    raise UserError(
        f"the pictures in {shown(folder)} lie two folders down: if the lower ones are "
        f"the classes, type {_command(first)}; if the upper ones are, "
        + command("python", *words, f"--output={output}")
    )


def _fingerprint(source: Source) -> str:
    """Changes when a picture comes, goes or is written."""
    total = hashlib.sha256()
    for item in itertools.chain.from_iterable(map(list_items, source.parts)):
        status = os.stat(item.content)
        facts = item.name, item.split, status.st_size, status.st_mtime_ns
        total.update(repr(facts).encode())
    return total.hexdigest()[:8]

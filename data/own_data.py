"""What a person gives as --data_dir: a data set, or what one is made of, once.

A data set that was made is found again by the names, sizes and times of the files that
it was made of: its directory is called by them. Paths are looked at without TensorFlow,
so that mistakes are said at once.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable

from alexnet_tf import files
from alexnet_tf.command_line import command
from alexnet_tf.errors import UserError
from alexnet_tf.paths import is_remote, list_names
from alexnet_tf.pictures.listing import LeftOut, find_folders
from data import sources
from data.prepare import prepare
from data.source import Reading, data_set_name
from data.sources import archive

_CARD, _MADE_OF = "metadata.json", "made_of.json"
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class OwnData:
    """What a data set is made of, and where.

    Attributes:
        path: A folder, a list, an archive, records, …
        reading: How it is read.
        directory: The data set's directory; another one when a file has changed.
        older: Directories of data sets that were made of the same path before.
    """

    path: str
    reading: Reading
    directory: str
    older: tuple[str, ...] = ()

    def prepare(self) -> str:
        """Prepares the data set unless it is there, and returns its directory.

        Raises:
            UserError: It is not there, and other workers would prepare it, too.
        """
        path, directory = self.path, self.directory
        if _is_data_set(self.directory):
            print(f"{path} is prepared in {directory}")
        else:
            self._check_alone()
            print(f"preparing {path} in {directory}, where the next run finds it")
            prepare(input=self.path, output=self.directory, reading=self.reading)
        for older in self.older:
            print(f"  {older} is of an earlier state: {command('rm', '-r', older)}")
        with files.writing(os.path.join(self.directory, _MADE_OF)) as file:
            json.dump({"path": os.path.abspath(self.path)}, file)
        return self.directory

    def _check_alone(self) -> None:
        """Refuses to prepare in each of several workers."""
        try:
            cluster = json.loads(os.environ.get("TF_CONFIG", "{}"))["cluster"]
            number = sum(map(len, cluster.values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            return  # whoever makes the strategy says what is wrong with it
        if number > 1:
            words = f"--input={self.path}", f"--output={self.directory}"
            words = "-m", "data.prepare", *_flags(self.reading), *words
            raise UserError(
                f"{self.path} is to be prepared before {number} workers train "
                f"on it: type {command('python', *words)}, and give "
                f"--data_dir={self.directory}"
            )


def _flags(reading: Reading) -> list[str]:
    """The flags that give what a person gave."""
    given = dataclasses.asdict(reading).items()
    return [f"--{name}={value}" for name, value in given if value is not None]


def find_own_data(
    data_dir: str,
    prepared_dir: str,
    reading: Reading | None = None,
    model_dir: str | None = None,
) -> OwnData | None:
    """Says whether something else was given where a data set is expected.

    Args:
        data_dir: What was given.
        prepared_dir: In which data sets are made.
        reading: How it is read.
        model_dir: Where a run will be written.

    Returns:
        What a data set is made of; None for a data set, for what is remote, and for
        what is not there, of which whoever opens it speaks.

    Raises:
        UserError: It cannot be read, or the outputs would lie in it.
    """
    reading = reading or Reading()
    is_there = os.path.isfile(data_dir) or list_names(data_dir)
    if is_remote(data_dir) or not is_there or _is_data_set(data_dir):
        if reading != Reading():
            raise UserError(
                f"{data_dir} is not prepared here, but a data set that knows "
                f"its classes: leave out {' and '.join(_flags(reading))}"
            )
        return None
    _check_apart(data_dir, prepared_dir, model_dir)
    name, members = _list_files(data_dir, reading)
    how = f"{_VERSION} {dataclasses.astuple(reading)}"
    state = _hash(how, (_describe_file(*member) for member in members))
    directory = os.path.join(prepared_dir, f"{name}-{state[:8]}")
    older = _find_made_of(os.path.abspath(data_dir), prepared_dir)
    return OwnData(data_dir, reading, directory, tuple(sorted(older - {directory})))


def _is_data_set(directory: str) -> bool:
    """Whether a directory has the card of a data set that was prepared here."""
    card = _read_json(os.path.join(directory, _CARD))
    return {"image_size", "encoding"} <= card.keys()


def _read_json(path: str) -> dict:
    """Returns the object in a file that anybody may have made; {} for anything else."""
    try:
        return files.read_json(path)
    except UserError:
        return {}


def _check_apart(data_dir: str, prepared_dir: str, model_dir: str | None) -> None:
    """Refuses to write among what is read: it would be read the next time."""
    root = os.path.realpath(data_dir)
    for flag, output in (("", prepared_dir), ("--model_dir=", model_dir)):
        if not output or is_remote(output):
            continue
        if os.path.commonpath([os.path.realpath(output), root]) == root:
            raise UserError(
                f"--data_dir={data_dir} holds {flag}{output}, which "
                "train.py writes, and would read the next time: "
                + ("give another" if flag else "start it in another directory")
            )


def _list_files(path: str, reading: Reading) -> tuple[str, list[tuple[str, str]]]:
    """Returns a name, and (what is known of it, path) of each file that is read."""
    source = sources.recognise(path, reading)
    if not archive.find_archives(path) and source in ("folder", "csv"):
        pictures = sources.open_source(source, path, reading)
        names = pictures.class_names
        return pictures.name, [
            (repr((i.name, names[i.label], i.split, i.group)), i.content)
            for i in pictures.all_items()
        ]
    found = [path]
    if os.path.isdir(path):
        folders = find_folders(path, LeftOut())
        found = [e.path for f in folders for e in os.scandir(os.path.join(path, f))]
    found = sorted(filter(os.path.isfile, found))
    name = data_set_name(archive.stem_of(os.path.abspath(path)))
    return name, [(os.path.relpath(f, path), f) for f in found]


def _describe_file(known: str, path: str) -> str:
    status = os.stat(path)
    return f"{known} {status.st_size} {status.st_mtime_ns}"


def _hash(how: str, lines: Iterable[str]) -> str:
    total = hashlib.sha256(how.encode())
    for line in lines:
        total.update(line.encode(errors="surrogateescape") + b"\n")
    return total.hexdigest()


def _find_made_of(path: str, prepared_dir: str) -> set[str]:
    """Returns the data sets in a directory that were made of a path."""
    directories = {os.path.join(prepared_dir, n) for n in list_names(prepared_dir)}
    return {
        directory
        for directory in directories
        if _read_json(os.path.join(directory, _MADE_OF)).get("path") == path
        and _is_data_set(directory)
    }

"""Paths: what a person means by one, and how TensorFlow is given it.

A path is never a pattern. `expand` takes what a person gave; what TensorFlow would take
for a pattern goes through `for_tensorflow`. Local paths need no TensorFlow, which takes
seconds to import; remote ones (`gs://…`, in tests `ram://…`) go to its `tf.io.gfile`.
"""

import atexit
import functools
import os
import re
import shutil
import tempfile

from alexnet_tf.errors import UserError

LOCK_FILE = ".alexnet_tf.lock"  # in a directory that a process writes
_PATTERN = re.compile(r"[]\\[*?]")


def expand(path: str) -> str:
    """The path that a person means: `~` is expanded, `file://` is local.

    Raises:
        UserError: If no file of that name can be used.
    """
    if not path or "\0" in path:
        raise UserError(f"{path!r} is no path: give the name of a file or a directory")
    if is_remote(path):
        if _PATTERN.search(path):
            raise UserError(f"{path}: give a remote path without any of [ ] * ? \\")
        return path
    if path.lower().startswith("file://"):
        path = path[len("file://") :]
        if not path.startswith("/"):
            raise UserError(f"file://{path}: give three slashes, as in file:///data")
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise UserError(f"{path}: there is no such user; for a name with ~ give ./~")
    if any("\ud800" <= character <= "\udfff" for character in expanded):
        shown = ascii(expanded)
        raise UserError(f"{shown}: TensorFlow takes only names in UTF-8: rename it")
    return expanded


def from_here(path: str) -> str:
    """A path as a person would type it: relative where it lies below the current one.

    Args:
        path: Local or remote.
    """
    relative = path if is_remote(path) else os.path.relpath(path)
    return path if relative.split("/")[0] == ".." else relative


def is_remote(path: str) -> bool:
    """Whether a path is for TensorFlow's file systems (`gs://…`), not for this one."""
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path)
    return bool(scheme) and scheme[0].lower() != "file://"


def local_only(path: str, what: str) -> str:
    """Returns a path that must be local.

    Args:
        path: The path of a file or directory.
        what: What must be local, such as "--cache".

    Raises:
        UserError: If it is remote.
    """
    if is_remote(path):
        raise UserError(f"{what} cannot be remote ({path}): give a local path")
    return path


def list_names(directory: str) -> list[str]:
    """The names in a directory, sorted, without a lock; [] where there is none."""
    if not is_remote(directory):
        names = os.listdir(directory) if os.path.isdir(directory) else []
    else:
        gfile = remote_files()
        names = gfile.listdir(directory) if gfile.isdir(directory) else []
    return sorted(name.rstrip("/") for name in names if name != LOCK_FILE)


def find_above(path: str, name: str) -> str | None:
    """The nearest directory that has a file of a name: `path` or one that it lies in.

    Args:
        path: Local or remote; need not exist.
        name: The file's name.

    Returns:
        None where there is none.
    """
    path = path if is_remote(path) else os.path.abspath(path)
    while path != os.path.dirname(path):
        if name in list_names(path):
            return path
        path = os.path.dirname(path)
    return None


# Checkpoints, and what TensorFlow takes for a pattern.


def for_tensorflow(path: str) -> str:
    r"""A path by which TensorFlow finds a file whose real path it takes for a pattern.

    `CheckpointManager`, `Checkpoint.save`, `Checkpoint.restore`, `latest_checkpoint`,
    `list_variables`, `saved_model.load` and the SavedModel loader look for their files
    by patterns: in `runs/lr[0.01]` they find nothing, in `runs/x[ab]` they remove the
    files of `runs/xa`, and there is no way to escape. Give them `for_tensorflow(path)`
    and nothing else; keep `path` itself for messages and for files:

        manager = tf.train.CheckpointManager(state, for_tensorflow(directory), keep)
        saved = os.path.join(directory, os.path.basename(manager.save(step)))
        checkpoint.restore(for_tensorflow(saved))
        tf.saved_model.load(for_tensorflow(directory))

    Other functions (`tf.io.gfile` but `glob`, records, summaries, `saved_model.save`)
    take every path as it is.

    Args:
        path: A directory, or a checkpoint without its `.index`. The part up to
            the last `[ ] * ? \` must be a directory that exists.

    Returns:
        `path` if it is plain; else one through a symbolic link in a temporary
        directory, which goes when the process ends.

    Raises:
        UserError: If a file's own name has such a character, or a file of a checkpoint
            is a pipe or a device, which may never end.
    """
    if is_remote(path):
        return path
    for file in checkpoint_files(path):
        if not os.path.isfile(file):
            raise UserError(f"{file} is no regular file")
    if not _PATTERN.search(path):
        return path
    parts = os.path.abspath(path).split("/")
    end = max(i for i, part in enumerate(parts) if _PATTERN.search(part)) + 1
    special = "/".join(parts[:end])
    if not os.path.isdir(special):
        raise UserError(
            f"{special} is no directory, and TensorFlow would take its name for a "
            "pattern: give a name without any of [ ] * ? \\"
        )
    return "/".join([_plain_link(special), *parts[end:]])


@functools.cache
def _plain_link(directory: str) -> str:
    folder = tempfile.mkdtemp(prefix="alexnet-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    link = os.path.join(folder, "link")
    os.symlink(directory, link)
    return link


def checkpoint_files(path: str) -> list[str]:
    """The files of a checkpoint, sorted: `path.data-…` and `path.index`."""
    directory, name = os.path.split(path)
    return [
        os.path.join(directory, file)
        for file in list_names(directory or ".")
        if re.fullmatch(re.escape(name) + r"\.(index|data-\d+-of-\d+)", file)
    ]


def list_checkpoints(directory: str) -> list[str]:
    """Finds the checkpoints in a directory, the latest first, without their suffix."""
    matches = map(re.compile(r"ckpt-(\d+)\.index").fullmatch, list_names(directory))
    numbers = sorted((int(match[1]) for match in matches if match), reverse=True)
    return [os.path.join(directory, f"ckpt-{number}") for number in numbers]


def remote_files():
    """TensorFlow's file systems, imported only where a path is remote."""
    from tensorflow.io import gfile

    return gfile

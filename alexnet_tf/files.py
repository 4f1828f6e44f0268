"""Outputs, locks, disks: nothing of a person's is lost.

The rules, for every program:

- What a program did not write it does not remove (`replacing`, `remove_written`), and
  no input lies in what it replaces (`check_output`).
- What is new is complete before the old goes, by a move (`replacing`).
- One process writes a directory (`lock`); fresh names are made exclusively
  (`make_fresh_directory`).
- What the file system refuses is one line that says what to do (`explain`).

What a path is stands in `paths.py`.
"""

import contextlib
import errno
import fcntl
import fnmatch
import os
import shlex
import shutil
import socket
import stat
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from typing import IO

from absl import logging

from alexnet_tf.errors import UserError
from alexnet_tf.paths import LOCK_FILE, is_remote, list_names, remote_files

# No compressed picture of `data.transcode.MAX_PIXELS` is larger, nor one of bytes.
MAX_PICTURE_BYTES = 2**29
_UNFINISHED = ".incomplete"
_MARKED = 256  # first bytes of a file, by which its program is known
_ROOM = 2**20  # bytes that an output must be able to take
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_ADVICE = {
    **dict.fromkeys(_FULL, "free some space and run the same command again"),
    **dict.fromkeys(_DENIED, "give another place, or mend its permissions"),
    errno.ENOENT: "give a path that exists",
    errno.ENOTDIR: "give a path without a file in its middle",
    errno.EISDIR: "give the path of a file",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EBUSY: "end what uses it, or give another place",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EIO: "see to the disk",
}


def is_unfinished(name: str) -> bool:
    """Whether it is the name of what `replacing` leaves when its process is killed."""
    return name.startswith(".") and name.endswith((_UNFINISHED, ".new"))


def read_whole(path: str, max_bytes: int) -> bytes:
    """Reads a file that others made: one that ends, and is not larger than expected.

    Args:
        path: Local or remote.
        max_bytes: That it may have.

    Raises:
        UserError: In a few words, why it cannot be read.
    """
    if is_remote(path):
        with disk_errors(), remote_files().GFile(path, "rb") as file:
            return read_bounded(file, max_bytes)
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UserError("not a regular file")
            return read_bounded(file, max_bytes)
    except OSError as error:
        raise UserError(error.strerror) from None


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe's other end may never come


def read_bounded(file: IO[bytes], max_bytes: int) -> bytes:
    """Reads an open file to its end.

    Raises:
        UserError: If it has more than so many bytes.
    """
    content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise UserError(f"larger than {max_bytes >> 20} MiB")
    return content


def make_fresh_directory(path: str) -> str:
    """Makes a directory that nobody has, exclusively.

    Args:
        path: Where; taken names get a number: `path-2`, `path-3` …

    Returns:
        The path made. Of two processes each gets its own.
    """
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    number, fresh = 1, path
    while True:
        try:
            os.mkdir(fresh)
            return fresh
        except FileExistsError:
            number += 1
            fresh = f"{path}-{number}"


# Outputs.


def check_output(
    path: str,
    inputs: Sequence[str] = (),
    *,
    what: str = "the output",
    kind: str = "directory",
    replaced: bool = True,
    mark: bytes = b"",
) -> None:
    """Checks, before the work begins, that an output can be written.

    Args:
        path: The output.
        inputs: Files and directories that are read.
        what: How messages call it, such as "--output".
        kind: "file" or "directory".
        replaced: Whether a directory is replaced as a whole (by `replacing`), so that
            no input may be equal to it, inside or above; else files are written into
            it, and it may only not be equal to an input.
        mark: What is in the first bytes of every file that the program writes there. A
            file without it is a person's own, and is not replaced.

    Raises:
        UserError: If it is of the wrong kind, an input, a person's own file, or cannot
            be written.
    """
    if is_remote(path):
        _check_remote_output(path, what)
    target = os.path.realpath(path) if not is_remote(path) else path.rstrip("/")
    for given in inputs:
        source = os.path.realpath(given) if not is_remote(given) else given.rstrip("/")
        whole = replaced and kind == "directory"
        if _is_same(target, source) or (
            whole and (_is_inside(target, source) or _is_inside(source, target))
        ):
            raise UserError(
                f"{what}={path} would overwrite the input {given}: give another"
            )
    if is_remote(path):
        return
    _check_place(target, f"{what}={path}", kind, replaced)
    if mark and os.path.isfile(target):
        _check_mark(target, f"{what}={path}", mark)
    is_moved = replaced or kind == "file"
    with disk_errors(f"{what}={path}"):
        _try_to_write(os.path.dirname(target) if is_moved else target)


def _check_place(target: str, shown: str, kind: str, replaced: bool) -> None:
    """Refuses what is there, if it is of another kind or cannot be replaced."""
    if kind == "file" and os.path.isdir(target):
        raise UserError(f"{shown} is a directory: give the name of a file")
    if kind == "file" and os.path.exists(target) and not os.path.isfile(target):
        raise UserError(f"{shown} is a device or a pipe: give the name of a file")
    if kind == "directory" and os.path.exists(target) and not os.path.isdir(target):
        raise UserError(f"{shown} is a file: give the name of a directory")
    if replaced and os.path.ismount(target):
        raise UserError(
            f"{shown} is a mount point, which cannot be replaced: give a directory in "
            "it"
        )


def _check_mark(target: str, shown: str, mark: bytes) -> None:
    with disk_errors(shown), open(target, "rb") as file:
        beginning = file.read(_MARKED)
    if beginning and mark not in beginning:
        raise UserError(f"{shown} is a file of another program: give a new name")


def _try_to_write(directory: str) -> None:
    """Writes into a directory, or where it will be made."""
    while not os.path.exists(directory):
        directory = os.path.dirname(directory)
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(bytes(_ROOM))


def _check_remote_output(path: str, what: str) -> None:
    # An unknown kind of file system is said only when something is made.
    with disk_errors(f"{what}={path}"):
        parent = os.path.dirname(path.rstrip("/"))
        remote_files().makedirs(parent if is_remote(parent) else path)


def _is_same(path: str, other: str) -> bool:
    local = os.path.exists(path) and os.path.exists(other)
    return path == other or (local and os.path.samefile(path, other))


def _is_inside(path: str, directory: str) -> bool:
    return path.startswith(directory.rstrip("/") + "/")


@contextlib.contextmanager
def replacing(path: str, names: Sequence[str] = ()) -> Iterator[str]:
    """Has a new file or directory take the place of an old one when it is complete.

    Until then the old one stays as it is; after an exception nothing is left behind;
    what a killed process left is removed by the next. A link is followed. Two processes
    may do it at once: the last one stays, whole (`lock` keeps the other out).

        with replacing("data/photos", ["*.tfrecord*"]) as temporary:
            write_data_set(temporary)

    `writing` does it for a file.

    Args:
        path: Of the file or directory.
        names: What the program writes in such a directory, as `remove_written` takes
            it. Everything else in an old directory is carried over into the new one.

    Yields:
        The path to write to; its last part is that of `path`.

    Raises:
        UserError: If a file would take the place of a directory, or the reverse.
    """
    if is_remote(path):
        with _replacing_remote(path.rstrip("/"), names) as temporary:
            yield temporary
        return
    target = os.path.realpath(path)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    _remove_killed(target)
    with _holder(target) as holder:
        new = os.path.join(holder, os.path.basename(target))
        try:
            yield new
            with _one_at_a_time(os.path.dirname(target)):
                _check_same_kind(new, target)
                if os.path.isdir(target):
                    _carry_over(target, new, names)
                    os.rename(target, new + ".old")
                os.replace(new, target)
        finally:
            _put_back(holder, target)


@contextlib.contextmanager
def writing(path: str, mode: str = "w") -> Iterator[IO]:
    """Opens a new file that takes the place of the old one when it is complete.

    Args:
        path: Local or remote; its directory is made.
        mode: "w" for text in UTF-8, "wb" for bytes.
    """
    text = {} if "b" in mode else {"encoding": "utf-8", "errors": "replace"}
    with replacing(path) as temporary:
        if is_remote(path):
            file = remote_files().GFile(temporary, mode)
        else:
            file = open(temporary, mode, **text)  # noqa: SIM115
        with file:
            yield file


def _check_same_kind(new: str, target: str) -> None:
    os.stat(new)  # it was written
    if os.path.exists(target) and os.path.isdir(new) != os.path.isdir(target):
        raise UserError(
            f"{target} is a {'directory' if os.path.isdir(target) else 'file'}, what "
            "would replace it is not: give another name"
        )


@contextlib.contextmanager
def _holder(target: str) -> Iterator[str]:
    """A directory beside `target`, locked so that others see whether we live."""
    parent, name = os.path.split(target)
    made = tempfile.mkdtemp(prefix=f".{name}.", suffix=".new", dir=parent)
    holder = made.removesuffix(".new") + _UNFINISHED
    descriptor = _try_lock(os.path.join(made, LOCK_FILE))
    try:
        os.rename(made, holder)  # only now others look at it
        yield holder
    finally:
        shutil.rmtree(holder, ignore_errors=True)
        shutil.rmtree(made, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


@contextlib.contextmanager
def _one_at_a_time(directory: str) -> Iterator[None]:
    """Waits for other processes that put something in place in a directory."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _put_back(holder: str, target: str) -> None:
    """Where a replacement was stopped between its two moves: undoes the first one."""
    old = os.path.join(holder, os.path.basename(target)) + ".old"
    if os.path.lexists(old) and not os.path.lexists(target):
        os.rename(old, target)


def _remove_killed(target: str) -> None:
    """Removes what processes that were killed left beside `target`."""
    parent, name = os.path.split(target)
    for entry in os.listdir(parent):
        if entry.startswith(f".{name}.") and entry.endswith(_UNFINISHED):
            holder = os.path.join(parent, entry)
            with contextlib.suppress(FileNotFoundError):  # its process has ended
                descriptor = _try_lock(os.path.join(holder, LOCK_FILE))
                if descriptor is not None:
                    _put_back(holder, target)
                    shutil.rmtree(holder, ignore_errors=True)
                    os.close(descriptor)


def _carry_over(old: str, new: str, names: Sequence[str]) -> None:
    """Gives `new` what `old` has beside what the program wrote, as hard links."""
    for directory, folders, files in os.walk(old):
        inside = os.path.relpath(directory, old)
        links = [f for f in folders if os.path.islink(os.path.join(directory, f))]
        for file in files + links:
            relative = os.path.normpath(os.path.join(inside, file))
            copy = os.path.join(new, relative)
            if file == LOCK_FILE or _is_written(relative, names):
                continue
            if not os.path.lexists(copy):
                os.makedirs(os.path.dirname(copy), exist_ok=True)
                _link(os.path.join(old, relative), copy)
        if not folders and not files:
            os.makedirs(os.path.join(new, inside), exist_ok=True)


def _link(path: str, copy: str) -> None:
    try:
        os.link(path, copy, follow_symlinks=False)
    except OSError:  # a file system without hard links
        shutil.copy2(path, copy, follow_symlinks=False)


def _is_written(relative: str, names: Sequence[str]) -> bool:
    parts = relative.split("/")
    return any(
        len(parts) == len(patterns) and all(map(fnmatch.fnmatchcase, parts, patterns))
        for patterns in (name.split("/") for name in names)
    )


@contextlib.contextmanager
def _replacing_remote(path: str, names: Sequence[str]) -> Iterator[str]:
    """An object store has no directories: a move there is one of each file."""
    gfile = remote_files()
    folder, name = os.path.split(path)
    new = f"{folder}/.{name}.{uuid.uuid4().hex[:8]}{_UNFINISHED}"
    gfile.makedirs(folder)
    try:
        yield new
        if not gfile.isdir(new):
            gfile.rename(new, path, overwrite=True)
            return
        remove_written(path, names)
        for directory, _, files in _walk_remote(new):
            moved = path + directory.removeprefix(new)
            gfile.makedirs(moved)
            for file in files:
                gfile.rename(f"{directory}/{file}", f"{moved}/{file}", overwrite=True)
    finally:
        if gfile.isdir(new):
            for directory, _, files in _walk_remote(new)[::-1]:
                for file in files:
                    gfile.remove(f"{directory}/{file}")
                gfile.rmtree(directory)
        elif gfile.exists(new):
            gfile.remove(new)


def _walk_remote(directory: str) -> list[tuple[str, list[str], list[str]]]:
    """As `os.walk`; ram:// shows assets.extra/x as assets/.extra, too: not a file."""
    gfile = remote_files()
    return [
        (
            folder.rstrip("/"),
            folders,
            [f for f in files if gfile.exists(f"{folder}/{f}")],
        )
        for folder, folders, files in gfile.walk(directory)
    ]


def remove_written(directory: str, names: Sequence[str]) -> None:
    """Removes what a program wrote in a directory; everything else stays.

    Args:
        directory: May be missing; stays. Links in it are not followed.
        names: Of its files, relative to it; `*` and `?` stand for parts of a name,
            never for a `/`: "config.json", "checkpoints/ckpt-*", "train/events.*".
            Directories that are empty afterwards go, too.
    """
    walk, remove, remove_directory = os.walk, os.remove, os.rmdir
    if is_remote(directory):
        gfile = remote_files()
        walk, remove, remove_directory = _walk_remote, gfile.remove, gfile.rmtree
    root = directory.rstrip("/")
    parts = [name.split("/") for name in names]
    folders = {"/".join(path[:end]) for path in parts for end in range(1, len(path))}
    for folder, _, files in list(walk(root))[::-1]:
        inside = folder.rstrip("/").removeprefix(root).strip("/")
        written = [f for f in files if _is_written(f"{inside}/{f}".lstrip("/"), names)]
        for file in written:
            remove(f"{folder.rstrip('/')}/{file}")
        if _is_written(inside, folders) and not list_names(folder):
            remove_directory(folder)


# Two at once.


@contextlib.contextmanager
def lock(directory: str, what: str) -> Iterator[None]:
    """Keeps other processes from writing a directory until the end, or the kill.

    The operating system lets the lock go when its process ends, in whatever way. Its
    file, `LOCK_FILE`, says who has it. Where there can be no lock (a remote directory),
    a line says so.

    Args:
        directory: Made if there is none; one that was made here and is still empty at
            the end is removed.
        what: What is in it, for messages: "the run", "the data set".

    Raises:
        UserError: If another process has the lock; names it.
    """
    if is_remote(directory):
        logging.warning("no lock on %s: let no other program write there", directory)
        yield
        return
    made = os.path.realpath(directory)  # of a link to nothing, what it names
    was_missing = not os.path.isdir(made)
    path = os.path.join(made, LOCK_FILE)
    while True:
        os.makedirs(made, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # its last owner just removed it
            descriptor = _try_lock(path)
            break
    if descriptor is None:
        with contextlib.suppress(OSError), open(path, errors="replace") as file:
            owner = " ".join(file.read().split())
            raise UserError(
                f"{what} in {directory} is being written by {owner or 'another'}: wait "
                "for its end, or give another directory"
            )
        raise UserError(f"{what} in {directory} is being written: start again")
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            if _is_file_of(descriptor, path):
                os.remove(path)
        os.close(descriptor)
        if was_missing:
            with contextlib.suppress(OSError):  # not empty
                os.rmdir(made)


def _try_lock(path: str) -> int | None:
    """Locks a file and writes its owner; None if another process has it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:  # a file system without locks
            logging.warning("no lock on %s (%s): let no other write", path, error)
        if _is_file_of(descriptor, path):  # else its last owner has just removed it
            break
        os.close(descriptor)
    command = shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]])[:200]
    owner = f"process {os.getpid()} on {socket.gethostname()} ({command})\n"
    os.truncate(descriptor, 0)
    with contextlib.suppress(OSError):  # on a full disk it stays without a name
        os.write(descriptor, owner.encode(errors="replace"))
    return descriptor


def _is_file_of(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


# What a file system refuses.


@contextlib.contextmanager
def disk_errors(what: str = "") -> Iterator[None]:
    """Turns what the file system refuses, TensorFlow's errors too, into one line.

    Args:
        what: Put before the message, such as "--output=/data".

    Raises:
        UserError: For an error that `explain` knows; others pass.
    """
    try:
        yield
    except Exception as error:
        line = None if isinstance(error, UserError) else explain(error)
        if line is None:
            raise
        raise UserError(f"{what}: {line}" if what else line) from error


def explain(error: BaseException) -> str | None:
    """What the file system refused and what to do, in one line.

    Args:
        error: Any exception.

    Returns:
        None if it is no error of the file system.
    """
    if type(error).__name__ == "OperationalError" and "full" in str(error):
        return _describe(errno.ENOSPC, "a temporary file")  # SQLite
    if isinstance(error, OSError) and error.errno:
        if error.filename:
            return _describe(error.errno, os.fsdecode(error.filename))
        return _describe(error.errno, reason=error.strerror)
    tf = sys.modules.get("tensorflow")
    if not isinstance(error, getattr(tf and tf.errors, "OpError", ())):
        return None
    if isinstance(error, tf.errors.UnimplementedError) and "scheme" in error.message:
        return error.message.splitlines()[0] + ": give a local path"
    # TensorFlow writes "path; message of the operating system".
    text = error.message.rsplit("}} ", 1)[-1]
    for code in _ADVICE:
        name, found, _ = text.partition(f"; {os.strerror(code)}")
        if found:
            return _describe(code, name.splitlines()[-1].split(" ")[-1])
    return None


def _describe(code: int, name: str = "", reason: str | None = None) -> str:
    advice = _ADVICE.get(code, "see to it and run the same command again")
    if code in (*_FULL, *_DENIED) and name:
        name = f"cannot write {name}" if code in _FULL else f"cannot use {name}"
    reason = f"{reason or os.strerror(code)}; {advice}"
    return f"{name}: {reason}" if name else reason

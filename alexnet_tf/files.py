"""Outputs, locks, disks: nothing of a person's is lost.

The rules, for every program:

- A program removes only files that it wrote, by their exact names. A directory that
  holds anything else is refused (`check_ours`).
- What is new is complete before the old goes (`writing`, `replacing`).
- A program's own files are never reached through a link. Only the directory that a
  person names may be a link.
- One process writes a directory (`lock`).
- What the file system refuses is one line that says what to do (`explain`).

What a path is stands in `paths.py`.
"""

import contextlib
import errno
import itertools
import os
import re
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

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# No compressed picture of `data.transcode.MAX_PIXELS` is larger, nor one of bytes.
MAX_PICTURE_BYTES = 2**29
_UNFINISHED = ".unfinished"
_MARKED = 1024  # first bytes of a file, by which its program is known
_ROOM = 2**20  # bytes that an output must be able to take
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_ADVICE = {
    **dict.fromkeys(_FULL, "free some space and run the same command again"),
    **dict.fromkeys(_DENIED, "give another path, or change its permissions"),
    errno.ENOENT: "give a path that exists",
    errno.ENOTDIR: "give a path without a file in its middle",
    errno.EISDIR: "give the path of a file",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "remove the link",
    errno.EBUSY: "end the program that uses it, or give another path",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EAGAIN: "raise the limit of processes (ulimit -u), or end other programs",
    errno.EIO: "check the disk",
}


def shown(text: str) -> str:
    """A name as a terminal or a page can show it, on one line.

    Names of classes and files may hold anything. Characters that would steer a terminal
    are written as escapes.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text
    )


def format_cell(text: str) -> str:
    """A text for a CSV file, which a spreadsheet must not take for a formula."""
    is_formula = text.startswith(("=", "+", "-", "@", "\t", "\r"))
    return shown("'" + text if is_formula else text)


# Reading what others made.


def read_whole(path: str, max_bytes: int) -> bytes:
    """Reads a file that others made.

    Args:
        path: Local or remote.
        max_bytes: The largest size that is read.

    Raises:
        UserError: In a few words, why it cannot be read.
    """
    if is_remote(path):
        try:
            with remote_files().GFile(path, "rb") as file:
                return read_bounded(file, max_bytes)
        except UserError:
            raise
        except Exception as error:  # whatever a file system of TensorFlow's raises
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(explain(error) or reason) from None
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UserError("not a regular file")
            if status.st_size > max_bytes:
                raise UserError(f"larger than {max_bytes >> 20} MiB")
            return read_bounded(file, max_bytes)
    except OSError as error:
        raise UserError(error.strerror) from None


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe may never end


def read_bounded(file: IO[bytes], max_bytes: int) -> bytes:
    """Reads an open file to its end.

    Raises:
        UserError: If it has more than `max_bytes`.
    """
    content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise UserError(f"larger than {max_bytes >> 20} MiB")
    return content


# Checks before the work begins.


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
            no input may be equal to it, inside or above. Otherwise files are written
            into it, and it may only not be equal to an input.
        mark: A text in the first bytes of every file that this program writes. A file
            without it is a person's own, and is refused.

    Raises:
        UserError: If it is of the wrong kind, an input, a person's own file, or cannot
            be written.
    """
    name, is_far, is_file = f"{what}={path}", is_remote(path), kind == "file"
    target = path.rstrip("/") if is_far else os.path.realpath(path)
    for given in inputs:
        source = given.rstrip("/") if is_remote(given) else os.path.realpath(given)
        nested = f"{target}/".startswith(f"{source}/") or source.startswith(
            f"{target}/"
        )
        if _is_same(target, source) or (nested and replaced and not is_file):
            raise UserError(
                f"{name} would overwrite the input {given}: give another path"
            )
    with disk_errors(name):
        if is_far:  # an unknown kind of file system is reported when something is made
            parent = os.path.dirname(target)
            remote_files().makedirs(parent if is_remote(parent) else target)
            return
        _check_what_is_there(path, name, is_file, replaced, mark)
        directory = os.path.dirname(target) if replaced or is_file else target
        while not os.path.exists(directory):
            directory = os.path.dirname(directory)
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(_ROOM))


def _is_same(path: str, other: str) -> bool:
    local = os.path.exists(path) and os.path.exists(other)
    return path == other or (local and os.path.samefile(path, other))


def _check_what_is_there(
    path: str, name: str, is_file: bool, replaced: bool, mark: bytes
) -> None:
    if not os.path.lexists(path):
        return
    if not is_file:
        if not os.path.isdir(path):
            raise UserError(f"{name} is a file: give the name of a directory")
        if replaced and os.path.ismount(path):
            raise UserError(
                f"{name} is a mount point and cannot be replaced: give a directory in "
                "it"
            )
        return
    if os.path.islink(path) or not os.path.isfile(path):
        raise UserError(f"{name} is a directory, a link or a device: give a file")
    with open(path, "rb") as file:
        beginning = file.read(_MARKED)
    if beginning and mark not in beginning:
        raise UserError(f"{name} is a file of another program: give a new name")


def check_ours(directory: str, names: Sequence[str]) -> None:
    """Refuses a directory that holds anything but the files of one program.

    Args:
        directory: Local or remote. It may be missing.
        names: All files that the program writes there, relative to the directory, such
            as "config.json" and "checkpoints/ckpt-#.index". `#` stands for a number,
            and `*` for any text without a `/`, such as the name of a computer. The
            first is the file by which a reader knows what the directory is: where it is
            missing, nothing else may be there.

    Raises:
        UserError: Names a file that the program did not write.
    """
    if os.path.exists(directory) and not os.path.isdir(directory):
        raise UserError(f"{directory} is a file: give the name of a directory")
    if names[0] in list_names(directory):
        found = (f for f in _find_files(directory) if not _is_named(f, names))
    else:
        found = (name for name in list_names(directory) if not is_unfinished(name))
    if others := sorted(found):
        raise UserError(
            f"{directory} holds {shown(others[0])}, which this program did not write "
            "there: move it away, or give another directory"
        )


def _find_files(directory: str) -> list[str]:
    """The files and links at any depth, relative; none of locks and of killed writes.

    A file that a killed `writing` left is nobody's: it is neither counted nor removed.
    """
    found, root = [], directory.rstrip("/")
    walk = remote_files().walk if is_remote(directory) else os.walk
    for folder, folders, names in walk(directory):
        paths = [os.path.join(folder, name) for name in names]
        if is_remote(directory):  # ram:// shows assets.extra/x as assets/.extra, too
            paths = list(filter(remote_files().exists, paths))
        else:
            paths += filter(os.path.islink, (os.path.join(folder, f) for f in folders))
        found += [path.removeprefix(root).lstrip("/") for path in paths]
    return [
        file
        for file in found
        if not any(part == LOCK_FILE or is_unfinished(part) for part in file.split("/"))
    ]


def _is_named(file: str, names: Sequence[str]) -> bool:
    """Whether `names`, as `check_ours` takes them, have a file."""
    wild = {r"\#": r"\d+", r"\*": "[^/]*"}
    return any(
        re.fullmatch(re.sub(r"\\[#*]", lambda m: wild[m[0]], re.escape(name)), file)
        for name in names
    )


def is_unfinished(name: str) -> bool:
    """Whether it is the name of what `writing` or `replacing` left when killed."""
    return name.startswith(".") and name.endswith(_UNFINISHED)


def remove_written(directory: str, names: Sequence[str]) -> None:
    """Removes what a program wrote in a directory. Everything else stays.

    Args:
        directory: It may be missing, and stays itself. Links in it are not followed.
        names: As `check_ours` takes them. The first is removed last. Directories that
            are empty afterwards go, too.
    """
    gfile = remote_files() if is_remote(directory) else None
    written = [file for file in _find_files(directory) if _is_named(file, names)]
    for file in sorted(written, key=lambda file: file == names[0]):
        (gfile or os).remove(os.path.join(directory, file))
    folders = {os.path.dirname(file) for file in written} - {""}
    folders |= {os.path.dirname(folder) for folder in folders} - {""}
    for folder in sorted(folders, key=len, reverse=True):
        path = os.path.join(directory, folder)
        if not list_names(path):
            gfile.rmtree(path) if gfile else os.rmdir(path)


# Outputs are put in place when they are complete.


@contextlib.contextmanager
def writing(path: str, mode: str = "w") -> Iterator[IO]:
    """Opens a new file that takes the place of the old one when it is complete.

    After an exception the old one is as it was. A link is replaced, not followed. The
    permissions of the old file stay.

    Args:
        path: Local or remote; its directory is made.
        mode: "w" for text in UTF-8, "wb" for bytes.
    """
    text = {} if "b" in mode else {"encoding": "utf-8", "errors": "replace"}
    directory, name = os.path.split(path)
    if is_remote(path):
        remote_files().makedirs(directory)
        directory = tempfile.gettempdir()
    elif directory:
        os.makedirs(directory, exist_ok=True)
    name = f".{name}.{uuid.uuid4().hex[:8]}{_UNFINISHED}"
    temporary = os.path.join(directory, name)
    try:
        with open(temporary, mode.replace("w", "x"), **text) as file:
            yield file
        if is_remote(path):
            _upload(temporary, path)
        else:
            _keep_mode(path, temporary)
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def _keep_mode(old: str, new: str) -> None:
    if os.path.exists(old) and not os.path.islink(old):
        shutil.copymode(old, new)


@contextlib.contextmanager
def replacing(path: str, names: Sequence[str]) -> Iterator[str]:
    """Has a new directory take the place of an old one when it is complete.

    Until then the old one stays as it is. After an exception nothing is left behind;
    what a killed process left is removed by the next.

        with replacing("data/photos", names) as temporary:
            write_data_set(temporary)

    A remote directory is written on this machine first, and then copied.

    Args:
        path: The directory, or a link to it. The new one, too, has its name.
        names: What the program writes in such a directory, as `check_ours` takes it.

    Yields:
        The path to write to.

    Raises:
        UserError: If the old directory holds anything else.
    """
    check_ours(path, names)
    path = path.rstrip("/") if is_remote(path) else os.path.realpath(path)
    parent, name = os.path.split(path)
    if is_remote(path):
        with tempfile.TemporaryDirectory() as holder:
            yield os.path.join(holder, name)
            _copy_to_remote(os.path.join(holder, name), path, names)
        return
    holder = os.path.join(parent, f".{name}{_UNFINISHED}")
    new, old = os.path.join(holder, name), os.path.join(holder, f"{name}.old")
    for own in (holder, new, old):
        if os.path.islink(own):
            raise UserError(f"{own} is a link: remove it")
    with lock(holder, f"what replaces {name}"):
        _put_back(old, path)
        shutil.rmtree(new, ignore_errors=True)
        _remove_old(old, names)
        try:
            yield new
            check_ours(path, names)
            _keep_modes(path, new)
            if os.path.exists(path):
                os.rename(path, old)
            os.rename(new, path)
            _remove_old(old, names)
        finally:
            _put_back(old, path)
            shutil.rmtree(new, ignore_errors=True)


def _keep_modes(old: str, new: str) -> None:
    if os.path.isdir(old):
        for file in ("", *_find_files(old)):
            if os.path.exists(os.path.join(new, file)):
                _keep_mode(os.path.join(old, file), os.path.join(new, file))


def _put_back(old: str, target: str) -> None:
    """Where a replacement was stopped between its two moves: undoes the first one."""
    if os.path.exists(old) and not os.path.exists(target):
        os.rename(old, target)


def _remove_old(old: str, names: Sequence[str]) -> None:
    if os.path.isdir(old):
        check_ours(old, names)
        shutil.rmtree(old)


def _copy_to_remote(directory: str, remote: str, names: Sequence[str]) -> None:
    """Replaces a remote directory; the file by which a reader knows it comes last."""
    gfile = remote_files()
    remove_written(remote, names)
    for file in sorted(_find_files(directory), key=lambda file: file == names[0]):
        target = os.path.join(remote, file)
        gfile.makedirs(os.path.dirname(target))
        _upload(os.path.join(directory, file), target)


def _upload(path: str, remote: str) -> None:
    directory, name = os.path.split(remote)
    unfinished = f"{directory}/.{name}{_UNFINISHED}"
    remote_files().copy(path, unfinished, overwrite=True)
    remote_files().rename(unfinished, remote, overwrite=True)


def make_fresh_directory(path: str) -> str:
    """Makes a directory that nobody has, exclusively.

    Args:
        path: The wanted path. A name that is taken gets a number: `path-2`, `path-3` …

    Returns:
        The path made. Of two processes each gets its own.
    """
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    for number in itertools.count(1):
        fresh = path if number == 1 else f"{path}-{number}"
        with contextlib.suppress(FileExistsError):
            os.mkdir(fresh)
            return fresh


def check_no_links(directory: str, names: Sequence[str]) -> None:
    """Refuses links where a program has its own directories inside a directory.

    Args:
        directory: It may be a link itself.
        names: As `check_ours` takes them.

    Raises:
        UserError: Names the link.
    """
    folders = {name[: i.start()] for name in names for i in re.finditer("/", name)}
    for folder in sorted(folders):
        path = os.path.join(directory, folder)
        if os.path.islink(path):
            raise UserError(f"{path} is a link: remove it, or give another directory")


# Two at once.


@contextlib.contextmanager
def lock(directory: str, what: str) -> Iterator[None]:
    """Keeps other processes from writing a directory until the end, or the kill.

    The operating system lets the lock go when its process ends, in whatever way. Its
    file, `LOCK_FILE`, names the process that has it, and stays. Where there can be no
    lock (a remote directory), a line says so.

    Args:
        directory: It is made if there is none, and removed again if it is still empty
            at the end.
        what: What is in it, for messages: "the run", "the data set".

    Raises:
        UserError: If another process has the lock; names it.
    """
    if is_remote(directory) or fcntl is None:
        logging.warning("no lock on %s: let no other program write there", directory)
        yield
        return
    made = os.path.realpath(directory)  # a link to nothing becomes one to a directory
    is_ours = not os.path.isdir(made) or is_unfinished(os.path.basename(made))
    path = os.path.join(made, LOCK_FILE)
    what = f"{what} in {directory}"
    try:
        if not os.path.isdir(made):
            os.makedirs(made)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except (FileExistsError, FileNotFoundError):
        # Another process has just made or removed the directory.
        raise UserError(f"{what} was being written: run the command again") from None
    try:
        _take_lock(descriptor, path, what)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # it was moved away, or is used again
                if is_ours and os.listdir(made) == [LOCK_FILE]:
                    os.remove(path)
                    os.rmdir(made)
    finally:
        os.close(descriptor)


def _take_lock(descriptor: int, path: str, what: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = " ".join(os.read(descriptor, 1000).decode(errors="replace").split())
        raise UserError(
            f"{what} is being written by {shown(owner) or 'another process'}: wait for "
            "its end, or give another directory"
        ) from None
    except OSError as error:  # a file system without locks
        logging.warning("no lock on %s (%s): let no other write there", path, error)
    if not os.path.exists(path) or not os.path.samestat(
        os.fstat(descriptor), os.stat(path)
    ):
        raise UserError(f"{what} was being written: run the command again")
    command = shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]])[:200]
    owner = f"process {os.getpid()} on {socket.gethostname()} ({command})\n"
    os.truncate(descriptor, 0)
    with contextlib.suppress(OSError):  # on a full disk it stays without a name
        os.write(descriptor, owner.encode(errors="replace"))


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
    """What the system refused and what to do, in one line.

    Args:
        error: Any exception.

    Returns:
        None if the system refused nothing.
    """
    text = str(error)
    if type(error).__name__ == "OperationalError" and "full" in text:
        return _describe(errno.ENOSPC, "a temporary file")  # SQLite
    if isinstance(error, RuntimeError) and "start new thread" in text:
        return _describe(errno.EAGAIN, reason=text)
    if isinstance(error, OSError) and error.errno:
        if "temporary directory" in text:  # of `tempfile`
            return f"{error.strerror}; give one that can be written: TMPDIR=DIRECTORY"
        name = os.fsdecode(error.filename or "")
        return _describe(error.errno, name, "" if name else error.strerror)
    tf = sys.modules.get("tensorflow")
    if not isinstance(error, getattr(tf and tf.errors, "OpError", ())):
        return None
    if isinstance(error, tf.errors.UnimplementedError) and "scheme" in error.message:
        return error.message.splitlines()[0] + ": give a local path"
    # TensorFlow writes "path; message of the operating system".
    message = error.message.rsplit("}} ", 1)[-1]
    for code in _ADVICE:
        name, found, _ = message.partition(f"; {os.strerror(code)}")
        if found:
            return _describe(code, name.splitlines()[-1].split(" ")[-1])
    return None


def _describe(code: int, name: str = "", reason: str = "") -> str:
    advice = _ADVICE.get(code, "repair it and run the same command again")
    if code in (*_FULL, *_DENIED) and name:
        name = f"cannot write {name}" if code in _FULL else f"cannot use {name}"
    reason = f"{reason or os.strerror(code)}; {advice}"
    return f"{name}: {reason}" if name else reason

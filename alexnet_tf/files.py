"""Outputs, locks, disks: nothing of a person's is lost.

The rules, for every program:

- A program removes only files that it wrote, by their exact names. A directory that
  holds anything else is refused (`check_ours`).
- What is new is complete before the old goes (`writing`, `replacing`).
- An input is never inside, above or equal to an output (`check_output`).
- A program's own files are never reached through a link. Only the directory that a
  person names may be a link.
- One process writes a directory (`lock`).
- What the file system refuses is one line that says what to do (`explain`).

What a path is stands in `paths.py`.
"""

import contextlib
import errno
import itertools
import json
import os
import pathlib
import re
import shlex
import shutil
import socket
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from typing import IO

from absl import logging

from alexnet_tf.errors import UserError, escape
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
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EAGAIN: "raise the limit of processes (ulimit -u), or end other programs",
    errno.EIO: "check the disk",
}


def format_cell(text: str) -> str:
    """A text for a CSV file, which a spreadsheet must not take for a formula."""
    is_formula = text.startswith(("=", "+", "-", "@", "\t", "\r"))
    return escape("'" + text if is_formula else text)


# Reading what others made.


def read_whole(path: str, max_bytes: int) -> bytes:
    """Reads a file that others made.

    Args:
        path: Local or remote.
        max_bytes: The largest size that is read.

    Raises:
        UserError: In a few words, why it cannot be read.
    """
    is_far = is_remote(path)
    try:
        size = remote_files().stat(path).length if is_far else os.path.getsize(path)
        if not is_far and not os.path.isfile(path):
            raise UserError("not a regular file")  # a pipe or a device may never end
        if size > max_bytes:
            raise UserError(f"larger than {max_bytes >> 20} MiB")
        with remote_files().GFile(path, "rb") if is_far else open(path, "rb") as file:
            return file.read(size)
    except UserError:
        raise
    except OSError as error:
        raise UserError(error.strerror) from None
    except Exception as error:  # whatever a file system of TensorFlow's raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(explain(error) or reason) from None


def read_json(path: str, max_bytes: int = 2**24) -> dict:
    """Reads a JSON object that others made.

    Args:
        path: Local or remote.
        max_bytes: The largest size that is read.

    Raises:
        UserError: In a few words, why it cannot be read.
    """
    try:
        content = json.loads(read_whole(path, max_bytes))
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"no JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError("no JSON object")
    return content


def read_bounded(file: IO[bytes], max_bytes: int) -> bytes:
    """Reads a stream to its end.

    Raises:
        UserError: If it has more than `max_bytes`.
    """
    content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise UserError(f"larger than {max_bytes >> 20} MiB")
    return content


# Checks before the work begins.


def check_output(
    path: str, inputs: Sequence[str] = (), *, what: str = "the output"
) -> None:
    """Checks, before the work begins, that a directory can be written.

    Args:
        path: The directory; it may be missing.
        inputs: Files and directories that are read.
        what: How messages call the directory, such as "--output".

    Raises:
        UserError: If it is a file, cannot be written, or is an input, inside of one or
            above one.
    """
    name = f"{what}={path}"
    _check_apart(path, inputs, name)
    if not is_remote(path) and os.path.lexists(path) and not os.path.isdir(path):
        raise UserError(f"{name} is a file: give the name of a directory")
    _check_writable(path, name)


def check_output_file(
    path: str, inputs: Sequence[str] = (), *, what: str, mark: bytes
) -> None:
    """Checks, before the work begins, that a file can be written.

    Args:
        path: The file; it may be missing.
        inputs: Files and directories that are read.
        what: How messages call the file, such as "--output".
        mark: A text in the first bytes of every file that this program writes. A file
            without it is a person's own, and is refused.

    Raises:
        UserError: If it is no file, cannot be written, is a person's own, or is an
            input, inside of one or above one.
    """
    name = f"{what}={path}"
    _check_apart(path, inputs, name)
    if not is_remote(path) and os.path.lexists(path):
        if os.path.islink(path) or not os.path.isfile(path):
            raise UserError(
                f"{name} is a directory, a link or a device: give the name of a file"
            )
        with disk_errors(name), open(path, "rb") as file:
            beginning = file.read(_MARKED)
        if beginning and mark not in beginning:
            raise UserError(f"{name} is a file of another program: give a new name")
    directory = os.path.dirname(path)
    if is_remote(path) and not is_remote(directory):  # there is only a bucket
        directory = path
    _check_writable(directory, name)


def _check_apart(output: str, inputs: Sequence[str], name: str) -> None:
    target = _real_path(output)
    for given in inputs:
        source = _real_path(given)
        if target.startswith(source) or source.startswith(target):
            raise UserError(
                f"{name} overlaps the input {given}: give a path that is neither "
                "inside nor above it"
            )


def _real_path(path: str) -> str:
    """The path behind all links, with a slash at its end."""
    return (path if is_remote(path) else os.path.realpath(path)).rstrip("/") + "/"


def _check_writable(directory: str, name: str) -> None:
    """Tries to write where a directory is, or will be."""
    with disk_errors(name):
        if is_remote(directory):
            # An unknown kind of file system, or a bucket of others, is found out here.
            remote_files().makedirs(directory)
            return
        directory = os.path.realpath(directory)
        while not os.path.exists(directory):
            directory = os.path.dirname(directory)
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(_ROOM))


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
        UserError: Names a file, or a link, that the program did not write.
    """
    if os.path.exists(directory) and not os.path.isdir(directory):
        raise UserError(f"{directory} is a file: give the name of a directory")
    if names[0] in list_names(directory):
        found = (
            file
            for file in _find_files(directory)
            if os.path.islink(os.path.join(directory, file))
            or not _is_named(file, names)
        )
    else:
        found = (name for name in list_names(directory) if not _is_unfinished(name))
    if others := sorted(found):
        raise UserError(
            f"{directory} holds {others[0]}, which this program did not write "
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
        if not any(
            part == LOCK_FILE or _is_unfinished(part) for part in file.split("/")
        )
    ]


def _is_named(file: str, names: Sequence[str]) -> bool:
    """Whether `names`, as `check_ours` takes them, have a file."""
    wild = {r"\#": r"\d+", r"\*": "[^/]*"}
    return any(
        re.fullmatch(re.sub(r"\\[#*]", lambda m: wild[m[0]], re.escape(name)), file)
        for name in names
    )


def _is_unfinished(name: str) -> bool:
    """Whether it is the name of what `writing` or `replacing` left when killed."""
    return name.startswith(".") and name.endswith(_UNFINISHED)


def remove_written(directory: str, names: Sequence[str]) -> None:
    """Removes what a program wrote in a directory. Everything else stays.

    Args:
        directory: It may be missing, and stays itself. Links in it are not followed.
        names: As `check_ours` takes them. The first is removed last. Directories that
            are empty afterwards go, too.
    """
    is_far = is_remote(directory)
    written = [file for file in _find_files(directory) if _is_named(file, names)]
    for file in sorted(written, key=lambda file: file == names[0]):
        path = os.path.join(directory, file)
        remote_files().remove(path) if is_far else os.remove(path)
    folders = {str(p) for file in written for p in pathlib.PurePath(file).parents}
    for folder in sorted(folders - {"."}, key=len, reverse=True):
        path = os.path.join(directory, folder)
        if not list_names(path):
            remote_files().rmtree(path) if is_far else os.rmdir(path)


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
        with _named(path), open(temporary, mode.replace("w", "x"), **text) as file:
            yield file
        if is_remote(path):
            _upload(temporary, path)
        else:
            _keep_mode(path, temporary)
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Inside, a disk that gets full is an error that names what was being written."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL and not error.filename:
            error.filename = path
        raise


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
    path = path.rstrip("/") if is_remote(path) else os.path.realpath(path)
    parent, name = os.path.split(path)
    if is_remote(path):
        check_ours(path, names)
        with tempfile.TemporaryDirectory() as holder:
            yield os.path.join(holder, name)
            _copy_to_remote(os.path.join(holder, name), path, names)
        return
    if os.path.ismount(path):
        raise UserError(
            f"{path} is a mount point and cannot be replaced: give a directory in it"
        )
    holder = os.path.join(parent, f".{name}{_UNFINISHED}")
    new, old = os.path.join(holder, name), os.path.join(holder, f"{name}.old")
    for own in (holder, new, old):
        if os.path.islink(own):
            raise UserError(f"{own} is a link: remove it")
    with lock(holder, path):
        try:
            _tidy_up(path, new, old, names)
            check_ours(path, names)
            with _named(path):
                yield new
            check_ours(path, names)  # a person may have added something
            _keep_modes(path, new)
            if os.path.exists(path):
                os.rename(path, old)
            os.rename(new, path)
        finally:
            _tidy_up(path, new, old, names)


def _tidy_up(path: str, new: str, old: str, names: Sequence[str]) -> None:
    """Removes what a replacement leaves, wherever it ended."""
    if os.path.exists(old) and not os.path.exists(path):  # between its two moves
        os.rename(old, path)
    shutil.rmtree(new, ignore_errors=True)
    if os.path.exists(old):
        check_ours(old, names)
        shutil.rmtree(old)


def _keep_modes(old: str, new: str) -> None:
    for file in ("", *_find_files(old)):
        if os.path.exists(os.path.join(new, file)):
            _keep_mode(os.path.join(old, file), os.path.join(new, file))


def _copy_to_remote(directory: str, remote: str, names: Sequence[str]) -> None:
    """Replaces a remote directory; the file by which a reader knows it comes last."""
    gfile = remote_files()
    remove_written(remote, names)
    for file in sorted(_find_files(directory), key=lambda file: file == names[0]):
        target = os.path.join(remote, file)
        gfile.makedirs(os.path.dirname(target))
        _upload(os.path.join(directory, file), target)


def _upload(path: str, remote: str) -> None:
    """Copies under another name first: a reader finds the old file or the new one."""
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
def lock(directory: str, stands_for: str | None = None) -> Iterator[None]:
    """Keeps other processes from writing a directory until the end, or the kill.

    The operating system lets the lock go when its process ends, in whatever way. Its
    file, `LOCK_FILE`, names the process that has it, and stays; but a directory of the
    program's own, or one that was made here, goes where nothing else is in it. Where
    there can be no lock (a remote directory), a line says so.

    Args:
        directory: It is made if there is none.
        stands_for: The output whose lock it is, where it is a directory of the
            program's own; messages name the output.

    Raises:
        UserError: If another process has the lock; names it.
    """
    output = stands_for or directory
    if is_remote(directory) or fcntl is None:
        logging.warning("no lock on %s: let no other program write there", output)
        yield
        return
    directory = os.path.realpath(directory)  # a link to nothing becomes one to it
    path = os.path.join(directory, LOCK_FILE)
    is_ours = stands_for is not None or not os.path.isdir(directory)
    try:
        os.makedirs(directory, exist_ok=True)
        file = open(path, "ab+", buffering=0, opener=_open_no_link)  # noqa: SIM115
    except (FileExistsError, FileNotFoundError):  # another process removes it just now
        raise UserError(f"{output} was being written: run the command again") from None
    with file:
        _take_lock(file, output)
        try:
            yield
        finally:
            if is_ours and not list_names(directory):
                with contextlib.suppress(OSError):  # another process has begun
                    os.remove(path)
                    os.rmdir(directory)


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _take_lock(file: IO[bytes], output: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = " ".join(file.read(1000).decode(errors="replace").split())
        raise UserError(
            f"{output} is being written by {owner or 'another process'}: wait "
            "for its end, or give another directory"
        ) from None
    except OSError as error:  # a file system without locks
        logging.warning("no lock on %s (%s): let no other write there", output, error)
    if not os.fstat(file.fileno()).st_nlink:
        raise UserError(f"{output} was being written: run the command again")
    command = shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]])[:200]
    owner = f"process {os.getpid()} on {socket.gethostname()} ({command})\n"
    with contextlib.suppress(OSError):  # on a full disk it stays without a name
        file.truncate(0)
        file.write(owner.encode(errors="replace"))


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
    for code in errno.errorcode:
        name, found, _ = message.partition(f"; {os.strerror(code)}")
        if found:
            return _describe(code, name.splitlines()[-1].split(" ")[-1])
    return None


def _describe(code: int, name: str = "", reason: str = "") -> str:
    again = "give another path" if name else "run the same command again"
    advice = _ADVICE.get(code, again)
    if code in (*_FULL, *_DENIED) and name:
        name = f"cannot write {name}" if code in _FULL else f"cannot use {name}"
    reason = f"{reason or os.strerror(code)}; {advice}"
    return f"{name}: {reason}" if name else reason

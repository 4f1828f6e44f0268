"""Which files of a folder are pictures: one set of rules for every program.

A picture is a regular file of at most `MAX_PICTURE_BYTES` that begins as one of
`FORMATS` does, whatever its name. A file that only its name calls a picture is taken
too: whoever decodes it says what is wrong with it. Hidden files and the litter that
systems leave are left out. Links are followed, and every folder is taken once.
"""

import collections
import os
import re
import stat
import sys
from collections.abc import Iterator

from alexnet_tf.errors import UserError, escape
from alexnet_tf.files import MAX_PICTURE_BYTES

# As Pillow calls them. It decodes these by itself; for others (EPS) it starts programs.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000")
_BEGINNING = re.compile(
    rb"""\xff\xd8\xff | \x89PNG\r\n\x1a\n | GIF8[79]a | RIFF....WEBP
    | II[*+]\0 | MM\0[*+] | P[1-6]\s+[\d#]
    | .{4}ftyp(avi[fs]|hei[cxms]|hev[cxms]|mif1|msf1)
    | \0\0\0\x0cjP\ \ \r\n\x87\n | \xff\x4f\xff\x51
    | BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0""",
    re.DOTALL | re.VERBOSE,
)
_NAMED_AS_PICTURE = re.compile(
    r".+\.(jpe?g|jpe|jfif|a?png|bmp|dib|gif|webp|tiff?|p[pgbn]m|hei[cf]|avif|jp2|jxl"
    r"|tga|ico|psd|svg)",
    re.IGNORECASE | re.DOTALL,
)
_LITTER = re.compile(
    r"\..*|thumbs\.db|ehthumbs\.db|desktop\.ini|__macosx|@eadir|\$recycle\.bin"
    r"|[#@]recycle|lost\+found|system volume information",
    re.IGNORECASE | re.DOTALL,
)


class LeftOut:
    """Counts what was left out, by reason, and remembers the first of each."""

    def __init__(self):
        self._counts = collections.Counter()
        self._first = {}

    def add(self, reason: str, path: str, number: int = 1) -> None:
        """Counts a file or folder, or a number of files in a folder."""
        self._counts[reason] += number
        self._first.setdefault(reason, path)

    def lines(self) -> list[str]:
        """Returns a line for each reason."""
        return [
            escape(f"left out: {reason}: {number:,}, the first {self._first[reason]}")
            for reason, number in self._counts.items()
        ]


def is_litter(name: str) -> bool:
    """Says whether a file or folder is hidden, or what a system left."""
    return bool(_LITTER.fullmatch(name))


def find_pictures(root: str, left_out: LeftOut) -> Iterator[str]:
    """Yields the paths of the pictures at any depth below a folder, in order."""
    for folder in find_folders(root, left_out):
        yield from list_pictures(os.path.join(root, folder), left_out)


def pictures_below(root: str) -> list[str]:
    """Returns the pictures of a folder; says on the standard error what it left out.

    Raises:
        UserError: There are none.
    """
    left_out = LeftOut()
    paths = list(find_pictures(root, left_out))
    for line in left_out.lines():
        print(line, file=sys.stderr)
    if not paths:
        raise UserError(f"no pictures in {root}: give a folder that has some")
    return paths


def find_folders(root: str, left_out: LeftOut) -> list[str]:
    """Returns a folder ("") and those below it, sorted, relative to it, each once.

    A link is followed after all real folders were taken, unless it leads to one of
    them or to a folder above.
    """
    found, links = [], []
    real_root = os.path.realpath(root)
    seen = set()
    waiting = collections.deque([""])
    while waiting or links:
        folder = waiting.popleft() if waiting else links.pop(0)
        real = os.path.realpath(os.path.join(root, folder))
        is_above = os.path.commonpath([real, real_root]) == real and folder
        if real in seen or is_above:
            left_out.add("links to folders that were taken already", folder)
            continue
        seen.add(real)
        try:
            entries = sorted(os.scandir(os.path.join(root, folder)), key=_name)
        except OSError:
            left_out.add("folders that cannot be read", folder or root)
            continue
        found.append(folder)
        for entry in entries:
            if not _is_folder(entry):
                continue
            path = os.path.join(folder, entry.name)
            if is_litter(entry.name):
                left_out.add("hidden or system folders", path)
            elif entry.is_symlink():
                links.append(path)
            else:
                waiting.append(path)
    return sorted(found)


def list_pictures(folder: str, left_out: LeftOut) -> Iterator[str]:
    """Yields the paths of the pictures directly in a folder, sorted."""
    try:
        entries = sorted(os.scandir(folder), key=_name)
    except OSError:  # `find_folders` has said so
        return
    for entry in entries:
        if _is_folder(entry):
            continue
        reason = _why_no_picture(entry)
        if reason:
            left_out.add(reason, entry.path)
        else:
            yield entry.path


def _name(entry: os.DirEntry) -> str:
    return entry.name


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _why_no_picture(entry: os.DirEntry) -> str:
    if is_litter(entry.name):
        return "hidden or system files"
    try:
        status = entry.stat()
    except OSError:
        return "links that lead nowhere"
    if not stat.S_ISREG(status.st_mode):
        return "pipes, devices and sockets"
    if status.st_size > MAX_PICTURE_BYTES:
        return f"files larger than {MAX_PICTURE_BYTES >> 20} MiB"
    if _NAMED_AS_PICTURE.fullmatch(entry.name):
        return ""
    try:
        with open(entry.path, "rb") as file:
            return "" if _BEGINNING.match(file.read(32)) else "files without a picture"
    except OSError:
        return ""  # whoever reads it says why it cannot be read

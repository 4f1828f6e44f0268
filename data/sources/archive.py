"""Zip and tar archives: unpacked beside the data set, read there, and removed."""

import os
import shutil
import tarfile
import zipfile
from collections.abc import Sequence

from alexnet_tf.errors import UserError
from alexnet_tf.paths import list_names
from alexnet_tf.pictures.listing import is_litter, shown

_SUFFIX = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".tbz2", ".txz", ".tbz")


def find_archives(path: str) -> list[str]:
    """Returns an archive itself, or those in a folder that holds nothing else."""
    if os.path.isfile(path):
        return [path] if _is_archive(path) else []
    names = [n for n in list_names(path) if not is_litter(n)]
    paths = [os.path.join(path, n) for n in names if n.lower().endswith(_SUFFIX)]
    if any(os.path.isdir(os.path.join(path, name)) for name in names):
        return []
    return list(filter(_is_archive, paths))


def _is_archive(path: str) -> bool:
    if not path.lower().endswith(_SUFFIX) or not os.path.isfile(path):
        return False
    try:
        return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)
    except (OSError, EOFError):  # of what is cut short
        return False


def stem_of(path: str) -> str:
    """Returns an archive's name without what says that it is one."""
    name = os.path.basename(path)
    while name.lower().endswith(_SUFFIX):
        name = os.path.splitext(name)[0]
    return name or "archive"


def unpack(archives: Sequence[str], directory: str) -> str:
    """Unpacks archives, each into a folder of its name.

    Args:
        archives: Their paths.
        directory: Where to make the folders.

    Returns:
        The one folder; or the directory, where there are several archives.

    Raises:
        UserError: An archive is damaged, needs a password or more room than there is,
            or would write outside its folder.
    """
    print(f"unpacking {', '.join(map(shown, archives))}")
    for path in archives:
        folder = os.path.join(directory, stem_of(path))
        os.makedirs(folder, exist_ok=True)
        is_zip = zipfile.is_zipfile(path)
        _check_room(path, folder)
        try:
            (_unpack_zip if is_zip else _unpack_tar)(path, folder)
        except OSError as error:
            if error.errno:
                raise  # of the disk, which has words of its own
            raise _cannot_be_unpacked(path, error) from None
        except Exception as error:  # those of tarfile, zipfile, zlib and lzma
            raise _cannot_be_unpacked(path, error) from None
    return folder if len(archives) == 1 else directory


def _cannot_be_unpacked(path: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:150] or type(error).__name__
    return UserError(f"{shown(path)} cannot be unpacked: {reason}")


def _unpack_zip(path: str, folder: str) -> None:
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)  # which leaves out ".." and the like


def _unpack_tar(path: str, folder: str) -> None:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() or member.isdir():
                archive.extract(member, folder, filter="data")
            archive.members.clear()  # it would keep them all
        while archive.fileobj.read(2**20):
            pass  # the checksum comes last


def _check_room(path: str, folder: str) -> None:
    """Raises a UserError where an archive needs more room than the disk has."""
    needed, free = os.path.getsize(path), shutil.disk_usage(folder).free
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            needed = sum(member.file_size for member in archive.infolist())
    if needed > free:
        raise UserError(
            f"{shown(path)} unpacks to {needed / 1e9:.1f} GB or more, and "
            f"{shown(folder)} has {free / 1e9:.1f} GB of free disk space"
        )

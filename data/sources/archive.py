"""Zip and tar archives: unpacked beside the data set, read there, and removed."""

import os
import shutil
import tarfile
import zipfile
from collections.abc import Sequence, Set

from alexnet_tf.errors import UserError
from alexnet_tf.paths import list_names
from alexnet_tf.pictures.listing import is_litter

_SUFFIX = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".tbz2", ".txz", ".tbz")


def find_archives(path: str) -> list[str]:
    """Returns an archive itself, or those in a folder that has no other folders."""
    if os.path.isfile(path):
        return [path] if _is_archive(path) else []
    paths = [os.path.join(path, n) for n in list_names(path) if not is_litter(n)]
    return [] if any(map(os.path.isdir, paths)) else list(filter(_is_archive, paths))


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


def unpack(archives: Sequence[str], directory: str) -> None:
    """Unpacks an archive into a directory, or several into folders of their names.

    Raises:
        UserError: An archive is damaged, needs a password or more room than there is,
            or would write outside its folder.
    """
    print(f"unpacking {', '.join(archives)}")
    for path in archives:
        folder = os.path.join(directory, stem_of(path) if len(archives) > 1 else "")
        os.makedirs(folder, exist_ok=True)
        try:
            (_unpack_zip if zipfile.is_zipfile(path) else _unpack_tar)(path, folder)
        except UserError:
            raise
        except Exception as error:  # those of tarfile, zipfile, zlib and lzma
            if isinstance(error, OSError) and error.errno:
                raise  # of the disk, which has words of its own
            reason = " ".join(str(error).split())[:150] or type(error).__name__
            raise UserError(f"{path} cannot be unpacked: {reason}") from None


def link_files(source: str, archives: Set[str], directory: str) -> None:
    """Makes links to the other files of a folder of archives: a list of labels."""
    for name in list_names(source):
        path, link = os.path.join(source, name), os.path.join(directory, name)
        if path not in archives and not is_litter(name) and not os.path.lexists(link):
            os.symlink(os.path.abspath(path), link)


def _unpack_zip(path: str, folder: str) -> None:
    with zipfile.ZipFile(path) as archive:
        needed = sum(member.file_size for member in archive.infolist())
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise UserError(
                f"{path} unpacks to {needed / 1e9:.1f} GB, and {folder} "
                f"has {free / 1e9:.1f} GB of free disk space"
            )
        archive.extractall(folder)  # which leaves out ".." and the like


def _unpack_tar(path: str, folder: str) -> None:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() or member.isdir():
                archive.extract(member, folder, filter="data")
            archive.members.clear()  # it would keep them all
        while archive.fileobj.read(2**20):
            pass  # the checksum comes last

"""What a prepared data set is on disk, and how it is opened.

`data.prepare` writes a directory of TFRecord shards and, last of all, a card that says
all that a reader needs: which shards, how many records in each, which classes, how the
pictures are stored. So a directory is a data set if and only if it has a card, and
nothing has to be counted or guessed at the door.

A data set may come from a stranger. What the card says is checked before anything is
made of it, and no file is read but regular files of the directory itself: a link could
lead to any file of the reader's, and a pipe has no end.
"""

import dataclasses
import functools
import io
import itertools
import math
import os
import unicodedata
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

from alexnet_tf import files
from alexnet_tf.errors import UserError
from alexnet_tf.paths import expand, is_remote, list_names
from alexnet_tf.pictures.fitting import RESAMPLINGS, Fitting

CARD_FILE, STATISTICS_FILE = "metadata.json", "statistics.npz"
FORMAT, VERSION = "alexnet_tf", 1
_MAX_CLASSES, _MAX_IMAGE_SIZE = 100_000, 2**13
_MAX_RECORDS = 2**31  # of a split
_CONTROL = ("Cc", "Cs", "Zl", "Zp")  # Unicode's categories of what is no text
_RECORD_BYTES = 16  # of a TFRecord file, beside what a record holds
_CHOICES = {
    "encoding": ("jpeg", "raw"),
    "fit": ("crop", "pad", "warp"),
    "resampling": RESAMPLINGS,
}


@dataclasses.dataclass(frozen=True)
class PixelStatistics:
    """Statistics of the stored training pictures, as the preparation measured them.

    Attributes:
        mean_image: float32 `(image_size, image_size, 3)`, RGB in 0..255.
        mean_color: float64 `(3,)`, RGB in 0..255, of all pixels.
        color_eigenvalues: float64 `(3,)`, of the covariance of all pixels' RGB,
            descending, in squared units of 0..255.
        color_eigenvectors: float64 `(3, 3)`; column i belongs to eigenvalue i.
        num_images: Pictures that were measured.
    """

    mean_image: np.ndarray
    mean_color: np.ndarray
    color_eigenvalues: np.ndarray
    color_eigenvectors: np.ndarray
    num_images: int


@dataclasses.dataclass(frozen=True)
class Split:
    """A part of a data set.

    Attributes:
        name: "train", "validation" or "test".
        filenames: Absolute paths of the TFRecord shards, in order.
        shard_lengths: Records in each shard.
        class_counts: Pictures of each class.
    """

    name: str
    filenames: tuple[str, ...]
    shard_lengths: tuple[int, ...]
    class_counts: tuple[int, ...] = ()

    @property
    def num_examples(self) -> int:
        """Records in all shards."""
        return sum(self.shard_lengths)

    @functools.cached_property
    def first_ids(self) -> list[int]:
        """The id of each shard's first record; ids count through the shards."""
        return list(itertools.accumulate(self.shard_lengths[:-1], initial=0))


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set on disk.

    Attributes:
        data_dir: Its directory.
        name: What it is: "elpv", "imagenet2012", …
        class_names: Readable; the index is the label.
        splits: By name.
        image_size: Height and width of the stored pictures, pixels.
        encoding: "jpeg", or "raw" for the uint8 RGB pixels themselves.
        fit: How the pictures were made square: "crop", "pad" or "warp".
        resampling: How they were scaled, one of `RESAMPLINGS`.
    """

    data_dir: str
    name: str
    class_names: tuple[str, ...]
    splits: dict[str, Split]
    image_size: int
    encoding: str = "jpeg"
    fit: str = "crop"
    resampling: str = "bicubic"

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def fitting(self) -> Fitting:
        """How a picture becomes one like those of the data set."""
        return Fitting(self.fit, self.image_size, self.resampling)

    def statistics(self) -> PixelStatistics:
        """Reads the statistics of the training pixels.

        Raises:
            UserError: They are missing, which they are without training pictures, or
                damaged.
        """
        path = os.path.join(self.data_dir, STATISTICS_FILE)
        if STATISTICS_FILE not in _regular_files(self.data_dir):
            raise UserError(
                f"{self.data_dir} has no {STATISTICS_FILE}, which data.prepare writes "
                "where there are training pictures: prepare it again"
            )
        shapes = {
            "mean_image": (self.image_size, self.image_size, 3),
            "mean_color": (3,),
            "color_eigenvalues": (3,),
            "color_eigenvectors": (3, 3),
            "num_images": (),
        }
        arrays = _read_arrays(path, shapes)
        return PixelStatistics(**arrays | {"num_images": int(arrays["num_images"])})


def _read_arrays(
    path: str, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """The numbers of an `npz` file that holds them as they are, not compressed."""
    max_bytes = 2**16 + sum(8 * math.prod(shape) for shape in shapes.values())
    try:
        content = io.BytesIO(files.read_whole(path, max_bytes))
        if any(entry.compress_type for entry in zipfile.ZipFile(content).infolist()):
            raise ValueError("it is compressed")  # and could inflate to any size
        arrays = dict(np.load(content, allow_pickle=False))
        if {name: array.shape for name, array in arrays.items()} != dict(shapes):
            raise ValueError("it is not of this data set")
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise ValueError("it holds numbers that are none")
    except Exception as error:  # of damaged bytes, NumPy and zipfile raise all sorts
        raise UserError(f"{path} cannot be used ({error}): prepare it again") from None
    return arrays


def open_data_set(data_dir: str) -> DataSet:
    """Opens a data set that `data.prepare` made.

    Args:
        data_dir: Its directory, local or remote.

    Raises:
        UserError: There is none, or what its card says cannot be.
    """
    data_dir = expand(data_dir)
    if not is_remote(data_dir):
        data_dir = os.path.abspath(data_dir)
    path = os.path.join(data_dir, CARD_FILE)
    if CARD_FILE not in _regular_files(data_dir):
        raise UserError(
            f"no data set in {data_dir}, which has no file {CARD_FILE} (a link is no "
            "file): make one with data.prepare; train.py makes one of any pictures"
        )
    try:
        return from_card(files.read_json(path), data_dir)
    except KeyError as error:
        reason = f"it lacks {error}"
    except TypeError:
        reason = "it is not of the form that data.prepare writes"
    except ValueError as error:
        reason = str(error)
    raise UserError(f"{path} cannot be used: {reason}: prepare the data set again")


def _regular_files(directory: str) -> dict[str, float]:
    """The sizes, bytes, of the files of a directory; without links and pipes."""
    if is_remote(directory):  # where there are none, and a size costs a request
        return dict.fromkeys(list_names(directory), math.inf)
    if not os.path.isdir(directory):
        return {}
    with os.scandir(directory) as entries:
        return {
            entry.name: entry.stat(follow_symlinks=False).st_size
            for entry in entries
            if entry.is_file(follow_symlinks=False)
        }


def from_card(card: dict, data_dir: str) -> DataSet:
    """Makes a data set of what a card says.

    Args:
        card: As `data.prepare` writes it.
        data_dir: Directory of the shards.

    Raises:
        KeyError: It does not say enough.
        TypeError: It is of another form.
        ValueError: It says what cannot be.
    """
    if (card["format"], card["version"]) != (FORMAT, VERSION):
        raise ValueError("it is of another version of this program")
    # Whatever a stranger wrote: nothing of it becomes a size, a path or a line on the
    # terminal before it is known to be what this program writes.
    sizes = _regular_files(data_dir)
    for key, choices in _CHOICES.items():
        if card[key] not in choices:
            raise ValueError(f"its {key} is none of {', '.join(choices)}")
    class_names = tuple(_check_list(card["class_names"], str, "class_names"))
    if not 0 < len(class_names) <= _MAX_CLASSES:
        raise ValueError(f"it has {len(class_names)} classes, {_MAX_CLASSES} may be")
    if not all(map(_is_printable, [*class_names, card["name"]])):
        raise ValueError("a name in it is empty or has a control character")
    size = card["image_size"]
    if type(size) is not int or not 0 < size < _MAX_IMAGE_SIZE:
        raise ValueError(f"its image_size is none of 1..{_MAX_IMAGE_SIZE - 1}")
    splits = {
        name: _make_split(name, card["splits"][name], data_dir, sizes, class_names)
        for name in ("train", "validation", "test")
        if name in card["splits"]
    }
    return DataSet(
        data_dir=data_dir,
        name=card["name"],
        class_names=class_names,
        splits=splits,
        image_size=size,
        **{key: card[key] for key in _CHOICES},
    )


def _make_split(
    name: str, values: dict, data_dir: str, sizes: dict[str, float], class_names
) -> Split:
    shards = _check_list(values["shards"], str, "shards")
    lengths = _check_list(values["shard_lengths"], int, "shard_lengths")
    counts = _check_list(values["class_counts"], int, "class_counts")
    if not len(set(shards)) == len(shards) == len(lengths):
        raise ValueError(f"its shards of {name} and their lengths do not fit")
    if missing := [shard for shard in shards if shard not in sizes]:
        raise ValueError(
            f"of {len(shards)} shards of {name} {len(missing)} are missing or no "
            f"regular files, {missing[0]!a} first"
        )
    # A shard of so many records has at least their frames, however small pictures are.
    for shard, length in zip(shards, lengths, strict=True):
        if not 0 <= length * _RECORD_BYTES <= sizes[shard]:
            raise ValueError(f"{shard!a} is too short for {length} records")
    if len(counts) != len(class_names) or min(counts) < 0:
        raise ValueError(f"its class_counts of {name} do not fit its classes")
    if not sum(counts) == sum(lengths) <= _MAX_RECORDS:
        raise ValueError(f"its numbers of records of {name} do not fit")
    paths = tuple(os.path.join(data_dir, shard) for shard in shards)
    return Split(name, paths, tuple(lengths), tuple(counts))


def _check_list(values, element_type: type, name: str) -> Sequence:
    # `bool` is an `int`, too.
    if type(values) is list and all(type(value) is element_type for value in values):
        return values
    raise ValueError(f"its {name} are not of the type {element_type.__name__}")


def _is_printable(name) -> bool:
    """Whether a name can stand in a line of a terminal or of a file."""
    return (
        type(name) is str
        and name != ""
        and not any(unicodedata.category(c) in _CONTROL for c in name)
    )

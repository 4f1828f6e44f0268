"""What a source of pictures tells the preparation."""

import collections
import dataclasses
import itertools
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alexnet_tf.errors import UserError
from alexnet_tf.pictures.listing import shown
from alexnet_tf.settings import setting

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "eval": "validation",
    "test": "test",
    "testing": "test",
}


# Words beside that of a split which say nothing: "test_images", "train set".
_NEUTRAL = "data dataset set images image imgs img folder dir"


@dataclasses.dataclass(frozen=True)
class Reading:
    """How pictures and labels are read where what a person has does not tell it."""

    name: str | None = setting(
        None, "The data set of --source=tfds, as TensorFlow Datasets calls it."
    )
    class_names: str | None = setting(
        None,
        "A text file with the names of the classes, one on each line, for records that "
        "hold only numbers.",
        path=True,
    )
    label_offset: int | None = setting(
        None,
        "The label of the first class in such records. By default it is 0 or 1, as the "
        "records show.",
    )
    images: str | None = setting(
        None,
        "The folder of the pictures that a list names. By default it is the folder of "
        "the list, or one beside it.",
        path=True,
    )
    image_column: str | None = setting(
        None, "The column of a list, or the key of records, that has the picture."
    )
    label_column: str | None = setting(
        None, "The column of a list, or the key of records, that has the label."
    )
    split_column: str | None = setting(
        None, "The column of a list that says train, validation or test."
    )
    label_from: str | None = setting(
        None,
        "A regular expression whose first group finds the class in a picture's path, "
        "below the folder of its split: '^([^/]+)/' takes the first folder.",
    )
    group_by: str | None = setting(
        None,
        "A column of the list, or a regular expression whose first group is searched "
        "in a picture's path: pictures with the same value (of one patient, camera or "
        "burst) stay together when some are held out.",
    )


class Item(NamedTuple):
    """One picture to prepare: an encoded image file, or a byte range of one.

    Attributes:
        name: Unique within the data set; also the key of the shuffle.
        label: Index into the class names.
        content: The encoded picture itself, or the path of the file that holds it.
        split: "train", "validation" or "test"; "" holds a part of each class out of
            "train" for "validation".
        offset: Where in the file the picture starts, in bytes.
        size: Its length in bytes; -1 for up to the end of the file.
        group: What else must be on the same side of a split; "" for nothing.
    """

    name: str
    label: int
    content: bytes | str
    split: str = ""
    offset: int = 0
    size: int = -1
    group: str = ""

    def read(self) -> bytes:
        """Returns the encoded picture."""
        if isinstance(self.content, bytes):
            return self.content
        with open(self.content, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclasses.dataclass(frozen=True)
class Source:
    """A set of pictures with labels.

    Attributes:
        name: The data set's name, a lower-case identifier.
        class_names: Readable, unique; the index is the label.
        parts: What `items` is called with, one after another or, on a cluster, side
            by side: class folders, archives, splits.
        items: Lists the pictures of one part.
        splits: What the pictures' splits can be.
        holds_out: Whether there are items without a split.
        num_items: Pictures in all parts, None if that is not known beforehand.
        metadata: Further facts for the data set's `metadata.json`.
        notes: Lines for the person: what was left out, how folders were understood.
        files: The files that hold the pictures, where each is not a file of its own.
    """

    name: str
    class_names: Sequence[str]
    parts: Sequence[Any]
    items: Callable[[Any], Iterator[Item]]
    splits: Sequence[str] = ("train", "validation")
    holds_out: bool = False
    num_items: int | None = None
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()
    files: Sequence[str] = ()

    def all_items(self) -> Iterator[Item]:
        """Lists the pictures of all parts."""
        return itertools.chain.from_iterable(map(self.items, self.parts))


def find_splits(names: Iterable[str], where: str) -> dict[str, str]:
    """Finds which of the names mean a split.

    "train" or "training"; "val", "valid", "validation", "dev" or "eval"; "test" or
    "testing", without case. With a number or a word such as "images" beside it
    ("test1", "train_images") only where another name means another split; with any
    other word ("seg_train", "flowers_train") only where another split's name is made
    in the same way ("seg_test", "flowers_val").

    Args:
        names: The names of folders, of groups of shards, or of TFDS's splits.
        where: Where they are, for the error.

    Returns:
        {name: "train", "validation" or "test"} of those that mean one.

    Raises:
        UserError: Two names mean the same split.
    """
    exact, loose, patterns = {}, {}, collections.defaultdict(dict)
    for name in names:
        words = re.split(r"([\W\d_]+)", name.lower())
        known = [i for i, word in enumerate(words) if word in _SPLITS]
        if len(known) != 1:
            continue
        split, words[known[0]] = _SPLITS[words[known[0]]], "*"
        if len(words) == 1:
            exact[name] = split
        elif all(
            word == "*" or word in _NEUTRAL.split() for word in words[::2] if word
        ):
            loose[name] = split
        patterns["".join(words)][name] = split
    splits = exact
    if len({*exact.values(), *loose.values()}) > 1:
        splits = exact | loose
    for alike in patterns.values():
        if not splits and len(set(alike.values())) > 1:
            splits = alike
    for first, second in itertools.combinations(splits, 2):
        if splits[first] == splits[second]:
            raise UserError(
                f"{shown(first)} and {shown(second)} in {shown(where)} both mean the "
                f"split {splits[first]}; rename one of them or move it away"
            )
    return splits


def split_meant_by(name: str) -> str:
    """Returns the split that a name by itself means; "" for none."""
    return _SPLITS.get(name.strip().lower(), "")


def hold_out(splits: Mapping[str, str]) -> dict[str, str]:
    """Has "validation" held out of "train" where no name means it."""
    if "train" in splits.values() and "validation" not in splits.values():
        return {k: "" if split == "train" else split for k, split in splits.items()}
    return dict(splits)


def our_splits(mapped: Mapping[str, str]) -> list[str]:
    """Returns the splits that `hold_out` leads to."""
    splits = set(mapped.values())
    return sorted(splits - {""} | ({"train", "validation"} if "" in splits else set()))


def check_class_names(class_names: Sequence[str]) -> None:
    """Raises a UserError for names that files of lines or tables cannot hold."""
    for name in class_names:
        if any("\ud800" <= c <= "\udfff" for c in name):
            problem = "is not UTF-8"
        elif any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in name):
            problem = "has a control character or a line separator"
        elif not name or name != name.strip():
            problem = "is empty, or begins or ends with a blank"
        else:
            continue
        raise UserError(f"the name of the class '{shown(name)}' {problem}; rename it")
    twins = [n for n, times in collections.Counter(class_names).items() if times > 1]
    if twins:
        raise UserError(f"two classes are called {shown(twins[0])}; rename one of them")


def data_set_name(path: str) -> str:
    """Makes a lower-case identifier of a path's last part."""
    name = re.sub(r"\W+", "_", os.path.basename(path).lower(), flags=re.ASCII)
    return name if name.isidentifier() else f"pictures_{name}".rstrip("_")


def sort_classes(names: Iterable[str]) -> list[str]:
    """Returns the different names in order, numbers in the order of numbers."""
    return sorted(
        set(names), key=lambda n: (not n.isdecimal(), n.isdecimal() and int(n), n)
    )


def encode_pixels(pixels: np.ndarray) -> bytes:
    """Makes a picture file, in the portable formats, of uint8 pixels.

    Args:
        pixels: `(height, width, 3)` in RGB; `(height, width)` or `(height, width, 1)`
            in grey.
    """
    height, width = pixels.shape[:2]
    letter = b"P6" if pixels.size == 3 * height * width else b"P5"
    return letter + b" %d %d 255\n" % (width, height) + pixels.tobytes()

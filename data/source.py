"""What a source of pictures tells the preparation."""

import collections
import dataclasses
import itertools
import os
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alexnet_tf.errors import UserError
from alexnet_tf.pictures.listing import LeftOut
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


_MAX_NAME = 255  # characters: no folder's name has more
# Words beside that of a split which say nothing: "test_images", "train set".
_NEUTRAL = ("data", "dataset", "set", "images", "image", "imgs", "img", "folder", "dir")
_NEUTRAL += ("partial",)  # what Hugging Face's hub has of a large set


@dataclasses.dataclass(frozen=True)
class Reading:
    """How pictures and labels are read where what a person has does not tell it."""

    name: str | None = setting(
        None, "The data set of --source=tfds, as TensorFlow Datasets calls it."
    )
    class_names: str | None = setting(
        None,
        "A text file with the names of the classes, one on each line, for records and "
        "lists whose labels are numbers.",
        path=True,
    )
    label_offset: int | None = setting(
        None,
        "The number of the first class where labels are numbers. By default it is 0 or "
        "1, as the labels show.",
    )
    images: str | None = setting(
        None,
        "The folder of the pictures that a list names. By default it is the folder of "
        "the list or one beside it.",
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
        split: "train", "validation" or "test".
        offset: Where in the file the picture starts, in bytes.
        size: Its length in bytes; -1 for up to the end of the file.
        group: The pictures of one group stay together where a part of "train" is held
            out; "" for none.
    """

    name: str
    label: int
    content: bytes | str
    split: str = "train"
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
        splits: The splits that the pictures have.
        num_items: Pictures in all parts, None if that is not known beforehand.
        metadata: Further facts for the data set's `metadata.json`.
        notes: Lines for the person: what was left out, how folders were understood.
    """

    name: str
    class_names: Sequence[str]
    parts: Sequence[Any]
    items: Callable[[Any], Iterator[Item]]
    splits: Collection[str]
    num_items: int | None = None
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def holds_out(self) -> bool:
        """Whether a part of "train" becomes "validation"."""
        return "train" in self.splits and "validation" not in self.splits

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
    plain, patterns = {}, collections.defaultdict(dict)
    for name in names:
        words = re.split(r"([\W\d_]+)", name.lower())
        splits = [word for word in words if word in _SPLITS]
        if len(splits) != 1:
            continue
        around = [word for word in words if word not in _SPLITS]
        is_plain = all(word in _NEUTRAL or not word.isalpha() for word in around)
        pattern = "".join("*" if word in _SPLITS else word for word in words)
        (plain if is_plain else patterns[pattern])[name] = _SPLITS[splits[0]]
    for alike in (plain, *patterns.values()):
        if len(set(alike.values())) > 1 or any(split_meant_by(n) for n in alike):
            break
    else:
        return {}
    for first, second in itertools.combinations(alike, 2):
        if alike[first] == alike[second]:
            raise UserError(
                f"{first} and {second} in {where} both mean the "
                f"split {alike[first]}; rename one of them or move it away"
            )
    return alike


def split_meant_by(name: str) -> str:
    """Returns the split that a name by itself means; "" for none."""
    return _SPLITS.get(name.strip().lower(), "")


def choose_key(
    where: str, role: str, given: str | None, usual: Iterable[str], keys: Sequence[str]
) -> str:
    """Returns the column of a list, or the key of records, that has a role.

    Args:
        where: What has the keys.
        role: "image" or "label".
        given: The one that a person gave, if any.
        usual: What people call it, the best first.
        keys: Those that can have the role.

    Raises:
        UserError: There is none, or it is not clear which.
    """
    for key in [given] if given else usual:
        if key in keys:
            return key
    known = f"no {given}" if given else f"nothing that is known to be the {role}"
    raise UserError(
        f"{where} has {known}: give --{role}_column=NAME, one of "
        f"{', '.join(keys) or 'none that fits'}"
    )


class Tally:
    """Counts the pictures of a source by split and class, before it has labels."""

    def __init__(self):
        self._counts = collections.Counter()
        self._first = {}

    def add(self, split: str, name: str | None, path: str) -> None:
        """Counts a picture; its class is None where nothing tells it."""
        self._counts[split, name] += 1
        self._first.setdefault((split, name), path)

    def choose_classes(self, left_out: LeftOut) -> dict[str, int]:
        """Returns the label of each class that train has, or any split without train.

        Args:
            left_out: It is told of the pictures of other classes, and of none.

        Raises:
            UserError: A validation split is left out as a whole.
        """
        trained = {name for split, name in self._counts if split == "train"}
        names = trained or {name for _, name in self._counts}
        labels = {n: i for i, n in enumerate(sort_classes(names - {None}))}
        for (split, name), number in self._counts.items():
            if name not in labels:
                reason = f"pictures of {split} without a class"
                if name is not None:
                    reason = f"pictures of {name}, a class of {split} but not of"
                    reason += " train"
                left_out.add(reason, self._first[split, name], number)
        self._counts = {k: n for k, n in self._counts.items() if k[1] in labels}
        lost = {split for split, _ in self._first} - self.splits
        if labels and "validation" in lost:
            first = next(p for (s, _), p in self._first.items() if s == "validation")
            raise UserError(
                f"the pictures of validation, {first} first, cannot validate: "
                "none is of a class that train has; correct that, or move them away: "
                "then a part of train is held out instead"
            )
        return labels

    @property
    def splits(self) -> set[str]:
        """The splits of the pictures, after `choose_classes` of those with a label."""
        return {split for split, _ in self._counts}

    @property
    def total(self) -> int:
        """The number of the pictures, after `choose_classes` of those with a label."""
        return sum(self._counts.values())


def check_class_names(class_names: Sequence[str]) -> None:
    """Raises a UserError for names that files of lines or tables cannot hold."""
    for name in class_names:
        if any("\ud800" <= c <= "\udfff" for c in name):
            problem = "is not UTF-8"
        elif any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in name):
            problem = "has a control character or a line separator"
        elif not name or name != name.strip():
            problem = "is empty, or begins or ends with a blank"
        elif len(name) > _MAX_NAME:
            problem = f"has more than {_MAX_NAME} characters"
        else:
            continue
        name = name[:_MAX_NAME]
        raise UserError(f"the name of the class '{name}' {problem}; rename it")
    twins = [n for n, times in collections.Counter(class_names).items() if times > 1]
    if twins:
        raise UserError(f"two classes are called {twins[0]}; rename one of them")


def picture_name(path: str, root: str) -> str:
    """Returns the path of a picture below a directory, as text that is UTF-8."""
    below = path.removeprefix(os.path.join(root, ""))
    return os.fsencode(below).decode(errors="backslashreplace")


def data_set_name(path: str) -> str:
    """Makes a lower-case identifier of a path's last part."""
    name = re.sub(r"\W+", "_", os.path.basename(path).lower(), flags=re.ASCII)[:64]
    return name if name.isidentifier() else f"pictures_{name}".rstrip("_")


def sort_classes(names: Iterable[str]) -> list[str]:
    """Returns names in order, numbers in the order of numbers."""

    def key(name: str) -> tuple[bool, int, str]:
        is_number = name.isdecimal() and len(name) < 20
        return not is_number, int(name) if is_number else 0, name

    return sorted(names, key=key)


def encode_pixels(pixels: np.ndarray) -> bytes:
    """Makes a picture file, in the portable formats, of uint8 pixels.

    Args:
        pixels: `(height, width, 3)` in RGB; `(height, width)` or `(height, width, 1)`
            in grey.
    """
    height, width = pixels.shape[:2]
    letter = b"P6" if pixels.size == 3 * height * width else b"P5"
    return letter + b" %d %d 255\n" % (width, height) + pixels.tobytes()

"""What a source of pictures tells the preparation."""

import collections
import dataclasses
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from alexnet_tf.errors import UserError
from alexnet_tf.pictures.listing import shown

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
    """

    name: str
    label: int
    content: bytes | str
    split: str = ""
    offset: int = 0
    size: int = -1

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
        name: Of the data set, a lower-case identifier.
        class_names: Readable, unique; the index is the label.
        parts: What `items` is called with, one after another or, on a cluster, side
            by side: class folders, archives, splits.
        items: Lists the pictures of one part.
        splits: What the pictures' splits can be.
        holds_out: Whether there are items without a split.
        num_items: Pictures in all parts, None if that is not known beforehand.
        metadata: Further facts for the data set's `metadata.json`.
        notes: Lines for the person: what was left out, how folders were understood.
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


def find_splits(names: Iterable[str], where: str) -> dict[str, str]:
    """Finds which of the names mean a split.

    "train" or "training"; "val", "valid", "validation", "dev" or "eval"; "test" or
    "testing", without case. With something before or after ("seg_train", "train2017")
    only where another split's name is made in the same way ("seg_test", "val2017").

    Args:
        names: Of folders, or of TFDS's splits.
        where: Where they are, for the error.

    Returns:
        {name: "train", "validation" or "test"} of those that mean one.

    Raises:
        UserError: Two names mean the same split.
    """
    splits, patterns = {}, collections.defaultdict(dict)
    for name in names:
        words = re.split(r"([\W\d_]+)", name.lower())
        known = [i for i, word in enumerate(words) if word in _SPLITS]
        if len(words) == 1 and known:
            splits[name] = _SPLITS[name.lower()]
        elif len(known) == 1:
            split, words[known[0]] = _SPLITS[words[known[0]]], "*"
            patterns["".join(words)][name] = split
    for alike in patterns.values():
        if not splits and len(set(alike.values())) > 1:
            splits = alike
    for one in splits:
        for other in splits:
            if one < other and splits[one] == splits[other]:
                raise UserError(
                    f"{shown(one)} and {shown(other)} in {shown(where)} both mean the "
                    f"split {splits[one]}; rename one of them or move it away"
                )
    return splits


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

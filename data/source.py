"""What a source of pictures tells the preparation."""

import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple


class Item(NamedTuple):
    """One picture to prepare: an encoded image file, or a byte range of one.

    Attributes:
        name: Unique within the data set; also the key of the shuffle.
        label: Index into the class names.
        content: The encoded picture itself, or the path of the file that holds it.
        split: "train", "validation" or "test"; "" leaves it to the content's hash.
        offset: Where in the file the picture starts, in bytes.
        size: Its length in bytes; -1 for up to the end of the file.
    """

    name: str
    label: int
    content: bytes | str
    split: str = ""
    offset: int = 0
    size: int = -1


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
        num_items: Pictures in all parts, None if that is not known beforehand.
        metadata: Further facts for the data set's `metadata.json`.
    """

    name: str
    class_names: Sequence[str]
    parts: Sequence[Any]
    items: Callable[[Any], Iterator[Item]]
    splits: Sequence[str] = ("train", "validation")
    num_items: int | None = None
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def map_splits(available: Sequence[str]) -> dict[str, str]:
    """Maps the splits that somebody's pictures come in to ours.

    The first of "validation", "val" and "test" becomes "validation"; without any, ""
    leaves the split of the training pictures to the hash of their content.
    """
    held_out = [name for name in ("validation", "val", "test") if name in available]
    if "train" not in available:
        return {}
    if not held_out:
        return {"train": ""}
    splits = {"train": "train", held_out[0]: "validation"}
    if "test" in held_out[1:]:
        splits["test"] = "test"
    return splits


def our_splits(mapped: Mapping[str, str]) -> list[str]:
    """Returns the splits that `map_splits` leads to."""
    splits = list(mapped.values())
    return ["train", "validation"] if "" in splits else splits


def data_set_name(path: str) -> str:
    """Makes a lower-case identifier of a path's last part."""
    name = re.sub(r"\W+", "_", os.path.basename(path).lower(), flags=re.ASCII)
    return name if name.isidentifier() else f"pictures_{name}".rstrip("_")

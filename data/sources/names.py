"""What the numbers mean by which records tell their classes."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from alexnet_tf import imagenet_classes
from alexnet_tf.errors import UserError
from alexnet_tf.paths import list_names
from alexnet_tf.pictures.listing import shown

_BESIDE = ("labels.txt", "label.labels.txt", "class_names.txt", "classes.txt")
_NUMBERED = re.compile(r"(\d+)\s*[:,\t]\s*(.+)")  # "0:daisy", as TF-Slim writes it
_WITH_SYNSET = re.compile(r"(n\d{8})[\s,:]+(.+)")  # "n01440764 tench, Tinca tinca"
_AGREEING = 0.99  # part of the records that must agree with ImageNet's names
_ADVICE = "give --class_names=FILE, a name on each line, and --label_offset=N"


class Classes(NamedTuple):
    """What the labels of records mean.

    Attributes:
        names: Readable, one for each class.
        offset: The label of the first one.
        are_imagenets: Whether they are the thousand classes of ImageNet.
    """

    names: tuple[str, ...]
    offset: int = 0
    are_imagenets: bool = False


def find_names_beside(directory: str) -> str | None:
    """Returns the file of class names that lies beside records, if there is one."""
    for name in list_names(directory or "."):
        if name in _BESIDE:
            return os.path.join(directory, name)
    return None


def read_names(path: str) -> list[str]:
    """Returns the names in a file: one on each line, with or without its number.

    Lines may be "daisy", "0:daisy" (in any order), or "n01440764 tench, Tinca tinca",
    of which the first word that no other class has is taken.

    Raises:
        UserError: It cannot be read, or has no name or one name twice.
    """
    from tensorflow.io import gfile

    try:
        with gfile.GFile(path, "rb") as file:
            lines = file.read().decode("utf-8-sig").splitlines()
    except Exception as error:  # of TensorFlow, of the system, of a decoder
        reason = " ".join(str(error).split())
        raise UserError(f"{shown(path)} cannot be read: {reason}") from None
    names = [line.strip() for line in lines]
    if all(numbered := [_NUMBERED.fullmatch(name) for name in names]):
        by_number = {int(match[1]): match[2] for match in numbered}
        if sorted(by_number) in (
            list(range(len(names))),
            list(range(1, len(names) + 1)),
        ):
            names = [by_number[number] for number in sorted(by_number)]
    elif all(synsets := [_WITH_SYNSET.fullmatch(name) for name in names]):
        names = []
        for match in synsets:
            first = match[2].split(",")[0].strip()
            names.append(match[2] if first in names else first)
    if not names or not all(names) or len(set(names)) < len(names):
        raise UserError(f"{shown(path)} must have a name on each line, and none twice")
    return names


def find_classes(
    counts: Mapping[tuple[int, str, str], int],
    names: Sequence[str] | None = None,
    offset: int | None = None,
) -> Classes:
    """Finds out what labels mean.

    The names are the first of these that there are: those given; the labels themselves
    where they are texts; ImageNet's, if the records' synsets or texts agree with them,
    counted from 0 or from 1; the records' own texts (or else synsets), if every label
    from the lowest (0, 1 or the offset given) to the highest has one; ImageNet's, if
    there are neither texts nor synsets and labels go from 0 to 999, or from 1 to 1000.

    Args:
        counts: Records by (label, text, synset); the label -1 stands for none.
        names: Given by the user.
        offset: Given by the user.

    Raises:
        UserError: None of these holds; the message says what to give.
    """
    labels = sorted({label for label, _, _ in counts} - {-1})
    if not labels:
        texts = {text for _, text, _ in counts}
        if names is None:
            return Classes(tuple(sorted(texts)))
        if texts <= set(names):
            return Classes(tuple(names))
        raise UserError(f"{shown(min(texts - set(names)))} is none of the class names")
    low, high = labels[0], labels[-1]
    offsets = (0, 1) if offset is None else (offset,)
    if names is not None:
        return _fit_names(names, low, high, offsets)
    for first in offsets:
        if _agree_with_imagenet(counts, first):
            return Classes(imagenet_classes.class_names(), first, True)
    if own := _own_names(counts, low, high):
        if low in offsets:
            return Classes(own, low)
    elif not any(text or synset for _, text, synset in counts):
        for first in offsets:
            if (low, high) == (first, first + imagenet_classes.NUM_CLASSES - 1):
                return Classes(imagenet_classes.class_names(), first, True)
    raise UserError(
        f"the records have the labels {low} to {high}, and do not say what they mean: "
        f"{_ADVICE}"
    )


def _fit_names(names: Sequence[str], low: int, high: int, offsets) -> Classes:
    fitting = [n for n in offsets if n <= low and high < n + len(names)]
    if len(fitting) == 1:
        return Classes(tuple(names), fitting[0])
    if fitting:
        raise UserError(
            f"the labels {low} to {high} of {len(names)} class names may count from 0 "
            "or from 1: give --label_offset=0 or --label_offset=1"
        )
    raise UserError(
        f"{len(names)} class names do not fit the labels {low} to {high}: {_ADVICE}"
    )


def _agree_with_imagenet(counts, offset: int) -> bool:
    """Whether texts and synsets say so, and at least one does."""
    synonyms, synsets = imagenet_classes.synonyms(), imagenet_classes.synsets()
    votes = {True: 0, False: 0}
    for (label, text, synset), count in counts.items():
        i = label - offset
        if synset:
            votes[0 <= i < imagenet_classes.NUM_CLASSES and synset == synsets[i]] += (
                count
            )
        elif text:
            known = synonyms[i] if 0 <= i < imagenet_classes.NUM_CLASSES else ""
            votes[text in (known, known.split(",")[0])] += count
    return votes[True] > 0 and votes[True] >= _AGREEING * sum(votes.values())


def _own_names(counts, low: int, high: int) -> tuple[str, ...] | None:
    """The records' own names, if each label has one and no two have the same."""
    names = {label: text or synset for label, text, synset in counts}
    if high - low >= len(names):
        return None
    ordered = tuple(names.get(label, "") for label in range(low, high + 1))
    is_clear = len(names) == len(counts) and len(set(ordered)) == len(ordered)
    return ordered if all(ordered) and is_clear else None

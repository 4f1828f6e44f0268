"""What the labels of records mean."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

from alexnet_tf import imagenet_classes
from alexnet_tf.errors import UserError

_AGREEING = 0.99  # part of the records that must agree with ImageNet's synsets
_ADVICE = "give --class_names=FILE, a name on each line, and --label_offset=N"


@dataclasses.dataclass(frozen=True)
class Classes:
    """What the labels of records mean.

    Attributes:
        names: Readable, one for each class.
        offset: The label of the first one.
        are_imagenets: Whether they are the thousand classes of ImageNet.
    """

    names: tuple[str, ...]
    offset: int = 0
    are_imagenets: bool = False

    def find_label(self, value: int | str | None) -> int:
        """Returns the index of the class of a record's label; -1 for none."""
        if isinstance(value, int):
            return value - self.offset
        return self._index.get(value, -1)

    @functools.cached_property
    def _index(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}


def find_classes(
    counts: Mapping[tuple[int | str, str, str], int],
    names: Sequence[str] | None = None,
    offset: int | None = None,
) -> Classes:
    """Finds out what labels mean.

    The names are the first of these that there are: those given; the labels themselves
    where they are texts; ImageNet's, if the records' synsets agree with them, counted
    from 0 or from 1; the records' own texts (or else synsets), if every label from the
    lowest (0, 1 or the offset given) to the highest has one; ImageNet's, if there are
    neither texts nor synsets and labels go from 0 to 999, or from 1 to 1000.

    Args:
        counts: Records by (label, text, synset). The labels are all numbers, or all
            texts.
        names: Given by the user.
        offset: Given by the user.

    Raises:
        UserError: None of these holds; the message says what to give.
    """
    labels = sorted({label for label, _, _ in counts})
    low, high = labels[0], labels[-1]
    if isinstance(low, str):
        if names is not None and (missing := sorted(set(labels) - set(names))):
            raise UserError(f"{missing[0]} is none of the class names")
        return Classes(tuple(names or labels))
    offsets = (0, 1) if offset is None else (offset,)
    if names is not None:
        return _fit_names(names, low, high, offsets)
    own, last = _find_own_names(counts, low, high), imagenet_classes.NUM_CLASSES - 1
    has_text = any(text or synset for _, text, synset in counts)
    for first in offsets:
        is_whole = not has_text and (low, high) == (first, first + last)
        if is_whole or _agree_with_imagenet(counts, first):
            return Classes(imagenet_classes.class_names(), first, True)
    if own and low in offsets:
        return Classes(own, low)
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
    """Whether the synsets of nearly all records that have one are ImageNet's."""
    known = dict(enumerate(imagenet_classes.synsets(), offset))
    with_synset = {key: n for key, n in counts.items() if key[2]}
    agreeing = sum(n for key, n in with_synset.items() if known.get(key[0]) == key[2])
    return agreeing > 0 and agreeing >= _AGREEING * sum(with_synset.values())


def _find_own_names(counts, low: int, high: int) -> tuple[str, ...] | None:
    """The records' own names, if each label has one and no two have the same."""
    names = {label: text or synset for label, text, synset in counts}
    if high - low >= len(names):
        return None
    ordered = tuple(names.get(label, "") for label in range(low, high + 1))
    is_clear = len(names) == len(counts) and len(set(ordered)) == len(ordered)
    return ordered if all(ordered) and is_clear else None

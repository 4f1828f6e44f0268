"""Names of classes in files of lines."""

import re
from collections.abc import Iterable

from alexnet_tf.errors import UserError
from alexnet_tf.files import read_whole

_NUMBERED = re.compile(r"(\d+)\s*[:,\t]\s*(.+)")  # "0:daisy", as TF-Slim writes it
_WITH_SYNSET = re.compile(r"(n\d{8})[\s,:]+(.+)")  # "n01440764 tench, Tinca tinca"
_MAX_BYTES = 2**24


def read_class_names(path: str) -> tuple[str, ...]:
    """Returns the names in a file: one on each line, with or without its number.

    Lines may be "daisy", "0:daisy" (in any order), or "n01440764 tench, Tinca tinca",
    of which the first word that no other class has is taken.

    Raises:
        UserError: It cannot be read, or has no name or one name twice.
    """
    try:
        text = read_whole(path, _MAX_BYTES).decode("utf-8-sig")
    except (UserError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    names = [line.strip() for line in text.splitlines()]
    numbered = list(map(_NUMBERED.fullmatch, names))
    with_synsets = list(map(_WITH_SYNSET.fullmatch, names))
    if names and all(numbered):
        by_number = {int(match[1]): match[2] for match in numbered}
        first, last = min(by_number), max(by_number)
        if first in (0, 1) and last - first + 1 == len(by_number) == len(names):
            names = [by_number[number] for number in sorted(by_number)]
    elif all(with_synsets):
        names = take_first_words(match[2] for match in with_synsets)
    if not names or not all(names) or len(set(names)) < len(names):
        raise UserError(f"{path} must have a name on each line, and none twice")
    return tuple(names)


def take_first_words(synonyms: Iterable[str]) -> tuple[str, ...]:
    """Returns the first word for each class, all words where another class has it."""
    names = []
    for words in synonyms:
        name = words.split(",")[0].strip()
        names.append(words if name in names else name)
    return tuple(names)

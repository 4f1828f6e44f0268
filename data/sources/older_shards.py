"""ImageNet's older convention: `train-00000-of-01024`, and what is in such files.

The files do not say what their labels mean. The records do where they hold a text or a
synset; what they tell is measured once, and `find_classes` draws the conclusions.
"""

import collections
import dataclasses
import os
import re
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from alexnet_tf import imagenet
from alexnet_tf.errors import UserError
from alexnet_tf.paths import list_names
from data.measurements import describe_files, measured_once
from data.tfrecords import count_all, find_compression

IMAGE_KEY, LABEL_KEY = "image/encoded", "image/class/label"
_TEXT_KEY, _SYNSET_KEY = "image/class/text", "image/class/synset"
_SHARD = re.compile(r"(train|validation|test)-\d{5}-of-(\d{5}(?:\.tfrecord)?)")
_SAMPLED = 20_000  # records; a class of ImageNet is absent with odds of 2e-9
_AGREEING = 0.99  # part of the records that must agree with ImageNet's names
_ADVICE = "give --class_names=FILE, a name a line, and --label_offset=N"


def find_shards(data_dir: str) -> dict[str, list[str]]:
    """Finds shards by split, here or in `train/`, `validation/` and `test/`."""
    shards = {}
    for folder in ("", "train", "validation", "test"):
        directory = os.path.join(data_dir, folder)
        names = list_names(directory)
        matches = [match for match in map(_SHARD.fullmatch, names) if match]
        for split, end in sorted({match.group(1, 2) for match in matches}):
            wanted = [f"{split}-{i:05d}-of-{end}" for i in range(int(end[:5]))]
            check_complete(directory, split, wanted, names)
            if split in shards:
                raise UserError(
                    f"{data_dir} has two sets of shards of {split}, one of them "
                    f"{os.path.join(directory, f'{split}-*-of-{end}')}: move one away"
                )
            shards[split] = [os.path.join(directory, name) for name in wanted]
    return shards


def check_complete(
    directory: str, split: str, wanted: Sequence[str], found: Sequence[str]
) -> None:
    """Checks that all shards of a split are there.

    Raises:
        UserError: Some are not.
    """
    missing = sorted(set(wanted) - set(found))
    if missing:
        raise UserError(
            f"{directory} is incomplete: of {len(wanted)} shards of {split} "
            f"{len(missing)} are missing, {missing[0]} first"
        )


@dataclasses.dataclass(frozen=True)
class Facts:
    """What was measured of some shards.

    Attributes:
        shard_lengths: Records in each.
        compression: Of all of them, "" or "GZIP".
        classes: How many of the sampled records have each (label, text, synset).
    """

    shard_lengths: dict[str, int]
    compression: str
    classes: dict[tuple[int, str, str], int]


def measure_shards(data_dir: str, paths: Sequence[str]) -> Facts:
    """Counts and samples the records of shards, once.

    Raises:
        UserError: A shard is damaged, or its records are of another kind.
    """

    def measure() -> dict[str, np.ndarray]:
        logging.info("Reading %d shards in %s, once.", len(paths), data_dir)
        lengths = _count_whole(paths)
        compressions = {find_compression(path) for path in paths if lengths[path]}
        if len(compressions) > 1:
            raise UserError(f"some shards in {data_dir} are compressed and some not")
        compression = "".join(compressions)
        filled = [path for path in paths if lengths[path]]
        if not filled:
            raise UserError(f"the shards in {data_dir} are empty")
        classes = _sample_classes(data_dir, filled, compression)
        labels, texts, synsets = zip(*classes, strict=True)
        return {
            "shard_lengths": np.array(list(lengths.values()), np.int64),
            "compression": np.array(compression),
            "labels": np.array(labels, np.int64),
            "texts": np.array(texts),
            "synsets": np.array(synsets),
            "counts": np.array(list(classes.values())),
        }

    measured = measured_once(
        data_dir, "records", describe_files(data_dir, paths), measure
    )
    values = {name: array.tolist() for name, array in measured.items()}
    keys = zip(values["labels"], values["texts"], values["synsets"], strict=True)
    return Facts(
        dict(zip(paths, values["shard_lengths"], strict=True)),
        values["compression"],
        dict(zip(keys, values["counts"], strict=True)),
    )


def _count_whole(paths: Sequence[str]) -> dict[str, int]:
    counts = count_all(paths)
    for path, (count, is_whole) in counts.items():
        if not is_whole:
            raise UserError(
                f"{path} is cut short or damaged after {count} records; copy it again"
            )
    return {path: count for path, (count, _) in counts.items()}


def _sample_classes(data_dir, paths, compression) -> Mapping[tuple[int, str, str], int]:
    """(label, text, synset) of the first records of every shard, counted."""
    each = -(-_SAMPLED // len(paths))
    records = tf.data.Dataset.from_tensor_slices(list(paths)).flat_map(
        lambda path: tf.data.TFRecordDataset(path, compression).take(each)
    )
    text = tf.io.FixedLenFeature([], tf.string, "")
    features = {
        IMAGE_KEY: tf.io.FixedLenFeature([], tf.string),
        LABEL_KEY: tf.io.FixedLenFeature([], tf.int64),
        _TEXT_KEY: text,
        _SYNSET_KEY: text,
    }
    parsed = records.map(lambda r: tf.io.parse_single_example(r, features))
    parsed = parsed.map(lambda x: (x[LABEL_KEY], x[_TEXT_KEY], x[_SYNSET_KEY]))
    found = collections.Counter(
        (int(label), text.decode(errors="replace"), synset.decode(errors="replace"))
        for label, text, synset in parsed.ignore_errors().as_numpy_iterator()
    )
    if not found:
        first = next(iter(records.ignore_errors().as_numpy_iterator()), b"")
        raise UserError(f"the records in {data_dir} {_what_is_wrong(first)}")
    return found


def _what_is_wrong(record: bytes) -> str:
    try:
        feature = tf.train.Example.FromString(record).features.feature
    except Exception:  # protobuf's own, or of a text that is not UTF-8
        return "are no tf.train.Example"
    for key, kind in ((IMAGE_KEY, "bytes_list"), (LABEL_KEY, "int64_list")):
        if key not in feature:
            return f"lack {key}; they have {', '.join(sorted(feature))}"
        found = feature[key].WhichOneof("kind") or "nothing"
        number = len(getattr(feature[key], found).value) if found != "nothing" else 0
        if found != kind or number != 1:
            return f"have a {found} of {number} as {key}, expected {kind} of one value"
    return "cannot be read"


@dataclasses.dataclass(frozen=True)
class Classes:
    """What the labels of shards mean.

    Attributes:
        names: Readable.
        offset: The label of the first one.
        are_imagenets: Whether they are the thousand classes of ImageNet.
    """

    names: tuple[str, ...]
    offset: int
    are_imagenets: bool


def find_classes(
    classes: Mapping[tuple[int, str, str], int],
    class_names: Sequence[str] | None = None,
    label_offset: int | None = None,
) -> Classes:
    """Finds out what labels mean.

    The names are the first of these that there are: those given; ImageNet's, if the
    records' synsets or texts agree with them, counted from 0 or from 1; the records'
    own texts (or else synsets), if every label from the lowest (0, 1 or the offset
    given) to the highest has one; ImageNet's, if there are neither texts nor synsets
    and labels go from 0 to 999, or from 1 to 1000.

    Args:
        classes: From `Facts`.
        class_names: Given by the user.
        label_offset: Given by the user.

    Raises:
        UserError: None of these holds; the message says what to give.
    """
    labels = [label for label, _, _ in classes]
    low, high = min(labels), max(labels)
    offsets = (0, 1) if label_offset is None else (label_offset,)
    if class_names is not None:
        return _given_classes(class_names, low, high, offsets)
    names = imagenet.class_names()
    for offset in offsets:
        if _agree_with_imagenet(classes, offset):
            return Classes(names, offset, True)
    if own := _own_names(classes, low, high):
        if low in offsets:
            return Classes(own, low, False)
    elif not any(text or synset for _, text, synset in classes):
        for offset in offsets:
            if (low, high) == (offset, offset + 999):
                return Classes(names, offset, True)
    raise UserError(
        f"labels {low}..{high}, and what their records say of them, are not enough to "
        f"know the classes by name: {_ADVICE}"
    )


def _given_classes(names, low: int, high: int, offsets: Sequence[int]) -> Classes:
    fitting = [n for n in offsets if n <= low and high < n + len(names)]
    if len(fitting) == 1:
        return Classes(tuple(names), fitting[0], False)
    if fitting:
        raise UserError(
            f"labels {low}..{high} of {len(names)} class names may count from 0 or "
            "from 1: give --label_offset=0 or 1"
        )
    raise UserError(
        f"{len(names)} class names do not fit labels {low}..{high}: {_ADVICE}"
    )


def _agree_with_imagenet(classes, offset: int) -> bool:
    """Whether texts and synsets say so, and at least one does."""
    synonyms, synsets = imagenet.synonyms(), imagenet.synsets()
    votes = {True: 0, False: 0}
    for (label, text, synset), count in classes.items():
        i = label - offset
        if synset:
            votes[0 <= i < 1000 and synset == synsets[i]] += count
        elif text:
            known = synonyms[i] if 0 <= i < 1000 else ""
            votes[text in (known, known.split(",")[0])] += count
    return votes[True] > 0 and votes[True] >= _AGREEING * sum(votes.values())


def _own_names(classes, low: int, high: int) -> tuple[str, ...] | None:
    """The records' own names, if each label has one and no two the same."""
    names = {label: text or synset for label, text, synset in classes}
    if high - low >= len(names):
        return None
    ordered = tuple(names.get(label, "") for label in range(low, high + 1))
    is_clear = len(names) == len(classes) and len(set(ordered)) == len(ordered)
    return ordered if all(ordered) and is_clear else None

"""TFRecord files that others wrote, ImageNet's `train-00000-of-01024` among them.

Nothing beside such files says what is in them. The keys of the picture and of its label
are those that people use, or those given. What labels mean is told by the records,
where they hold a text or a synset, or by a list of names. All records are read for
that: a class may be rare, and come last.
"""

import collections
import functools
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from google.protobuf.message import DecodeError

from alexnet_tf.class_names import read_class_names
from alexnet_tf.errors import UserError
from alexnet_tf.paths import is_remote
from alexnet_tf.pipeline.tfrecords import count_whole, find_compression, first_line
from data.counting import progress_bar
from data.source import (
    Item,
    Reading,
    Source,
    choose_key,
    data_set_name,
)
from data.sources.names import Classes, find_classes
from data.sources.shards import Shard, find_parts, find_shards

TAKES = ("class_names", "label_offset", "image_column", "label_column")
_FILE = re.compile(
    r"(?P<prefix>.*?)(\.tfrecords?|\.tfrec)?"
    r"([-_.]?(?P<index>\d{5})-of-(?P<total>\d{5}))?(?P<end>(\.tfrecords?|\.tfrec)?(\.gz)?)"
)
_SUFFIX = re.compile(r"\.tfrec(ords?)?\b")
# What people call them, the most specific first.
_IMAGE_KEYS = "image/encoded image jpeg jpg png image_raw image/raw encoded img picture"
_LABEL_KEYS = "image/class/label label class target labels class_id category y"
_TEXT_KEYS = "image/class/text label/text class/text label_name class_name"
_SYNSET_KEYS = "image/class/synset synset"
_NAME_KEYS = "image/filename file_name filename image_name image_id id"
_TRIED = 100  # records


def find_files(root: str) -> list[Shard]:
    """Returns the TFRecord files in a folder by their names, or the one that it is."""
    return find_shards(root, _parse)


def _parse(path: str) -> Shard | None:
    folder, name = os.path.split(path)
    match = _FILE.fullmatch(name)
    if not match or not (match["total"] or _SUFFIX.search(name)):
        return None
    if re.search(r"\.(array_record|riegeli|parquet|arrow)", match["prefix"]):
        return None
    prefix = (
        match["prefix"] if match["total"] else match["prefix"].rstrip("-_.0123456789")
    )
    return Shard(
        path, folder, prefix, int(match["index"] or 0), int(match["total"] or 0)
    )


def open_source(input: str, reading: Reading) -> Source:
    """Returns the pictures in the TFRecord files that `input` is, or holds."""
    files = find_files(input)
    if not files:
        raise UserError(f"there is no TFRecord file in {input}")
    root, parts, left_out = find_parts(files, input)
    paths = [path for path, _ in parts]
    number = count_whole(paths)
    keys = _find_keys(paths, reading)
    counts = _count_labels(paths, keys, number)
    names = reading.class_names and read_class_names(reading.class_names)
    classes = find_classes(counts, names, reading.label_offset)
    name, _, _ = os.path.abspath(input).partition(".tfrec")
    return Source(
        "imagenet2012" if classes.are_imagenets else data_set_name(name),
        classes.names,
        parts,
        functools.partial(_items, root, keys, classes),
        splits={split for _, split in parts},
        num_items=number,
        notes=left_out.lines(),
    )


class _Keys(NamedTuple):
    """The keys of records; "" for one that they do not have."""

    image: str
    label: str
    text: str
    synset: str
    name: str
    label_type: type  # int, or bytes where the label is a text


def _read(path: str) -> Iterator[Mapping]:
    """Yields the features of each record by their keys; {} for what is no example."""
    import tensorflow as tf

    records = tf.data.TFRecordDataset(path, find_compression(path))
    try:
        for record in records.as_numpy_iterator():
            try:
                yield tf.train.Example.FromString(record).features.feature
            except DecodeError:
                yield {}
    except tf.errors.OpError as error:
        raise UserError(
            f"{path} cannot be read: {first_line(error)}; copy it again"
        ) from None


def _read_all(paths: Sequence[str]) -> Iterator[Mapping]:
    return itertools.chain.from_iterable(map(_read, paths))


def _values(features: Mapping, key: str) -> Sequence:
    kind = features[key].WhichOneof("kind") if key in features else None
    return getattr(features[key], kind).value if kind else ()


def _only(features: Mapping, key: str, type_: type) -> int | bytes | None:
    """Returns the one value of a key; None where there is none, or of other types."""
    values = _values(features, key)
    return values[0] if len(values) == 1 and isinstance(values[0], type_) else None


def _text(features: Mapping, key: str) -> str:
    return (_only(features, key, bytes) or b"").decode(errors="replace")


def _label(features: Mapping, keys: _Keys) -> int | str | None:
    label = _only(features, keys.label, keys.label_type)
    return label.decode(errors="replace") if isinstance(label, bytes) else label


def _find_keys(paths: Sequence[str], reading: Reading) -> _Keys:
    """Chooses the keys by what the first records mostly have."""
    kinds = collections.defaultdict(collections.Counter)
    for features in itertools.islice(_read_all(paths), _TRIED):
        for key in features:
            values = _values(features, key)
            kind = type(values[0]).__name__ if len(values) == 1 else "several"
            kinds[key][kind] += 1
    if not kinds:
        raise UserError(f"the records of {paths[0]} are no tf.train.Example")
    kind_of = {key: counts.most_common(1)[0][0] for key, counts in kinds.items()}

    def find(names: str) -> str:
        return next((n for n in names.split() if kind_of.get(n) == "bytes"), "")

    texts = sorted(key for key, kind in kind_of.items() if kind == "bytes")
    usual, given = _IMAGE_KEYS.split(), reading.image_column
    image = choose_key(paths[0], "image", given, usual, texts)
    labels = sorted(key for key, kind in kind_of.items() if kind in ("bytes", "int"))
    labels.remove(image)
    usual, given = _LABEL_KEYS.split(), reading.label_column
    label = choose_key(paths[0], "label", given, usual, labels)
    type_ = int if kind_of[label] == "int" else bytes
    names = find(_TEXT_KEYS), find(_SYNSET_KEYS), find(_NAME_KEYS)
    return _Keys(image, label, *names, type_)


def _count_labels(paths, keys: _Keys, number: int) -> Mapping:
    """Counts how many records have each (label, text, synset)."""
    counts = collections.Counter()
    with progress_bar(_read_all(paths), number, "labels") as bar:
        for features in bar:
            texts = (_text(features, key) for key in (keys.text, keys.synset))
            counts[_label(features, keys), *texts] += 1
    counts = {key: number for key, number in counts.items() if key[0] is not None}
    if not counts:
        raise UserError(f"no record of {paths[0]} has a {keys.label}")
    return counts


def _items(
    root: str, keys: _Keys, classes: Classes, part: tuple[str, str]
) -> Iterator[Item]:
    """Yields the pictures of a file; what has none has no content, and is rejected."""
    path, split = part
    shard = os.path.relpath(path, root or ".") if not is_remote(path) else path
    for index, features in enumerate(_read(path)):
        own = _text(features, keys.name)
        name = f"{shard}/{index:06d}" + (f"/{own}" if own else "")
        label = classes.find_label(_label(features, keys))
        yield Item(name, label, _only(features, keys.image, bytes) or b"", split)

"""TFRecord files that others wrote, ImageNet's `train-00000-of-01024` among them.

Nothing beside such files says what is in them. The keys of the picture and of its label
are those that people use, or those given. What labels mean is told by the records,
where they hold a text or a synset, or by a list of names. All records are read for
that: a class may be rare, and come last.
"""

import collections
import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from alexnet_tf.errors import UserError
from alexnet_tf.paths import is_remote, list_names
from alexnet_tf.pictures.listing import LeftOut, find_folders, shown
from data.counting import progress_bar
from data.source import (
    Item,
    Reading,
    Source,
    data_set_name,
    encode_pixels,
    find_splits,
    hold_out,
    our_splits,
)
from data.sources.names import Classes, find_classes, find_names_beside, read_names

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
_HEIGHT_KEYS, _WIDTH_KEYS = "image/height height rows", "image/width width cols"
_TRIED = 100  # records
_AT_ONCE = 1024  # labels


class _File(NamedTuple):
    """A file by its name: which set of shards it is of, and which of them it is."""

    path: str  # in the folder that is read
    folder: str
    prefix: str
    index: int
    total: int  # 0 where the name does not say it


def find_files(root: str) -> list[_File]:
    """Returns the TFRecord files in a folder by their names, or the one that it is."""
    if file := _parse(os.path.basename(root)):
        return [file]
    # A remote folder is not walked through.
    folders = ("", "train", "validation", "test")
    if not is_remote(root):
        folders = find_folders(root, LeftOut()) if os.path.isdir(root) else ()
    names = (
        os.path.join(folder, name)
        for folder in folders
        for name in list_names(os.path.join(root, folder))
    )
    return list(filter(None, map(_parse, names)))


def _parse(path: str) -> _File | None:
    folder, name = os.path.split(path)
    match = _FILE.fullmatch(name)
    if not match or not (match["total"] or _SUFFIX.search(name)):
        return None
    if re.search(r"\.(array_record|riegeli|parquet|arrow)", match["prefix"]):
        return None
    prefix = (
        match["prefix"] if match["total"] else match["prefix"].rstrip("-_.0123456789")
    )
    return _File(
        path, folder, prefix, int(match["index"] or 0), int(match["total"] or 0)
    )


def open_source(input: str, reading: Reading) -> Source:
    """Returns the pictures in the TFRecord files that `input` is, or holds."""
    files, root = find_files(input), input
    if not files:
        raise UserError(f"there is no TFRecord file in {shown(input)}")
    if os.path.basename(input) == files[0].path:
        root = os.path.dirname(input)
    splits, left_out = _find_splits(files, input)
    parts = [
        (os.path.join(root, file.path), split)
        for split, members in splits.items()
        for file in members
    ]
    paths = [path for path, _ in parts]
    number, compression = _check_whole(paths)
    keys = _find_keys(paths, compression, reading)
    labels = _count_labels(paths, compression, keys, number)
    name, _, _ = os.path.abspath(input).partition(".tfrec")
    names, notes = reading.class_names, []
    if not names and (names := find_names_beside(root)):
        notes.append(f"the names of the classes are from {shown(names)}")
    classes = find_classes(labels, names and read_names(names), reading.label_offset)
    return Source(
        "imagenet2012" if classes.are_imagenets else data_set_name(name),
        classes.names,
        parts,
        functools.partial(_items, root, compression, keys, classes),
        splits=our_splits({split: split for split in splits}),
        holds_out="" in splits,
        num_items=number,
        notes=[*notes, *left_out.lines()],
        files=paths,
    )


def _find_splits(files: Sequence[_File], root: str) -> tuple[dict[str, list], LeftOut]:
    """Returns the files of each split, which folders tell, or else the files' names."""
    by_folder = find_splits({file.folder for file in files}, root)
    groups, left_out = collections.defaultdict(list), LeftOut()
    for file in files:
        groups[file.folder if by_folder else file.prefix].append(file)
    found = hold_out(by_folder or find_splits(groups, root))
    splits = collections.defaultdict(list)
    for group, members in groups.items():
        if found and group not in found:
            left_out.add("TFRecord files of no split", members[0].path, len(members))
            continue
        _check_complete(members, root)
        splits[found.get(group, "")] += members
    return splits, left_out


def _check_complete(files: Sequence[_File], root: str) -> None:
    """Raises a UserError where a shard is missing or there are two sets of them."""
    sets = collections.defaultdict(dict)
    for file in files:
        sets[file.folder, file.prefix, file.total][file.index] = file.path
    for (_, _, total), members in sets.items():
        missing = sorted(set(range(total)) - set(members))
        example = next(iter(members.values()))
        if missing:
            first = re.sub(r"\d{5}(?=-of-)", f"{missing[0]:05d}", example)
            raise UserError(
                f"{shown(root)} is incomplete: {len(missing)} of {total} shards such "
                f"as {shown(example)} are missing, the first of them {shown(first)}"
            )
    names = sorted(min(members.values()) for members in sets.values())
    if len(sets) > 1 and any(total for _, _, total in sets):
        raise UserError(
            f"{shown(root)} has two sets of shards of one split, that of "
            f"{shown(names[0])} and that of {shown(names[1])}: move one of them away"
        )


def _check_whole(paths: Sequence[str]) -> tuple[int, str]:
    """Counts the records, and says how they are compressed, "" or "GZIP"."""
    from data.tfrecords import count_all, find_compression

    counts = count_all(paths)
    for path, (count, is_whole) in counts.items():
        if not is_whole:
            raise UserError(
                f"{shown(path)} is cut short, damaged or no TFRecord file (its first "
                f"{count:,} records are whole); copy it again"
            )
    filled = [path for path, (count, _) in counts.items() if count]
    if not filled:
        raise UserError(f"there is no record in {shown(paths[0])}")
    compressions = set(map(find_compression, filled))
    if len(compressions) > 1:
        raise UserError(
            f"some of the files beside {shown(paths[0])} are compressed, others not"
        )
    return sum(count for count, _ in counts.values()), compressions.pop()


class _Keys(NamedTuple):
    """The keys of records; "" for one that they do not have."""

    image: str
    label: str
    text: str
    synset: str
    name: str
    height: str
    width: str
    has_named_labels: bool  # the label is a text itself


def _read(paths: Sequence[str], compression: str):
    import tensorflow as tf

    return tf.data.TFRecordDataset(list(paths), compression)


def _find_keys(paths: Sequence[str], compression: str, reading: Reading) -> _Keys:
    """Chooses the keys by what the first records mostly have."""
    import tensorflow as tf

    types = collections.defaultdict(collections.Counter)
    for record in _read(paths, compression).take(_TRIED).as_numpy_iterator():
        try:
            features = tf.train.Example.FromString(record).features.feature
        except Exception:  # protobuf's own, or of a text that is not UTF-8
            continue
        for key, value in features.items():
            type_ = value.WhichOneof("kind") or "nothing"
            number = len(getattr(value, type_).value) if type_ != "nothing" else 0
            types[key][type_ if number == 1 else f"{type_} of {number}"] += 1
    if not types:
        raise UserError(f"the records of {shown(paths[0])} are no tf.train.Example")
    has = {key: counts.most_common(1)[0][0] for key, counts in types.items()}

    def choose(
        known: str, *types: str, given: str | None = None, flag: str = ""
    ) -> str:
        names = [given] if given else known.split()
        fitting = [key for key in names if has.get(key) in types]
        if flag and not fitting:
            described = ", ".join(f"{key} ({has[key]})" for key in sorted(has))
            raise UserError(
                f"the records of {shown(paths[0])} have no {names[0]} that could be "
                f"the {flag}; they have {described}: give --{flag}_column=KEY"
            )
        return fitting[0] if fitting else ""

    text = choose(_TEXT_KEYS, "bytes_list")
    label_types = "int64_list", "bytes_list"
    label = choose(_LABEL_KEYS, *label_types, given=reading.label_column, flag="label")
    return _Keys(
        choose(_IMAGE_KEYS, "bytes_list", given=reading.image_column, flag="image"),
        label,
        text,
        choose(_SYNSET_KEYS, "bytes_list"),
        choose(_NAME_KEYS, "bytes_list"),
        choose(_HEIGHT_KEYS, "int64_list"),
        choose(_WIDTH_KEYS, "int64_list"),
        has[label] == "bytes_list",
    )


def _count_labels(paths, compression: str, keys: _Keys, number: int) -> Mapping:
    """Counts how many records have each (label, text, synset); -1 for no number."""
    import tensorflow as tf

    text = tf.io.FixedLenFeature([], tf.string, "")
    features = {key: text for key in (keys.text, keys.synset) if key}
    type_ = tf.string if keys.has_named_labels else tf.int64
    features[keys.label] = tf.io.FixedLenFeature([], type_)

    def parse(record):
        example = tf.io.parse_single_example(record, features)
        texts = [example.get(key, "") for key in (keys.text, keys.synset)]
        if keys.has_named_labels:
            return -1, example[keys.label], ""
        return example[keys.label], *texts

    parsed = _read(paths, compression).map(parse, tf.data.AUTOTUNE).ignore_errors()
    counts = collections.Counter()
    with progress_bar(None, number, "labels") as bar:
        for batch in parsed.batch(_AT_ONCE).as_numpy_iterator():
            counts.update(zip(*(column.tolist() for column in batch), strict=True))
            bar.update(len(batch[0]))
    if not counts:
        raise UserError(f"no record of {shown(paths[0])} has a {keys.label}")
    return {
        (label, text.decode(errors="replace"), synset.decode(errors="replace")): count
        for (label, text, synset), count in counts.items()
    }


def _items(
    root: str, compression: str, keys: _Keys, classes: Classes, part: tuple[str, str]
) -> Iterator[Item]:
    """Yields the pictures of a file; what has none has no content, and is rejected."""
    import tensorflow as tf

    path, split = part
    shard = os.path.relpath(path, root or ".") if not is_remote(path) else path
    labels = {name: label for label, name in enumerate(classes.names)}
    for index, record in enumerate(_read([path], compression).as_numpy_iterator()):
        try:
            features = tf.train.Example.FromString(record).features.feature
            own = _first(features, keys.name, "bytes_list") or b""
            content = _first(features, keys.image, "bytes_list") or b""
            sides = [
                _first(features, k, "int64_list") for k in (keys.height, keys.width)
            ]
            if keys.has_named_labels:
                text = _first(features, keys.label, "bytes_list") or b""
                label = labels.get(text.decode(errors="replace"), -1)
            else:
                label = _first(features, keys.label, "int64_list")
                label = -1 if label is None else label - classes.offset
        except Exception:  # a record of another type raises all sorts of things
            own, content, sides, label = b"", b"", (None, None), -1
        name = "/".join(
            filter(None, (f"{shard}/{index:06d}", own.decode(errors="replace")))
        )
        yield Item(name, label, _as_file(content, *sides), split)


def _first(features, key: str, type_: str):
    values = getattr(features[key], type_).value if key in features else ()
    return values[0] if len(values) == 1 else None


def _as_file(content: bytes, height: int | None, width: int | None) -> bytes:
    """Makes a file of bare pixels, which a record's height and width tell."""
    if height and width and len(content) in (height * width, 3 * height * width):
        return encode_pixels(
            np.frombuffer(content, np.uint8).reshape(height, width, -1)
        )
    return content

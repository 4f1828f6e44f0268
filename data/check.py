"""Reads a whole data set and says whether it is fit for training.

python -m data.check --data_dir=DIR
"""

import collections
import os
import sys
from collections.abc import Iterator
from typing import NamedTuple

from absl import flags

from alexnet_tf import command_line

# What follows imports TensorFlow inside functions, after the flags are parsed.


class _Contents(NamedTuple):
    """Of a split, in the order on disk: an entry a record, and where each one is."""

    labels: list[int]
    hashes: list[int]
    places: list[tuple[str, int]]
    num_bytes: int


def check(data_dir: str, fast: bool = False) -> list[str]:
    """Reads every record, prints what is there, and returns what is wrong.

    Args:
        data_dir: Of a data set that `open_data_set` opens.
        fast: Whether to leave the pictures undecoded.
    """
    from alexnet_tf.records import open_data_set

    data_set = open_data_set(data_dir)
    kind = "older ImageNet shards" if "/" in data_set.image_key else "TFDS directory"
    mean = ", ".join(f"{channel:.1f}" for channel in data_set.image_mean)
    print(f"{data_set.data_dir}: {data_set.name}, {kind}, {data_set.encoding} pictures")
    print(f"  {data_set.num_classes} classes, mean colour {mean}")
    problems, contents = [], {}
    for name, split in data_set.splits.items():
        contents[name] = _read_split(data_set, split, fast, problems)
        _check_labels(data_set, name, contents[name], problems)
    _check_duplicates(contents, problems)
    return problems


def _read_split(data_set, split, fast: bool, problems: list[str]) -> _Contents:
    from tqdm import tqdm

    labels, hashes, places = [], [], []
    seconds = 0.2 if sys.stderr.isatty() else 30
    bar = tqdm(total=split.num_examples, unit=" records", mininterval=seconds)
    for filename, expected in zip(split.filenames, split.shard_lengths, strict=True):
        shard, index = os.path.basename(filename), -1
        for index, record in enumerate(_read_shard(data_set, filename, fast)):
            bar.update()
            if isinstance(record, str):
                problems.append(f"{shard}, record {index}: {record}")
                continue
            labels.append(record[0])
            hashes.append(record[1])
            places.append((shard, index))
        if index + 1 != expected:
            problems.append(f"{shard}: {index + 1} records, expected {expected}")
    bar.close()
    num_bytes = sum(map(os.path.getsize, split.filenames))
    return _Contents(labels, hashes, places, num_bytes)


def _read_shard(data_set, filename: str, fast: bool) -> Iterator[tuple | str]:
    """Yields (label, hash) for a good record, and what is wrong with a bad one."""
    import tensorflow as tf

    from alexnet_tf.records import parse_record

    def inspect(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image_bytes, label = parse_record(serialized, data_set)
        if data_set.encoding == "raw":
            pixels = tf.io.decode_raw(image_bytes, tf.uint8)
            tf.ensure_shape(tf.reshape(pixels, data_set.image_shape), [None, None, 3])
        elif not fast:
            image = tf.io.decode_image(image_bytes, 3, expand_animations=False)
            label += 0 * tf.size(image)  # else the decoding is left out
        return label, tf.strings.to_hash_bucket_fast(image_bytes, 2**63 - 1)

    records = tf.data.TFRecordDataset(filename)
    records = iter(records.map(inspect, num_parallel_calls=tf.data.AUTOTUNE))
    while True:
        try:
            label, content = next(records)
            yield int(label), int(content)
        except StopIteration:
            return
        except tf.errors.DataLossError:
            yield "damaged, and what follows it cannot be read"
            return
        except tf.errors.InvalidArgumentError as error:
            yield _reason(error)


def _reason(error) -> str:
    text = error.message.split("[Op:")[0]
    return "not a picture: " + " ".join(text.splitlines()[0].split())[:120]


def _check_labels(data_set, name: str, contents: _Contents, problems: list[str]):
    """Prints a split's classes; finds labels out of range and an order by class."""
    import numpy as np

    from data.report import describe_counts

    labels = np.array(contents.labels, int)
    wrong = np.flatnonzero((labels < 0) | (labels >= data_set.num_classes))
    for index in wrong[:10]:
        shard, position = contents.places[index]
        stored = labels[index] + data_set.label_offset
        problems.append(f"{shard}, record {position}: label {stored} out of range")
    counts = np.bincount(np.delete(labels, wrong), minlength=data_set.num_classes)
    size = contents.num_bytes
    print(
        f"  {name}: {len(labels):,} records, {size / 1e6:,.1f} MB in "
        f"{len(data_set.splits[name].filenames)} shards"
    )
    if not len(labels):
        problems.append(f"{name} has no good record")
        return
    print(
        f"    labels {labels.min() + data_set.label_offset} to "
        f"{labels.max() + data_set.label_offset}, the first class is "
        f"{data_set.label_offset}; "
        f"{describe_counts(data_set.class_names, counts.tolist())}"
    )
    # In shuffled records the label changes between neighbours as often as between any.
    changes = (np.diff(labels) != 0).mean() if len(labels) > 1 else 1
    shuffled = 1 - ((counts / counts.sum()) ** 2).sum()
    if name == "train" and changes < shuffled / 2:
        problems.append(
            f"{name} is sorted by class: neighbours differ in {changes:.0%}, shuffled "
            f"they would in {shuffled:.0%}; prepare it again, data.prepare shuffles"
        )


def _check_duplicates(contents: dict[str, _Contents], problems: list[str]) -> None:
    seen = collections.defaultdict(set)
    for name, split in contents.items():
        copies = len(split.hashes) - len(set(split.hashes))
        if copies:
            print(f"  {name}: {copies:,} exact copies of other pictures in it")
        for content in split.hashes:
            seen[content].add(name)
    shared = [names for names in seen.values() if len(names) > 1]
    if shared:
        problems.append(f"{len(shared):,} pictures are in more than one split")


def define_flags() -> None:
    """Defines the flags of this script."""
    flags.DEFINE_string("data_dir", None, "Data set to read.")
    flags.DEFINE_bool("fast", False, "Leave the pictures undecoded.")
    flags.mark_flag_as_required("data_dir")


def main(values: flags.FlagValues) -> int:
    """Checks the data set; returns 1 if it has problems."""
    problems = check(values.data_dir, values.fast)
    for problem in problems[:50]:
        print(f"problem: {problem}")
    if len(problems) > 50:
        print(f"problem: {len(problems) - 50:,} more")
    print("not good" if problems else "good")
    return 1 if problems else 0


if __name__ == "__main__":
    command_line.run(main, define_flags)

"""Reads a whole data set and says whether it is fit for training.

python -m data.check --data_dir=DIR
"""

from alexnet_tf import signals
from alexnet_tf.paths import is_remote

if __name__ == "__main__":  # from here on a signal ends it in one line
    signals.handle()

import concurrent.futures
import functools
import itertools
import os
from collections.abc import Iterator

from alexnet_tf import command_line
from alexnet_tf.command_line import flags
from data import counting
from data.counting import Duplicates, find_gaps
from data.held_out import content_digest
from data.source import check_class_names

# TensorFlow is imported inside functions, after the flags are parsed.
_FLAT = 2  # of 255: JPEG makes no more of a picture of one colour
_AT_ONCE = 256  # records


def check(data_dir: str) -> list[str]:
    """Reads every record, prints what is there, and returns what is wrong.

    Args:
        data_dir: A data set that `open_data_set` opens.

    Raises:
        UserError: A shard or a name is such that the set cannot be read.
    """
    from alexnet_tf.pipeline.data_set import open_data_set

    data_set = open_data_set(data_dir)
    size, last = data_set.image_size, data_set.num_classes - 1
    print(
        f"{data_set.data_dir}: {data_set.name}, {data_set.encoding} pictures of "
        f"{size}×{size}, {data_set.num_classes} classes, labels 0..{last}"
    )
    check_class_names(data_set.class_names)
    problems, duplicates, counts = [], Duplicates(), {}
    for name, split in data_set.splits.items():
        counts[name] = _read_split(data_set, split, problems, duplicates)
        number, shards = sum(counts[name]), len(split.filenames)
        classes = counting.describe_counts(data_set.class_names, counts[name])
        print(f"  {name}: {number:,} good records in {shards} shards; {classes}")
        if not any(counts[name]):
            problems.append(f"{name} has no good record")
    uneven = counting.describe_imbalance(data_set.class_names, counts.get("train", ()))
    for line in filter(None, (uneven, duplicates.describe())):
        print(f"  note: {line}")
    problems += find_gaps(data_set.class_names, counts)
    if number := duplicates.num_across():
        problems.append(f"{number:,} pictures are in several splits")
    return problems


def _read_split(data_set, split, problems: list[str], duplicates) -> list[int]:
    """Returns the number of good records of each class."""
    counts, flat = [0] * data_set.num_classes, []
    bar = counting.progress_bar(None, split.num_examples, "records")
    for filename, expected in zip(split.filenames, split.shard_lengths, strict=True):
        shard, number = os.path.basename(filename), 0
        for number, record in enumerate(_read_shard(data_set, filename), 1):
            name = f"{shard}, record {number - 1}"
            bar.update()
            if isinstance(record, str):
                problems.append(f"{name}: {record}")
                continue
            label, content, is_flat = record
            counts[label] += 1
            duplicates.add(content, split.name, label, name)
            flat += [name] * is_flat
        if number != expected:
            problems.append(f"{shard}: {number} records, expected {expected}")
    bar.close()
    if flat:
        number = f"{len(flat):,} pictures of {split.name}"
        problems.append(f"{number} are of one colour, the first {flat[0]}")
    return counts


def _read_shard(data_set, filename: str) -> Iterator[tuple | str]:
    """Yields (label, hash, whether it is of one colour), or what is wrong with it."""
    import tensorflow as tf

    from alexnet_tf.pipeline.tfrecords import count_records

    number, is_whole = -1, True
    if not is_remote(filename):  # a request for each record would take too long
        number, is_whole = count_records(filename)
    records = tf.data.TFRecordDataset(filename).take(number).as_numpy_iterator()
    inspect = functools.partial(_inspect, data_set=data_set)
    try:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            while some := list(itertools.islice(records, _AT_ONCE)):
                yield from pool.map(inspect, some)
    except tf.errors.DataLossError:
        is_whole = False
    if not is_whole:
        yield "damaged, and what follows it cannot be read"


def _inspect(record: bytes, data_set) -> tuple[int, bytes, bool] | str:
    from alexnet_tf.pipeline.examples import decode_record

    try:
        image, label = decode_record(record, data_set)
    except ValueError as error:
        return str(error)
    spread = image.max(axis=(0, 1)) - image.min(axis=(0, 1))
    return label, content_digest(image), bool(spread.max() <= _FLAT)


def define_flags() -> None:
    """Defines the flags of this script."""
    command_line.define_path("data_dir", None, "Data set to read.", required=True)


def main(values: flags.FlagValues) -> int:
    """Checks the data set; returns 1 if it has problems."""
    problems = check(values.data_dir)
    for problem in problems[:50]:
        print(f"problem: {problem}")
    if len(problems) > 50:
        print(f"problem: {len(problems) - 50:,} more")
    print("not good" if problems else "good")
    return 1 if problems else 0


if __name__ == "__main__":
    command_line.run(main, define_flags)

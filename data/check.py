"""Reads a whole data set and says whether it is fit for training.

python -m data.check --data_dir=DIR
"""

import array
import os
from collections.abc import Iterator

from alexnet_tf import command_line
from alexnet_tf.command_line import flags

# TensorFlow is imported inside functions, after the flags are parsed.


def check(data_dir: str, fast: bool = False) -> list[str]:
    """Reads every record, prints what is there, and returns what is wrong.

    Args:
        data_dir: Of a data set that `open_data_set` opens.
        fast: Whether to leave the pictures undecoded.
    """
    import numpy as np

    from alexnet_tf.pipeline.data_set import open_data_set
    from data.progress import Duplicates, find_gaps

    data_set = open_data_set(data_dir)
    kind = "older ImageNet shards" if "/" in data_set.image_key else "TFDS directory"
    first = data_set.label_offset
    print(f"{data_set.data_dir}: {data_set.name}, {kind}, {data_set.encoding} pictures")
    print(
        f"  {data_set.num_classes} classes, labels {first}.."
        f"{first + data_set.num_classes - 1}"
    )
    problems, duplicates, counts = [], Duplicates(), {}
    for name, split in data_set.splits.items():
        labels = _read_split(data_set, split, fast, problems, duplicates)
        counts[name] = np.bincount(labels, minlength=data_set.num_classes).tolist()
        _describe(data_set, name, counts[name])
        if not len(labels):
            problems.append(f"{name} has no good record")
        elif name == "train":
            problems += _check_order(labels)
    if line := duplicates.describe():
        print(f"  {line}")
    problems += find_gaps(data_set.class_names, counts)
    problems += [
        f"{number:,} pictures are both in {one} and in {other}"
        for one, other, number in duplicates.shared()
    ]
    return problems


def _read_split(data_set, split, fast: bool, problems: list[str], duplicates):
    """Returns the labels of the good records, in the order on disk."""
    import numpy as np

    from data.progress import progress_bar

    labels = array.array("q")
    bar = progress_bar(None, split.num_examples, "records")
    for filename, expected in zip(split.filenames, split.shard_lengths, strict=True):
        shard, found = os.path.basename(filename), 0
        for record in _read_shard(data_set, filename, fast):
            if isinstance(record, str):
                problems.append(f"{shard}, record {found}: {record}")
            elif not 0 <= record[0] < data_set.num_classes:
                label = record[0] + data_set.label_offset
                problems.append(f"{shard}, record {found}: label {label} out of range")
            else:
                labels.append(record[0])
                name = f"{shard}, record {found}"
                duplicates.add(record[1], split.name, record[0], name)
            found += 1
            bar.update()
        if found != expected:
            problems.append(f"{shard}: {found} records, expected {expected}")
    bar.close()
    return np.array(labels, int)


def _read_shard(data_set, filename: str, fast: bool) -> Iterator[tuple | str]:
    """Yields (label, hash) for a good record, and what is wrong with a bad one."""
    import tensorflow as tf

    from alexnet_tf.pipeline.data_set import parse_record

    def inspect(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image_bytes, label = parse_record(serialized, data_set)
        if data_set.encoding == "raw":
            pixels = tf.io.decode_raw(image_bytes, tf.uint8)
            label += 0 * tf.size(tf.reshape(pixels, data_set.image_shape), tf.int64)
        elif not fast:
            image = tf.io.decode_image(image_bytes, 3, expand_animations=False)
            label += 0 * tf.size(image, tf.int64)  # else the decoding is left out
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
            reason = " ".join(error.message.splitlines()[0].split())
            yield f"not a picture with a label: {reason[:150]}"


def _describe(data_set, name: str, counts: list[int]) -> None:
    import tensorflow as tf

    from data.progress import describe_counts

    filenames = data_set.splits[name].filenames
    megabytes = sum(tf.io.gfile.stat(f).length for f in filenames) / 1e6
    print(
        f"  {name}: {sum(counts):,} good records in {len(filenames)} shards, "
        f"{megabytes:,.1f} MB; {describe_counts(data_set.class_names, counts)}"
    )


def _check_order(labels) -> list[str]:
    """Finds training records that are sorted by class, which a shuffle cannot mend."""
    import numpy as np

    # Shuffled, the label changes between neighbours as often as between any two.
    changes = (np.diff(labels) != 0).mean() if len(labels) > 1 else 1
    shuffled = 1 - ((np.bincount(labels) / len(labels)) ** 2).sum()
    if changes >= shuffled / 2:
        return []
    return [
        f"train is sorted by class: neighbours differ in {changes:.0%}, shuffled they "
        f"would in {shuffled:.0%}; data.prepare shuffles"
    ]


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

"""What `data.check` finds in data sets with known faults."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf.pipeline.data_set import open_data_set
from data.check import check
from data.prepare import prepare
from data.transcode import Options


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """Returns a function that makes a fresh good data set of 2 × 20 pictures."""
    root = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir()
        for i in range(20):
            pixels = generator.integers(0, 256, (8, 8, 3)).astype(np.uint8)
            picture = tf.io.encode_png(pixels).numpy()
            (root / name / f"{i}.png").write_bytes(picture)
    output = tmp_path_factory.mktemp("prepared") / "data"
    options = Options(image_size=16, validation_fraction=0.2)
    prepare(source="folder", input=str(root), output=str(output), options=options)
    return output


@pytest.fixture
def data_dir(pristine, tmp_path):
    for path in pristine.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def rewrite(data_dir, change):
    """Replaces the list of a data set's training examples by `change(it)`."""
    (shard,) = open_data_set(str(data_dir)).splits["train"].filenames
    examples = [
        tf.train.Example.FromString(serialized)
        for serialized in tf.data.TFRecordDataset(shard).as_numpy_iterator()
    ]
    with tf.io.TFRecordWriter(shard) as writer:
        for example in change(examples):
            writer.write(example.SerializeToString())


def label(example):
    return example.features.feature["label"].int64_list.value


def image(example):
    return example.features.feature["image"].bytes_list.value


def test_good_data_set(data_dir, capsys):
    assert check(str(data_dir)) == []
    printed = capsys.readouterr().out
    splits = open_data_set(str(data_dir)).splits
    assert "TFDS directory, jpeg pictures" in printed
    for name, split in splits.items():
        assert f"{name}: {split.num_examples} good records" in printed


def test_undecodable_record(data_dir):
    def change(examples):
        image(examples[7])[0] = image(examples[7])[0][:200]
        image(examples[9])[0] = b"no picture"
        return examples

    rewrite(data_dir, change)
    problems = check(str(data_dir))
    assert len(problems) == 2
    assert "train.tfrecord-00000-of-00001, record 7: not a picture" in problems[0]
    assert "train.tfrecord-00000-of-00001, record 9: not a picture" in problems[1]
    assert check(str(data_dir), fast=True) == []


def test_label_out_of_range(data_dir):
    def change(examples):
        label(examples[3])[0] = 2
        return examples

    rewrite(data_dir, change)
    (problem,) = check(str(data_dir))
    assert problem.endswith("record 3: label 2 out of range")


def test_sorted_by_class(data_dir):
    rewrite(data_dir, lambda examples: sorted(examples, key=lambda e: label(e)[0]))
    (problem,) = check(str(data_dir), fast=True)
    assert problem.startswith("train is sorted by class")


def test_records_missing(data_dir):
    rewrite(data_dir, lambda examples: examples[:-2])
    (problem,) = check(str(data_dir), fast=True)
    number = open_data_set(str(data_dir)).splits["train"].num_examples
    assert problem.endswith(f"{number - 2} records, expected {number}")


def test_damaged_shard(data_dir):
    (shard,) = data_dir.glob("*train*")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 255
    shard.write_bytes(content)
    problems = check(str(data_dir), fast=True)
    assert any("damaged" in problem for problem in problems)


def test_picture_in_both_splits(data_dir):
    (shard,) = open_data_set(str(data_dir)).splits["validation"].filenames
    other = next(iter(tf.data.TFRecordDataset(shard).as_numpy_iterator()))
    other = tf.train.Example.FromString(other)
    rewrite(data_dir, lambda examples: [*examples[:-1], other])
    (problem,) = check(str(data_dir))
    assert problem == "1 pictures are both in train and in validation"


def test_command(data_dir):
    command = [sys.executable, "-m", "data.check", f"--data_dir={data_dir}", "--fast"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "good")
    info = data_dir / "dataset_info.json"
    content = json.loads(info.read_text())
    (data_dir / f"{content['name']}-train.tfrecord-00000-of-00001").unlink()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: " in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr

"""What `data.check` finds in data sets with known faults."""

import json
import struct

import numpy as np
import pytest
import tensorflow as tf
from helpers import run_script

from alexnet_tf.errors import UserError
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
    assert "jpeg pictures of 16×16, 2 classes, labels 0..1" in printed
    for name, split in splits.items():
        assert f"{name}: {split.num_examples} good records" in printed


def test_uneven_classes_are_a_note_and_no_problem(data_dir, capsys):
    def change(examples):
        for i, example in enumerate(examples):
            label(example)[0] = int(i == 0)
        return examples

    rewrite(data_dir, change)
    assert check(str(data_dir)) == []
    printed = capsys.readouterr().out
    assert "note: the classes of train are uneven, cat 31 and dog 1:" in printed
    assert "train.py --class_weights=balanced" in printed


def test_undecodable_record(data_dir):
    def change(examples):
        image(examples[7])[0] = image(examples[7])[0][:200]
        image(examples[9])[0] = b"no picture"
        return examples

    rewrite(data_dir, change)
    problems = check(str(data_dir))
    assert len(problems) == 2
    assert "train.tfrecord-00000-of-00001, record 7: " in problems[0]
    assert "train.tfrecord-00000-of-00001, record 9: " in problems[1]
    assert all(len(problem) < 200 for problem in problems)


def test_pictures_of_another_size(data_dir):
    def change(examples):
        pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3))
        image(examples[5])[0] = tf.io.encode_jpeg(pixels.astype(np.uint8)).numpy()
        return examples

    rewrite(data_dir, change)
    (problem,) = check(str(data_dir))
    assert "record 5: " in problem
    assert "not a JPEG of 16×16 pixels" in problem


def test_pictures_of_one_color(data_dir):
    def change(examples):
        for index, color in ((4, (0, 0, 0)), (8, (9, 80, 200))):
            pixels = np.full((16, 16, 3), color, np.uint8)
            image(examples[index])[0] = tf.io.encode_jpeg(pixels).numpy()
        return examples

    rewrite(data_dir, change)
    (problem,) = check(str(data_dir))
    assert problem.startswith("2 pictures of train are of one colour, the first pi")
    assert problem.endswith(".tfrecord-00000-of-00001, record 4")


def test_two_classes_of_one_name(data_dir):
    card = json.loads((data_dir / "metadata.json").read_text())
    card["class_names"] = ["dog", "dog"]
    (data_dir / "metadata.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="two classes are called dog"):
        check(str(data_dir))


def test_label_out_of_range(data_dir):
    def change(examples):
        label(examples[3])[0] = 2
        return examples

    rewrite(data_dir, change)
    (problem,) = check(str(data_dir))
    assert problem.endswith("record 3: label 2 is out of range: expected 0..1")


def test_records_missing(data_dir):
    rewrite(data_dir, lambda examples: examples[:-2])
    (problem,) = check(str(data_dir))
    number = open_data_set(str(data_dir)).splits["train"].num_examples
    assert problem.endswith(f"{number - 2} records, expected {number}")


def test_damaged_shard(data_dir):
    (shard,) = data_dir.glob("*train*")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 255
    shard.write_bytes(content)
    problems = check(str(data_dir))
    assert any("damaged" in problem for problem in problems)


def test_record_that_declares_a_terabyte(data_dir):
    (shard,) = data_dir.glob("*train*")
    with tf.io.TFRecordWriter(str(data_dir / "other")) as writer:
        writer.write(bytes(4))
    length = struct.pack("<Q", 2**40)
    checksum = struct.pack("<I", masked_crc32c(length))
    whole = (data_dir / "other").read_bytes()
    assert masked_crc32c(whole[:8]) == struct.unpack("<I", whole[8:12])[0]
    shard.write_bytes(shard.read_bytes() + length + checksum + bytes(100))
    with pytest.raises(UserError, match=r"declares 1,099,511,627,776 bytes"):
        check(str(data_dir))


def masked_crc32c(content):
    """CRC-32C, bit by bit, masked as TFRecord files have it."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_record_that_is_no_example(data_dir):
    (shard,) = open_data_set(str(data_dir)).splits["train"].filenames
    records = list(tf.data.TFRecordDataset(shard).as_numpy_iterator())
    with tf.io.TFRecordWriter(shard) as writer:
        for record in [*records[:-2], b"\xff\xfe\x80 no example", b""]:
            writer.write(record)
    problems = check(str(data_dir))
    assert len(problems) == 2
    for index, problem in zip((2, 1), problems, strict=True):
        assert f"record {len(records) - index}: not a tf.train.Example of" in problem


def test_label_of_another_type(data_dir):
    def change(examples):
        del label(examples[3])[:]
        examples[3].features.feature["label"].float_list.value.append(1.0)
        return examples

    rewrite(data_dir, change)
    (problem,) = check(str(data_dir))
    assert "record 3: not a tf.train.Example of one image" in problem


def test_picture_in_both_splits(data_dir):
    (shard,) = open_data_set(str(data_dir)).splits["validation"].filenames
    other = next(iter(tf.data.TFRecordDataset(shard).as_numpy_iterator()))
    other = tf.train.Example.FromString(other)
    rewrite(data_dir, lambda examples: [*examples[:-1], other])
    (problem,) = check(str(data_dir))
    assert problem == "1 pictures are in several splits"


def test_command(data_dir, capsys):
    assert run_script("data.check", f"--data_dir={data_dir}") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "good"
    info = data_dir / "dataset_info.json"
    content = json.loads(info.read_text())
    (data_dir / f"{content['name']}-train.tfrecord-00000-of-00001").unlink()
    assert run_script("data.check", f"--data_dir={data_dir}") == 1
    error = capsys.readouterr().err
    assert "error: " in error.splitlines()[-1]
    assert "Traceback" not in error

"""Tests of frames.py and raw_records.py."""

import dataclasses
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf
from test_batches import SIDE, N, example, picture, same, take, write

from alexnet_tf.pipeline import frames
from alexnet_tf.pipeline.batches import BadRecords
from alexnet_tf.pipeline.frames import MappedFrames, MemoryFrames
from alexnet_tf.pipeline.raw_records import index_pixels


@pytest.fixture
def records():
    return [example(picture(i).tobytes(), i) for i in range(N)]


@pytest.fixture
def in_order(monkeypatch):
    """Has raw records read in the order on disk, as those far away are."""

    def take_in_order(*args, **options):
        with monkeypatch.context() as patch:
            patch.setattr(MappedFrames, "suits", lambda *_: False)
            return take(*args, **options)

    return take_in_order


def crops_of(frames, record_ids, corners, size):
    """Cuts crops in a graph, as the pipeline does; labels and images as arrays."""
    dataset = tf.data.Dataset.from_tensor_slices((record_ids, corners))
    dataset = dataset.map(lambda i, corner: frames.crop(i, corner, size))
    images, labels = zip(*dataset.as_numpy_iterator(), strict=True)
    return np.stack(images), np.array(labels)


def test_crops_from_memory_are_what_numpy_cuts_out():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 12, 10, 3)).astype(np.uint8)
    ids = np.array([3, 0, 4, 1, 2])
    frames = MemoryFrames(*map(tf.constant, (images, ids * 10, np.argsort(ids))))
    record_ids = np.array([2, 2, 0, 4, 3, 1, 0])
    corners = np.stack([rng.integers(0, 6, 7), rng.integers(0, 4, 7)], -1)
    crops, labels = crops_of(frames, record_ids, corners.astype(np.int32), 7)
    assert labels.tolist() == [20, 20, 0, 40, 30, 10, 0]
    for record_id, crop, (top, left) in zip(record_ids, crops, corners, strict=True):
        image = images[ids.tolist().index(record_id)]
        assert np.array_equal(crop, image[top : top + 7, left : left + 7])


@pytest.mark.parametrize("color", ["none", "jitter"])
def test_batches_are_those_of_reading_in_order(tmp_path, records, in_order, color):
    data_set = write(tmp_path, records, encoding="raw")
    options = {"color": color, "start_step": 5}
    assert same(take(data_set, 20, **options), in_order(data_set, 20, **options))


def test_raw_records_of_the_right_size_on_a_disk_are_read_so(tmp_path, records):
    data_set = write(tmp_path, records, encoding="raw")
    split = data_set.splits["train"]
    assert MappedFrames.suits(data_set, split, SIDE)
    assert not MappedFrames.suits(data_set, split, SIDE + 1)
    far = type(split)("train", ("gs://bucket/shard",), (N,))
    assert not MappedFrames.suits(data_set, far, SIDE)
    jpegs = write(tmp_path, records, encoding="jpeg")
    assert not MappedFrames.suits(jpegs, split, SIDE)


def test_bad_records_are_named_and_cost_no_others(tmp_path, records, in_order):
    reference = take(write(tmp_path, records, encoding="raw"), 30)
    records[2] = example(picture(2).tobytes()[:-1], 2)
    records[11] = example(None, 11)
    records[12] = b"not an example"
    records[13] = b""
    data_set = write(tmp_path, records, encoding="raw")
    shards = data_set.splits["train"].filenames
    with open(shards[4], "rb+") as file:  # records 24 to 29
        file.truncate(os.path.getsize(shards[4]) // 2)
    collector = BadRecords()
    images, labels = take(data_set, 30, bad_records=collector)
    lost = np.isin(reference[1], [2, 11, 12, 13, 27, 28, 29])
    assert (labels[lost] == -1).all()
    assert (images[lost] == 0).all()
    assert np.array_equal(labels[~lost], reference[1][~lost])
    assert np.array_equal(images[~lost], reference[0][~lost])
    places = [(0, 2), *((2, i) for i in (1, 2, 3)), *((4, i) for i in (3, 4, 5))]
    assert set(collector.reasons) == {(shards[shard], i) for shard, i in places}
    assert "cut short" in collector.reasons[shards[4], 3]
    assert "cut short" not in collector.reasons[shards[0], 2]
    assert same((images, labels), in_order(data_set, 30))


def test_a_file_may_go_while_it_is_read(tmp_path, records):
    data_set = write(tmp_path, records, (15, 15), encoding="raw")
    frames = MappedFrames.open(data_set, data_set.splits["train"])
    for filename in data_set.splits["train"].filenames:
        os.remove(filename)
    corners = np.zeros((2, 2), np.int32)
    images, labels = crops_of(frames, np.array([14, 20]), corners, SIDE)
    assert labels.tolist() == [14, 20]
    assert np.array_equal(images, [picture(14), picture(20)])


def test_the_pixels_are_sought_once(tmp_path, records, monkeypatch):
    data_set = write(tmp_path, records, encoding="raw")
    first = take(data_set, 5)
    monkeypatch.setattr(frames, "index_pixels", None)
    assert same(take(data_set, 5), first)
    (kept,) = tmp_path.glob(".alexnet_tf-pixels-*")
    kept.write_bytes(kept.read_bytes()[:-9])
    with pytest.raises(TypeError):
        take(data_set, 5)


def test_pixels_are_found_behind_what_looks_like_them(tmp_path):
    image = picture(0)
    features = {
        "image": tf.train.Feature(
            bytes_list=tf.train.BytesList(value=[image.tobytes()])
        ),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[3])),
    }
    # Their first bytes as the name of a file, in front of them or behind.
    for key in ("a", "file_name", "zzzz"):
        name = tf.train.BytesList(value=[image.tobytes()[:64] * 2])
        feature = features | {key: tf.train.Feature(bytes_list=name)}
        record = tf.train.Example(features=tf.train.Features(feature=feature))
        data_set = write(tmp_path, [record.SerializeToString()] * 5, (5,))
        data_set = dataclasses.replace(data_set, data_dir=str(tmp_path / key))
        found = MappedFrames.open(data_set, data_set.splits["train"])
        images, labels = crops_of(
            found, np.array([4]), np.zeros((1, 2), np.int32), SIDE
        )
        assert labels.tolist() == [3]
        assert np.array_equal(images, [image])


def test_what_stands_in_a_record_is_what_protobuf_finds(tmp_path):
    rng = np.random.default_rng(0)
    image = picture(7).tobytes()
    for trial in range(20):
        message = tf.train.Example()
        feature = message.features.feature
        label = int(rng.integers(-(2**63), 2**63 - 1)) >> int(rng.integers(0, 63))
        feature["label"].int64_list.value.append(label)
        feature["image"].bytes_list.value.append(image)
        feature["floats"].float_list.value.extend(rng.normal(size=trial))
        feature["numbers"].int64_list.value.extend(rng.integers(-9, 9, trial).tolist())
        feature["nothing"].SetInParent()
        feature["é" * trial].bytes_list.value.extend([b"x" * 200] * (trial % 3))
        record = message.SerializeToString(deterministic=bool(trial % 2))
        data_set = write(tmp_path, [b"\x00" * trial, record], (2,), encoding="raw")
        index = index_pixels(data_set, data_set.splits["train"])
        begin = (tmp_path / "shard-0").read_bytes().index(image)
        assert index["begins"].tolist() == [-1, begin]
        assert index["labels"].tolist() == [0, label]


def test_no_record_breaks_the_search_for_pixels(tmp_path):
    rng = np.random.default_rng(0)
    image = picture(7)[:2, :2].tobytes()
    whole = bytearray(example(image, 3))
    shape = {"image_shape": (2, 2, 3), "encoding": "raw"}
    for _ in range(30):
        records = []
        for _ in range(20):
            mutant = whole[: rng.integers(len(whole) + 1)]
            for place in rng.integers(0, max(1, len(mutant)), 2 if mutant else 0):
                mutant[place] = rng.integers(256)
            records.append(bytes(mutant))
        data_set = write(tmp_path, [*records, bytes(whole)], (21,), **shape)
        index = index_pixels(data_set, data_set.splits["train"])
        assert index["labels"][-1] == 3
        assert index["begins"][-1] > 0


@pytest.mark.parametrize("steps", [1, 5])
def test_a_process_ends_whatever_is_still_being_read(tmp_path, steps):
    script = f"""
        import atexit, pathlib, sys

        def hold():
            "Keeps Python to itself for a while, as what ends a process may do."
            sys.setswitchinterval(100)
            sum(range(30_000_000))

        atexit.register(hold)
        sys.path[:0] = {[os.path.dirname(__file__), *sys.path]}
        from test_batches import N, example, make_batches, picture, write

        pictures = [example(picture(i).tobytes(), i) for i in range(N)]
        data_set = write(pathlib.Path({str(tmp_path)!r}), pictures, encoding="raw")
        options = dict(global_batch_size=16, seed=0, image_size=32)
        batches = iter(make_batches(data_set, **options))
        for _ in range({steps}):
            next(batches)
        print("done")
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout) == (0, "done\n"), run.stderr

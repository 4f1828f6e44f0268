"""Tests of frames.py."""

import os
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from test_batches import SIDE, N, example, picture, same, take, write

from alexnet_tf.errors import UserError
from alexnet_tf.pipeline import frames
from alexnet_tf.pipeline.batches import BadRecords, label_errors
from alexnet_tf.pipeline.frames import MemoryImages, RawRecords, read_crops


@pytest.fixture
def records():
    return [example(picture(i).tobytes(), i) for i in range(N)]


@pytest.fixture
def in_order(monkeypatch):
    """Has raw records read in the order on disk, as those far away are."""

    def take_in_order(*args, **options):
        with monkeypatch.context() as patch:
            patch.setattr(RawRecords, "suits", lambda *_: False)
            return take(*args, **options)

    return take_in_order


def never(*args):
    raise AssertionError(args)


def test_crops_are_what_numpy_cuts_out():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 12, 10, 3)).astype(np.uint8)
    ids = np.array([3, 0, 4, 1, 2])
    source = MemoryImages(ids, ids.astype(np.int32) * 10, images)
    record_ids = np.array([2, 2, 0, 4, 3, 1, 0])
    corners = np.stack([rng.integers(0, 6, 7), rng.integers(0, 4, 7)], -1)
    mirrored = np.array([1, 0, 0, 1, 0, 1, 1], bool)
    for turned in (mirrored, ~mirrored, mirrored & False, mirrored | True):
        arguments = (record_ids, corners.astype(np.int32), turned)
        labels, crops = read_crops(source, *map(tf.constant, arguments), 7)
        assert labels.numpy().tolist() == [20, 20, 0, 40, 30, 10, 0]
        for i, (top, left) in enumerate(corners):
            image = images[ids.tolist().index(record_ids[i])]
            expected = image[top : top + 7, left : left + 7]
            assert np.array_equal(crops[i], expected[:, :: -1 if turned[i] else 1])


@pytest.mark.parametrize("color", ["none", "jitter"])
def test_batches_are_those_of_reading_in_order(tmp_path, records, in_order, color):
    data_set = write(tmp_path, records, encoding="raw")
    options = {"color": color, "start_step": 5}
    assert same(take(data_set, 20, **options), in_order(data_set, 20, **options))


def test_raw_records_of_the_right_size_on_a_disk_are_read_so(tmp_path, records):
    data_set = write(tmp_path, records, encoding="raw")
    split = data_set.splits["train"]
    assert RawRecords.suits(data_set, split, SIDE)
    assert not RawRecords.suits(data_set, split, SIDE + 1)
    far = type(split)("train", ("gs://bucket/shard",), (N,))
    assert not RawRecords.suits(data_set, far, SIDE)
    jpegs = write(tmp_path, records, encoding="jpeg")
    assert not RawRecords.suits(jpegs, split, SIDE)


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


def test_a_shard_that_is_lost_later_is_named_too(tmp_path, records):
    data_set = write(tmp_path, records, (15, 15), encoding="raw")
    shards = data_set.splits["train"].filenames
    bad = []
    source = RawRecords(data_set, data_set.splits["train"], lambda i, _: bad.append(i))
    assert source.read(14)[0] == 14
    os.truncate(shards[0], 10_000)
    os.remove(shards[1])
    for record_id in (14, 20):
        label, image = source.read(record_id)
        assert label == -1
        assert not image.any()
    assert bad == [14, 20]
    assert source.read(0)[0] == 0


@pytest.mark.parametrize("label", [-1, N, 10**10])
def test_a_label_out_of_range_stops_with_its_place(tmp_path, records, label):
    records[11] = example(picture(11).tobytes(), label)
    data_set = write(tmp_path, records, encoding="raw")
    place = rf"label {label} of record 1 of .*shard-2 is out of range: expected 0..29"
    with pytest.raises(UserError, match=place), label_errors(data_set, "train"):
        take(data_set, 8)


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
        source = RawRecords(data_set, data_set.splits["train"], never)
        for _ in range(2):  # when it is parsed, and when it is not
            label, found = source.read(4)
            assert label == 3
            assert np.array_equal(found, image)


def test_few_files_stay_open(tmp_path):
    lengths = (1,) * 100
    records = [example(picture(i).tobytes(), i) for i in range(100)]
    data_set = write(tmp_path, records, lengths, encoding="raw")
    source = RawRecords(data_set, data_set.splits["train"], never)
    before = len(os.listdir("/proc/self/fd"))
    assert [source.read(i)[0] for i in range(100)] == list(range(100))
    assert len(os.listdir("/proc/self/fd")) - before <= 64
    del source
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_end_of_the_process_waits_for_calls():
    calls, ended = frames.Calls(), []
    assert not calls.gate.is_closed()

    def call():
        for _ in range(2):
            with calls:
                time.sleep(0.3)
            time.sleep(0.02)
        ended.append(True)

    thread = threading.Thread(target=call)
    thread.start()
    time.sleep(0.1)
    calls.end()
    assert ended
    assert calls.gate.is_closed()
    thread.join()


def test_the_end_of_the_process_does_not_wait_for_ever(monkeypatch):
    calls, slept = frames.Calls(), []
    assert not calls.gate.is_closed()
    monkeypatch.setattr(time, "sleep", slept.append)
    with calls:
        calls.end()
    assert sum(slept) == pytest.approx(10)


def test_nothing_is_called_once_the_process_ends(monkeypatch):
    calls = frames.Calls()
    monkeypatch.setattr(frames, "_calls", calls)
    images = MemoryImages(np.arange(2), np.ones(2), np.ones((2, 8, 8, 3), np.uint8))
    args = images, [0, 1], [[0, 0], [1, 1]], tf.constant([False, True]), 4
    labels, crops = read_crops(*args)
    assert labels.numpy().tolist() == [1, 1]
    assert (crops.numpy() == 1).all()
    calls.end()
    monkeypatch.setattr(images, "read", never)
    labels, crops = read_crops(*args)
    assert labels.numpy().tolist() == [-1, -1]
    assert (crops.numpy() == 0).all()


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
        from test_batches import N, example, picture, training_batches, write

        pictures = [example(picture(i).tobytes(), i) for i in range(N)]
        data_set = write(pathlib.Path({str(tmp_path)!r}), pictures, encoding="raw")
        options = dict(global_batch_size=16, seed=0, image_size=32)
        batches = iter(training_batches(data_set, **options))
        for _ in range({steps}):
            next(batches)
        print("done")
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout) == (0, "done\n"), run.stderr

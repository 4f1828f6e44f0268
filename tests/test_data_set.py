"""The card of a data set, and directories that are none or come from strangers."""

import dataclasses
import json
import os
import shutil
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from test_batches import make_batches

from alexnet_tf.errors import UserError
from alexnet_tf.pipeline.batches import evaluation_batches
from alexnet_tf.pipeline.data_set import CARD_FILE, STATISTICS_FILE, open_data_set


@pytest.fixture
def copy(data_dir, tmp_path):
    """A data set of one's own, which may be spoilt."""
    return shutil.copytree(data_dir, tmp_path / "copy")


def change_card(directory, change):
    """Writes the card anew after `change(card)`, which may return another one."""
    path = directory / CARD_FILE
    card = json.loads(path.read_text())
    path.write_text(json.dumps(change(card) or card))


def read_error(directory):
    with pytest.raises(UserError) as caught:
        open_data_set(str(directory))
    message = str(caught.value)
    assert message.isprintable()  # one line, and nothing that moves a cursor
    assert len(message) < 500
    return message


def test_a_card_says_all_that_a_reader_needs(data_dir, monkeypatch):
    monkeypatch.setattr(tf.data, "TFRecordDataset", None)  # no record is read
    data_set = open_data_set(data_dir)
    assert data_set.class_names == ("blue", "green", "red")
    train, validation = (data_set.splits[name] for name in ("train", "validation"))
    assert (train.num_examples, train.class_counts) == (150, (60, 50, 40))
    assert (validation.num_examples, validation.class_counts) == (25, (12, 8, 5))
    assert (data_set.image_size, data_set.encoding) == (256, "jpeg")
    assert data_set.fitting == type(data_set.fitting)("crop", 256, "bicubic")
    statistics = data_set.statistics()
    assert statistics.num_images == 150
    assert statistics.mean_image.shape == (256, 256, 3)


def test_directories_without_a_data_set(tmp_path, copy):
    assert "no data set in" in read_error(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "make one with data.prepare" in read_error(tmp_path / "empty")
    # One of TFDS, or of the version before.
    (copy / CARD_FILE).unlink()
    assert "train.py makes one of any pictures" in read_error(copy)
    (copy / CARD_FILE).write_text(json.dumps({"fit": "crop", "image_size": 256}))
    assert "it lacks 'format': prepare the data set again" in read_error(copy)


def test_a_card_of_another_version(copy):
    change_card(copy, lambda card: card.update(version=2))
    assert "of another version of this program: prepare the data set" in read_error(
        copy
    )


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "[" * 100_000, "\xff\xfe"])
def test_a_damaged_card_is_one_line(copy, content):
    (copy / CARD_FILE).write_text(content, "latin-1")
    read_error(copy)


def test_no_change_of_a_card_is_more_than_one_line(copy):
    whole, rng = (copy / CARD_FILE).read_bytes(), np.random.default_rng(0)
    errors = []
    for _ in range(300):
        mutant = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            mutant[place] = rng.integers(32, 127)
        (copy / CARD_FILE).write_bytes(mutant)
        try:
            open_data_set(str(copy))
        except UserError as error:
            errors.append(str(error))
    assert len(errors) > 100
    assert not any("\n" in error for error in errors)


def of_train(**changes):
    return lambda card: card["splits"]["train"].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card.pop("encoding"), "it lacks 'encoding'"),
        (lambda card: card.update(encoding="png"), "encoding is none of jpeg, raw"),
        (lambda card: card.update(fit=["crop"]), "fit is none of"),
        (lambda card: card.update(image_size=10**6), r"image_size is none of 1..8191"),
        (lambda card: card.update(image_size=True), "image_size is none of 1"),
        (lambda card: card.update(class_names="abc"), "class_names are not"),
        (lambda card: card.update(class_names=["\x1b[2J", "b", "c"]), "control char"),
        (lambda card: card.update(name="a\nb"), "control char"),
        (lambda card: card.update(class_names=["x"] * 300_000), "300000 classes"),
        (lambda card: card.update(splits=7), "not of the form that data.prepare"),
        (of_train(shard_lengths=[-1]), "too short for -1 records"),
        (of_train(shard_lengths=[2**62]), "too short for"),
        (of_train(shard_lengths=[1.5]), "of the type int"),
        (of_train(shard_lengths=[150, 0]), "do not fit"),
        (of_train(class_counts=[150, 1, -1]), "class_counts of train do not fit"),
        (of_train(class_counts=[1, 1, 1]), "numbers of records of train do not fit"),
        (of_train(shards=["../secret"]), "missing or no regular files, '../secret'"),
        (of_train(shards=["/etc/passwd"]), "missing or no regular files"),
        (of_train(shards=["\x1b[2J"]), r"no regular files, '.x1b\[2J' first"),
    ],
)
def test_what_a_card_cannot_say(copy, change, message):
    change_card(copy, lambda card: change(card) and None)
    with pytest.raises(UserError, match=message):
        open_data_set(str(copy))
    read_error(copy)


def test_millions_of_shards_and_large_cards_are_refused(copy):
    shards = [f"x-{i}" for i in range(200_000)]
    change_card(copy, of_train(shards=shards, shard_lengths=[0] * 200_000))
    assert "of 200000 shards of train 200000 are missing" in read_error(copy)
    (copy / CARD_FILE).write_bytes(b" " * 2**25)
    assert "larger than 16 MiB" in read_error(copy)


def shard_of(directory):
    return next(directory.glob("*train.tfrecord*"))


@pytest.mark.parametrize("find", [shard_of, lambda d: d / CARD_FILE])
@pytest.mark.parametrize("how", ["link", "pipe", "folder", "device", "gone", "loop"])
def test_only_regular_files_of_the_directory_are_read(copy, tmp_path, find, how):
    """A link could lead to any file of the reader's; a pipe and a device never end."""
    path = find(copy)
    path.rename(tmp_path / "elsewhere")
    if how == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    elif how == "device":
        path.symlink_to("/dev/zero")
    elif how == "loop":
        path.symlink_to(path.name)
    message = read_error(copy)
    assert path.name in message


def test_a_directory_may_be_a_link_or_a_file_url(data_dir, tmp_path):
    (tmp_path / "link").symlink_to(data_dir)
    assert open_data_set(str(tmp_path / "link")).num_classes == 3
    assert open_data_set(f"file://{data_dir}") == open_data_set(data_dir)


def test_statistics_are_numbers_of_the_right_size(copy, data_dir):
    good = dict(np.load(copy / STATISTICS_FILE))
    data_set = open_data_set(str(copy))

    def error_of(**changes):
        np.savez(copy / STATISTICS_FILE, **good | changes)
        with pytest.raises(UserError, match=STATISTICS_FILE) as caught:
            data_set.statistics()
        return str(caught.value)

    assert "not of this data set" in error_of(mean_image=np.zeros((9, 9, 3)))
    assert "not of this data set" in error_of(more=np.zeros(3))
    assert "numbers that are none" in error_of(mean_color=np.full(3, np.nan))
    assert "cannot be used" in error_of(mean_color=np.array([{}, [], 1], object))
    assert "larger than" in error_of(mean_color=np.zeros(2**21))
    # Zeros that inflate to a thousand times the size of their file.
    np.savez_compressed(copy / STATISTICS_FILE, **good)
    with pytest.raises(UserError, match="it is compressed"):
        data_set.statistics()
    for content in (b"", b"PK\3\4", b"\x93NUMPY\1\0"):
        (copy / STATISTICS_FILE).write_bytes(content)
        with pytest.raises(UserError, match=r"cannot be used .*: prepare it again"):
            data_set.statistics()
    (copy / STATISTICS_FILE).unlink()
    (copy / STATISTICS_FILE).symlink_to(os.path.join(data_dir, STATISTICS_FILE))
    with pytest.raises(UserError, match=r"has no statistics\.npz"):
        data_set.statistics()


def test_an_array_that_declares_a_terabyte_is_no_memory(copy):
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,), }"
    array = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode()
    with zipfile.ZipFile(copy / STATISTICS_FILE, "w") as file:
        file.writestr("mean_image.npy", array)
    with pytest.raises(UserError, match="cannot be used"):
        open_data_set(str(copy)).statistics()


@pytest.fixture
def ram_dir(data_dir):
    target = "ram://data"
    tf.io.gfile.makedirs(target)
    for name in os.listdir(data_dir):
        tf.io.gfile.copy(os.path.join(data_dir, name), f"{target}/{name}", True)
    yield target
    tf.io.gfile.rmtree(target)


def test_remote_directories(data_dir, ram_dir):
    near, far = open_data_set(data_dir), open_data_set(ram_dir)
    assert far.splits["train"].filenames[0].startswith(ram_dir)
    assert dataclasses.replace(far, data_dir="", splits={}) == dataclasses.replace(
        near, data_dir="", splits={}
    )
    options = {"global_batch_size": 25, "image_size": 64}
    chains = [
        [
            *evaluation_batches(data_set, "validation", **options),
            *make_batches(data_set, seed=1, **options).take(2),
        ]
        for data_set in (near, far)
    ]
    for one, other in zip(*chains, strict=True):
        for x, y in zip(one, other, strict=True):
            np.testing.assert_array_equal(x, y)
    mean = near.statistics().mean_image
    np.testing.assert_array_equal(far.statistics().mean_image, mean)

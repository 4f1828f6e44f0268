"""The formats on disk, and the errors about directories that hold none."""

import os

import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf.errors import UserError
from alexnet_tf.pipeline import data_set as module
from alexnet_tf.pipeline.data_set import (
    open_data_set,
    parse_record,
)


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))
    return tmp_path / "user_cache"


def bytes_feature(value):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def int_feature(value):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


def write_shard(path, examples):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for feature in examples:
            features = tf.train.Features(feature=feature)
            writer.write(tf.train.Example(features=features).SerializeToString())


def imagenet_example(image, label):
    return {
        "image/encoded": bytes_feature(tf.io.encode_png(image).numpy()),
        "image/class/label": int_feature(label),
        "image/class/text": bytes_feature(b"what it shows"),
    }


@pytest.fixture
def pictures():
    generator = np.random.default_rng(0)
    colors = generator.integers(0, 256, (6, 1, 1, 3))
    noise = generator.integers(-9, 10, (6, 64, 64, 3))
    return (colors + noise).clip(0, 255).astype(np.uint8)


def write_imagenet(root, pictures, labels, pattern="{split}-{i:05d}-of-{n:05d}"):
    examples = [imagenet_example(*pair) for pair in zip(pictures, labels, strict=True)]
    parts = {"train": [examples[:3], examples[3:5]], "validation": [examples[5:]]}
    for split, shards in parts.items():
        for i, shard in enumerate(shards):
            name = pattern.format(split=split, i=i, n=len(shards))
            write_shard(root / name, shard)


@pytest.mark.parametrize(
    "pattern",
    [
        "{split}-{i:05d}-of-{n:05d}",
        "{split}-{i:05d}-of-{n:05d}.tfrecord",
        "{split}/{split}-{i:05d}-of-{n:05d}",
    ],
)
@pytest.mark.parametrize(
    ("labels", "offset"), [((1, 2, 3, 1000, 5, 6), 1), ((0, 2, 3, 999, 5, 6), 0)]
)
def test_older_imagenet_shards(tmp_path, pictures, pattern, labels, offset):
    write_imagenet(tmp_path, pictures, labels, pattern)
    data_set = open_data_set(str(tmp_path))
    assert data_set.splits["train"].shard_lengths == (3, 2)
    assert data_set.splits["validation"].num_examples == 1
    assert data_set.label_offset == offset
    assert data_set.num_classes == 1000
    assert data_set.class_names[0] == "tench"
    assert len(set(data_set.class_names)) == 1000
    assert data_set.image_shape is None

    shards = data_set.splits["train"].filenames
    parsed = [
        parse_record(serialized, data_set)
        for serialized in tf.data.TFRecordDataset(shards)
    ]
    assert [int(label) for _, label in parsed] == [n - offset for n in labels[:5]]
    assert all(label.dtype == tf.int64 for _, label in parsed)
    np.testing.assert_array_equal(tf.io.decode_image(parsed[4][0]), pictures[4])


def test_what_was_measured_is_kept_until_the_shards_change(
    tmp_path, pictures, monkeypatch
):
    write_imagenet(tmp_path, pictures, range(1, 7))
    first = open_data_set(str(tmp_path))
    counted = []
    count = module.count_records
    monkeypatch.setattr(
        module, "count_records", lambda path: counted.append(path) or count(path)
    )
    assert open_data_set(str(tmp_path)) == first
    assert not counted
    write_shard(
        tmp_path / "train-00001-of-00002", [imagenet_example(pictures[5], 6)] * 4
    )
    assert open_data_set(str(tmp_path)).splits["train"].num_examples == 7
    assert len(counted) == 3


def test_user_cache_where_the_directory_cannot_be_written(
    tmp_path, pictures, user_cache
):
    data_dir = tmp_path / "data"
    write_imagenet(data_dir, pictures, range(1, 7))
    first = open_data_set(str(data_dir))
    (kept,) = data_dir.glob(".alexnet_tf-*")
    kept.unlink()
    kept.mkdir()  # now no file can take this name
    assert open_data_set(str(data_dir)) == first
    (cached,) = (user_cache / "alexnet_tf").glob("*.npz")
    assert np.load(cached)["label_offset"] == 1
    assert open_data_set(str(data_dir)) == first


def test_labels_that_fit_neither_convention(tmp_path, pictures):
    write_imagenet(tmp_path, pictures, (0, 1000, 3, 4, 5, 6))
    with pytest.raises(UserError, match=r"expected labels 0\.\.999 or 1\.\.1000.*1000"):
        open_data_set(str(tmp_path))


def test_shard_cut_short(tmp_path, pictures):
    write_imagenet(tmp_path, pictures, range(1, 7))
    shard = tmp_path / "train-00000-of-00002"
    os.truncate(shard, shard.stat().st_size - 5)
    with pytest.raises(UserError, match=r"00000-of-00002 is cut short .* 2 records"):
        open_data_set(str(tmp_path))


def test_missing_shard(tmp_path, pictures):
    write_imagenet(tmp_path, pictures, range(1, 7))
    (tmp_path / "train-00001-of-00002").unlink()
    with pytest.raises(UserError, match="of 2 shards of train 1 are missing"):
        open_data_set(str(tmp_path))


def test_records_with_other_keys(tmp_path):
    write_shard(tmp_path / "train-00000-of-00001", [{"pixels": bytes_feature(b"")}])
    with pytest.raises(UserError, match="they have pixels"):
        open_data_set(str(tmp_path))


def test_directories_without_a_data_set(tmp_path):
    with pytest.raises(UserError, match="no such data_dir"):
        open_data_set(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="no data set in"):
        open_data_set(str(tmp_path))
    (tmp_path / ".cats.x1.incomplete").mkdir()  # as a killed preparation leaves it
    with pytest.raises(UserError, match=r"the preparation of .*cats did not finish"):
        open_data_set(str(tmp_path / "cats"))
    (tmp_path / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        open_data_set(str(tmp_path))

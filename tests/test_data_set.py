"""The formats on disk, and the errors about directories that hold none."""

import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from test_batches import make_batches
from test_data_check import masked_crc32c

from alexnet_tf import imagenet
from alexnet_tf.errors import UserError
from alexnet_tf.pipeline import older_shards, reading, tfrecords
from alexnet_tf.pipeline.batches import BadRecords, evaluation_batches
from alexnet_tf.pipeline.data_set import open_data_set, parse_record
from alexnet_tf.pipeline.reading import read_all
from alexnet_tf.pipeline.statistics import pixel_statistics


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))
    return tmp_path / "user_cache"


def bytes_feature(value):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def int_feature(value):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


def write_shard(path, examples, compression=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for feature in examples:
            features = tf.train.Features(feature=feature)
            writer.write(tf.train.Example(features=features).SerializeToString())


SYNSETS = imagenet.synsets()


def imagenet_example(image, label, offset=1):
    return shard_example(image, label, synset=SYNSETS[label - offset])


def shard_example(image, label, text="", synset=""):
    example = {
        "image/encoded": bytes_feature(tf.io.encode_png(image).numpy()),
        "image/class/label": int_feature(label),
    }
    if text:
        example["image/class/text"] = bytes_feature(text.encode())
    if synset:
        example["image/class/synset"] = bytes_feature(synset.encode())
    return example


@pytest.fixture
def pictures():
    generator = np.random.default_rng(0)
    colors = generator.integers(0, 256, (6, 1, 1, 3))
    noise = generator.integers(-9, 10, (6, 64, 64, 3))
    return (colors + noise).clip(0, 255).astype(np.uint8)


def write_imagenet(
    root, pictures, labels, pattern="{split}-{i:05d}-of-{n:05d}", offset=1
):
    examples = [
        imagenet_example(*pair, offset) for pair in zip(pictures, labels, strict=True)
    ]
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
    write_imagenet(tmp_path, pictures, labels, pattern, offset)
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
    count = tfrecords.count_records
    monkeypatch.setattr(
        tfrecords, "count_records", lambda path: counted.append(path) or count(path)
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
    assert np.load(cached)["shard_lengths"].tolist() == [3, 2, 1]
    assert open_data_set(str(data_dir)) == first


IMAGENET = imagenet.class_names()
FLOWERS = ("daisy", "dandelion", "rose", "sunflower", "tulip")


@pytest.mark.parametrize(
    ("classes", "given", "expected"),
    [
        # ImageNet's names, where synsets or texts agree with them.
        ([(i, "", SYNSETS[i]) for i in (3, 999)], {}, (IMAGENET, 0)),
        ([(i + 1, "", SYNSETS[i]) for i in range(9, 19)], {}, (IMAGENET, 1)),
        ([(2, "goldfish", "")], {}, (IMAGENET, 1)),
        ([(1, "goldfish, Carassius auratus", "")], {}, (IMAGENET, 0)),
        ([(0, "", ""), (1, "goldfish", "")], {}, (IMAGENET, 0)),
        # The records' own names.
        ([(i + 1, name, "") for i, name in enumerate(FLOWERS)], {}, (FLOWERS, 1)),
        ([(i, "", name) for i, name in enumerate(FLOWERS)], {}, (FLOWERS, 0)),
        (
            [(i + 7, name, "") for i, name in enumerate(FLOWERS)],
            {"label_offset": 7},
            (FLOWERS, 7),
        ),
        # A subset of ImageNet with labels of its own.
        ([(0, "", SYNSETS[7]), (1, "", SYNSETS[3])], {}, ((SYNSETS[7], SYNSETS[3]), 0)),
        # No names, but a thousand classes.
        ([(i, "", "") for i in (0, 5, 999)], {}, (IMAGENET, 0)),
        ([(i, "", "") for i in (1, 5, 1000)], {}, (IMAGENET, 1)),
        # Given names.
        ([(0, "x", ""), (4, "x", "")], {"class_names": FLOWERS}, (FLOWERS, 0)),
        ([(1, "", ""), (5, "", "")], {"class_names": FLOWERS}, (FLOWERS, 1)),
        (
            [(1, "", ""), (4, "", "")],
            {"class_names": FLOWERS, "label_offset": 1},
            (FLOWERS, 1),
        ),
    ],
)
def test_what_labels_mean(classes, given, expected):
    found = older_shards.find_classes(dict.fromkeys(classes, 5), **given)
    assert (found.names, found.offset) == expected
    assert found.are_imagenets == (expected[0] == IMAGENET)


@pytest.mark.parametrize(
    ("classes", "given", "message"),
    [
        ([(i, "", "") for i in range(1, 6)], {}, r"labels 1\.\.5.*--class_names"),
        ([(0, "", ""), (1000, "", "")], {}, r"labels 0\.\.1000"),
        ([(1, "daisy", ""), (3, "rose", "")], {}, r"labels 1\.\.3"),
        ([(1, "daisy", ""), (2, "daisy", "")], {}, r"labels 1\.\.2"),
        ([(1, "daisy", ""), (1, "rose", "")], {}, r"labels 1\.\.1"),
        ([(2, "daisy", ""), (3, "rose", "")], {}, r"--label_offset=N"),
        ([(10**12, "daisy", "")], {}, r"labels 1000000000000"),
        ([(1, "", ""), (4, "", "")], {"class_names": FLOWERS}, "may count from 0 or"),
        ([(0, "", ""), (5, "", "")], {"class_names": FLOWERS}, "5 class names do not"),
    ],
)
def test_labels_that_nobody_explains(classes, given, message):
    with pytest.raises(UserError, match=message):
        older_shards.find_classes(dict.fromkeys(classes, 5), **given)


def test_one_wrong_record_does_not_change_what_labels_mean():
    classes = {(i + 1, "", SYNSETS[i]): 10 for i in range(100)} | {(7, "", "n1"): 1}
    assert older_shards.find_classes(classes).offset == 1


def test_names_and_offset_may_be_given(tmp_path, pictures):
    for i, picture in enumerate(pictures):
        name = f"train-{i:05d}-of-{len(pictures):05d}"
        write_shard(tmp_path / name, [shard_example(picture, min(i, 4) + 1)])
    names = tmp_path / "names.txt"
    names.write_text("\ufeff" + "\n".join(FLOWERS) + "\n", "utf-8")
    with pytest.raises(UserError, match="--class_names"):
        open_data_set(str(tmp_path))
    data_set = open_data_set(str(tmp_path), class_names=str(names))
    assert (data_set.class_names, data_set.label_offset) == (FLOWERS, 1)
    assert data_set.name == tmp_path.name
    for content, message in [
        (b"a\nb\na\n", "once"),
        (b"a\n\nb", "once"),
        (b"\xff", "read"),
    ]:
        names.write_bytes(content)
        with pytest.raises(UserError, match=f"--class_names=.*{message}"):
            open_data_set(str(tmp_path), class_names=str(names))


def test_compressed_shards(tmp_path, pictures):
    examples = [imagenet_example(p, i + 1) for i, p in enumerate(pictures)]
    write_shard(tmp_path / "train-00000-of-00002", examples[:4], "GZIP")
    write_shard(tmp_path / "train-00001-of-00002", examples[4:], "GZIP")
    data_set = open_data_set(str(tmp_path))
    assert data_set.splits["train"].shard_lengths == (4, 2)
    options = {"global_batch_size": 6, "image_size": 32}
    ((_, labels),) = evaluation_batches(data_set, "train", **options)
    assert sorted(labels.numpy()) == list(range(6))
    shard = tmp_path / "train-00000-of-00002"
    assert tfrecords.read_record(str(shard), 3)
    os.truncate(shard, shard.stat().st_size // 2)
    with pytest.raises(UserError, match="00000-of-00002 is cut short"):
        open_data_set(str(tmp_path))
    write_shard(shard, examples[:4])
    with pytest.raises(UserError, match="are compressed and some not"):
        open_data_set(str(tmp_path))


def test_a_damaged_compressed_shard_is_named(tmp_path, pictures):
    examples = [imagenet_example(p, i + 1) for i, p in enumerate(pictures)]
    shard = tmp_path / "train-00000-of-00001"
    write_shard(shard, examples, "GZIP")
    whole = shard.read_bytes()
    for place in (30, len(whole) // 2, len(whole) - 6):  # the last one in the checksum
        shard.write_bytes(
            whole[:place] + bytes([whole[place] ^ 255]) + whole[place:][1:]
        )
        with pytest.raises(UserError, match="00000-of-00001 is cut short or damaged"):
            open_data_set(str(tmp_path))


@pytest.mark.parametrize("number", [1, 6])
def test_labels_of_another_type(tmp_path, pictures, number):
    examples = [imagenet_example(p, i + 1) for i, p in enumerate(pictures)]
    floats = tf.train.FloatList(value=[1])
    two = tf.train.Int64List(value=[1, 2])
    wrong = [
        (tf.train.Feature(float_list=floats), "a float_list of 1"),
        (bytes_feature(b"1"), "a bytes_list of 1"),
        (tf.train.Feature(int64_list=two), "int64_list of 2"),
        (tf.train.Feature(), "a nothing of 0"),
    ]
    for feature, message in wrong:
        for example in examples[:number]:
            example["image/class/label"] = feature
        write_shard(tmp_path / "train-00000-of-00001", examples)
        if number == 1:  # one bad record among others
            assert open_data_set(str(tmp_path)).splits["train"].num_examples == 6
            continue
        with pytest.raises(UserError, match=f"{message} as image/class/label"):
            open_data_set(str(tmp_path))


def test_an_empty_first_shard_does_not_change_the_shuffle(
    tmp_path, pictures, monkeypatch
):

    examples = [imagenet_example(p, i + 1) for i, p in enumerate(pictures)]
    write_shard(tmp_path / "train-00000-of-00002", [])
    write_shard(tmp_path / "train-00001-of-00002", examples)
    split = open_data_set(str(tmp_path)).splits["train"]
    assert split.shard_lengths == (0, 6)
    monkeypatch.setattr(
        reading, "SHUFFLE_BYTES", 2 * os.path.getsize(split.filenames[1]) // 6
    )
    windows = []
    shuffle = reading._shuffle
    monkeypatch.setattr(
        reading, "_shuffle", lambda *args: windows.append(args[1]) or shuffle(*args)
    )
    next(iter(reading.shuffled_records(split, 0, 0, ids_only=False)))
    assert windows == [2]


def test_shards_may_be_moved_or_opened_through_a_link(tmp_path, pictures, user_cache):
    write_imagenet(tmp_path / "here", pictures, range(1, 7))
    first = open_data_set(str(tmp_path / "here"))
    (tmp_path / "here").rename(tmp_path / "there")
    (tmp_path / "link").symlink_to("there")
    for place in ("there", "link"):
        data_set = open_data_set(str(tmp_path / place))
        assert data_set.label_offset == first.label_offset
        assert sum(1 for _ in read_all(data_set.splits["train"])) == 5
    assert len(list((tmp_path / "there").glob(".alexnet_tf-*"))) == 1


def test_a_record_of_absurd_length(tmp_path, pictures, data_dir):
    write_imagenet(tmp_path, pictures, range(1, 7))
    shard = tmp_path / "train-00000-of-00002"
    # As a writer of such a file would have it, with a right checksum.
    header = (2**40).to_bytes(8, "little")
    header += masked_crc32c(header).to_bytes(4, "little")
    with open(shard, "r+b") as file:
        file.write(header)
    with pytest.raises(UserError, match="00000-of-00002 is cut short or damaged"):
        open_data_set(str(tmp_path))
    copy = tmp_path / "copy"
    shutil.copytree(open_data_set(data_dir).data_dir, copy)
    shard = str(next(copy.glob("*train.tfrecord*")))
    begin, _ = list(tfrecords.record_spans(shard))[149]
    with open(shard, "r+b") as file:
        file.seek(begin - 12)
        file.write(header)
    data_set = open_data_set(str(copy))
    assert data_set.splits["train"].whole_lengths == (149,)
    bad = BadRecords()
    options = {"global_batch_size": 50, "image_size": 32, "color": "none"}
    batches = make_batches(data_set, seed=0, bad_records=bad, **options).take(3)
    labels = np.concatenate([labels for _, labels in batches])
    assert (labels < 0).sum() == 1
    assert [index for _, index in bad.reasons] == [149]


def test_shard_cut_short(tmp_path, pictures):
    write_imagenet(tmp_path, pictures, range(1, 7))
    shard = tmp_path / "train-00000-of-00002"
    os.truncate(shard, shard.stat().st_size - 5)
    with pytest.raises(UserError, match=r"00000-of-00002 is cut short .* 2 records"):
        open_data_set(str(tmp_path))


@pytest.mark.parametrize(
    "other",
    ["train-00000-of-00001", "train-{}-of-00002.tfrecord", "train/train-{}-of-00002"],
)
def test_two_sets_of_shards_of_one_split(tmp_path, pictures, other):
    write_imagenet(tmp_path, pictures, range(1, 7))
    for number in ("00000", "00001"):
        copy = tmp_path / other.format(number)
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(tmp_path / f"train-{number}-of-00002", copy)
    with pytest.raises(UserError, match="two sets of shards of train, one of them"):
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
    (tmp_path / "features.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be read"):
        open_data_set(str(tmp_path))


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name", "type"])
def test_no_class_of_others_is_imported(tmp_path, data_dir, monkeypatch, key):
    copy = tmp_path / "copy"
    shutil.copytree(open_data_set(data_dir).data_dir, copy)
    (tmp_path / "payload.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    content = json.loads((copy / "features.json").read_text())
    content["featuresDict"]["features"]["more"] = {"x": [{key: "payload.Text"}]}
    (copy / "features.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"names the class 'payload\.Text'"):
        open_data_set(str(copy))


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_damaged_metadata_is_one_line(tmp_path, data_dir, name):
    source, copy = open_data_set(data_dir).data_dir, tmp_path / "copy"
    shutil.copytree(source, copy)
    whole = (copy / name).read_bytes()
    rng = np.random.default_rng(0)
    damaged = [b"", b"{", b"[]", b"null", b"{}", b"\xff\xfe", b"[" * 100_000]
    for _ in range(20):
        mutant = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            mutant[place] = rng.integers(32, 127)
        damaged.append(bytes(mutant))
    errors = []
    for content in damaged:
        (copy / name).write_bytes(content)
        try:
            open_data_set(str(copy))
        except UserError as error:
            errors.append(str(error))
    assert len(errors) >= 10
    assert not any("\n" in error for error in errors)


def test_a_split_without_labels_is_left_out(tmp_path, data_dir):
    """TFDS's ImageNet has -1 for every label of its test split."""
    copy = tmp_path / "copy"
    shutil.copytree(open_data_set(data_dir).data_dir, copy)
    (shard,) = copy.glob("*validation.tfrecord*")
    records = list(tf.data.TFRecordDataset(str(shard)).as_numpy_iterator())
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for record in records:
            example = tf.train.Example.FromString(record)
            example.features.feature["label"].int64_list.value[0] = -1
            writer.write(example.SerializeToString())
    assert list(open_data_set(str(copy)).splits) == ["train"]
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for record in [b"damaged"] * len(records):
            writer.write(record)
    assert list(open_data_set(str(copy)).splits) == ["train", "validation"]


def test_a_data_set_of_tfds_with_weights(tmp_path, data_dir):
    copy = tmp_path / "copy"
    shutil.copytree(open_data_set(data_dir).data_dir, copy)
    info = json.loads((copy / "dataset_info.json").read_text())
    items = info["supervisedKeys"]["tuple"]["items"]
    items.append({"featureKey": "file_name"})
    (copy / "dataset_info.json").write_text(json.dumps(info))
    data_set = open_data_set(str(copy))
    assert (data_set.image_key, data_set.label_key) == ("image", "label")


def test_a_directory_may_be_a_file_url(data_dir):
    url = f"file://{open_data_set(data_dir).data_dir}"
    assert open_data_set(url) == open_data_set(data_dir)


@pytest.fixture
def ram_dir(data_dir):
    source, target = open_data_set(data_dir).data_dir, "ram://data"
    tf.io.gfile.makedirs(target)
    for name in os.listdir(source):
        tf.io.gfile.copy(os.path.join(source, name), f"{target}/{name}", True)
    yield target
    tf.io.gfile.rmtree(target)


def test_remote_directories(data_dir, ram_dir):
    near, far = open_data_set(data_dir), open_data_set(ram_dir)
    assert far.class_names == near.class_names
    assert far.splits["train"].filenames[0].startswith(ram_dir)
    options = {"global_batch_size": 25, "image_size": 64}
    for one, other in zip(
        [
            *evaluation_batches(near, "validation", **options),
            *make_batches(near, seed=1, **options).take(2),
        ],
        [
            *evaluation_batches(far, "validation", **options),
            *make_batches(far, seed=1, **options).take(2),
        ],
        strict=True,
    ):
        for x, y in zip(one, other, strict=True):
            np.testing.assert_array_equal(x, y)
    mean = pixel_statistics(near).mean_image
    np.testing.assert_array_equal(pixel_statistics(far).mean_image, mean)
    assert any(name.endswith(".npz") for name in tf.io.gfile.listdir(ram_dir))


def test_remote_shards(pictures):
    examples = [imagenet_example(p, i + 1) for i, p in enumerate(pictures)]
    path = "ram://shards/train-00000-of-00001"
    tf.io.gfile.makedirs("ram://shards")
    with tf.io.TFRecordWriter(path) as writer:
        for feature in examples:
            features = tf.train.Features(feature=feature)
            writer.write(tf.train.Example(features=features).SerializeToString())
    data_set = open_data_set("ram://shards")
    assert data_set.splits["train"].filenames == (path,)
    assert (data_set.label_offset, data_set.splits["train"].num_examples) == (1, 6)
    tf.io.gfile.rmtree("ram://shards")

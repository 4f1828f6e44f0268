"""What people have besides folders: records, TFDS, archives, CIFAR, Parquet."""

import io
import json
import os
import pickle
import tarfile
import types
import zipfile

import numpy as np
import pyarrow.parquet
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from alexnet_tf import imagenet_classes
from alexnet_tf.class_names import read_class_names
from alexnet_tf.errors import UserError
from alexnet_tf.pipeline.data_set import open_data_set
from data import own_data, sources
from data.own_data import find_own_data
from data.prepare import prepare
from data.source import Reading
from data.sources import elpv, names, tfrecord
from data.transcode import Options

FLOWERS = ("daisy", "dandelion", "rose", "sunflower", "tulip")
SYNSETS = imagenet_classes.synsets()
IMAGENET = imagenet_classes.class_names()


def encoded(seed=0, file_format="PNG", size=(12, 8), **kwargs):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file_format, **kwargs)
    return buffer.getvalue()


def read_items(source):
    """Returns {split: {name: class}} of a source's pictures, which it counts right."""
    found = {}
    for item in source.all_items():
        name = source.class_names[item.label] if item.label >= 0 else None
        found.setdefault(item.split, {})[item.name] = name
    assert sum(map(len, found.values())) == source.num_items
    return found


def count(found):
    return {split: len(items) for split, items in found.items()}


def open_any(path, **reading):
    return sources.open_source("auto", str(path), Reading(**reading))


# TFRecord files of others


def bytes_feature(value):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def int_feature(value):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


def slim(label, text="", synset="", image=None):
    """A record as TF-Slim writes it."""
    features = {
        "image/encoded": bytes_feature(image or encoded(label)),
        "image/class/label": int_feature(label),
        "image/class/text": bytes_feature(text.encode()),
        "image/class/synset": bytes_feature(synset.encode()),
    }
    return {k: f for k, f in features.items() if f != bytes_feature(b"")}


def write_shard(path, examples, compression=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for feature in examples:
            features = tf.train.Features(feature=feature)
            writer.write(tf.train.Example(features=features).SerializeToString())


def write_shards(root, pattern, examples, compression=""):
    """Writes two shards to train on and one to validate with."""
    parts = {"train": [examples[:3], examples[3:5]], "validation": [examples[5:]]}
    for split, shards in parts.items():
        for i, shard in enumerate(shards):
            name = pattern.format(split=split, i=i, n=len(shards))
            write_shard(root / name, shard, compression)


@pytest.mark.parametrize(
    ("pattern", "compression"),
    [
        ("{split}-{i:05d}-of-{n:05d}", ""),
        ("{split}-{i:05d}-of-{n:05d}.tfrecord", "GZIP"),
        ("{split}/{split}-{i:05d}-of-{n:05d}", ""),
        ("flowers_{split}_{i:05d}-of-{n:05d}.tfrecord", ""),
        ("deep/er/{split}/{i:02d}-224x224-462.tfrec", ""),
        ("flowers-{split}.tfrecord-{i:05d}-of-{n:05d}", ""),
        ("{split}_{i}.tfrecords.gz", "GZIP"),
    ],
)
def test_records_of_others(tmp_path, pattern, compression):
    examples = [slim(i % 5 + 1, FLOWERS[i % 5]) for i in range(6)]
    write_shards(tmp_path, pattern, examples, compression)
    source = open_any(tmp_path)
    assert source.class_names == FLOWERS
    found = read_items(source)
    assert list(found["train"].values()) == list(FLOWERS)
    assert list(found["validation"].values()) == ["daisy"]
    assert source.splits == {"train", "validation"}
    assert not source.holds_out
    contents = [item.content for item in source.all_items()]
    assert contents == [encoded(i % 5 + 1) for i in range(6)]


def test_val_is_a_split_of_shards_and_a_file_alone_is_none(tmp_path):
    examples = [slim(i + 1, FLOWERS[i]) for i in range(5)]
    write_shard(tmp_path / "in" / "train-00000-of-00001", examples)
    write_shard(tmp_path / "in" / "val-00000-of-00001", examples)
    assert set(read_items(open_any(tmp_path / "in"))) == {"train", "validation"}
    write_shard(tmp_path / "all.tfrecord", examples)
    source = open_any(tmp_path / "all.tfrecord")
    assert set(read_items(source)) == {"train"}
    assert (source.holds_out, source.name) == (True, "all")


def test_a_rare_class_at_the_end_is_read(tmp_path):
    common, rare = (
        tf.train.Example(features=tf.train.Features(feature=slim(*label, image=b"x")))
        for label in ((1, "daisy"), (2, "rose"))
    )
    with tf.io.TFRecordWriter(str(tmp_path / "train-00000-of-00001")) as writer:
        for record in [common.SerializeToString()] * 30_000:
            writer.write(record)
        writer.write(rare.SerializeToString())
    assert open_any(tmp_path).class_names == ("daisy", "rose")


@pytest.mark.parametrize(("first", "last"), [(0, 999), (1, 1000)])
def test_imagenets_shards(tmp_path, first, last):
    labels = [first, first + 7, last]
    examples = [slim(label, synset=SYNSETS[label - first]) for label in labels]
    write_shard(tmp_path / "train-00000-of-00001", examples)
    source = open_any(tmp_path)
    assert source.name == "imagenet2012"
    assert source.class_names == IMAGENET
    assert [item.label for item in source.all_items()] == [0, 7, 999]


def test_keys_and_labels_of_other_kinds(tmp_path):
    def record(i):
        return {
            "img": bytes_feature(encoded(i)),
            "breed": bytes_feature(b"ab"[i % 2 : i % 2 + 1]),
            "id": bytes_feature(f"x{i}".encode()),
        }

    write_shard(tmp_path / "train.tfrec", [record(i) for i in range(4)])
    message = "known to be the label: give --label_column=NAME, one of breed, id$"
    with pytest.raises(UserError, match=message):
        open_any(tmp_path)
    source = open_any(tmp_path, label_column="breed")
    (found,) = read_items(source).values()
    assert found == {f"train.tfrec/{i:06d}/x{i}": "ab"[i % 2] for i in range(4)}


def test_records_that_cannot_be_used_are_rejected(tmp_path):
    examples = [slim(i + 1, FLOWERS[i]) for i in range(5)]
    examples[2]["image/class/label"] = bytes_feature(b"1")
    del examples[3]["image/encoded"]
    write_shard(tmp_path / "in" / "train-00000-of-00001", examples)
    with pytest.raises(UserError, match="labels 1 to 5, and do not say what"):
        open_any(tmp_path / "in")
    (tmp_path / "names.txt").write_text("\n".join(FLOWERS))
    output, reading = tmp_path / "out", Reading(class_names=str(tmp_path / "names.txt"))
    prepare(
        input=str(tmp_path / "in"),
        output=str(output),
        reading=reading,
        options=Options(image_size=8),
        num_workers=0,
    )
    assert (output / "rejected.tsv").read_text().splitlines()[1:] == [
        "train-00000-of-00001/000002\tits label -1 is none of 0..4",
        "train-00000-of-00001/000003\tempty file",
    ]


def test_damaged_and_incomplete_shards(tmp_path):
    examples = [slim(i % 5 + 1, FLOWERS[i % 5]) for i in range(6)]
    write_shards(tmp_path, "{split}-{i:05d}-of-{n:05d}", examples, "GZIP")
    shard = tmp_path / "train-00001-of-00002"
    content = shard.read_bytes()
    for wrong in (
        content[:-20],
        content[:30] + bytes([content[30] ^ 255]) + content[31:],
    ):
        shard.write_bytes(wrong)
        with pytest.raises(UserError, match="00001-of-00002 is cut short, damaged"):
            open_any(tmp_path)
    write_shard(shard, examples[3:5])  # not compressed, as the others are
    assert read_items(open_any(tmp_path))["train"].keys() == {
        f"train-0000{i // 3}-of-00002/{i % 3:06d}" for i in range(5)
    }
    content = shard.read_bytes()
    shard.write_bytes(content[:60] + bytes([content[60] ^ 255]) + content[61:])
    with pytest.raises(UserError, match="of-00002 cannot be read: corrupted record at"):
        open_any(tmp_path)
    shard.rename(tmp_path / "train-00001-of-00003")
    with pytest.raises(UserError, match=r"incomplete: 1 of 2 shards .* train-00001-of"):
        open_any(tmp_path)


@pytest.mark.parametrize(
    ("classes", "given", "expected"),
    [
        # ImageNet's names, where synsets or texts agree with them.
        ([(i, "", SYNSETS[i]) for i in (3, 999)], {}, (IMAGENET, 0)),
        ([(i + 1, "", SYNSETS[i]) for i in range(9, 19)], {}, (IMAGENET, 1)),
        ([(0, "", ""), (1, "goldfish", SYNSETS[1])], {}, (IMAGENET, 0)),
        # The records' own names.
        ([(i + 1, name, "") for i, name in enumerate(FLOWERS)], {}, (FLOWERS, 1)),
        ([(i, "", name) for i, name in enumerate(FLOWERS)], {}, (FLOWERS, 0)),
        ([(i + 7, n, "") for i, n in enumerate(FLOWERS)], {"offset": 7}, (FLOWERS, 7)),
        ([(name, "", "") for name in FLOWERS], {}, (FLOWERS, 0)),
        # A subset of ImageNet with labels of its own.
        ([(0, "", SYNSETS[7]), (1, "", SYNSETS[3])], {}, ((SYNSETS[7], SYNSETS[3]), 0)),
        # No names, but a thousand classes.
        ([(i, "", "") for i in (0, 5, 999)], {}, (IMAGENET, 0)),
        ([(i, "", "") for i in (1, 5, 1000)], {}, (IMAGENET, 1)),
        # Given names.
        ([(0, "x", ""), (4, "x", "")], {"names": FLOWERS}, (FLOWERS, 0)),
        ([(1, "", ""), (5, "", "")], {"names": FLOWERS}, (FLOWERS, 1)),
        ([(1, "", ""), (4, "", "")], {"names": FLOWERS, "offset": 1}, (FLOWERS, 1)),
    ],
)
def test_what_labels_mean(classes, given, expected):
    found = names.find_classes(dict.fromkeys(classes, 5), **given)
    assert (found.names, found.offset) == expected
    assert found.are_imagenets == (expected[0] == IMAGENET)


@pytest.mark.parametrize(
    ("classes", "given", "message"),
    [
        ([(i, "", "") for i in range(1, 6)], {}, r"labels 1 to 5.*--class_names"),
        ([(0, "", ""), (1000, "", "")], {}, r"labels 0 to 1000"),
        ([(1, "daisy", ""), (3, "rose", "")], {}, r"labels 1 to 3"),
        ([(1, "daisy", ""), (2, "daisy", "")], {}, r"labels 1 to 2"),
        ([(1, "daisy", ""), (1, "rose", "")], {}, r"labels 1 to 1"),
        ([(2, "daisy", ""), (3, "rose", "")], {}, r"--label_offset=N"),
        ([(10**12, "daisy", "")], {}, r"labels 1000000000000"),
        ([(1, "", ""), (4, "", "")], {"names": FLOWERS}, "may count from 0 or"),
        ([(0, "", ""), (5, "", "")], {"names": FLOWERS}, "5 class names do not"),
        ([("lily", "", "")], {"names": FLOWERS}, "lily is none of the class names"),
    ],
)
def test_labels_that_nobody_explains(classes, given, message):
    with pytest.raises(UserError, match=message):
        names.find_classes(dict.fromkeys(classes, 5), **given)


def test_one_wrong_record_does_not_change_what_labels_mean():
    classes = {(i + 1, "", SYNSETS[i]): 10 for i in range(100)} | {(7, "", "n1"): 1}
    assert names.find_classes(classes).offset == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("\ufeffdaisy\n rose \n", ["daisy", "rose"]),
        ("1:rose\n0:daisy\n", ["daisy", "rose"]),
        ("1 rose\n2 lily\n", ["1 rose", "2 lily"]),
        ("n02012849 crane\nn03126707 crane, lift\n", ["crane", "crane, lift"]),
        ("5:rose\n9:lily\n", ["5:rose", "9:lily"]),
    ],
)
def test_files_of_class_names(tmp_path, content, expected):
    (tmp_path / "names.txt").write_text(content, "utf-8")
    assert read_class_names(str(tmp_path / "names.txt")) == tuple(expected)


@pytest.mark.parametrize("content", [b"a\nb\na\n", b"a\n\nb", b"\xff", b""])
def test_files_that_hold_no_class_names(tmp_path, content):
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"must have a name on each|cannot be read"):
        read_class_names(str(tmp_path / "names.txt"))


def test_records_end_as_every_other_picture_does(tmp_path, monkeypatch):
    """Square, upright, on white: whatever their size, EXIF data and transparency."""
    monkeypatch.chdir(tmp_path)
    upright = Image.fromarray(np.zeros((600, 800, 3), np.uint8))
    upright.paste((255, 0, 0), (0, 0, 400, 600))  # red at the left
    clear, turned = Image.new("RGBA", (800, 600)), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down: red is at the right when it is upright
    upright.save(turned, "JPEG", exif=exif)
    transparent = io.BytesIO()
    clear.save(transparent, "PNG")
    images = [turned.getvalue(), transparent.getvalue()] * 4
    examples = [slim(i % 2, "ab"[i % 2], image=image) for i, image in enumerate(images)]
    write_shard(tmp_path / "shards" / "train-00000-of-00001", examples)
    write_shard(tmp_path / "shards" / "validation-00000-of-00001", examples)
    (tmp_path / "names.txt").write_text("turned\nclear\n")
    reading = Reading(class_names="names.txt", label_offset=0)
    own = find_own_data("shards", "runs/data", reading)
    data_set = open_data_set(own.prepare())
    assert data_set.class_names == ("turned", "clear")
    seen = {}
    for record in tf.data.TFRecordDataset(data_set.splits["train"].filenames):
        features = tf.train.Example.FromString(record.numpy()).features.feature
        image = Image.open(io.BytesIO(features["image"].bytes_list.value[0]))
        assert image.size == (256, 256)
        seen[features["label"].int64_list.value[0]] = np.array(image).astype(int)
    assert seen[1].min() > 250
    assert seen[0][:, -64:, 0].min() > 240
    assert seen[0][:, :64].max() < 15
    # The names were for the preparation alone: a run goes on with its data set.
    assert find_own_data(own.directory, "runs/data") is None
    again = find_own_data("shards", "runs/data", reading)
    monkeypatch.setattr(own_data, "prepare", lambda **_: pytest.fail("again"))
    assert again.prepare() == own.directory


# TensorFlow Datasets


def store(directory, name="pets", version="1.0.0", image="image", label=None, **kwargs):
    """Writes a small data set as TFDS does."""
    label = label or tfds.features.ClassLabel(names=["cat", "dog"])
    features = {image: tfds.features.Image(shape=(8, 8, 3)), "label": label}

    def examples(number, value):
        for i in range(number):
            pixels = np.full((8, 8, 3), 20 * value + i + 20, np.uint8)
            yield f"{value} {i}", {image: pixels, "label": value}

    splits = {"train": [*examples(10, 0), *examples(10, 1)], "test": [*examples(3, 0)]}
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version=version,
        data_dir=directory,
        features=tfds.features.FeaturesDict(features),
        split_datasets=splits | kwargs.pop("more", lambda _: {})(examples),
        **kwargs,
    )
    return directory / name / version


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record", "parquet"])
def test_tfds_directories_of_others(tmp_path, file_format):
    if file_format == "array_record":
        pytest.importorskip("array_record")
    directory = store(tmp_path, image="picture", file_format=file_format)
    for path in (tmp_path, tmp_path / "pets", directory):
        assert sources.recognise(str(path), Reading()) == "tfds"
    source = open_any(tmp_path)
    assert list(source.class_names) == ["cat", "dog"]
    found = read_items(source)
    assert {split: len(items) for split, items in found.items()} == {
        "train": 20,
        "test": 3,
    }
    assert list(found["test"]) == [f"test/{i:08d}" for i in range(3)]
    assert Image.open(io.BytesIO(next(source.all_items()).content)).size == (8, 8)


def test_tfds_by_name_and_version(tmp_path):
    store(tmp_path)
    store(tmp_path, version="1.10.0", label=tfds.features.ClassLabel(names=["x", "y"]))
    assert list(open_any(tmp_path, name="pets").class_names) == ["x", "y"]
    assert list(open_any(tmp_path, name="pets:1.0.0").class_names) == ["cat", "dog"]
    assert list(open_any(tmp_path / "pets/1.0.0").class_names) == ["cat", "dog"]
    with pytest.raises(UserError, match=r"or versions of one; give one of: .*1\.10"):
        open_any(tmp_path)
    with pytest.raises(UserError, match="TFDS cannot load dogs"):
        open_any(tmp_path, name="dogs")


def test_tfds_directory_of_others_that_names_a_class(tmp_path, monkeypatch):
    directory = store(tmp_path)
    before = (directory / "features.json").read_text()
    (tmp_path / "payload.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    for key in ("pythonClassName", "python_class_name", "type"):
        features = json.loads(before)
        feature = features["featuresDict"]["features"]["label"]
        del feature["pythonClassName"]
        feature[key] = "payload.Text"
        (directory / "features.json").write_text(json.dumps(features))
        for path, name in ((tmp_path, None), (tmp_path, "pets"), (None, "pets")):
            with pytest.raises(UserError, match=r"names the class 'payload\.Text', wh"):
                sources.open_source("auto", path and str(path), Reading(name=name))
    assert not (tmp_path / "ran").exists()


def change_splits(info, **values):
    """Changes what the card of a data set of TFDS says of each of its splits."""
    content = json.loads(info.read_text())
    for split in content["splits"]:
        split.update(values)
    info.write_text(json.dumps(content))


def test_tfds_directory_that_leads_elsewhere(tmp_path):
    directory = store(tmp_path)
    names = directory / "label.labels.txt"
    names.rename(tmp_path / "secret.txt")
    names.symlink_to(tmp_path / "secret.txt")
    with pytest.raises(UserError, match=r"labels\.txt is a link, or no file"):
        open_any(tmp_path)
    (tmp_path / "secret.txt").replace(names)
    info = directory / "dataset_info.json"
    for template in ("/etc/passwd", "../1.0.0/{DATASET}-{SPLIT}.{SHARD_X_OF_Y}"):
        change_splits(info, filepathTemplate=template)
        with pytest.raises(UserError, match="shards of train are missing in"):
            open_any(tmp_path)


def test_tfds_directory_that_says_what_cannot_be(tmp_path):
    info = store(tmp_path) / "dataset_info.json"
    before = info.read_text()
    for lengths, message in {
        ("-5",): "train of .* cannot be read: Requested slice",
        (str(2**62),): f"train of .* expected to contain {2**62} elements",
        ("1",) * 1000: "shards of train are missing",
    }.items():
        change_splits(info, shardLengths=lengths)
        with pytest.raises(UserError, match=message) as error:
            list(open_any(tmp_path).all_items())
        assert "\n" not in str(error.value)
    shard = next(info.parent.glob("pets-train*"))
    info.write_text(before)
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(UserError, match="is cut short, damaged or no TFRecord file"):
        open_any(tmp_path)


def test_a_data_sets_name_is_no_path(tmp_path):
    info = store(tmp_path) / "dataset_info.json"
    template = "pets-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    change_splits(info, filepathTemplate=template)
    info.write_text(info.read_text().replace('"name": "pets"', '"name": "../../x"'))
    assert open_any(tmp_path).name == "x"


def test_tfds_labels_without_names(tmp_path):
    store(tmp_path, label=np.int64)
    with pytest.raises(UserError, match="pets does not name its classes: give --class"):
        open_any(tmp_path)
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    source = open_any(tmp_path, class_names=str(tmp_path / "names.txt"))
    assert set(read_items(source)["test"].values()) == {"cat"}


def test_splits_and_labels_of_tfds(tmp_path):
    def more(examples):
        extra = {"extra": [*examples(2, 1)], "validation": [*examples(4, -1)]}
        return extra | {"train": [*examples(10, 0), *examples(3, -1)]}

    store(tmp_path, more=more)
    source = open_any(tmp_path)
    found = read_items(source)
    assert {split: len(items) for split, items in found.items()} == {
        "train": 13,
        "test": 3,
    }
    assert list(found["train"].values()).count(None) == 3
    assert source.notes == [
        "left out: splits that are none of ours: 1, the first extra",
        "left out: splits without labels: 1, the first validation",
    ]


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_a_data_set_of_ours_can_be_prepared_again(tmp_path, encoding):
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(6):
            image = encoded(i + 6 * (name == "dog"), size=(32, 32))
            (tmp_path / "pets" / name / f"{i}.png").write_bytes(image)
    options = Options(image_size=32, encoding=encoding)
    for source, output in (("pets", "first"), ("first", "second")):
        source, output = str(tmp_path / source), str(tmp_path / output)
        prepare(input=source, output=output, options=options, num_workers=0)
    first, second = (
        open_data_set(str(tmp_path / name)) for name in ("first", "second")
    )
    assert (second.name, second.class_names) == (first.name, first.class_names)
    for name, split in first.splits.items():
        assert second.splits[name].num_examples == split.num_examples


# Archives


def write_folders(root):
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(3):
            image = encoded(i + 3 * (name == "dog"))
            (root / name / f"{i}.png").write_bytes(image)
    return root


def make_archive(path, root):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(root.rglob("*.png")):
                archive.write(file, file.relative_to(root.parent))
    else:
        with tarfile.open(path, "w:" + path.suffix[1:].replace("tar", "")) as archive:
            archive.add(root, root.name)
    return path


def open_archive(path, directory):
    return sources.open_unpacked("auto", str(path), Reading(), str(directory))


@pytest.mark.parametrize("name", ["pets.zip", "pets.tar", "pets.tar.gz", "pets.tar.xz"])
def test_archives_of_a_folder(tmp_path, name):
    archive = make_archive(tmp_path / name, write_folders(tmp_path / "in" / "pets"))
    source = open_archive(archive, tmp_path / "unpacked")
    assert (source.name, source.class_names) == ("pets", ["cat", "dog"])
    assert source.num_items == 6


def test_an_archive_of_archives(tmp_path):
    (tmp_path / "in").mkdir()
    for kind in ("train", "test"):
        pets = write_folders(tmp_path / "pets" / kind)
        make_archive(tmp_path / "in" / f"{kind}.zip", pets)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as whole:
        for kind in ("train", "test"):
            whole.write(tmp_path / "in" / f"{kind}.zip", f"{kind}.zip")
    source = open_archive(tmp_path / "all.zip", tmp_path / "unpacked")
    assert count(read_items(source)) == {"train": 6, "test": 6}
    assert (source.name, source.class_names) == ("all", ["cat", "dog"])


def test_a_list_beside_archives(tmp_path):
    folder = tmp_path / "y" / "train"
    folder.mkdir(parents=True)
    for i in range(4):
        (folder / f"{i}.png").write_bytes(encoded(i))
    with zipfile.ZipFile(tmp_path / "kaggle.zip", "w") as whole:
        whole.writestr("labels.csv", "id,label\n0,a\n1,b\n2,a\n3,b\n")
        whole.write(make_archive(tmp_path / "train.zip", folder), "train.zip")
    source = open_archive(tmp_path / "kaggle.zip", tmp_path / "unpacked")
    assert list(read_items(source)["train"].values()) == ["a", "b", "a", "b"]


def test_advice_for_an_archive_names_no_folder_that_goes(tmp_path):
    root = tmp_path / "in" / "pets"
    root.mkdir(parents=True)
    for i in range(4):
        (root / f"{'cat' if i % 2 else 'dog'}.{i}.png").write_bytes(encoded(i))
    archive = make_archive(tmp_path / "pets.zip", root)
    with pytest.raises(UserError, match=r"--input=pets .*unpack .*pets\.zip first"):
        open_archive(archive, tmp_path / "temporary")


def test_prepared_from_an_archive_nothing_else_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_archive(tmp_path / "pets.zip", write_folders(tmp_path / "in" / "pets"))
    own = find_own_data("pets.zip", "runs/data")
    directory = own.prepare()
    assert os.path.basename(directory).startswith("pets-")
    assert find_own_data("pets.zip", "runs/data") == own
    assert not os.path.exists(os.path.join(directory, "unpacked"))
    assert os.listdir("runs/data") == [os.path.basename(directory)]
    assert open_data_set(directory).class_names == ("cat", "dog")


def test_damaged_archives(tmp_path):
    folder = write_folders(tmp_path / "in" / "pets")
    for name in ("pets.zip", "pets.tar", "pets.tar.gz"):
        archive = make_archive(tmp_path / name, folder)
        content = bytearray(archive.read_bytes())
        content[200] ^= 255
        for wrong in (content, content[: len(content) // 2]):
            archive.write_bytes(wrong)
            with pytest.raises(UserError) as error:
                open_archive(archive, tmp_path / "unpacked")
            assert "\n" not in str(error.value)


def test_archives_write_nothing_outside(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("../../outside.png")
        member.size = len(encoded())
        archive.addfile(member, io.BytesIO(encoded()))
    with pytest.raises(UserError, match=r"a\.tar cannot be unpacked: '../../outside"):
        open_archive(tmp_path / "a.tar", tmp_path / "x" / "y")
    assert not list(tmp_path.rglob("outside.png"))


def test_larger_than_the_disk(tmp_path, monkeypatch):
    archive = make_archive(tmp_path / "pets.zip", write_folders(tmp_path / "in/pets"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: types.SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"pets\.zip unpacks to 0\.0 GB, and "):
        open_archive(archive, tmp_path / "unpacked")


# CIFAR


def cifar_batches(label_key="fine_labels", names_key="fine_label_names"):
    generator = np.random.default_rng(0)

    def batch(number):
        pixels = generator.integers(0, 256, (number, 3072)).astype(np.uint8)
        return {"data": pixels, label_key: [i % 2 for i in range(number)]}

    meta = {names_key: ["apple", "bear"]}
    return {"train": batch(5), "test": batch(2), "meta": meta}


def write_cifar_100(root, batches, protocol=2):
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for name, content in batches.items():
        (folder / name).write_bytes(pickle.dumps(content, protocol))
    return make_archive(root / "cifar-100-python.tar.gz", folder)


@pytest.mark.parametrize("protocol", [2, 4])
def test_cifar_100_archive(tmp_path, protocol):
    batches = cifar_batches()
    archive = write_cifar_100(tmp_path, batches, protocol)
    source = open_archive(archive, tmp_path / "unpacked")
    assert (source.name, source.class_names) == ("cifar100", ["apple", "bear"])
    found = read_items(source)
    assert list(found["test"]) == ["test/00000", "test/00001"]
    assert found["train"] == {
        f"train/{i:05d}": ["apple", "bear"][i % 2] for i in range(5)
    }
    item = next(source.all_items())
    pixels = batches["train"]["data"][0].reshape(3, 32, 32).transpose(1, 2, 0)
    np.testing.assert_array_equal(Image.open(io.BytesIO(item.content)), pixels)


def test_cifar_10_and_the_binary_versions(tmp_path):
    batches = cifar_batches("labels", "label_names")
    rows = batches["train"]
    for name in ("python", "binary", "binary100"):
        (tmp_path / name).mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        content = pickle.dumps(rows, 2)
        (tmp_path / "python" / name).write_bytes(content)
        pairs = zip(rows["labels"], rows["data"], strict=True)
        content = b"".join(bytes([label]) + pixels.tobytes() for label, pixels in pairs)
        (tmp_path / "binary" / f"{name}.bin").write_bytes(content)
    (tmp_path / "python" / "batches.meta").write_bytes(pickle.dumps(batches["meta"]))
    (tmp_path / "binary" / "batches.meta.txt").write_text("apple\nbear\n\n")
    for name in ("train.bin", "test.bin"):
        pairs = zip(rows["labels"], rows["data"], strict=True)
        content = b"".join(bytes([9, label]) + p.tobytes() for label, p in pairs)
        (tmp_path / "binary100" / name).write_bytes(content)
    (tmp_path / "binary100" / "fine_label_names.txt").write_text("apple\nbear\n")
    expected = {"python": 25, "binary": 25, "binary100": 5}
    for folder, number in expected.items():
        source = open_any(tmp_path / folder)
        assert source.class_names == ["apple", "bear"]
        assert count(read_items(source)) == {"train": number, "test": 5}
        item = next(source.all_items())
        pixels = rows["data"][0].reshape(3, 32, 32).transpose(1, 2, 0)
        np.testing.assert_array_equal(Image.open(io.BytesIO(item.content)), pixels)


class Attack:
    """Makes a directory when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    ("member", "key", "value", "message"),
    [
        ("train", "data", Attack("attacked"), "would call posix.mkdir"),
        ("train", "data", np.array([None, "object"]), "expected an array of bytes"),
        ("train", "data", np.zeros((5, 3072)), "expected an array of bytes"),
        ("train", "data", np.zeros((5, 100), np.uint8), r"\(5, 100\) pixels for 5"),
        ("train", "data", [1, 2, 3], "has no attribute 'values'"),
        ("train", "fine_labels", [0, 1, 2, 0, 1], r"expected labels 0\.\.1"),
        ("train", "fine_labels", ["0"] * 5, r"expected labels 0\.\.1"),
        ("test", "fine_labels", [0], r"pixels for 1 labels"),
        ("meta", "fine_label_names", [1, 2], "expected names of classes"),
        ("meta", "fine_label_names", None, "is not iterable"),
    ],
)
def test_cifar_100_of_others(tmp_path, monkeypatch, member, key, value, message):
    monkeypatch.chdir(tmp_path)
    batches = cifar_batches()
    batches[member][key] = value
    write_cifar_100(tmp_path / "in", batches)
    with pytest.raises(UserError, match=f"is not cifar100 as.*{message}") as error:
        open_any(tmp_path / "in" / "cifar-100-python")
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == ["in"]


def test_damaged_cifar_100_archive(tmp_path):
    archive = write_cifar_100(tmp_path, cifar_batches())
    content = bytearray(archive.read_bytes())
    content[-6] ^= 1  # of the checksum at the end
    for damaged in (content, content[:-3000]):
        archive.write_bytes(damaged)
        with pytest.raises(UserError, match=r"python\.tar\.gz cannot be unpacked"):
            open_archive(archive, tmp_path / "unpacked")
    archive.write_bytes(b"")
    with pytest.raises(UserError, match="is a file that is no list of pictures"):
        open_archive(archive, tmp_path / "unpacked")


def write_parquet(path, columns, names=None):
    """Writes a file as Hugging Face's library does, with names or without."""
    table = pyarrow.table(columns)
    if names:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        about = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": about})
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path)


def pairs(*seeds):
    return [{"bytes": encoded(seed), "path": f"{seed}.png"} for seed in seeds]


def test_parquet_files_of_hugging_face(tmp_path):
    names, folder = ["cat", "dog"], tmp_path / "data"
    for part, seeds in ((0, (0, 1, 2)), (1, (3,))):
        columns = {"image": pairs(*seeds), "label": [seed % 2 for seed in seeds]}
        write_parquet(folder / f"train-0000{part}-of-00002.parquet", columns, names)
    columns = {"image": pairs(4, 5), "label": [1, 0]}
    hashed = "validation-00000-of-00001-0123456789abcdef.parquet"
    write_parquet(folder / hashed, columns, names)
    columns = {"image": pairs(6), "label": [-1]}  # as the hub has test splits
    write_parquet(folder / "test-00000-of-00001.parquet", columns, names)
    source = open_any(tmp_path)
    assert source.class_names == ("cat", "dog")
    assert source.num_items == 6
    assert "rows with no label, or a negative one: 1" in source.notes[0]
    items = list(source.all_items())
    assert [(i.split, i.label) for i in items] == [
        *(("train", 0), ("train", 1), ("train", 0), ("train", 1)),
        *(("validation", 1), ("validation", 0)),
    ]
    assert [item.content for item in items] == [encoded(seed) for seed in range(6)]
    assert len({item.name for item in items}) == 6
    (folder / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(UserError, match="1 of 2 shards such as data/train-00000"):
        open_any(tmp_path)


def test_parquet_file_of_another_program(tmp_path):
    path = tmp_path / "animals.parquet"
    columns = {"jpg": [encoded(i) for i in range(3)], "species": ["b", "a", None]}
    write_parquet(path, columns)
    with pytest.raises(UserError, match="give --label_column=NAME, one of species"):
        open_any(path)
    source = open_any(path, label_column="species")
    assert source.class_names == ("a", "b")
    assert [item.label for item in source.all_items()] == [1, 0]
    write_parquet(path, {"jpg": columns["jpg"], "label": [10, 2, 10]})
    source = open_any(path)
    assert source.class_names == ("2", "10")
    assert [item.label for item in source.all_items()] == [1, 0, 1]
    with pytest.raises(UserError, match="their own names: leave --label_offset out"):
        open_any(path, label_offset=2)
    (tmp_path / "names.txt").write_text("x\ny\n")
    write_parquet(path, {"jpg": columns["jpg"], "label": [1, 2, 1]})
    source = open_any(path, class_names=str(tmp_path / "names.txt"))
    assert source.class_names == ("x", "y")
    assert [item.label for item in source.all_items()] == [0, 1, 0]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(99) + b"PAR1"])
def test_damaged_parquet_file_is_one_line(content, tmp_path):
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.parquet cannot be read: .*copy it again"):
        open_any(tmp_path)


PICTURES = [encoded(0), encoded(1)]


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (pyarrow.array(PICTURES, kind), pyarrow.array(["no", "yes"], text))
        for kind, text in (
            (pyarrow.large_binary(), pyarrow.large_string()),
            (pyarrow.binary_view(), pyarrow.string_view()),
        )
    ]
    + [
        (
            pyarrow.array(PICTURES).dictionary_encode(),
            pyarrow.array(["no", "yes"]).dictionary_encode(),
        ),
        (PICTURES, [False, True]),
    ],
    ids=["large", "views", "dictionaries", "bool"],
)
def test_parquet_files_of_other_types(images, labels, tmp_path):
    write_parquet(tmp_path / "x.parquet", {"image": images, "label": labels})
    source = open_any(tmp_path)
    assert source.class_names in (("no", "yes"), ("False", "True"))
    assert [item.label for item in source.all_items()] == [0, 1]
    assert [item.content for item in source.all_items()] == PICTURES


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ("default/train/0 default/test/0", {"train": 1, "test": 1}),
        ("default/partial-train/0 default/test/0", {"train": 1, "test": 1}),
        ("default/validation/0000", {"validation": 1}),
        ("train/label/a train/label/b val/label/a", {"train": 2, "validation": 1}),
        ("train.parquet/part-0 test.parquet/part-0", {"train": 1, "test": 1}),
        ("data/train-0 data/unlabeled-0", {"train": 1}),
        ("train ._train .cache/x/test", {"train": 1}),
        ("A/train-0 B/train-0", "several data sets, of which are A/train-0"),
        ("A/train-0 B/test-0", "several data sets"),
        ("A/train/0 A/test/0 B/train/0 B/test/0", "several data sets"),
        ("train-00000-of-00001 train-00000-of-00001-0123456789abcdef", "versions"),
        (
            "train-00000-of-00001 train-00000-of-00002 train-00001-of-00002",
            "3 shards such as train-00000-of-00001.parquet, which are of several",
        ),
    ],
)
def test_splits_of_parquet_files(files, found, tmp_path):
    for file in files.split():
        path = tmp_path / "set.parquet" / f"{file}.parquet"
        write_parquet(path, {"image": PICTURES[:1], "label": ["a"]})
    if isinstance(found, str):
        with pytest.raises(UserError, match=found):
            open_any(tmp_path / "set.parquet")
    else:
        assert count(read_items(open_any(tmp_path / "set.parquet"))) == found


@pytest.mark.parametrize(
    ("columns", "names", "message"),
    [
        (
            {"image": PICTURES, "label": [0, 1]},
            ["dog", "cat"],
            "names of their classes",
        ),
        ({"image": PICTURES, "label": ["cat", "dog"]}, None, "differ in their columns"),
        ({"img": PICTURES, "label": [0, 1]}, ["cat", "dog"], "differ in their columns"),
        ({"image": PICTURES}, None, "1.parquet has no column of labels, as texts or"),
        ({"image": PICTURES, "label": [0.0, 1.0]}, None, "no column of labels"),
        ({"image": PICTURES, "label": [[0], [1]]}, None, "no column of labels"),
        ({"image": ["a.png", "b.png"], "label": [0, 1]}, None, "no column of pictures"),
    ],
)
def test_parquet_file_unlike_the_first(columns, names, message, tmp_path):
    first = {"image": PICTURES, "label": [0, 1]}
    write_parquet(tmp_path / "train-0.parquet", first, ["cat", "dog"])
    write_parquet(tmp_path / "train-1.parquet", columns, names)
    with pytest.raises(UserError, match=message):
        open_any(tmp_path)


def test_parquet_file_with_texts_that_are_no_utf_8(tmp_path):
    texts = pyarrow.array([b"\xff", b"a"]).buffers()
    labels = pyarrow.Array.from_buffers(pyarrow.string(), 2, texts)
    write_parquet(tmp_path / "x.parquet", {"image": PICTURES, "label": labels})
    with pytest.raises(UserError, match="cannot be read: 'utf-8' codec"):
        open_any(tmp_path)


def test_paths_of_pictures_in_parquet_files(tmp_path):
    columns = {"image": [*pairs(0, 1), None], "label": [0, 1, 1]}
    write_parquet(tmp_path / "x.parquet", columns)
    items = list(open_any(tmp_path).all_items())
    names = ["0/0.png", "1/1.png", "2"]
    assert [item.name for item in items] == [f"x.parquet/00000{n}" for n in names]
    assert items[2].content == b""
    columns["image"][1] = {"bytes": None, "path": "beside.png"}
    write_parquet(tmp_path / "x.parquet", columns)
    with pytest.raises(
        UserError, match=r"has the path beside\.png in place of the pic"
    ):
        list(open_any(tmp_path).all_items())


def test_a_group_of_rows_is_read_in_parts(tmp_path):
    noise = np.random.default_rng(0)
    columns = {"image": [noise.bytes(2**20) for _ in range(64)], "label": ["a"] * 64}
    path = tmp_path / "x.parquet"
    table = pyarrow.table(columns)
    pyarrow.parquet.write_table(table, path, use_dictionary=False, write_batch_size=1)
    items = open_any(path).all_items()
    del table
    before = pyarrow.total_allocated_bytes()
    assert next(items).content == columns["image"][0]
    assert pyarrow.total_allocated_bytes() - before < 40 * 2**20


def test_webdataset_is_refused(tmp_path):
    with tarfile.open(tmp_path / "train-000.tar", "w") as tar:
        for suffix, content in (("png", encoded(0)), ("cls", b"0")):
            member = tarfile.TarInfo(f"00000.{suffix}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(UserError, match=r"files of WebDataset, such as 00000\.cls"):
        open_archive(tmp_path, tmp_path / "unpacked")


def test_elpv_is_split_by_class():
    source = elpv.open_source()
    (items,) = source.parts
    counts = np.zeros((2, 4), int)
    for item in items:
        counts[("train", "validation").index(item.split), item.label] += 1
    assert counts.sum(axis=0).tolist() == [705, 369, 1098, 452]
    np.testing.assert_allclose(counts[1] / counts.sum(axis=0), 0.2, atol=0.002)
    assert items == elpv.open_source().parts[0]


def test_record_files_are_known_by_their_names(tmp_path):
    for name, is_known in {
        "train-00000-of-01024": True,
        "x.tfrecord": True,
        "x.TFRECORD.gz": False,
        "0-00001-of-00003.png": False,
        "x.array_record-00000-of-00001": False,
        "photo.jpg": False,
    }.items():
        (tmp_path / name).write_bytes(b"")
        found = [file.path for file in tfrecord.find_files(str(tmp_path))]
        assert (name in found) == is_known, name
        (tmp_path / name).unlink()

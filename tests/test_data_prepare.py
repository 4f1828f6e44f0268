"""Preparation, from odd picture files to what the records hold."""

import dataclasses
import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from alexnet_tf.errors import UserError
from alexnet_tf.imagenet_classes import synsets as synsets_of_imagenet
from alexnet_tf.pipeline.data_set import open_data_set
from alexnet_tf.pipeline.reading import parse_record
from data import writer
from data.held_out import content_digest, find_thresholds, split_of
from data.prepare import prepare
from data.source import Item, Reading
from data.sources import imagenet
from data.transcode import Options, transcode

SMALL = Options(image_size=32)


def picture(seed=0, size=(60, 40), mode="RGB"):
    """A smooth random picture: what JPEG keeps well."""
    generator = np.random.default_rng(seed)
    channels = len(Image.new(mode, (1, 1)).getbands())
    corners = generator.integers(0, 256, (3, 3, channels)).astype(np.uint8)
    bands = [Image.fromarray(corners[..., i]) for i in range(channels)]
    bands = [band.resize(size, Image.Resampling.BILINEAR) for band in bands]
    return Image.merge(mode, bands) if channels > 1 else bands[0].convert(mode)


def encoded(image, file_format="JPEG", **kwargs):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **kwargs)
    return buffer.getvalue()


def read(data_dir):
    """Returns {split: {file name: (image bytes, label)}} in the order on disk."""
    data_set = open_data_set(str(data_dir))
    content = {}
    for name, split in data_set.splits.items():
        content[name] = {}
        shards = tf.data.TFRecordDataset(list(split.filenames))
        for serialized in shards.as_numpy_iterator():
            example = tf.train.Example.FromString(serialized)
            file_name = example.features.feature["file_name"].bytes_list.value[0]
            image_bytes, label = parse_record(serialized)
            content[name][file_name.decode()] = (image_bytes.numpy(), int(label))
        assert len(content[name]) == split.num_examples
    return content


def write_folders(root, number=6, classes=("cat", "dog")):
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(number):
            (root / name / f"{i}.jpg").write_bytes(
                encoded(picture(100 * label + i), quality=95)
            )


def prepare_folder(root, output, num_workers=0, beam_options=None, **options):
    prepare(
        input=str(root),
        output=str(output),
        options=dataclasses.replace(SMALL, **options),
        num_workers=num_workers,
        beam_options=beam_options,
    )


# ImageNet, in miniature


def tar_of(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


ODD_FILES = {
    "n01440764_1.JPEG": encoded(picture(1)),
    "n01440764_2.JPEG": encoded(picture(2, mode="CMYK")),
    "n01440764_3.JPEG": encoded(picture(3), "PNG"),
    "n01440764_4.JPEG": encoded(picture(4, (600, 400)))[:2000],  # truncated
    "n01440764_5.JPEG": encoded(picture(5, mode="L")),
    "n01440764_6.JPEG": encoded(picture(6, (1, 50))),
    "n01440764_7.JPEG": encoded(picture(1)),  # again
}
VALIDATION_FILES = {
    # The first of the official list is n01751748, the second n09193705.
    "ILSVRC2012_val_00000002.JPEG": encoded(picture(20)),
    "ILSVRC2012_val_00000001.JPEG": encoded(picture(1)),  # in train too
}


@pytest.fixture(scope="module")
def miniature_imagenet(tmp_path_factory):
    root = tmp_path_factory.mktemp("imagenet")
    others = {f"n01443537_{i}.JPEG": encoded(picture(30 + i)) for i in range(5)}
    train = {"n01440764.tar": tar_of(ODD_FILES), "n01443537.tar": tar_of(others)}
    (root / imagenet.TRAIN_ARCHIVE).write_bytes(tar_of(train))
    (root / imagenet.VALIDATION_ARCHIVE).write_bytes(tar_of(VALIDATION_FILES))
    return root


def test_features_are_in_the_same_order_in_every_run(tmp_path):
    write_folders(tmp_path / "in")
    output = str(tmp_path / "out")
    prepare_folder(tmp_path / "in", output)
    shards = tf.io.gfile.glob(f"{output}/*.tfrecord*")
    records = list(tf.data.TFRecordDataset(shards).as_numpy_iterator())
    assert len(records) == 12
    # By itself protobuf gives an order that changes from one process to another.
    names = b"file_name", b"image", b"label"
    for record in records:
        places = [record.index(b"\n" + bytes([len(name)]) + name) for name in names]
        assert places == sorted(places)


def test_miniature_imagenet(miniature_imagenet, tmp_path, capsys):
    output = tmp_path / "out"
    prepare(
        input=str(miniature_imagenet),
        output=str(output),
        options=SMALL,
        num_workers=0,
    )
    content = read(output)
    good = ["1", "2", "3", "5", "7"]
    assert {n: label for n, (_, label) in content["train"].items()} == {
        **{f"n01440764_{n}.JPEG": 0 for n in good},
        **{f"n01443537_{i}.JPEG": 1 for i in range(5)},
    }
    synsets = synsets_of_imagenet()
    assert {n: synsets[label] for n, (_, label) in content["validation"].items()} == {
        "ILSVRC2012_val_00000001.JPEG": "n01751748",
        "ILSVRC2012_val_00000002.JPEG": "n09193705",
    }
    assert open_data_set(str(output)).class_names[:2] == ("tench", "goldfish")
    metadata = json.loads((output / "metadata.json").read_text())
    assert metadata["source"]["synsets"][0] == "n01440764"

    for name, content_bytes in ODD_FILES.items():
        if name.split("_")[1][0] in good:
            stored = Image.open(io.BytesIO(content["train"][name][0]))
            assert (stored.format, stored.mode, stored.size) == (
                "JPEG",
                "RGB",
                (32, 32),
            )
            expected = Image.open(io.BytesIO(content_bytes)).convert("RGB")
            expected = expected.crop((10, 0, 50, 40)).resize((32, 32))
            difference = np.abs(np.array(stored, int) - np.array(expected, int))
            assert difference.mean() < 6

    rejected = (output / "rejected.tsv").read_text().splitlines()[1:]
    assert rejected[0].startswith("n01440764_4.JPEG\timage file is truncated")
    assert rejected[1:] == ["n01440764_6.JPEG\ttoo small: 1×50 pixels"]
    duplicates = (output / "duplicates.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[1:] for line in duplicates] == [
        ["train", "tench", "n01440764_1.JPEG"],
        ["train", "tench", "n01440764_7.JPEG"],
        ["validation", "sea snake", "ILSVRC2012_val_00000001.JPEG"],
    ]
    summary = capsys.readouterr().out
    assert "12 pictures" in summary
    assert "converted: CMYK 1, PNG named .JPEG 1, grey 1" in summary
    assert "rejected: 2" in summary
    assert "2 more copies of 1 pictures, 1 of them in several splits" in summary


def test_unpacked_imagenet_is_the_same(miniature_imagenet, tmp_path):
    outputs = tmp_path / "tars", tmp_path / "tree"
    tree = tmp_path / "unpacked"
    (tree / "val").mkdir(parents=True)
    for name, content in VALIDATION_FILES.items():
        (tree / "val" / name).write_bytes(content)
    with tarfile.open(miniature_imagenet / imagenet.TRAIN_ARCHIVE) as outer:
        for member in outer:
            with tarfile.open(fileobj=outer.extractfile(member)) as inner:
                folder = tree / "train" / member.name.removesuffix(".tar")
                inner.extractall(folder, filter="data")
    for root, output in zip((miniature_imagenet, tree), outputs, strict=True):
        prepare(input=str(root), output=str(output), options=SMALL, num_workers=0)
    assert list(read(outputs[0])["train"].items()) == list(
        read(outputs[1])["train"].items()
    )
    assert read(outputs[0]) == read(outputs[1])


def prepare_imagenet(root, output, **archives):
    """Prepares from archives given as bytes; the others are the miniature's."""
    root.mkdir()
    for name, content in archives.items():
        (root / getattr(imagenet, name)).write_bytes(content)
    prepare(input=str(root), output=str(output), options=SMALL, num_workers=0)


def test_archive_cut_short(miniature_imagenet, tmp_path):
    train, validation = (
        (miniature_imagenet / name).read_bytes()
        for name in (imagenet.TRAIN_ARCHIVE, imagenet.VALIDATION_ARCHIVE)
    )
    message = r"_train.tar is damaged or cut short"
    with pytest.raises(UserError, match=message):
        prepare_imagenet(
            tmp_path / "1",
            tmp_path / "out",
            TRAIN_ARCHIVE=train[: len(train) // 2],
            VALIDATION_ARCHIVE=validation,
        )
    with pytest.raises(UserError, match=message):  # where a file ends
        prepare_imagenet(
            tmp_path / "2",
            tmp_path / "out",
            TRAIN_ARCHIVE=train[: _end_of_files(train)],
            VALIDATION_ARCHIVE=validation,
        )
    assert not (tmp_path / "out").exists()


def _end_of_files(content):
    """Returns where the blocks of zeros begin that end an archive."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        *_, last = tar
        return last.offset_data + -(-last.size // 512) * 512


def test_a_flipped_bit_in_a_header_drops_no_class(miniature_imagenet, tmp_path):
    content = bytearray((miniature_imagenet / imagenet.TRAIN_ARCHIVE).read_bytes())
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        second = tar.getmembers()[1]
    content[second.offset + 136] ^= 1  # in the time of its last change
    with pytest.raises(UserError, match="a bad header after 1 files"):
        prepare_imagenet(tmp_path / "1", tmp_path / "out", TRAIN_ARCHIVE=content)
    content[second.offset + 136] ^= 1
    first = content[second.offset_data : second.offset_data + second.size]
    with tarfile.open(fileobj=io.BytesIO(first)) as inner:
        picture_header = second.offset_data + inner.getmembers()[2].offset
    content[picture_header + 136] ^= 1
    with pytest.raises(UserError, match=r"in it n01443537.tar, is .*after 2 files"):
        prepare_imagenet(tmp_path / "2", tmp_path / "out", TRAIN_ARCHIVE=content)


def test_an_empty_archive_of_a_class_is_an_error(tmp_path):
    files = {"n01440764.tar": tar_of(ODD_FILES), "n01443537.tar": tar_of({})}
    train = tar_of(files)
    with pytest.raises(UserError, match=r"n01443537.tar, .*there is no file in it"):
        prepare_imagenet(tmp_path / "in", tmp_path / "out", TRAIN_ARCHIVE=train)


def test_training_archive_alone(miniature_imagenet, tmp_path):
    train = (miniature_imagenet / imagenet.TRAIN_ARCHIVE).read_bytes()
    prepare_imagenet(tmp_path / "in", tmp_path / "out", TRAIN_ARCHIVE=train)
    content = read(tmp_path / "out")
    assert len(content["train"]) + len(content["validation"]) == 10
    assert [label for _, label in content["validation"].values()].count(1) == 1


# Folders


def test_folder_gives_a_share_of_each_class(tmp_path):
    root = tmp_path / "pictures"
    write_folders(root, 12)
    (root / "eel").mkdir()
    (root / "eel" / "0.jpg").write_bytes(encoded(picture(7)))
    for i in range(1, 4):  # copies stay together
        (root / "dog" / f"copy{i}.jpg").write_bytes(
            (root / "dog" / "0.jpg").read_bytes()
        )
    for name in ("before", "after"):
        output = str(tmp_path / name)
        prepare_folder(root, output, validation_fraction=0.25)
        for i in range(100, 104):
            (root / "cat" / f"{i}.jpg").write_bytes(encoded(picture(i + 1000)))
    before, after = read(tmp_path / "before"), read(tmp_path / "after")

    def held_out(content, label):
        return {n for n, (_, k) in content["validation"].items() if k == label}

    assert len(held_out(before, 0)) == 3
    assert len(held_out(after, 0)) == 4
    assert len(held_out(before, 0) - held_out(after, 0)) <= 2
    assert held_out(before, 2) == set()
    assert held_out(before, 1) == held_out(after, 1)
    dogs = {"dog/0.jpg", *(f"dog/copy{i}.jpg" for i in range(1, 4))}
    held = held_out(before, 1)
    assert len(held - dogs) + bool(held & dogs) == 3
    assert held & dogs in (set(), dogs)
    assert sum(map(len, after.values())) == 32
    assert (before["train"] | before["validation"])["dog/3.jpg"][1] == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"source": "folder", "input": "in", "reading": Reading(name="cats")},
            "read as --source=folder, which has no --name",
        ),
        ({"source": "elpv", "input": "in"}, "brings its own pictures"),
        ({"source": "imagenet"}, "give --input"),
        ({}, "give --input"),
        ({"source": "tfds"}, "needs --name"),
    ],
)
def test_what_a_source_does_not_take_is_not_ignored(tmp_path, given, message):
    with pytest.raises(UserError, match=message):
        prepare(output=str(tmp_path / "out"), **given)


@pytest.mark.parametrize(("number", "held_out"), [(1, 0), (2, 1), (4, 1), (90, 9)])
def test_quota_of_a_class(number, held_out):
    items = [Item(f"{i}", 5, b"%d" % i) for i in range(number)]
    thresholds = find_thresholds(iter(items), 0.1)
    splits = [
        split_of(item, content_digest(item.content), thresholds) for item in items
    ]
    assert splits.count("validation") == held_out
    none = find_thresholds(iter(items), 0.0)
    assert {split_of(i, content_digest(i.content), none) for i in items} == {"train"}


def test_groups_stay_together():
    items = [Item(f"{i}", i % 3, b"%d" % i, group=f"g{i // 4}") for i in range(80)]
    thresholds = find_thresholds(iter(items), 0.2)
    splits = {i: split_of(i, content_digest(i.content), thresholds) for i in items}
    held_out = {item.group for item, split in splits.items() if split == "validation"}
    kept = {item.group for item, split in splits.items() if split == "train"}
    assert len(held_out) == 4
    assert not held_out & kept
    assert len(kept) == 16
    with pytest.raises(UserError, match="one group only"):
        find_thresholds([Item("a", 0, b"", group="x")], 0.2)


def test_folder_with_its_own_splits(tmp_path, capsys):
    write_folders(tmp_path / "in" / "train", 3)
    write_folders(tmp_path / "in" / "val", 2)
    (tmp_path / "in" / "train" / "cat" / "deeper").mkdir()
    (tmp_path / "in" / "train" / "cat" / "deeper" / "a.gif").write_bytes(
        encoded(picture(9).convert("P"), "GIF")
    )
    (tmp_path / "in" / "train" / "dog" / "notes.txt").write_text("no picture")
    (tmp_path / "in" / "train" / "dog" / ".hidden").write_text("no picture")
    prepare_folder(tmp_path / "in", tmp_path / "out")
    content = read(tmp_path / "out")
    assert {split: len(names) for split, names in content.items()} == {
        "train": 7,
        "validation": 4,
    }
    assert content["train"]["train/cat/deeper/a.gif"][1] == 0
    printed = capsys.readouterr().out
    assert "files without a picture: 1, the first" in printed
    assert "dog/notes.txt\n" in printed
    assert "hidden or system files: 1, the first" in printed
    assert "palette 1" in printed


def test_folder_without_classes(tmp_path):
    (tmp_path / "in" / "only").mkdir(parents=True)
    with pytest.raises(UserError, match="no picture in"):
        prepare_folder(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in" / "only" / "a.jpg").write_bytes(encoded(picture()))
    with pytest.raises(UserError, match=r"each of two or more classes.*found only"):
        prepare_folder(tmp_path / "in", tmp_path / "out")


def test_same_bytes_whatever_the_number_of_workers(tmp_path):
    write_folders(tmp_path / "in", 20)
    for workers in (1, 2):
        prepare_folder(tmp_path / "in", tmp_path / f"{workers}", num_workers=workers)
    prepare_folder(tmp_path / "in", tmp_path / "seed", seed=1)
    shards = [p.name for p in (tmp_path / "1").iterdir() if ".tfrecord" in p.name]
    assert len(shards) == 2
    for name in [*shards, "metadata.json", "dataset_info.json"]:
        content = (tmp_path / "1" / name).read_bytes()
        assert content == (tmp_path / "2" / name).read_bytes()
    one, other = read(tmp_path / "1")["train"], read(tmp_path / "seed")["train"]
    assert one == other
    assert list(one) != list(other)
    labels = [label for _, label in one.values()]
    assert labels != sorted(labels)


def test_the_number_of_buckets_changes_no_byte(tmp_path, monkeypatch):
    write_folders(tmp_path / "in", 20)
    prepare_folder(tmp_path / "in", tmp_path / "many")
    monkeypatch.setattr(writer, "_BUCKETS", 1)
    prepare_folder(tmp_path / "in", tmp_path / "one")
    names = sorted(os.listdir(tmp_path / "many"))
    assert sorted(os.listdir(tmp_path / "one")) == names
    for name in names:
        content = (tmp_path / "many" / name).read_bytes()
        assert content == (tmp_path / "one" / name).read_bytes(), name


def test_num_shards(tmp_path):
    write_folders(tmp_path / "in", 10)
    prepare_folder(tmp_path / "in", tmp_path / "out", num_shards=8)
    splits = open_data_set(str(tmp_path / "out")).splits
    assert len(splits["train"].filenames) == 8
    assert len(splits["validation"].filenames) == 8  # some of which are empty
    for split in splits.values():
        lengths = [sum(1 for _ in tf.data.TFRecordDataset(f)) for f in split.filenames]
        assert tuple(lengths) == split.shard_lengths
    read_by_tfds = tfds.builder_from_directory(str(tmp_path / "out"))
    for name, split in splits.items():
        examples = list(read_by_tfds.as_dataset(split=name).as_numpy_iterator())
        assert len(examples) == split.num_examples > 0
        assert examples[0]["image"].shape == (32, 32, 3)


def test_control_characters_in_names_reach_no_table(tmp_path, capsys):
    write_folders(tmp_path / "in", 2)
    bad = tmp_path / "in" / "cat" / "\x1b[31mred\n.jpg"
    bad.write_bytes(b"no picture")
    prepare_folder(tmp_path / "in", tmp_path / "out")
    table = (tmp_path / "out" / "rejected.tsv").read_text()
    assert "cat/\\x1b[31mred .jpg\tnot a picture in a known format" in table
    with pytest.raises(UserError) as error:
        prepare_folder(tmp_path / "in", tmp_path / "out2", max_errors=0)
    assert "\x1b" not in str(error.value)
    assert "\n" not in str(error.value)
    assert "\x1b" not in capsys.readouterr().out


# Single pictures


def test_fit_warp_scales_both_sides():
    image = picture(6, (80, 20))
    expected = image.resize((32, 32), Image.Resampling.BICUBIC)
    options = Options(image_size=32, fit="warp", encoding="raw")
    (record,) = transcode([Item("a.bmp", 0, encoded(image, "BMP"))], options, {})
    assert record.image == expected.tobytes()


def test_options_are_checked():
    for name, value in {"fit": "croop", "image_size": 7, "quality": 101}.items():
        with pytest.raises(ValueError, match=f"{name} must be .*, received {value}"):
            Options(**{name: value})


def test_quality_is_the_quality_of_the_stored_jpeg():
    sizes = {}
    for quality in (40, 95):
        options = Options(image_size=32, quality=quality)
        (record,) = transcode(
            [Item("a.bmp", 0, encoded(picture(), "BMP"))], options, {}
        )
        stored = Image.open(io.BytesIO(record.image))
        expected = Image.open(io.BytesIO(encoded(stored, quality=quality)))
        assert stored.quantization == expected.quantization
        sizes[quality] = record.num_bytes
    assert sizes[40] < sizes[95]


@pytest.mark.parametrize("cut", [0, 10, 100, 1000, 3000])
def test_truncated_bytes_are_rejected_not_fatal(cut):
    image = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    )
    for file_format in ("JPEG", "PNG", "WEBP", "TIFF"):
        content = encoded(image, file_format)[:cut]
        (record,) = transcode([Item("a", 0, content, "train")], SMALL, {})
        assert record.rejected
        assert not record.image


def test_missing_file_is_rejected(tmp_path):
    (record,) = transcode([Item("a", 0, str(tmp_path / "gone.jpg"))], SMALL, {})
    assert record.rejected == "cannot be read: No such file or directory"


def test_statistics_are_those_of_the_stored_pixels(tmp_path):
    write_folders(tmp_path / "in", 8)
    out = tmp_path / "out"
    options = {"encoding": "raw", "validation_fraction": 0.3}
    prepare_folder(tmp_path / "in", out, **options)
    pixels = np.frombuffer(
        b"".join(image_bytes for image_bytes, _ in read(out)["train"].values()),
        np.uint8,
    ).reshape(-1, 3)
    measured = open_data_set(str(out)).statistics()
    np.testing.assert_allclose(measured.mean_color, pixels.mean(axis=0), atol=1e-5)
    vectors = measured.color_eigenvectors
    covariance = vectors * measured.color_eigenvalues @ vectors.T
    np.testing.assert_allclose(covariance, np.cov(pixels.T, bias=True), atol=1e-3)


# The output as a whole


def test_too_many_errors(tmp_path):
    write_folders(tmp_path / "in", 3)
    for i in range(4):
        (tmp_path / "in" / "cat" / f"bad{i}.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"4 pictures cannot be used.*--max_errors"):
        prepare_folder(tmp_path / "in", tmp_path / "out", max_errors=3)
    assert sorted(os.listdir(tmp_path)) == ["in"]
    prepare_folder(tmp_path / "in", tmp_path / "out", max_errors=4)


def test_missing_shard_of_a_prepared_set(tmp_path):
    write_folders(tmp_path / "in", 3)
    prepare_folder(tmp_path / "in", tmp_path / "out", num_shards=2)
    (shard,) = (tmp_path / "out").glob("*train*00001-of-00002")
    shard.unlink()
    with pytest.raises(UserError, match="of 2 shards of train 1 are missing"):
        open_data_set(str(tmp_path / "out"))


def test_beam_makes_the_same_records(miniature_imagenet, tmp_path):
    pytest.importorskip("apache_beam", reason="requirements-beam.txt is not installed")
    for name, beam_options in (("local", None), ("beam", [])):
        prepare(
            source="imagenet",
            input=str(miniature_imagenet),
            output=str(tmp_path / name),
            options=Options(image_size=32, num_shards=2),
            beam_options=beam_options,
        )
    local, beam = tmp_path / "local", tmp_path / "beam"
    assert sorted(os.listdir(local)) == sorted(os.listdir(beam))
    for name in os.listdir(local):
        assert (local / name).read_bytes() == (beam / name).read_bytes()


def test_beam_holds_out_the_same_pictures(tmp_path):
    pytest.importorskip("apache_beam", reason="requirements-beam.txt is not installed")
    write_folders(tmp_path / "in", 8)
    (tmp_path / "in" / "cat" / "bad.jpg").write_bytes(b"no picture")
    for name, beam_options in (("local", None), ("beam", [])):
        prepare_folder(tmp_path / "in", tmp_path / name, beam_options=beam_options)
    assert read(tmp_path / "local") == read(tmp_path / "beam")
    names = sorted(os.listdir(tmp_path / "local"))
    assert sorted(os.listdir(tmp_path / "beam")) == names
    rejected = [(tmp_path / n / "rejected.tsv").read_text() for n in ("local", "beam")]
    assert rejected[0] == rejected[1]


def test_workers_do_without_tensorflow(tmp_path):
    write_folders(tmp_path / "in", 2)
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if '--multiprocessing-fork' in sys.orig_argv:\n"
        "    sys.modules['tensorflow'] = None  # whoever imports it fails\n"
    )
    arguments = [
        "--source=folder",
        f"--input={tmp_path}/in",
        f"--output={tmp_path}/out",
    ]
    root = pathlib.Path(__file__).resolve().parent.parent
    ended = subprocess.run(
        [sys.executable, "-m", "data.prepare", "--source=folder", *arguments],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, "4 pictures" in ended.stdout) == (0, True), ended.stderr

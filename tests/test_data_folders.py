"""How folders of pictures are understood: splits, classes, litter, links."""

import io
import os
import tarfile
import unicodedata

import numpy as np
import pytest
from PIL import Image

from alexnet_tf.errors import UserError
from alexnet_tf.pictures.listing import LeftOut, find_pictures
from data import sources
from data.check import check
from data.prepare import prepare
from data.source import Reading, check_class_names, find_splits
from data.sources import imagenet
from data.transcode import Options


def picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


PICTURE = picture(0)


def make(root, *paths):
    """Writes pictures, all the same, at paths below a folder."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(PICTURE)
    return root


def items(source):
    """Returns {name: (class, split)} of a source's pictures."""
    found = [item for part in source.parts for item in source.items(part)]
    assert len(found) == source.num_items
    labels = [None if i.label is None else source.class_names[i.label] for i in found]
    return {
        item.name: (label, item.split)
        for item, label in zip(found, labels, strict=True)
    }


def open_folder(root, **reading):
    source = sources.open_source("folder", str(root), Reading(**reading))
    return source, items(source)


def splits_of(names):
    return {name.split("/")[0]: split for name, (_, split) in names.items()}


@pytest.mark.parametrize(
    "expected",
    [
        {"train": "train", "valid": "validation", "test": "test"},
        {"Train": "train", "Test": "test"},
        {"training": "train", "testing": "test"},
        {"seg_train": "train", "seg_test": "test"},
        {"val": "validation", "test": "test"},
        {"TRAINING": "train", "Dev": "validation"},
        {"train": "train", "eval": "validation"},
        {"train-set": "train", "validation-set": "validation"},
        {"test": "test"},
        {"val": "validation"},
        {"train": "train"},
    ],
)
def test_folders_of_splits(tmp_path, expected):
    for name in expected:
        make(tmp_path, f"{name}/cat/1.png", f"{name}/dog/1.png")
    source, names = open_folder(tmp_path)
    assert source.class_names == ["cat", "dog"]
    assert splits_of(names) == expected
    assert {label for label, _ in names.values()} == {"cat", "dog"}
    assert source.splits == set(expected.values())
    is_split = "validation" in source.splits or "train" not in source.splits
    assert source.holds_out != is_split


def test_a_split_inside_itself(tmp_path):
    for name in ("seg_train/seg_train", "seg_test/seg_test"):
        make(tmp_path, f"{name}/sea/1.png", f"{name}/wood/1.png")
    make(tmp_path, "seg_pred/seg_pred/1.png")
    source, names = open_folder(tmp_path)
    assert source.class_names == ["sea", "wood"]
    assert splits_of(names) == {"seg_train": "train", "seg_test": "test"}
    assert any("beside the splits: 1, the first seg_pred" in n for n in source.notes)


def test_images_inside_the_folders_of_splits(tmp_path):
    for name in ("train/images", "val/images"):
        make(tmp_path, f"{name}/sea/1.png", f"{name}/wood/1.png")
    source, names = open_folder(tmp_path)
    assert source.class_names == ["sea", "wood"]
    assert splits_of(names) == {"train": "train", "val": "validation"}


def test_what_stands_beside_is_named(tmp_path):
    make(tmp_path, "train/a/1.png", "train/b/1.png", "train/loose.png")
    make(tmp_path, "dev/a/1.png", "dev/b/1.png", "extra/a/1.png", "loose.png")
    make(tmp_path, "test/1.png")
    source, names = open_folder(tmp_path)
    assert splits_of(names) == {"train": "train", "dev": "validation"}
    notes = "\n".join(source.notes)
    assert "splits: dev/ is validation" in notes
    assert "folders beside the splits: 1, the first extra" in notes
    assert f"outside the folders of the splits: 1, the first {tmp_path}" in notes
    assert f"of train without a class: 1, the first {tmp_path}/train/loose.png" in notes
    assert f"of test without a class: 1, the first {tmp_path}/test/1.png" in notes


def test_loose_pictures_in_the_root_are_named(tmp_path):
    make(tmp_path, "a/1.png", "b/1.png", "loose.png", "other.png")
    source, names = open_folder(tmp_path)
    assert set(names) == {"a/1.png", "b/1.png"}
    assert any("of train without a class: 2" in note for note in source.notes)


def test_pictures_that_are_called_as_their_splits(tmp_path):
    splits = "train", "val"
    make(
        tmp_path, *(f"{s}/{c}/{s}_{i}.png" for s in splits for c in "ab" for i in "12")
    )
    assert open_folder(tmp_path)[0].class_names == ["a", "b"]


def test_classes_that_are_numbers_are_in_their_order(tmp_path):
    make(tmp_path, *(f"{i}/1.png" for i in (10, 2, 1)))
    assert open_folder(tmp_path)[0].class_names == ["1", "2", "10"]


def test_a_pattern_leaves_out_by_name_what_it_does_not_find(tmp_path):
    make(tmp_path, *(f"train/{c}.{i}.png" for c in ("cat", "dog") for i in range(2)))
    make(tmp_path, "test/cat.5.png", "test/eel.5.png", "more/cat.9.png", "train/7.png")
    source, names = open_folder(tmp_path, label_from=r"([a-z]+)\.\d")
    assert source.class_names == ["cat", "dog"]
    assert names["test/cat.5.png"] == ("cat", "test")
    notes = "\n".join(source.notes)
    assert "folders beside the splits: 1, the first more" in notes
    assert "pictures of eel, a class of test but not of train: 1" in notes
    assert f"of train without a class: 1, the first {tmp_path}/train/7.png" in notes


def test_a_class_may_be_called_train(tmp_path):
    make(tmp_path, "bus/1.png", "train/1.png", "training shoe/1.png")
    source, names = open_folder(tmp_path)
    assert source.class_names == ["bus", "train", "training shoe"]
    assert set(splits_of(names).values()) == {"train"}


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (("train/1.png", "test/1.png"), "train in .* should have a folder for each"),
        (("train/1.png", "val/a/1.png", "val/b/1.png"), "train in .* should have"),
        (("dev/a/1.png", "eval/a/1.png"), "dev and eval in .* both mean .* validation"),
        (
            ("train/a/1.png", "train/b/1.png", "val/c/1.png"),
            "val/c/1.png first, cannot validate",
        ),
        (("train/a/1.png", "train/b/1.png", "val/1.png"), "val/1.png first, cannot"),
        (("train/good/1.png", "test/good/1.png", "test/bad/1.png"), "found good$"),
        (("a/train/1.png", "a/test/1.png", "b/train/1.png"), "a split inside another"),
        (("data/train/a/1.png", "data/val/a/1.png", "test/a/1.png"), "inside another"),
        (("train/a/1.png",), "two or more classes.*found a"),
        (("a/1.png",), "two or more classes.*found a"),
        (("1.png",), "two or more classes.*found none"),
        (("a\nb/1.png", "c/1.png"), r"'a\\nb' has a control character"),
        (("a\u2028b/1.png", "c/1.png"), r"'a\\u2028b' has a control character"),
        (("a\x0bb/1.png", "c/1.png"), r"'a\\x0bb' has a control character"),
        (("cat/1.png", "cat /1.png"), "'cat ' is empty, or begins or ends with a bl"),
        ((" /1.png", "cat/1.png"), "' ' is empty, or begins or ends with a blank"),
        (("é/1.png", "e\u0301/1.png"), "finds 1 classes"),
        (("a\udcff/1.png", "b/1.png"), r"'a\\xff' is not UTF-8"),
    ],
)
def test_what_cannot_be_understood(tmp_path, paths, message):
    make(tmp_path, *paths)
    with pytest.raises(UserError, match=message) as error:
        open_folder(tmp_path)
    assert "\n" not in str(error.value)


def test_decomposed_letters_are_the_same_class(tmp_path):
    decomposed = unicodedata.normalize("NFD", "café")
    make(tmp_path, f"train/{decomposed}/1.png", "train/tea/1.png", "val/café/1.png")
    source, names = open_folder(tmp_path)
    assert source.class_names == ["café", "tea"]
    assert names["val/café/1.png"] == ("café", "validation")


def test_class_names_of_every_source_are_checked():
    check_class_names(["x", "y z"])
    for name in ("", "x\x1b[31m", "x\x85"):
        with pytest.raises(UserError, match="the name of the class"):
            check_class_names(["x", name])


def test_names_of_splits():
    assert find_splits(["train", "test", "unlabelled"], "x") == {
        "train": "train",
        "test": "test",
    }
    assert find_splits(["freight_train", "bus"], "x") == {}
    assert find_splits(["train1", "train2"], "x") == {}
    assert find_splits(["train2017", "val2017"], "x") == {
        "train2017": "train",
        "val2017": "validation",
    }
    assert find_splits(["strain_train", "strain_test"], "x") == {
        "strain_train": "train",
        "strain_test": "test",
    }
    assert find_splits(["my.train", "my.VAL"], "x") == {
        "my.train": "train",
        "my.VAL": "validation",
    }


# The walker


LITTER = ("Thumbs.db", "desktop.ini", ".DS_Store", "._1.png", ".hidden.png")
SYSTEM = (
    "__MACOSX",
    "@eaDir",
    "$RECYCLE.BIN",
    "lost+found",
    "#recycle",
    ".ipynb_checkpoints",
    "System Volume Information",
)


def find(root):
    left_out = LeftOut()
    paths = find_pictures(str(root), left_out)
    return [os.path.relpath(path, root) for path in paths], left_out.lines()


def test_litter(tmp_path):
    make(tmp_path, "a/1.png", "b/1.png")
    for name in LITTER:
        (tmp_path / "a" / name).write_bytes(PICTURE)
    for name in SYSTEM:
        make(tmp_path, f"{name}/1.png", f"a/{name}/1.png")
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    (tmp_path / "b" / "empty").mkdir()
    source, names = open_folder(tmp_path)
    assert set(names) == {"a/1.png", "b/1.png"}
    assert source.class_names == ["a", "b"]
    assert [line.split(", the first")[0] for line in source.notes] == [
        f"left out: hidden or system folders: {2 * len(SYSTEM)}",
        f"left out: hidden or system files: {len(LITTER)}",
        "left out: folders without a picture: 2",
    ]


def test_by_content_not_by_name(tmp_path):
    image = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    kinds = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
    for kind in kinds:
        image.save(tmp_path / f"{kind}_without_suffix", kind)
    names = {"a.jfif", "b.tif", "c.jpe", "d.JPG", "photo.heic"}
    for name in names:
        (tmp_path / name).write_bytes(b"what only its name calls a picture")
    for name, content in {
        "notes": b"BM is how this text begins",
        "numbers": b"P1 is one of them",
        "labels.csv": b"a,b",
        "nothing": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
    found, lines = find(tmp_path)
    assert set(found) == names | {f"{kind}_without_suffix" for kind in kinds}
    assert lines == [
        f"left out: files without a picture: 4, the first {tmp_path}/labels.csv"
    ]


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path):
    make(tmp_path, "1.png")
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(20 << 30)
    found, lines = find(tmp_path)
    assert found == ["1.png"]
    assert [line.split(", the first")[0] for line in lines] == [
        "left out: pipes, devices and sockets: 2",
        "left out: links that lead nowhere: 1",
        "left out: files larger than 512 MiB: 1",
    ]


def test_links_are_followed_once(tmp_path):
    elsewhere = make(tmp_path / "elsewhere", "3.png", "4.png")
    root = make(tmp_path / "root", "a/1.png", "b/2.png")
    (root / "a" / "aa").symlink_to(elsewhere)
    (root / "b" / "bb").symlink_to(elsewhere)  # the second link to it
    (root / "a" / "b").symlink_to(root / "b")  # to another class
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "top").symlink_to("/")
    (root / "a" / "self").symlink_to(root / "a" / "self")
    (root / "c").symlink_to(make(tmp_path / "class", "5.png"))
    (root / "a" / "6.png").symlink_to(elsewhere / "3.png")  # a file, not a folder
    source, names = open_folder(root)
    assert {name: label for name, (label, _) in names.items()} == {
        "a/1.png": "a",
        "a/6.png": "a",
        "a/aa/3.png": "a",
        "a/aa/4.png": "a",
        "b/2.png": "b",
        "c/5.png": "c",
    }
    assert any("taken already: 4, the first" in line for line in source.notes)
    assert any("links that lead nowhere: 1, the" in line for line in source.notes)


def test_names_are_shown_without_control_characters(tmp_path):
    (tmp_path / "a\x1b[31m\udcff.txt").write_text("red")
    assert find(tmp_path)[1][0].endswith(r"a\x1b[31m\xff.txt")


# ImageNet's tree


def test_synset_folders_with_one_basename(tmp_path):
    make(tmp_path, "train/n01440764/1.JPEG", "train/n01443537/1.JPEG")
    make(tmp_path, "train/n01440764/n01440764_1.JPEG")
    make(tmp_path, "val/n01440764/ILSVRC2012_val_00000293.JPEG")
    names = items(imagenet.open_source(str(tmp_path)))
    assert names == {
        "train/n01440764/1.JPEG": ("tench", "train"),
        "train/n01443537/1.JPEG": ("goldfish", "train"),
        "n01440764_1.JPEG": ("tench", "train"),
        "ILSVRC2012_val_00000293.JPEG": ("tench", "validation"),
    }


def test_imagenet_with_one_split_only(tmp_path):
    make(tmp_path / "val", "val/ILSVRC2012_val_00000001.JPEG")
    source = imagenet.open_source(str(tmp_path / "val"))
    assert source.splits == {"validation"}
    assert list(items(source).values()) == [("sea snake", "validation")]
    make(tmp_path / "train", "train/n01440764/1.JPEG")
    assert imagenet.open_source(str(tmp_path / "train")).holds_out


def test_what_stands_beside_imagenets_archives_is_named(tmp_path):
    make(tmp_path, "train/n01440764/1.JPEG")
    with tarfile.open(tmp_path / imagenet.VALIDATION_ARCHIVE, "w") as tar:
        tar.add(tmp_path / "train/n01440764/1.JPEG", "ILSVRC2012_val_00000001.JPEG")
    source = imagenet.open_source(str(tmp_path))
    assert source.splits == {"validation"}
    left_out = "left out: what stands beside the archives: 1, the first train"
    assert source.notes == [left_out]


# What prepare and check say


def prepared(root, output, capsys, **options):
    options = Options(image_size=16, encoding="raw", **options)
    prepare(input=str(root), output=str(output), options=options, num_workers=0)
    return capsys.readouterr().out


def write_many(root, *folders, number=3):
    for index, name in enumerate(folders):
        (root / name).mkdir(parents=True)
        for i in range(number):
            (root / name / f"{i}.png").write_bytes(picture(100 * index + i))
    return root


def test_evaluation_alone(tmp_path, capsys):
    root = write_many(tmp_path / "in", "test/a", "test/b")
    printed = prepared(root, tmp_path / "out", capsys)
    assert "test: 6; a 3, b 3" in printed
    assert "note" not in printed
    assert check(str(tmp_path / "out")) == []


@pytest.mark.parametrize(
    ("folders", "options", "gap"),
    [
        (
            ["train/a", "train/b", "val/a"],
            {},
            "validation has no picture of b",
        ),
        (
            ["a", "b"],
            {"validation_fraction": 0.0},
            "there is no picture for validation, and training needs some",
        ),
    ],
)
def test_gaps_are_said_by_prepare_and_by_check(tmp_path, capsys, folders, options, gap):
    root = write_many(tmp_path / "in", *folders)
    assert f"note: {gap}\n" in prepared(root, tmp_path / "out", capsys, **options)
    assert gap in check(str(tmp_path / "out"))

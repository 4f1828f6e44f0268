"""A folder of pictures as --data_dir: found, prepared once, mistakes named."""

import os
import re
import shutil
import types

import numpy as np
import pytest
from absl import flags
from PIL import Image

from alexnet_tf.errors import UserError
from alexnet_tf.pipeline.data_set import open_data_set
from data import own_pictures
from data.own_pictures import find_own_pictures


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A folder of two classes, `my pictures`, in the current directory."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for i in range(20):
        folder = tmp_path / "my pictures" / "cd"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8))
        image.save(folder / (f"{i}.png" if i else "0-00001-of-00003.png"))
    return tmp_path / "my pictures"


def test_pictures_are_prepared_once(pictures, monkeypatch):
    first = find_own_pictures("my pictures", "runs/data")
    assert re.fullmatch(r"runs/data/my_pictures-[0-9a-f]{8}", first.directory)
    data_set = open_data_set(first.prepare())
    assert data_set.class_names == ("c", "d")
    numbers = {name: split.num_examples for name, split in data_set.splits.items()}
    assert numbers == {"train": 18, "validation": 2}
    monkeypatch.setattr(own_pictures, "prepare", lambda **_: pytest.fail("again"))
    assert find_own_pictures("my pictures", "runs/data").prepare() == first.directory
    assert find_own_pictures(first.directory, "runs/data") is None
    assert find_own_pictures("runs", "runs/data") is None


def change_time(pictures):
    os.utime(pictures / "c" / "0-00001-of-00003.png", (1, 1))


def add(pictures):
    (pictures / "d" / "more.png").write_bytes(
        (pictures / "c" / "0-00001-of-00003.png").read_bytes()
    )


def move(pictures):
    (pictures / "c" / "0-00001-of-00003.png").rename(pictures / "d" / "0.png")


@pytest.mark.parametrize("change", [change_time, add, move])
def test_changed_pictures_are_other_data(pictures, change):
    (pictures / "c" / "notes.txt").write_text("no picture")
    before = find_own_pictures("my pictures", "runs/data")
    (pictures / "c" / "notes.txt").write_text("still no picture")
    assert find_own_pictures("my pictures", "runs/data") == before
    change(pictures)
    assert find_own_pictures("my pictures", "runs/data") != before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("my pictures/c", "found none with a picture: type {}'--data_dir=my pictures'"),
        ("my pictures/c/2.png", "2.png is a file: type {}'--data_dir=my pictures'"),
        ("above", "found my pictures: type {}'--data_dir=above/my pictures'"),
        ("two", "type {}--data_dir=two/a; if the upper ones are, "),
        ("a.zip", "is a file: give a folder with a folder of pictures for each class"),
        ("other", "no picture in .*: give a folder with a folder of pictures for each"),
        ("done/dataset_info.json", "is a file: type {}--data_dir=done"),
    ],
)
def test_a_wrong_level_gets_the_line_to_type(pictures, given, message):
    here = pictures.parent
    for copy in ("above/my pictures", "two/a", "two/b"):
        shutil.copytree(pictures, here / copy)
    for name in ("other/letter.txt", "a.zip", "done/dataset_info.json"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text("x")
    with pytest.raises(UserError, match=message.format(".*python train.py ")):
        find_own_pictures(given, "runs/data")


def test_what_is_no_flag_is_taken_for_the_pictures(pictures):
    import train

    values = types.SimpleNamespace(data_dir=None)
    with pytest.raises(flags.Error, match=r"'my pictures'; give --data_dir=my pic"):
        train.check(values, ["my pictures"])
    assert train.check(values, []) is None
    values.data_dir = "my pictures"
    assert train.check(values, []).folder == "my pictures"

"""What --data_dir may be besides a data set: found, prepared once, found again."""

import functools
import json
import os
import re

import numpy as np
import pytest
from absl import flags
from PIL import Image

from alexnet_tf.errors import UserError
from alexnet_tf.pipeline.data_set import open_data_set
from data import own_data
from data.own_data import find_own_data
from data.source import Reading


@pytest.fixture(autouse=True)
def in_this_process(tmp_path, monkeypatch):
    """Prepares without other processes, in the current directory."""
    monkeypatch.chdir(tmp_path)
    prepare = own_data.prepare
    monkeypatch.setattr(own_data, "prepare", lambda **k: prepare(num_workers=0, **k))


@pytest.fixture
def pictures(tmp_path):
    """A folder of two classes, `my pictures`, in the current directory."""
    rng = np.random.default_rng(0)
    for i in range(20):
        folder = tmp_path / "my pictures" / "cd"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8))
        image.save(folder / (f"{i}.png" if i else "0-00001-of-00003.png"))
    return tmp_path / "my pictures"


def test_pictures_are_prepared_once(pictures, monkeypatch, capsys):
    first = find_own_data("my pictures", "runs/data")
    assert re.fullmatch(r"runs/data/my_pictures-[0-9a-f]{8}", first.directory)
    data_set = open_data_set(first.prepare())
    assert data_set.class_names == ("c", "d")
    numbers = {name: split.num_examples for name, split in data_set.splits.items()}
    assert numbers == {"train": 18, "validation": 2}
    monkeypatch.setattr(own_data, "prepare", lambda **_: pytest.fail("again"))
    assert find_own_data("my pictures", "runs/data").prepare() == first.directory
    assert (
        "my pictures is prepared in runs/data/my_pictures-" in capsys.readouterr().out
    )
    assert find_own_data(first.directory, "runs/data") is None


def test_the_same_pictures_are_the_same_data(pictures):
    before = find_own_data("my pictures", "runs/data")
    (pictures / "c" / "notes.txt").write_text("no picture")
    assert find_own_data("my pictures", "runs/data") == before
    after = find_own_data(str(pictures), "runs/data")
    assert after.directory == before.directory


def add(pictures):
    image = (pictures / "c" / "0-00001-of-00003.png").read_bytes()
    (pictures / "d" / "more.png").write_bytes(image)


def replace(pictures):
    path, other = pictures / "c" / "2.png", pictures / "c" / "4.png"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns + 1
    path.write_bytes(other.read_bytes()[: path.stat().st_size])
    os.utime(path, ns=times)


def move(pictures):
    (pictures / "c" / "0-00001-of-00003.png").rename(pictures / "d" / "0.png")


@pytest.mark.parametrize("change", [add, replace, move])
def test_changed_pictures_are_other_data(pictures, change, capsys):
    before = find_own_data("my pictures", "runs/data").prepare()
    change(pictures)
    after = find_own_data("my pictures", "runs/data")
    assert after.directory != before
    assert after.older == (before,)
    after.prepare()
    assert (
        f"  {before} is of an earlier state: rm -r {before}\n"
        in capsys.readouterr().out
    )


def test_outputs_are_not_written_among_the_pictures(pictures, monkeypatch):
    with pytest.raises(UserError, match="holds --model_dir=my pictures/run, which"):
        find_own_data("my pictures", "runs/data", model_dir="my pictures/run")
    monkeypatch.chdir(pictures)
    with pytest.raises(UserError, match=r"--data_dir=\. holds runs/data, which"):
        find_own_data(".", "runs/data")
    assert sorted(os.listdir(".")) == ["c", "d"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "my pictures/c",
            r"expected a folder for each of two .*/c, found none with a picture$",
        ),
        (
            "my pictures/c/2.png",
            r"2\.png is a file that is no list .* archive$",
        ),
        (
            "letter.doc",
            r"letter\.doc is a file that is no list .* archive$",
        ),
        ("empty", r"no picture in .*empty or in the folders below it$"),
    ],
)
def test_mistakes_in_the_level(pictures, given, message):
    (pictures.parent / "letter.doc").write_text("x")
    (pictures.parent / "empty" / "er").mkdir(parents=True)
    with pytest.raises(UserError, match=message) as error:
        find_own_data(given, "runs/data")
    assert "\n" not in str(error.value)


def test_a_card_that_is_a_pipe_is_not_waited_for(pictures):
    os.mkfifo(pictures / "metadata.json")
    assert find_own_data("my pictures", "runs/data").directory


def test_several_workers_do_not_prepare(pictures, monkeypatch):
    cluster = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker"}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    own = find_own_data("my pictures", "runs/data")
    message = (
        "before 2 workers train on it: type .* '--input=my pictures' --output=(.*),"
    )
    with pytest.raises(UserError, match=message) as error:
        own.prepare()
    assert "\n" not in str(error.value)
    monkeypatch.delenv("TF_CONFIG")
    own.prepare()
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    assert find_own_data("my pictures", "runs/data").prepare() == own.directory


def test_names_of_classes_are_for_what_is_prepared(pictures):
    directory = find_own_data("my pictures", "runs/data").prepare()
    with pytest.raises(UserError, match="knows its classes: leave out --class_names"):
        find_own_data(directory, "runs/data", Reading(class_names="names.txt"))
    with pytest.raises(UserError, match="is read as --source=folder, which has no"):
        find_own_data("my pictures", "runs/data", Reading(class_names="names.txt"))


def flag_values(*given):
    import train

    values = flags.FlagValues()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flags, "FLAGS", values)
        for name in ("DEFINE", "DEFINE_enum", "DEFINE_bool", "DEFINE_boolean"):
            define = functools.partial(getattr(flags, name), flag_values=values)
            patch.setattr(flags, name, define)
        train.define_flags()
    values(["train.py", *given])
    return values


def test_how_pictures_are_read_can_be_given(pictures, monkeypatch):
    import train

    (pictures / "c").rename(pictures / "images")
    (pictures / "d").rename(pictures / "masks")
    pattern = "--label_from=^([^/]+)/"
    with pytest.raises(UserError, match="look like pictures and what belongs to them"):
        train.check(flag_values("--data_dir=my pictures"), [])
    own = train.check(flag_values("--data_dir=my pictures", pattern), [])
    cluster = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker"}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    with pytest.raises(UserError, match=r"type .*label_from=\^.*--input="):
        own.prepare()
    monkeypatch.delenv("TF_CONFIG")
    assert os.path.isdir(own.prepare())


def test_what_is_no_flag_is_taken_for_the_pictures(pictures):
    import train

    with pytest.raises(flags.Error, match=r"'my pictures'; give --data_dir=my pic"):
        train.check(flag_values(), ["my pictures"])
    assert train.check(flag_values(), []) is None
    assert train.check(flag_values("--data_dir=my pictures"), []).path == "my pictures"
    with pytest.raises(flags.Error, match="--label_offset belongs to a --data_dir"):
        train.check(flag_values("--label_offset=0", "--model_dir=runs/x"), [])

"""A path is what a person means by it, and never a pattern."""

import os

import pytest
import tensorflow as tf
from helpers import NOT_UTF8, ODD_NAMES, python, tree

from alexnet_tf.errors import UserError
from alexnet_tf.paths import (
    checkpoint_files,
    expand,
    find_above,
    for_tensorflow,
    from_here,
    is_remote,
    local_only,
)


def test_expand(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    assert expand("~/runs") == "/home/ann/runs"
    assert expand("~") == "/home/ann"
    assert expand("./~") == "./~"
    assert expand("runs/lr[0.01]*?") == "runs/lr[0.01]*?"
    assert expand("file:///a/b c") == "/a/b c"
    assert expand("gs://bucket/run") == "gs://bucket/run"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "is no path"),
        ("a\0b", "is no path"),
        ("~no_such_user/x", "no such user"),
        ("file://host/x", "three slashes"),
        ("gs://bucket/run[1]", "remote path without"),
        (NOT_UTF8, "only names in UTF-8"),
    ],
)
def test_expand_refuses(path, message):
    with pytest.raises(UserError, match=message) as caught:
        expand(path)
    str(caught.value).encode()  # it can be printed


def test_remote_paths_are_told_from_local_ones():
    remote = ["gs://b/run", "s3://b", "hdfs://h:8020/x", "ram://x"]
    local = ["/a", "a/b", "file:///a", "C:x", "a://", "gs:/b"]
    assert [is_remote(path) for path in remote] == [True] * 4
    assert [is_remote(path) for path in local] == [False] * 4 + [True, False]
    assert local_only("a", "--cache") == "a"
    with pytest.raises(UserError, match=r"^--cache cannot be remote \(gs://b\)"):
        local_only("gs://b", "--cache")


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("runs/a", "runs/a"),
        ("{here}/runs/a", "runs/a"),
        ("{here}", "."),
        ("{here}/../other", "{here}/../other"),
        ("{here}/..data", "..data"),
        ("gs://bucket/run", "gs://bucket/run"),
    ],
)
def test_a_path_is_said_as_seen_from_here(path, shown, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, shown = path.format(here=tmp_path), shown.format(here=tmp_path)
    assert from_here(path) == shown


# Checkpoints.


def test_what_a_path_lies_in_is_found(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.json").touch()
    for inside in ("run", "run/checkpoints/best/ckpt-1", "run/none"):
        found = find_above(str(tmp_path / inside), "config.json")
        assert found == str(tmp_path / "run")
    assert find_above(str(tmp_path / "run[1]" / "x"), "config.json") is None
    tf.io.write_file("ram://test_what_a_path_lies_in/run/config.json", "{}")
    path = "ram://test_what_a_path_lies_in/run/checkpoints/ckpt-1"
    assert find_above(path, "config.json") == "ram://test_what_a_path_lies_in/run"


def make_manager(directory, value, keep=1):
    state = tf.train.Checkpoint(value=tf.Variable(float(value)))
    path = for_tensorflow(str(directory))
    return state, tf.train.CheckpointManager(state, path, keep)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_checkpoints_by_any_name(tmp_path, name):
    """Saved, restored and removed there, and nowhere else."""
    _, other = make_manager(tmp_path / "xa" / "checkpoints", 7)
    other.save(1)
    directory = tmp_path / name / "checkpoints"
    directory.mkdir(parents=True)
    state, manager = make_manager(directory, 1)
    for step in (1, 9, 10):
        state.value.assign(step)
        manager.save(step)
    assert sorted(tree(directory)) == [
        "checkpoint",
        "ckpt-10.data-00000-of-00001",
        "ckpt-10.index",
    ]
    path = str(directory / "ckpt-10")
    assert checkpoint_files(path) == [
        f"{path}.data-00000-of-00001",
        f"{path}.index",
    ]
    restored = tf.train.Checkpoint(value=tf.Variable(0.0))
    restored.restore(for_tensorflow(path)).assert_consumed()
    assert restored.value.numpy() == 10
    # A manager that goes on removes what the one before saved.
    state, manager = make_manager(directory, 11)
    manager.save(11)
    assert sorted(tree(directory))[1:] == [
        "ckpt-11.data-00000-of-00001",
        "ckpt-11.index",
    ]
    assert "ckpt-1.index" in tree(tmp_path / "xa" / "checkpoints")


@pytest.mark.parametrize("name", ["lr[0.01]", "x[ab]", "back\\slash"])
def test_saved_model_by_any_name(tmp_path, name, monkeypatch):
    module = tf.Module()
    module.value = tf.Variable(3.0)
    tf.saved_model.save(module, str(tmp_path / name))
    path = for_tensorflow(str(tmp_path / name))
    assert tf.saved_model.load(path).value.numpy() == 3
    monkeypatch.chdir(tmp_path)
    path = for_tensorflow(name)
    assert tf.saved_model.load(path).value.numpy() == 3


def test_plain_paths_stay_as_they_are(tmp_path):
    for path in ("runs/a b", "gs://b/run", str(tmp_path)):
        assert for_tensorflow(path) == path
    with pytest.raises(UserError, match="take its name for a pattern"):
        for_tensorflow(str(tmp_path / "missing[1]" / "ckpt-1"))


def test_a_checkpoint_is_of_regular_files(tmp_path):
    (tmp_path / "ckpt-3.index").touch()
    assert for_tensorflow(str(tmp_path / "ckpt-3"))
    (tmp_path / "ckpt-3.data-00000-of-00001").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="data-00000-of-00001 is no regular file"):
        for_tensorflow(str(tmp_path / "ckpt-3"))


def test_links_for_tensorflow_end_with_the_process(tmp_path):
    (tmp_path / "x[1]").mkdir()
    (tmp_path / "x[1]" / "kept").touch()
    process = python("print(paths.for_tensorflow(sys.argv[1]))", tmp_path / "x[1]")
    link = process.communicate()[0].strip()
    assert link
    assert not os.path.lexists(os.path.dirname(link))
    assert tree(tmp_path) == {"x[1]/kept": ""}


def test_remote_checkpoints():
    directory = "ram://test_remote_checkpoints/checkpoints"
    state, manager = make_manager(directory, 1)
    for step in (9, 10):
        state.value.assign(step)
        manager.save(step)
    path = f"{directory}/ckpt-10"
    assert [os.path.basename(name) for name in checkpoint_files(path)] == [
        "ckpt-10.data-00000-of-00001",
        "ckpt-10.index",
    ]
    restored = tf.train.Checkpoint(value=tf.Variable(0.0))
    restored.restore(for_tensorflow(path)).assert_consumed()
    assert restored.value.numpy() == 10

"""Checkpoints: kills, damage, full disks, the best one; without a network to train."""

import contextlib
import os
import resource
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf.errors import UserError
from alexnet_tf.run import Run
from alexnet_tf.training import checkpoints as checkpoints_module
from alexnet_tf.training.checkpoints import Checkpoints
from alexnet_tf.training.optimizers import MomentumSGD


def make_state(value=0.0):
    """A network of one layer, its optimizer, rows that grow."""
    model = keras.Sequential([keras.Input((200,)), keras.layers.Dense(300)])
    optimizer = MomentumSGD()
    optimizer.build(model.trainable_variables)
    rows = tf.Variable(np.zeros((0, 2)), shape=(None, 2))
    state = tf.train.Checkpoint(model=model, optimizer=optimizer, rows=rows)
    put(state, value)
    return state


def put(state, value):
    """Fills everything with a value, as if so many steps were done."""
    for variable in [*state.model.weights, *state.optimizer.momentums]:
        variable.assign(tf.fill(variable.shape, float(value)))
    state.optimizer.iterations.assign(int(value))
    state.rows.assign(np.full((int(value), 2), float(value)))


def values(state):
    variables = [*state.model.weights, *state.optimizer.momentums, state.rows]
    return {float(x) for variable in variables for x in np.unique(variable.numpy())}


def open_checkpoints(folder, state=None, keep=5):
    state = state or make_state()
    return state, Checkpoints(state, Run(str(folder)), keep, write=True)


def names(folder, suffix=".index"):
    found = os.listdir(folder / "checkpoints")
    return sorted(name.removesuffix(suffix) for name in found if name.endswith(suffix))


def test_what_is_written_is_the_state_at_the_save_however_training_goes_on(
    tmp_path, monkeypatch
):
    state, checkpoints = open_checkpoints(tmp_path)
    may_write, copy = threading.Semaphore(0), tf.io.gfile.copy
    running = []

    def wait_and_copy(path, other, overwrite):
        running.append(threading.current_thread())
        assert ".data-" not in path or may_write.acquire(timeout=60)
        running.remove(threading.current_thread())
        copy(path, other, overwrite)

    monkeypatch.setattr(tf.io.gfile, "copy", wait_and_copy)
    for step in (1, 2, 3):
        put(state, step)
        checkpoints.save(step)  # comes back at once, while the disk is busy
        put(state, 99)
        assert len(running) <= 1
        may_write.release()
    checkpoints.check()
    assert running == []
    for step in (1, 2, 3):
        path = str(tmp_path / "checkpoints" / f"ckpt-{step}")
        again = make_state()
        again.restore(path).assert_consumed()
        assert values(again) == {float(step)}
        assert int(again.optimizer.iterations) == step
    assert not tf.io.gfile.exists(checkpoints._memory)
    # Others find it as they do anywhere.
    assert tf.train.latest_checkpoint(tmp_path / "checkpoints").endswith("ckpt-3")
    model = make_state().model
    status = tf.train.Checkpoint(model=model).restore(path)
    status.assert_existing_objects_matched().expect_partial()
    assert float(model.weights[0].numpy().max()) == 3.0


def test_the_latest_stay_and_nothing_of_others_goes(tmp_path):
    state, checkpoints = open_checkpoints(tmp_path, keep=2)
    kept = tmp_path / "checkpoints" / "ckpt-notes.txt"
    kept.write_text("mine")
    for step in (1, 2, 3, 4):
        put(state, step)
        checkpoints.save(step)
        checkpoints.save(step)  # nothing new
    checkpoints.check()
    assert names(tmp_path) == ["ckpt-3", "ckpt-4"]
    assert kept.read_text() == "mine"
    again, checkpoints = open_checkpoints(tmp_path)
    assert checkpoints.restore()
    assert values(again) == {4.0}


def test_damaged_checkpoints_are_skipped(tmp_path, caplog):
    state, checkpoints = open_checkpoints(tmp_path)
    for step in (5, 10):
        put(state, step)
        checkpoints.save(step)
    checkpoints.wait()
    folder = tmp_path / "checkpoints"
    with open(folder / "ckpt-10.data-00000-of-00001", "r+b") as file:
        file.truncate(1000)
    again, checkpoints = open_checkpoints(tmp_path)
    assert checkpoints.restore()
    assert values(again) == {5.0}
    assert "skipping damaged checkpoint" in caplog.text
    for index in folder.glob("*.index"):
        index.write_bytes(b"")
    with pytest.raises(UserError, match="none of the 2 checkpoints"):
        checkpoints.restore()


@contextlib.contextmanager
def disk_that_refuses():
    """No file may grow beyond 100 kB, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("recovers", [True, False])
def test_a_full_disk_is_a_warning_until_the_end(tmp_path, caplog, recovers):
    state, checkpoints = open_checkpoints(tmp_path)
    for step in (5, 10, 15):
        put(state, step)
        full = step == 10 or (step > 10 and not recovers)
        with disk_that_refuses() if full else contextlib.nullcontext():
            checkpoints.save(step)
            checkpoints.wait()
    if recovers:
        checkpoints.check()
    else:
        with pytest.raises(UserError, match=r"could not be saved.*ckpt-5$"):
            checkpoints.check()
    assert "checkpoint of step 10 not saved: " in caplog.text
    assert "the last good one is" in caplog.text
    assert names(tmp_path) == (["ckpt-15", "ckpt-5"] if recovers else ["ckpt-5"])
    assert not list((tmp_path / "checkpoints").glob("*_temp"))


@pytest.mark.parametrize("can_link", [True, False])
def test_the_best_is_the_best_of_those_that_the_disk_took(
    tmp_path, can_link, monkeypatch
):
    def refuse(*_):
        raise OSError("this file system has no links")

    if not can_link:
        monkeypatch.setattr(checkpoints_module.os, "link", refuse)
    state, checkpoints = open_checkpoints(tmp_path, keep=1)
    rows, marked = [], []
    for step, error in {5: 0.4, 10: 0.1, 15: 0.3, 19: 0.35}.items():
        put(state, step)
        with disk_that_refuses() if step == 10 else contextlib.nullcontext():
            checkpoints.save(step)
            checkpoints.wait()
        if error < checkpoints.best_error(np.reshape(rows, (-1, 2))):
            checkpoints.mark_best(step)
            marked.append(step)
        rows.append((step, error))
    assert marked == [5, 10, 15]  # 10 has no file to keep
    assert Run(str(tmp_path)).checkpoint_path("best").endswith("best/ckpt-15")
    best = tmp_path / "checkpoints" / "best"
    assert len(list(best.iterdir())) == 2  # the index, the data
    again = make_state()
    again.restore(str(best / "ckpt-15")).assert_consumed()
    assert values(again) == {15.0}
    checkpoints.mark_best(19)
    checkpoints.mark_best(19)  # its validation again, after a kill
    assert len(list(best.iterdir())) == 2


def test_a_worker_that_is_not_the_chief_writes_nothing(tmp_path):
    state, chief = open_checkpoints(tmp_path)
    put(state, 3)
    chief.save(3)
    chief.wait()
    before = sorted(os.listdir(tmp_path / "checkpoints"))
    again = make_state()
    worker = Checkpoints(again, Run(str(tmp_path)), 5, write=False)
    assert worker.restore()
    assert values(again) == {3.0}
    worker.save(4)
    worker.mark_best(4)
    worker.check()
    assert sorted(os.listdir(tmp_path / "checkpoints")) == before

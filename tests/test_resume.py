"""A run that was killed ends as one that was not, bit for bit."""

import json
import multiprocessing
import os
import pathlib
import signal
import socket
import tempfile

import numpy as np
import pytest
import run_and_kill
import tensorflow as tf

TIMED = ("images_per_second", "input_wait")  # what may differ between two runs

# Each starts as a copy of one that has imported everything and done nothing yet.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload([run_and_kill.train.__module__])


def start(data_dir, model_dir, where="never", replicas=1, dropout=0.5, **environment):
    file, output = tempfile.mkstemp(dir=pathlib.Path(model_dir).parent)
    os.close(file)
    directories = data_dir, str(model_dir)
    arguments = *directories, where, replicas, dropout, output, environment
    process = processes.Process(target=run_and_kill.run, args=arguments, daemon=True)
    process.start()
    return process, pathlib.Path(output)


def finish(started, code=0):
    process, output = started
    process.join(timeout=180)
    assert process.exitcode == code, output.read_text()
    return output.read_text()


def final_state(model_dir):
    """Everything in the last checkpoint, and the metrics without the timings."""
    path = tf.train.latest_checkpoint(os.path.join(model_dir, "checkpoints"))
    names = [name for name, _ in tf.train.list_variables(path)]
    tensors = {
        name: tf.train.load_variable(path, name)
        for name in names
        if "OBJECT_GRAPH" not in name and "save_counter" not in name
    }
    best = tf.train.latest_checkpoint(os.path.join(model_dir, "checkpoints", "best"))
    lines = pathlib.Path(model_dir, "metrics.jsonl").read_text().splitlines()
    records = [
        {k: v for k, v in json.loads(line).items() if k not in TIMED} for line in lines
    ]
    return os.path.basename(path), os.path.basename(best), tensors, records


def assert_same_state(model_dir, reference):
    latest, best, tensors, records = final_state(model_dir)
    expected_latest, expected_best, expected_tensors, expected_records = reference
    assert (latest, best) == (expected_latest, expected_best)
    assert records == expected_records
    assert tensors.keys() == expected_tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(value, expected_tensors[name], err_msg=name)


@pytest.fixture(scope="module")
def uninterrupted(data_dir, tmp_path_factory):
    """The final state of a run that nothing stops, for one and two replicas."""
    states = {}
    for replicas in (1, 2):
        model_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
        finish(start(data_dir, model_dir, replicas=replicas))
        states[replicas] = final_state(model_dir)
    return states


def test_killed_everywhere(data_dir, tmp_path, uninterrupted):
    """Every start goes on from where the one before was killed."""
    model_dir, killed = tmp_path / "run", -signal.SIGKILL
    finish(start(data_dir, model_dir, "between"), killed)
    assert "from step 3" in finish(start(data_dir, model_dir, "save"), killed)
    said = finish(start(data_dir, model_dir, "step"), killed)
    assert "from step 5" in said or "from step 6" in said
    said = finish(start(data_dir, model_dir, "sigterm"), code=75)
    assert "from step 5" in said or "from step 6" in said
    assert "from step 8" in finish(start(data_dir, model_dir, "evaluation"), killed)
    assert "from step 9" in finish(start(data_dir, model_dir))
    assert_same_state(model_dir, uninterrupted[1])


def test_two_replicas_outlive_a_kill(data_dir, tmp_path, uninterrupted):
    model_dir = tmp_path / "run"
    finish(start(data_dir, model_dir, "step", 2), code=-signal.SIGKILL)
    assert "going on from step" in finish(start(data_dir, model_dir, replicas=2))
    assert_same_state(model_dir, uninterrupted[2])


def start_workers(data_dir, model_dir, where_of_second="never", first="worker"):
    """Two workers of a cluster on this machine, without dropout.

    `first` is the kind of the first one: clusters may call it "chief".
    """
    with (
        socket.create_server(("127.0.0.1", 0)) as a,
        socket.create_server(("127.0.0.1", 0)) as b,
    ):
        addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in (a, b)]
    cluster, tasks = {}, []
    for kind, address in zip((first, "worker"), addresses, strict=True):
        tasks.append({"type": kind, "index": len(cluster.setdefault(kind, []))})
        cluster[kind].append(address)
    processes = []
    for task, where in zip(tasks, ("never", where_of_second), strict=True):
        config = json.dumps({"cluster": cluster, "task": task})
        processes.append(start(data_dir, model_dir, where, 0, 0.0, TF_CONFIG=config))
    return processes


@pytest.fixture(scope="module")
def two_workers(data_dir, tmp_path_factory):
    """The final state of a run of two workers that nothing stops."""
    model_dir = tmp_path_factory.mktemp("two_workers") / "run"
    for worker in start_workers(data_dir, model_dir, first="chief"):
        finish(worker)
    return final_state(model_dir)


def test_two_workers_outlive_a_kill_and_stop_together(data_dir, tmp_path, two_workers):
    model_dir, killed = tmp_path / "run", -signal.SIGKILL
    first, second = start_workers(data_dir, model_dir, "step")
    finish(second, killed)
    assert "another worker was lost" in finish(first, code=1)
    for worker in start_workers(data_dir, model_dir, "sigterm"):  # to the second
        said = finish(worker, code=75)
        assert "going on from step" in said
        assert "checkpoint saved" in said
    saved = tf.train.latest_checkpoint(model_dir / "checkpoints")
    assert os.path.basename(saved) == "ckpt-8"  # the signal came in step 8
    for worker in start_workers(data_dir, model_dir):
        assert "going on from step 8" in finish(worker)
    assert_same_state(model_dir, two_workers)


def test_two_workers_equal_one_process(data_dir, tmp_path, two_workers):
    finish(start(data_dir, tmp_path / "one", dropout=0.0))
    _, _, tensors, _ = final_state(tmp_path / "one")
    for name, value in tensors.items():
        if "seeds" not in name:
            np.testing.assert_allclose(
                value, two_workers[2][name], rtol=1e-5, atol=1e-5, err_msg=name
            )

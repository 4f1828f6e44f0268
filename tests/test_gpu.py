"""What needs a GPU: `make gpu-test`; with SIMULATED=1 the CPU stands in for them."""

import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import GPU_TESTS
from helpers import largest_difference
from test_resume import assert_same_state, finish, read_state, start

from alexnet_tf import alexnet
from alexnet_tf.evaluation.metrics import sum_metrics
from alexnet_tf.recipes import RECIPES
from alexnet_tf.run import Run
from data.prepare import prepare
from data.transcode import Options

ROOT = pathlib.Path(__file__).resolve().parent.parent
IS_REAL = GPU_TESTS == "real"
GPU = "GPU:0" if IS_REAL else "CPU:1"
STEPS = 20


def logits_and_gradient(device, recipe, dtype):
    """Of the same network on the same images."""
    size = RECIPES[recipe].image_size
    images = np.random.default_rng(0).integers(0, 256, (8, size, size, 3), np.uint8)
    with tf.device(device):
        model = alexnet(10, recipe, width=0.25, dropout_rate=0.0, dtype=dtype, seed=1)
        for variable in model.trainable_variables:  # so that every layer counts
            variable.assign(variable * (2 if len(variable.shape) > 1 else 1))
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = sum_metrics(logits, tf.range(8)).cross_entropy
        gradient = tape.gradient(loss, model.trainable_variables)
    assert device in logits.device
    return logits.numpy(), np.concatenate([g.numpy().ravel() for g in gradient])


def relative_error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.gpu(1)
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float32", 1e-4), ("TF32", 1e-2), ("bfloat16", 2e-2)]
)
def test_a_gpu_computes_what_a_cpu_does(recipe, precision, tolerance):
    dtype = "mixed_bfloat16" if precision == "bfloat16" else "float32"
    logits, gradient = logits_and_gradient("CPU:0", recipe, "float32")
    tf.config.experimental.enable_tensor_float_32_execution(precision != "float32")
    try:
        found_logits, found_gradient = logits_and_gradient(GPU, recipe, dtype)
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(True)
    assert relative_error(found_logits, logits) < tolerance
    if precision == "bfloat16":  # whose gradient is coarse on a CPU, too
        _, coarse = logits_and_gradient("CPU:0", recipe, dtype)
        tolerance = max(tolerance, 2 * relative_error(coarse, gradient))
        assert tolerance < 0.25
    assert relative_error(found_gradient, gradient) < tolerance


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


def train(data_dir, model_dir, *flags, gpus=1):
    """Trains 20 steps; returns everything in the checkpoint."""
    where = f"--num_gpus={gpus}" if IS_REAL else f"--simulate_gpus={gpus}"
    common = ["--width=0.1", "--global_batch_size=32", f"--train_steps={STEPS}", where]
    common += [f"--data_dir={data_dir}", f"--model_dir={model_dir}", *flags]
    done = run("train.py", "--precision=float32", "--dropout_rate=0", *common)
    assert done.returncode == 0, done.stderr
    assert ("the CPU" in done.stderr) != IS_REAL
    return read_state(Run(str(model_dir)))[2]


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    """A run on one GPU, with its export, and what is in its checkpoint."""
    model_dir = tmp_path_factory.mktemp("trained") / "run"
    return model_dir, train(data_dir, model_dir, "--deterministic")


@pytest.mark.gpu(1)
def test_a_deterministic_rerun_is_the_same_bit_for_bit(data_dir, tmp_path, trained):
    state = train(data_dir, tmp_path / "again", "--deterministic", "--noexport")
    for name, value in trained[1].items():
        np.testing.assert_array_equal(state[name], value, err_msg=name)


def assert_close(state, expected, tolerance):
    weights = [name for name in expected if "_trainable_variables" in name]
    assert len(weights) == 16
    for name in weights:
        assert largest_difference([state[name]], [expected[name]]) < tolerance, name


@pytest.mark.gpu(2)
def test_two_gpus_train_as_one(data_dir, tmp_path, trained):
    state = train(data_dir, tmp_path / "two", "--noexport", gpus=2)
    assert_close(state, trained[1], 1e-3 if IS_REAL else 1e-5)


@pytest.mark.gpu(1)
def test_input_of_every_kind(data_dir, tmp_path, trained):
    """Cached JPEG is the same input; raw records hold what JPEG made of the noise."""
    state = train(data_dir, tmp_path / "cached", "--noexport", "--cache")
    assert_close(state, trained[1], 1e-3 if IS_REAL else 1e-6)
    pictures = pathlib.Path(data_dir).parent / "in"
    raw = str(tmp_path / "raw_data")
    prepare(
        source="folder",
        input=str(pictures),
        output=raw,
        options=Options(encoding="raw"),
    )
    train(raw, tmp_path / "raw", "--noexport")
    assert last_loss(tmp_path / "raw") == pytest.approx(last_loss(trained[0]), abs=0.2)


def last_loss(model_dir):
    return read_state(Run(str(model_dir)))[3][-1]["cross_entropy"]


@pytest.mark.gpu(1)
def test_a_killed_run_goes_on_as_if_it_had_not_been(data_dir, tmp_path):
    finish(start(data_dir, tmp_path / "whole"))
    finish(start(data_dir, tmp_path / "killed", "step"), code=-signal.SIGKILL)
    assert "going on from step" in finish(start(data_dir, tmp_path / "killed"))
    killed, whole = Run(str(tmp_path / "killed")), Run(str(tmp_path / "whole"))
    assert_same_state(killed, read_state(whole))


@pytest.mark.gpu(1)
def test_what_a_gpu_exports_answers_the_same_on_a_cpu(trained, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 300, 260, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys, numpy as np, tensorflow as tf"
        "\nmodel, images, output = sys.argv[1:]"
        "\nserve = tf.saved_model.load(model).signatures['images']"
        "\nanswer = serve(images=tf.constant(np.load(images)))"
        "\nnp.savez(output, **{k: v.numpy() for k, v in answer.items()})"
        "\nprint(len(tf.config.list_physical_devices('GPU')))"
    )
    answers = []
    for hidden in ("0", "-1"):
        output = tmp_path / f"{hidden}.npz"
        arguments = (trained[0] / "saved_model", tmp_path / "images.npy", output)
        done = run("-c", code, *arguments, CUDA_VISIBLE_DEVICES=hidden)
        assert done.stdout.split()[-1] == str(int(IS_REAL and hidden == "0"))
        answers.append(np.load(output))
    np.testing.assert_array_equal(*(answer["class_ids"] for answer in answers))
    ours, others = (answer["probabilities"] for answer in answers)
    np.testing.assert_allclose(ours, others, atol=1e-2 if IS_REAL else 1e-6)


@pytest.mark.gpu(1)
def test_out_of_memory_is_one_line(data_dir, tmp_path):
    """A device's own error, for an array that is larger than any memory."""
    code = (
        "import sys; sys.argv[0] = 'train.py'\n"
        "import tensorflow as tf\n"
        "from alexnet_tf.training.step import Trainer\n"
        "Trainer.run_steps = lambda *_: tf.zeros([2**60])\n"
        "import train; from alexnet_tf import command_line\n"
        "command_line.run(train.main, train.define_flags)"
    )
    flags = ["--width=0.1", f"--data_dir={data_dir}", f"--model_dir={tmp_path}/run"]
    done = run("-c", code, *flags, "--global_batch_size=32")
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: out of memory with --global_batch_size=32 on ")
    assert "try --global_batch_size=16" in line
    assert "Traceback" not in done.stderr


@pytest.mark.gpu(1)
def test_the_benchmark_fills_its_table(data_dir, tmp_path):
    flags = ["--width=0.1", "--batches=8", "--rounds=1", f"--data_dir={data_dir}"]
    flags += [] if IS_REAL else ["--simulate_gpus=2"]
    done = run("benchmarks/gpu.py", *flags)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines() if "|" in line]
    assert len(rows) > 10
    assert {len(row) for row in rows} == {6, 5}  # steps alone; training
    assert {row[1].strip() for row in rows} >= {"memory", "JPEG", "raw", "cached", "8"}

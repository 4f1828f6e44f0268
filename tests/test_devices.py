"""What a run computes on, and what is said of it."""

import json
import pathlib
import shlex
import subprocess
import types

import pytest
import tensorflow as tf
from helpers import SMALL, train

from alexnet_tf import devices
from alexnet_tf.errors import UserError
from alexnet_tf.training.step import Trainer

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture
def card(tmp_path, monkeypatch):
    """A machine whose driver knows a GPU that TensorFlow does not find."""
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    monkeypatch.setattr(devices, "NVIDIA_GPUS", tmp_path / "gpus")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path / "gpus" / "0000:01:00.0"


def test_a_gpu_that_is_not_used_is_said(card, caplog, monkeypatch):
    devices.make_strategy()
    (warning,) = caplog.messages
    assert "\n" not in warning
    mended = shlex.join(["pip", "install", f"tensorflow[and-cuda]=={tf.__version__}"])
    assert mended in warning
    with pytest.raises(UserError, match=r"pip install.*and-cuda"):
        devices.make_strategy(num_gpus=9)
    caplog.clear()
    devices.make_strategy(num_gpus=0)
    devices.make_strategy(simulate_gpus=2)
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        devices.make_strategy()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    card.rmdir()  # a driver without a GPU
    devices.make_strategy()
    assert not [record for record in caplog.records if record.name == "absl"]


def test_without_the_drivers_directory_nvidia_smi_is_asked(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "NVIDIA_GPUS", tmp_path / "nothing")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert not devices.has_nvidia_gpu()
    program = tmp_path / "nvidia-smi"
    for line, expected in {"GPU 0: NVIDIA H100": True, "No devices": False}.items():
        program.write_text(f"#!/bin/sh\necho '{line}'\n")
        program.chmod(0o755)
        assert devices.has_nvidia_gpu() == expected


def test_make_installs_the_gpu_build_where_there_is_a_gpu(card, tmp_path):
    (tmp_path / "none").mkdir()
    for gpus, expected in {card.parent: True, tmp_path / "none": False}.items():
        said = subprocess.run(
            ["make", "-n", "demo", f"VENV={tmp_path}/venv", f"NVIDIA_GPUS={gpus}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert "-r requirements.txt" in said
        assert ("-r requirements-gpu.txt" in said) == expected


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ([(8, 0)], "mixed_bfloat16"),
        ([(9, 0), (7, 5)], "float32"),
        ([None], "float32"),  # TensorFlow does not know
    ],
)
def test_the_precision_of_gpus_is_what_all_are_fast_at(
    capabilities, precision, monkeypatch
):
    known = [{"compute_capability": c} if c else {} for c in capabilities]
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: known)
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: gpu)
    assert devices.choose_precision() == precision


def test_a_worker_of_several_takes_the_gpus_asked_for(monkeypatch):
    cluster = '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}'
    monkeypatch.setenv("TF_CONFIG", cluster)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a", "b"])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda *_: None)
    taken = []
    monkeypatch.setattr(
        tf.config, "set_visible_devices", lambda gpus, kind: taken.append(gpus)
    )
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", lambda: "several")
    for number, expected in {None: ["a", "b"], 1: ["a"], 0: []}.items():
        assert devices.make_training_strategy(number) == "several"
        assert taken.pop() == expected
    with pytest.raises(UserError, match="--num_gpus=3, but TensorFlow found 2 GPUs"):
        devices.make_training_strategy(3)
    with pytest.raises(UserError, match="--simulate_gpus is for one machine"):
        devices.make_training_strategy(simulate_gpus=2)


def test_memory_grows(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a", "b"])
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *_: None)
    asked = {}
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", asked.__setitem__)
    devices.make_training_strategy(0)
    assert asked == {"a": True, "b": True}


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"type": "evaluator", "index": 0}, "evaluator is no role: the workers"),
        ({"type": "ps", "index": 0}, "ps is no role"),
        ({"type": "worker", "index": 1}, "it has no worker 1"),
        ({"type": "worker", "index": -1}, "it has no worker -1"),
        ({"type": "chief", "index": 0}, "'chief'"),
        ({"index": 0}, "'type'"),
        (None, "subscriptable"),
    ],
)
def test_a_task_that_does_not_train_is_one_line(task, message, monkeypatch):
    """TensorFlow takes an evaluator for a chief, which would write into the run."""
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *_: None)
    cluster = {"worker": ["a:1"], "evaluator": ["b:1"], "ps": ["c:1"]}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
    message = rf"^TF_CONFIG does not describe a cluster \(.*{message}"
    with pytest.raises(UserError, match=message):
        devices.make_training_strategy(0)


@pytest.mark.parametrize(
    ("batch", "advice"), [(2, "such as 3$"), (32, "such as 30 or 33$")]
)
def test_a_batch_that_replicas_cannot_share_is_said(batch, advice):
    strategy = types.SimpleNamespace(num_replicas_in_sync=3)
    with pytest.raises(UserError, match=f"={batch} cannot be shared .*, {advice}"):
        devices.check_batch_size(batch, strategy)
    devices.check_batch_size(33, strategy)


def test_out_of_memory_names_the_batch_and_what_to_try(data_dir, tmp_path, monkeypatch):
    def run_out(*_):
        tf.zeros([2**60])  # more than there are addresses

    monkeypatch.setattr(Trainer, "run_steps", run_out)
    with pytest.raises(UserError) as caught:
        train(data_dir, str(tmp_path / "run"), given=SMALL | {"train_steps": 2})
    line = str(caught.value)
    assert "\n" not in line
    assert "--global_batch_size=32" in line
    assert "try --global_batch_size=16" in line


@pytest.mark.parametrize(
    ("cpu_flags", "fast"),
    [
        ("avx512f avx512_bf16", True),  # AMD since Zen 4, Intel's Cooper Lake
        ("avx512f avx512_bf16 avx512_fp16 amx_bf16", True),  # Sapphire Rapids
        ("avx512f avx512_bf16 avx512_fp16", False),  # the same, its AMX hidden
        ("avx2 avx512f", False),
        ("", False),  # not Linux
    ],
)
def test_the_precision_of_cpus_is_what_they_are_fast_at(cpu_flags, fast):
    assert devices.is_fast_at_bfloat16(set(cpu_flags.split())) is fast


def test_a_matrix_unit_counts_where_nothing_else_trains(monkeypatch):
    monkeypatch.setattr(devices, "_read_cpu_flags", lambda: {"avx512_fp16", "amx_bf16"})
    assert devices.has_matrix_unit()
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["GPU:0"])
    assert not devices.has_matrix_unit()
    monkeypatch.undo()
    monkeypatch.setattr(devices, "_read_cpu_flags", lambda: {"avx512_bf16"})
    assert not devices.has_matrix_unit()

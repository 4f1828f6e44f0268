"""What to train on: the distribution strategy and the precision."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess

import tensorflow as tf
from absl import logging

from alexnet_tf.command_line import command
from alexnet_tf.errors import UserError

# A directory for each NVIDIA GPU that the driver knows.
NVIDIA_GPUS = pathlib.Path("/proc/driver/nvidia/gpus")


def make_strategy(
    num_gpus: int | None = None, simulate_gpus: int = 0
) -> tf.distribute.Strategy:
    """Returns the strategy for the devices asked for.

    Args:
        num_gpus: GPUs to use; None for all there are, 0 for the CPU.
        simulate_gpus: Replicas on as many logical devices of the CPU instead.

    Returns:
        The default strategy for one device, else a `MirroredStrategy`.

    Raises:
        UserError: If there are not so many GPUs.
    """
    if simulate_gpus:
        return _simulated_strategy(simulate_gpus)
    num_gpus = _take_gpus(num_gpus)
    if num_gpus < 2:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy([f"GPU:{i}" for i in range(num_gpus)])


def _take_gpus(num_gpus: int | None) -> int:
    """Hides all GPUs but those asked for; returns their number."""
    gpus = tf.config.list_physical_devices("GPU")
    if num_gpus is None:
        _warn_of_unused_gpu(gpus)
        num_gpus = len(gpus)
    if num_gpus > len(gpus):
        raise UserError(
            f"--num_gpus={num_gpus}, but TensorFlow found {len(gpus)} GPUs: give "
            "--num_gpus=0 to train on the CPU, --simulate_gpus=N to try replicas "
            f"without GPUs, or install the GPU build: {_gpu_build()}"
        )
    tf.config.set_visible_devices(gpus[:num_gpus], "GPU")
    with contextlib.suppress(RuntimeError):  # too late: TensorFlow is at work already
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
    return num_gpus


def _warn_of_unused_gpu(gpus: list) -> None:
    if not gpus and has_nvidia_gpu():
        logging.warning(
            "This machine has an NVIDIA GPU that TensorFlow does not find; the CPU is "
            "used. What TensorFlow needs for it: %s; if it has that, a newer driver. "
            "--num_gpus=0 says that the CPU is meant.",
            _gpu_build(),
        )


def has_nvidia_gpu() -> bool:
    """Whether the driver knows a GPU, and nobody hides it from programs."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        return False
    if NVIDIA_GPUS.is_dir():
        return any(NVIDIA_GPUS.iterdir())
    program = shutil.which("nvidia-smi")  # without /proc: Windows' Linux
    if not program:
        return False
    listed = subprocess.run([program, "-L"], capture_output=True, text=True)
    return "GPU " in listed.stdout


def _gpu_build() -> str:
    return command("pip", "install", f"tensorflow[and-cuda]=={tf.__version__}")


def make_training_strategy(
    num_gpus: int | None = None, simulate_gpus: int = 0
) -> tf.distribute.Strategy:
    """Returns the strategy to train with, over several machines with `TF_CONFIG`.

    Must be called before TensorFlow has done anything else.

    Args:
        num_gpus: See `make_strategy`; of this machine.
        simulate_gpus: See `make_strategy`; not with `TF_CONFIG`.

    Returns:
        A `MultiWorkerMirroredStrategy` where the environment variable `TF_CONFIG` is
        set, else what `make_strategy` returns.

    Raises:
        UserError: If there are not so many GPUs, or `TF_CONFIG` is no cluster.
    """
    if not os.environ.get("TF_CONFIG", "").strip():
        return make_strategy(num_gpus, simulate_gpus)
    if simulate_gpus:
        raise UserError(
            "--simulate_gpus is for one machine, TF_CONFIG for several: to try workers "
            "on one machine, start each with --num_gpus=0"
        )
    _take_gpus(num_gpus)
    try:
        _check_task(json.loads(os.environ["TF_CONFIG"]))
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"TF_CONFIG does not describe a cluster ({error}): expected "
            '{"cluster": {"worker": ["host:port", …]}, "task": {"type": '
            '"worker", "index": 0}}'
        ) from None


def _check_task(config: dict) -> None:
    """Raises `ValueError` for what TensorFlow would have train, and write, alone."""
    role, index = config["task"]["type"], int(config["task"]["index"])
    if role not in ("chief", "worker"):
        raise ValueError(f"{role} is no role: the workers validate, start no others")
    if not 0 <= index < len(config["cluster"][role]):
        raise ValueError(f"it has no {role} {index}")


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one, of all workers, that writes."""
    return strategy.extended.should_checkpoint


def _simulated_strategy(num_replicas: int) -> tf.distribute.Strategy:
    tf.config.set_visible_devices([], "GPU")
    cpu = tf.config.list_physical_devices("CPU")[0]
    devices = tf.config.get_logical_device_configuration(cpu) or []
    if len(devices) < num_replicas:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * num_replicas
        )
    if num_replicas == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy(
        [f"CPU:{i}" for i in range(num_replicas)],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


def choose_precision() -> str:
    """Returns the precision that `--precision=auto` stands for, on what is visible.

    Returns:
        "mixed_bfloat16" where every device is fast at it (GPUs from compute capability
        8.0, CPUs as `is_fast_at_bfloat16` says), else "float32".
    """
    gpus = tf.config.get_visible_devices("GPU")
    if gpus:
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        fast = all(d.get("compute_capability", (0, 0)) >= (8, 0) for d in details)
    else:
        fast = is_fast_at_bfloat16(_read_cpu_flags())
    return "mixed_bfloat16" if fast else "float32"


def has_matrix_unit() -> bool:
    """Whether the training is on a CPU with AMX, Intel's unit for matrix products."""
    is_cpu = not tf.config.get_visible_devices("GPU")
    return is_cpu and "amx_bf16" in _read_cpu_flags()


def _read_cpu_flags() -> set[str]:
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    return set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()


def is_fast_at_bfloat16(cpu_flags: set[str]) -> bool:
    """Tells whether a CPU multiplies matrices faster in bfloat16 than in float32.

    Those with AMX do, and those with AVX512_BF16, but for Intel's since Sapphire Rapids
    (the first with AVX512_FP16) where a virtual machine hides their AMX: there bfloat16
    is half as fast as float32.
    """
    if "avx512_fp16" in cpu_flags:
        return "amx_bf16" in cpu_flags
    return "avx512_bf16" in cpu_flags


def check_batch_size(global_batch_size: int, strategy: tf.distribute.Strategy) -> None:
    """Raises `UserError` where the replicas cannot share a batch evenly."""
    replicas = strategy.num_replicas_in_sync
    if global_batch_size % replicas:
        below = global_batch_size // replicas * replicas
        near = f"{below} or {below + replicas}" if below else replicas
        raise UserError(
            f"--global_batch_size={global_batch_size} cannot be shared evenly by "
            f"{replicas} replicas: give a multiple of {replicas}, such as {near}"
        )


def describe(strategy: tf.distribute.Strategy, simulate_gpus: int) -> str:
    """Says what the strategy runs on, for the log."""
    replicas = strategy.num_replicas_in_sync
    if simulate_gpus:
        return f"{replicas} simulated replicas, all on the CPU (for trying, not speed)"
    num_gpus = len(tf.config.get_visible_devices("GPU"))
    return f"{num_gpus} GPU{'s' if num_gpus > 1 else ''}" if num_gpus else "the CPU"

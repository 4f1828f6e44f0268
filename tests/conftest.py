"""What the tests share."""

import contextlib
import faulthandler
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Tests, and the processes that they start, see no GPU but in `make gpu-test`.
os.environ.update(
    {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    if os.environ.get("GPU_TESTS") == "real"
    else {"CUDA_VISIBLE_DEVICES": "-1"}
)

import pathlib

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

# "real", or "simulated" on the CPU: whether and where tests marked `gpu` run.
GPU_TESTS = os.environ.get("GPU_TESTS", "")
NUM_LOGICAL_CPUS = 4

# So that the programs that tests start do not inherit that a signal is ignored, as it
# is under `nohup` and in the background of a shell.
for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(signum) == signal.SIG_IGN:
        signal.signal(signum, lambda *_: None)

# Before anything touches the runtime: the devices that simulated replicas run on.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * NUM_LOGICAL_CPUS,
)


CLASSES = {"blue": (60, 60, 200), "green": (60, 200, 60), "red": (200, 60, 60)}


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A prepared data set of coloured noise: 150 pictures to train, 25 to validate."""
    from data.prepare import prepare

    root = pathlib.Path(tmp_path_factory.mktemp("pictures"))
    rng = np.random.default_rng(0)
    for split, counts in {"train": (60, 50, 40), "validation": (12, 8, 5)}.items():
        for (name, color), count in zip(CLASSES.items(), counts, strict=True):
            folder = root / "in" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                noise = rng.normal(color, 40, (64, 64, 3)).clip(0, 255)
                image = PIL.Image.fromarray(noise.astype(np.uint8))
                image.resize((256, 256)).save(folder / f"{i}.jpg")
    prepare(source="folder", input=str(root / "in"), output=str(root / "out"))
    return str(root / "out")


# No test hangs. A process that it starts is killed after so many seconds, and at the
# latest with the test or the fixture, with all that it has started. A test that takes
# much longer than that, and an interpreter that does not end, say where they are.
_PROCESS_SECONDS, _TEST_SECONDS, _EXIT_SECONDS = 600, 1800, 120
_processes = []  # in the order in which they were started


def _limit_seconds(seconds, act):
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()
    return timer


def _give_up():
    faulthandler.dump_traceback(sys.__stderr__)
    _end_processes(0)
    os._exit(1)


class _Process(subprocess.Popen):
    """A process in a group of its own, of which nothing stays."""

    def __init__(self, *args, **options):
        super().__init__(*args, **{"start_new_session": True} | options)
        self._timer = _limit_seconds(_PROCESS_SECONDS, self.end)
        _processes.append(self)

    def end(self):
        self._timer.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def _end_processes(number):
    """Ends all but the first ones."""
    while len(_processes) > number:
        _processes.pop().end()


@pytest.fixture(scope="session")
def _own_processes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", _Process)
        yield
    _end_processes(0)


@pytest.fixture(autouse=True)
def _processes_end(_own_processes):
    earlier = len(_processes)  # such as a server that several tests ask
    timer = _limit_seconds(_TEST_SECONDS, _give_up)
    yield
    timer.cancel()
    _end_processes(earlier)
    for process in multiprocessing.active_children():
        process.kill()
        process.join(_EXIT_SECONDS)


def pytest_unconfigure():
    faulthandler.dump_traceback_later(_EXIT_SECONDS, exit=True, file=sys.__stderr__)


@pytest.fixture(autouse=True)
def _trainers_go_back():
    yield
    if helpers := sys.modules.get("helpers"):
        helpers.give_back_trainers()


@pytest.fixture(autouse=True, scope="module")
def _memory_goes_back():
    """After a file: Keras and cycles of objects hold what its tests have made."""
    yield
    keras.backend.clear_session()
    gc.collect()


def pytest_collection_modifyitems(items):
    """The longest files come first, so that no worker ends alone with one of them."""
    longest = "resume export batches training kernels fine_tuning evaluation monitoring"
    order = {f"test_{name}.py": number for number, name in enumerate(longest.split())}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


def pytest_runtest_setup(item):
    mark = item.get_closest_marker("gpu")
    if mark and not GPU_TESTS:
        pytest.skip("needs a GPU: make gpu-test")
    if mark and GPU_TESTS == "real":
        needed, found = mark.args[0], len(tf.config.list_physical_devices("GPU"))
        if found < needed:
            pytest.skip(f"needs {needed} GPUs, and TensorFlow finds {found}")

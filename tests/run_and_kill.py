"""Processes of test_resume.py: a training that may kill itself, a `python train.py`.

`where` is the place at which a process kills itself with SIGKILL, as a machine that
loses its power would: "save" (while the checkpoint of step 6 is being written), "step"
(while step 7 runs).
"""

import functools
import glob
import os
import pathlib
import runpy
import signal
import sys
import threading
import time

from absl import logging
from helpers import SMALL, draw_no_pictures, train

from alexnet_tf.training import loop
from alexnet_tf.training.step import Trainer

ROOT = pathlib.Path(__file__).resolve().parent.parent
GIVEN = {
    "image_size": 67,
    "lrn": False,  # which takes long to compile
    "num_epochs": 3.0,
    "checkpoint_every": 3,
    "steps_per_loop": 1,
    "lr_schedule": "plateau",
    "warmup_epochs": 0.0,
}


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner, name, act, when):
    """Has `act` run before the first call of a method of which `when` is true."""
    method, done = getattr(owner, name), []

    def replaced(*args, **kwargs):
        if not done and when(*args):
            done.append(1)
            act()
        return method(*args, **kwargs)

    setattr(owner, name, replaced)


def kill_while_writing(checkpoint_dir):
    """Kills the process as soon as a file of the next checkpoint appears."""

    def watch():
        known = set(glob.glob(f"{checkpoint_dir}/**", recursive=True))
        while set(glob.glob(f"{checkpoint_dir}/**", recursive=True)) <= known:
            time.sleep(0.0002)
        kill()

    threading.Thread(target=watch, daemon=True).start()


def print_to(output):
    """Has a file take what this process prints."""
    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def run(data_dir, model_dir, where, output):
    """Trains until it is killed."""
    print_to(output)
    draw_no_pictures()
    logging.set_verbosity(logging.INFO)
    on_gpus = os.environ.get("GPU_TESTS") == "real"
    if where == "save":
        watch = functools.partial(
            kill_while_writing, os.path.join(model_dir, "checkpoints")
        )
        before(loop.Checkpoints, "save", watch, lambda _, step: step == 6)
    elif where == "step":
        during_step = threading.Timer(0.02, kill)
        before(Trainer, "run_steps", during_step.start, lambda t, *_: t.step == 6)
    given = SMALL | GIVEN | {"deterministic": on_gpus}
    given |= {"num_gpus" if on_gpus else "simulate_gpus": 1}
    finished = train(data_dir, model_dir, given=given, export=False)
    sys.exit(0 if finished else 75)


def run_script(words, environment, output):
    """Runs `python train.py`, but for the time that imports and pictures take."""
    print_to(output)
    draw_no_pictures()
    os.environ.update(environment)
    sys.argv = ["train.py", *words]
    runpy.run_path(str(ROOT / "train.py"), run_name="__main__")

"""Trains in a process that may kill itself; test_resume.py starts it.

`where` is "never", or where the process kills itself with SIGKILL, as a machine that
loses its power would: "save" (while the checkpoint of step 6 is being written), "step"
(while step 7 runs).
"""

import functools
import glob
import os
import signal
import sys
import threading
import time

from absl import logging
from helpers import draw_no_pictures

from alexnet_tf.training import loop
from alexnet_tf.training.step import Trainer
from alexnet_tf.training.training import train


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


def run(data_dir, model_dir, where, replicas, output):
    """What a process does; `output` is the file for what it prints."""
    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
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
    given = {
        "precision": "float32",
        "width": 0.1,
        "global_batch_size": 32,
        "num_epochs": 3.0,
        "checkpoint_every": 3,
        "steps_per_loop": 1,
        "num_gpus" if on_gpus else "simulate_gpus": replicas,
        "deterministic": on_gpus,
        "lr_schedule": "plateau",
    }
    finished = train(data_dir, model_dir, given=given, export=False)
    sys.exit(0 if finished else 75)

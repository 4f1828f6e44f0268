"""Trains in a process that may kill itself; test_resume.py runs it.

    python tests/run_and_kill.py DATA_DIR MODEL_DIR WHERE REPLICAS DROPOUT_RATE

WHERE is "never", or where the process kills itself with SIGKILL, as a machine that
loses its power would: "step" (while step 7 runs), "save" (while the checkpoint of step
6 is being written), "between" (after the first epoch's validation, before its
checkpoint), "evaluation" (in the second epoch's validation); or "sigterm": SIGTERM
during step 7.
"""

import glob
import os
import pathlib
import signal
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


def kill(signum=signal.SIGKILL):
    os.kill(os.getpid(), signum)


def before(owner, name, call, act):
    """Has `act` run before the call-th call of a method."""
    method, calls = getattr(owner, name), []

    def replaced(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
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


def main():
    data_dir, model_dir, where, replicas, dropout_rate = sys.argv[1:]
    from absl import logging

    from alexnet_tf import training
    from alexnet_tf.evaluation import Evaluator
    from alexnet_tf.trainer import Trainer

    logging.set_verbosity(logging.INFO)
    during_step = threading.Timer(0.02, kill)
    if where == "step":
        before(Trainer, "run_steps", 7, during_step.start)
    elif where == "save":
        checkpoints = os.path.join(model_dir, "checkpoints")
        before(training.Checkpoints, "save", 3, lambda: kill_while_writing(checkpoints))
    elif where == "between":
        before(training.Checkpoints, "save", 2, kill)
    elif where == "evaluation":
        before(Evaluator, "evaluate", 2, lambda: threading.Timer(0.1, kill).start())
    elif where == "sigterm":
        before(Trainer, "run_steps", 7, lambda: kill(signal.SIGTERM))
    finished = training.train(
        data_dir,
        model_dir,
        precision="float32",
        export=False,
        width=0.1,
        global_batch_size=32,
        num_epochs=3,
        checkpoint_every=3,
        steps_per_loop=1,
        simulate_gpus=int(replicas),
        lr_schedule="plateau",
        dropout_rate=float(dropout_rate),
    )
    sys.exit(0 if finished else 75)


if __name__ == "__main__":
    main()

"""Which run a training without a --model_dir goes on with, and what a new one is."""

import contextlib
import os
import time
from collections.abc import Mapping

import tensorflow as tf

from alexnet_tf.config import Config, flat
from alexnet_tf.errors import UserError
from alexnet_tf.files import lock, make_fresh_directory
from alexnet_tf.paths import list_names
from alexnet_tf.run import Run

RUNS_DIR = "runs"


def find_unfinished(
    wanted, given: Mapping[str, object], export: bool, stack: contextlib.ExitStack
) -> Run | None:
    """The newest unfinished run of the same settings, locked; None where there is none.

    Args:
        wanted: Called with the `Config` of a run, gives the one to go on with, or
            raises `UserError`.
        given: The settings that the user gave.
        export: Whether a finished run is an exported one.
        stack: What the lock is in. A run that another process is at is left to it.
    """
    for name in reversed(list_names(RUNS_DIR)):
        run = Run(os.path.join(RUNS_DIR, name))
        if _can_go_on(run, wanted, given, export):
            with contextlib.suppress(UserError):  # another process is at it
                stack.enter_context(lock(run.model_dir))
                return run
    return None


def _can_go_on(run: Run, wanted, given, export: bool) -> bool:
    if not run.exists():
        return False
    try:
        old = run.read_config()
        new = wanted(old)
    except UserError:
        return False
    before, now = flat(old), flat(new)
    same = {"data_dir", "class_names", "recipe", *given}
    is_exported = not export or tf.io.gfile.exists(run.saved_model_dir)
    return (
        all(before[name] == now[name] for name in same)
        and set(old.given) == set(given)
        and not (old.is_finished and is_exported)
    )


def make_run(config: Config, stack: contextlib.ExitStack) -> Run:
    """Makes the directory of a run without a name, and locks it."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{config.recipe.name}"
    directory = make_fresh_directory(os.path.join(RUNS_DIR, name))
    stack.enter_context(lock(directory))
    return Run(directory)

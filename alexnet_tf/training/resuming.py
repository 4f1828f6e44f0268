"""Which run a training without a --model_dir goes on with, and what a new one is."""

import contextlib
import os
import time
from collections.abc import Mapping

import tensorflow as tf

from alexnet_tf.config import Config, flat
from alexnet_tf.errors import UserError
from alexnet_tf.files import lock, make_fresh_directory
from alexnet_tf.metrics_file import read_records
from alexnet_tf.paths import list_names
from alexnet_tf.run import Run
from alexnet_tf.training import schedules

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
                stack.enter_context(lock(run.model_dir, "the run"))
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
    return (
        all(before[name] == now[name] for name in same)
        and set(old.given) == set(given)
        and not is_finished(run, old, export)
    )


def make_run(config: Config, stack: contextlib.ExitStack) -> Run:
    """Makes the directory of a run without a name, and locks it."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{config.recipe.name}"
    directory = make_fresh_directory(os.path.join(RUNS_DIR, name))
    stack.enter_context(lock(directory, "the run"))
    return Run(directory)


def is_finished(run: Run, config: Config, export: bool) -> bool:
    """Whether a run was trained to its end, and then evaluated and exported."""
    records = read_records(run.metrics_file)
    validations = [record for record in records if record["split"] == "validation"]
    if not validations:
        return False
    last, errors = validations[-1], [record["top_1_error"] for record in validations]
    if config.train_steps is not None:
        is_at_end = last["step"] >= config.train_steps
    else:
        is_at_end = last["epoch"] >= round(config.recipe.num_epochs, 6)
    if config.recipe.lr_schedule == "plateau":
        is_at_end |= schedules.plateau(errors)[1]
    is_at_end |= schedules.is_out_of_patience(errors, config.patience)
    wanted = [run.eval_file] + [run.saved_model_dir] * export
    return is_at_end and all(map(tf.io.gfile.exists, wanted))

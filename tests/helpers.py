"""What tests share."""

import dataclasses
import importlib
import os
import pathlib
import subprocess
import sys

import numpy as np
import tensorflow as tf

from alexnet_tf import command_line
from alexnet_tf.config import Config, resolve
from alexnet_tf.devices import make_strategy
from alexnet_tf.evaluation.evaluation import Outputs, evaluate_networks
from alexnet_tf.monitoring.tensorboard import Monitor
from alexnet_tf.pipeline.batches import BadRecords
from alexnet_tf.pipeline.data_set import open_data_set
from alexnet_tf.run import Run
from alexnet_tf.training.step import Trainer
from alexnet_tf.training.timetable import Timetable
from alexnet_tf.training.training import tell_next, train_run
from alexnet_tf.weights.loading import load_network

ODD_NAMES = ["plain", "lr[0.01]", "x[ab]", "a b;'\"$x", "q?*", "back\\slash", "{a,b}"]
NOT_UTF8 = os.fsdecode(b"n\xff")
SMALL = {"width": 0.1, "global_batch_size": 32, "precision": "float32"}


def make_config(data_set, recipe="auto", **given) -> Config:
    """The configuration of a small network on a data set, or on its directory."""
    if isinstance(data_set, str):
        data_set = open_data_set(data_set)
    return resolve(data_set, recipe, SMALL | given)


def train(data_dir, model_dir=None, export=True, **options) -> bool:
    """Trains and prints as train.py does; returns whether it came to its end."""
    outcome = train_run(data_dir, model_dir, export=export, **options)
    tell_next(outcome, export)
    return outcome.is_finished


# Compiled trainers: what is compiled, the trainer, its beginning. Those that no test
# has, the last ones alone, since each takes some hundred MB; those that a test has.
_free, _taken, _KEPT = [], [], 6
_LOOP = "train_steps steps_per_loop validate_every patience checkpoint_every given "
_LOOP += "checkpoint_minutes keep_checkpoints max_bad_records"


def make_trainer(data_dir, replicas=1, recipe="auto", **given) -> Trainer:
    """A small network in training, on simulated replicas.

    To compile one takes seconds: those of earlier tests are used again, from their
    beginning. The rate of `small` is constant unless a schedule is given.
    """
    if recipe in ("auto", "small"):
        given = {"lr_schedule": "constant", "warmup_epochs": 0.0} | given
    config = make_config(data_dir, recipe, **given)
    config = dataclasses.replace(config, simulate_gpus=replicas)
    end = Timetable(config).last_epoch
    falls = config.recipe.lr_schedule in ("cosine", "poly")
    recipe = dataclasses.replace(config.recipe, num_epochs=end if falls else 1.0)
    defaults = {f.name: f.default for f in dataclasses.fields(config)}
    loop = {name: defaults[name] for name in _LOOP.split()}
    key = dataclasses.replace(config, recipe=recipe, **loop)
    known = [number for number, (other, *_) in enumerate(_free) if other == key]
    if known:
        _taken.append(_free.pop(known[0]))
    else:
        strategy = make_strategy(simulate_gpus=replicas)
        trainer = Trainer(config, open_data_set(data_dir), strategy)
        _taken.append((key, trainer, copy_state(trainer)))
    _, trainer, start = _taken[-1]
    trainer.config, trainer.bad_records = config, BadRecords()
    put_state(trainer, start)
    return trainer


def give_back_trainers() -> None:
    """After a test: others may have its trainers."""
    while _taken:
        trained = _taken.pop()
        trained[1].__dict__.pop("run_steps", None)  # where a test has its own
        _free.append(trained)
    del _free[:-_KEPT]


def _variables(trainer):
    state = trainer.state
    parts = [getattr(state, field.name) for field in dataclasses.fields(state)]
    rest = [part for part in parts[2:] if not isinstance(part, list)]
    own = [*state.model.variables, *state.optimizer.variables]
    return [*own, *state.num_masks, *rest]


def copy_state(trainer) -> list:
    """Everything that lasts from step to step."""
    return [variable.numpy() for variable in _variables(trainer)]


def put_state(trainer, values) -> None:
    """Puts a trainer where it was at `copy_state`."""
    for variable, value in zip(_variables(trainer), values, strict=True):
        variable.assign(value)
    trainer.begin()


def evaluate_run(network, data_dir=None, *, recipe=None, report_dir=None, **options):
    """Evaluates a network, and writes the result into its run or `report_dir`."""
    networks = [load_network(network, recipe=recipe)]
    run_dir = network if Run(network).exists() else None
    outputs = Outputs(report_dir or run_dir, report=report_dir is not None)
    strategy = tf.distribute.get_strategy()
    return evaluate_networks(
        networks, data_dir, strategy=strategy, outputs=outputs, **options
    )


def draw_no_pictures(patch=setattr) -> None:
    """Has training draw none: they take seconds, and nothing depends on them."""
    for name in ("write_start", "validated"):
        patch(Monitor, name, lambda *_: None)


def largest_difference(first, second) -> float:
    """Between the values of two lists of arrays."""
    return max(
        np.abs(np.asarray(a) - np.asarray(b)).max()
        for a, b in zip(first, second, strict=True)
    )


def run_script(name, *arguments):
    """Runs a script of this project inside this process; returns its exit code.

    Args:
        name: Its module, such as "train" and "data.prepare".
        *arguments: Those of its command line.
    """
    script = importlib.import_module(name)
    argv = [name.replace(".", "/") + ".py", *map(str, arguments)]
    # The `check` of data.check is its work, not its look at the flags.
    check = None if name == "data.check" else getattr(script, "check", None)
    return command_line.execute(argv, script.main, script.define_flags, check)


def python(code, *arguments, env=os.environ, **options):
    """Starts a process that runs `code` after importing `files` and `paths`."""
    lines = "import os, sys, time\nfrom alexnet_tf import files, paths\n" + code
    return subprocess.Popen(
        [sys.executable, "-c", lines, *map(str, arguments)],
        cwd=pathlib.Path(__file__).resolve().parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env | {"ALEXNET_TF_PROGRAM": "1"},  # without TensorFlow
        **options,
    )


def tree(directory):
    """The content of every file, and the target of every link, by relative path."""
    return {
        str(path.relative_to(directory)): os.readlink(path)
        if path.is_symlink()
        else path.read_text(errors="replace")
        for path in sorted(pathlib.Path(directory).rglob("*"))
        if path.is_symlink() or path.is_file()
    }

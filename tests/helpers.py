"""What tests share."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import numpy as np

from alexnet_tf.config import Config, resolve
from alexnet_tf.devices import make_strategy
from alexnet_tf.monitoring.tensorboard import Monitor
from alexnet_tf.pipeline.data_set import open_data_set
from alexnet_tf.training.step import Trainer

ODD_NAMES = ["plain", "lr[0.01]", "x[ab]", "a b;'\"$x", "q?*", "back\\slash", "{a,b}"]
NOT_UTF8 = os.fsdecode(b"n\xff")
SMALL = {"width": 0.1, "global_batch_size": 32, "precision": "float32"}


def make_config(data_set, recipe="auto", **given) -> Config:
    """The configuration of a small network on a data set, or on its directory."""
    if isinstance(data_set, str):
        data_set = open_data_set(data_set)
    return resolve(data_set, recipe, SMALL | given)


def make_trainer(data_dir, replicas=1, recipe="auto", **given) -> Trainer:
    """A small network in training, on simulated replicas."""
    config = make_config(data_dir, recipe, **given)
    config = dataclasses.replace(config, simulate_gpus=replicas)
    strategy = make_strategy(simulate_gpus=replicas)
    return Trainer(config, open_data_set(data_dir), strategy)


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


def python(code, *arguments, **options):
    """Starts a process that runs `code` after importing `files` and `paths`."""
    lines = "import os, sys, time\nfrom alexnet_tf import files, paths\n" + code
    return subprocess.Popen(
        [sys.executable, "-c", lines, *map(str, arguments)],
        cwd=pathlib.Path(__file__).resolve().parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
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

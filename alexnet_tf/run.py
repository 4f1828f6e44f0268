"""A run on disk: its configuration, its checkpoints, its network."""

import dataclasses
import hashlib
import json
import os
import platform
import re

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from alexnet_tf.config import Config, fixed_settings, flat
from alexnet_tf.errors import UserError
from alexnet_tf.file_names import RUN_FILES
from alexnet_tf.files import (
    check_no_links,
    check_ours,
    read_json,
    remove_written,
    writing,
)
from alexnet_tf.network.alexnet import IMAGENET_MEAN, build_alexnet
from alexnet_tf.paths import (
    checkpoint_files,
    find_above,
    for_tensorflow,
    is_remote,
    list_checkpoints,
    list_names,
)
from alexnet_tf.settings import CONFIG_FILE, from_json

_DATA = "data_dir_from_here"  # key of config.json: the data set as seen from the run


class Run:
    """The directory of a run; names every file in it."""

    def __init__(self, model_dir: str):
        self.model_dir = model_dir
        self.config_file = os.path.join(model_dir, CONFIG_FILE)
        self.checkpoint_dir = os.path.join(model_dir, "checkpoints")
        self.best_dir = os.path.join(model_dir, "checkpoints", "best")
        self.metrics_file = os.path.join(model_dir, "metrics.jsonl")
        self.saved_model_dir = os.path.join(model_dir, "saved_model")
        self.eval_file = os.path.join(model_dir, "eval.json")

    def exists(self) -> bool:
        """Whether the directory holds a run."""
        return tf.io.gfile.exists(self.config_file)

    def read_config(self) -> Config:
        """Returns the run's configuration.

        Where its data set is gone, but is at the same place as seen from the run, both
        were moved together: then it says the new directory.

        Raises:
            UserError: If there is none, or it is damaged, or of an earlier version.
        """
        if not self.exists():
            raise UserError(
                f"no run in {self.model_dir!r} (no config.json there): give the "
                "--model_dir of a training run"
            )
        try:
            values = read_json(self.config_file)
            relative = values.pop(_DATA, None)
            config = from_json(Config, values)
        except ValueError as error:
            raise UserError(
                f"{self.config_file} is not a configuration of this version ({error}): "
                "use the version that trained the run, or train anew in another "
                "--model_dir"
            ) from None
        if relative and not os.path.isdir(config.data_dir):
            moved = os.path.normpath(os.path.join(self._directory(), str(relative)))
            if os.path.isdir(moved):
                config = dataclasses.replace(config, data_dir=moved)
        return config

    def _directory(self) -> str:
        return os.path.realpath(self.model_dir)

    def write_config(self, config: Config) -> None:
        """Writes the configuration, replacing the file in one move."""
        values = dataclasses.asdict(config)
        if not is_remote(self.model_dir) and not is_remote(config.data_dir):
            data_dir = os.path.realpath(config.data_dir)
            values[_DATA] = os.path.relpath(data_dir, self._directory())
        with writing(self.config_file) as file:
            json.dump(values, file, indent=1)

    def start(
        self, config: Config, overwrite: bool = False, write: bool = True
    ) -> None:
        """Makes the directory, or checks that `config` may go on with what is there.

        Args:
            config: The configuration of the training that is about to start.
            overwrite: Whether to remove an earlier run instead.
            write: Whether this process is the one that writes.

        Raises:
            UserError: If the directory holds something else, or a run that `config`
                cannot go on with.
        """
        if self.exists():
            if not overwrite:
                self._check_unchanged(self.read_config(), config)
                check_no_links(self.model_dir, RUN_FILES)
            elif write:
                check_ours(self.model_dir, RUN_FILES)
                remove_written(self.model_dir, RUN_FILES)
        elif write:
            check_ours(self.model_dir, RUN_FILES)
        if write:
            self.write_config(config)

    def _check_unchanged(self, old: Config, new: Config) -> None:
        before, now = fixed_settings(old), fixed_settings(new)
        for name in before:
            if before[name] != now[name]:
                advice = "or --overwrite to start anew"
                if name == "class_names":
                    advice = f"and --init_weights={self.model_dir} to use its weights"
                raise UserError(
                    f"the run in {self.model_dir} has {name} {_shorten(before[name])}, "
                    f"now {_shorten(now[name])} was given: give another --model_dir, "
                    f"{advice}"
                )
        before, now = flat(old), flat(new)
        for name in before:
            if before[name] != now[name] and name != "given":
                changed = f"{name} {before[name]} → {now[name]}"
                logging.info("changed since the last start: %s", changed)

    def checkpoint_path(self, checkpoint: str = "latest") -> str:
        """Finds a checkpoint: "latest", "best" or a path without its `.index`.

        Raises:
            UserError: If there is no such checkpoint.
        """
        path = checkpoint
        if checkpoint in ("latest", "best"):
            directory = self.best_dir if checkpoint == "best" else self.checkpoint_dir
            path = next(iter(list_checkpoints(directory)), None)
        if not path or not tf.io.gfile.exists(path + ".index"):
            raise UserError(
                f"no checkpoint {checkpoint!r} in {self.model_dir}: train "
                "first, or give --checkpoint=latest, best or a path without .index"
            )
        return path

    def load_model(
        self, checkpoint: str = "latest", dtype: str = "float32"
    ) -> tuple[keras.Model, Config, str]:
        """Builds the run's network with the weights of a checkpoint.

        Args:
            checkpoint: "latest", "best" or a path without its `.index`.
            dtype: Keras dtype policy to compute with.

        Returns:
            The model, the run's configuration, the path of the checkpoint.

        Raises:
            UserError: If there is no such checkpoint, or it is of another network.
        """
        config, path = self.read_config(), self.checkpoint_path(checkpoint)
        model = build_model(config, dtype)
        _restore(model, path)
        return model, config, path


def find_run(path: str) -> Run | None:
    """The run that a path is, or that a checkpoint's path lies in; None if in none."""
    directory = find_above(path, CONFIG_FILE)
    return Run(directory) if directory else None


def run_of(path: str) -> tuple[Run, str] | None:
    """The run and the checkpoint that a path means; None for any other file.

    Args:
        path: The directory of a run, for its latest checkpoint; or a checkpoint's path.

    Raises:
        UserError: If it is a directory that is no run, or a checkpoint without one.
    """
    is_checkpoint = tf.io.gfile.exists(path + ".index")
    # An object store takes the beginning of a file's name for a directory.
    if tf.io.gfile.isdir(path) and not is_checkpoint:
        if not Run(path).exists():
            held = ", ".join(list_names(path)[:8]) or "nothing"
            raise UserError(f"{path}: it is no run (no {CONFIG_FILE}); it holds {held}")
        return Run(path), "latest"
    if tf.io.gfile.exists(path) and not is_checkpoint:
        return None
    run = find_run(path)
    if run is None and is_checkpoint:
        raise UserError(
            f"{path}: a checkpoint does not tell its network without the {CONFIG_FILE} "
            "of its run above it: give it where its training left it"
        )
    return run and (run, path)


def _restore(model: keras.Model, checkpoint: str) -> None:
    """Restores every variable of a network; a checkpoint may hold more."""
    try:
        status = tf.train.Checkpoint(model=model).restore(for_tensorflow(checkpoint))
        status.assert_existing_objects_matched().expect_partial()
    except AssertionError as error:
        names = re.findall(r"<Variable path=([^,]+),", str(error))
        missing = min(names, default="its layers")
        raise UserError(
            f"checkpoint {checkpoint} has no weights for {missing}: it is of another "
            "network; give one of this run"
        ) from None
    except (ValueError, IndexError, tf.errors.OpError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"checkpoint {checkpoint} is damaged or of another network ({reason}): "
            "give another"
        ) from None


def checkpoint_sha256(checkpoint: str) -> str:
    """The SHA-256 of the files of a checkpoint, in the order of their names.

    Args:
        checkpoint: Its path, without `.index`; or that of another file of weights.
    """
    total = hashlib.sha256()
    for path in checkpoint_files(checkpoint) or [checkpoint]:
        with tf.io.gfile.GFile(path, "rb") as file:
            while chunk := file.read(2**20):
                total.update(chunk)
    return total.hexdigest()


def library_versions() -> dict[str, str]:
    """What a result of this program depends on, beside the machine."""
    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
    }


def build_model(config: Config, dtype: str, image_mean=IMAGENET_MEAN) -> keras.Model:
    """Builds the network of a configuration, with new weights."""
    return build_alexnet(
        len(config.class_names),
        config.recipe,
        image_mean=image_mean,
        dtype=dtype,
        seed=config.seed,
    )


def _shorten(value) -> object:
    """A value, or the number and the first of many names."""
    if not isinstance(value, tuple) or not value or not isinstance(value[0], str):
        return value
    return f"{len(value)} ({', '.join(value[:3])}{', …' if len(value) > 3 else ''})"

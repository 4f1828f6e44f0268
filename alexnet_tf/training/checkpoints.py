"""Checkpoints that outlive kills, damage and full disks."""

import math
import os

import numpy as np
import tensorflow as tf
from absl import logging

from alexnet_tf.errors import UserError
from alexnet_tf.files import explain, remove_written
from alexnet_tf.paths import for_tensorflow, list_checkpoints
from alexnet_tf.run import Run


class Checkpoints:
    """The checkpoints of a run in training: the latest ones, and the best model.

    Args:
        state: Everything that training goes on from; its `model` is what the best
            checkpoint holds.
        run: Where they are.
        keep: How many of the latest stay.
        write: Whether this process writes; of several workers only the chief does.
    """

    def __init__(self, state: tf.train.Checkpoint, run: Run, keep: int, write: bool):
        self._state, self._run, self._write = state, run, write
        if write:
            tf.io.gfile.makedirs(run.best_dir)
            self._manager = _make_manager(state, run.checkpoint_dir, keep)
            best = tf.train.Checkpoint(model=state.model)
            self._best = _make_manager(best, run.best_dir, 1)
        self._failure: str | None = None
        self.latest: str | None = None  # path of the last good one

    def restore(self) -> bool:
        """Goes back to the latest checkpoint that can be read; False if there is none.

        One that is damaged is skipped with a warning.

        Raises:
            UserError: If there are some, all of them damaged.
        """
        self._remove_unfinished()
        paths = list_checkpoints(self._run.checkpoint_dir)
        for path in paths:
            try:
                self._state.restore(for_tensorflow(path)).assert_consumed()
            except (tf.errors.OpError, AssertionError, IndexError, ValueError) as error:
                logging.warning(
                    "skipping damaged checkpoint %s: %s", path, _line(error)
                )
                continue
            self.latest = path
            return True
        if paths:
            raise UserError(
                f"none of the {len(paths)} checkpoints in {self._run.checkpoint_dir} "
                "can be read: give --overwrite to start anew"
            )
        return False

    def best_error(self, validations: np.ndarray) -> float:
        """The error of the best model that is on disk; infinite where there is none.

        A better one that the disk refused is not there, and does not count.

        Args:
            validations: float64 `(n, 2)`: step and top-1 error of each so far.
        """
        saved = next(iter(list_checkpoints(self._run.best_dir)), "")
        errors = (e for step, e in validations if saved.endswith(f"ckpt-{step:.0f}"))
        return min(errors, default=math.inf)

    def save(self, step: int, best: bool = False) -> None:
        """Saves; a disk that refuses is only a warning, since training can go on.

        Args:
            step: Steps done.
            best: Whether this is also the best model so far.
        """
        if not self._write:
            return
        try:
            if best:  # first: after a kill in between the validation comes again
                self._best.save(step)
            name = os.path.basename(self._manager.save(step))
            self.latest = os.path.join(self._run.checkpoint_dir, name)
            self._failure = None
        except (tf.errors.OpError, OSError) as error:
            self._failure = _line(error)
            self._remove_unfinished()
            logging.warning(
                "checkpoint of step %d not saved: %s; the last good one is %s; the "
                "next save tries again",
                step,
                self._failure,
                self.latest or "not there yet",
            )

    def check(self) -> None:
        """Raises `UserError` if the last save failed."""
        if self._failure:
            raise UserError(
                f"the last checkpoint could not be saved: {self._failure}; the same "
                f"command goes on from {self.latest or 'the beginning'}"
            )

    def _remove_unfinished(self) -> None:
        if self._write:
            for directory in (self._run.checkpoint_dir, self._run.best_dir):
                remove_written(directory, ("ckpt-*_temp/*",))


def _make_manager(state, directory: str, keep: int) -> tf.train.CheckpointManager:
    return tf.train.CheckpointManager(state, for_tensorflow(directory), keep)


def _line(error: Exception) -> str:
    """What happened: what the file system said, or else the end of the first line."""
    return explain(error) or str(error).splitlines()[0].rsplit("}} ", 1)[-1][:300]

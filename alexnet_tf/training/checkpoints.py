"""Checkpoints that outlive kills, damage and full disks, written beside the training.

A checkpoint of the whole network is half a gigabyte, and a disk takes seconds for it.
So it is written to memory first, and a thread copies its files to the disk while
training goes on; there are never two such threads. (TensorFlow's own way,
`experimental_enable_async_checkpoint`, fails at the second save of a Keras variable.)
"""

import contextlib
import math
import os
import threading

import numpy as np
import tensorflow as tf
from absl import logging

from alexnet_tf.errors import UserError
from alexnet_tf.file_names import UNFINISHED_CHECKPOINT_FILES
from alexnet_tf.files import explain, remove_written
from alexnet_tf.paths import (
    checkpoint_files,
    for_tensorflow,
    list_checkpoints,
    list_names,
)
from alexnet_tf.run import Run

_STATE_FILE = "checkpoint"  # of TensorFlow, for programs that look for the latest one


class Checkpoints:
    """The checkpoints of a run in training: the latest ones, and the best model.

    Args:
        state: Everything that training goes on from.
        run: Where they are.
        keep: How many of the latest stay.
        write: Whether this process writes; of several workers only the chief does.
    """

    def __init__(self, state: tf.train.Checkpoint, run: Run, keep: int, write: bool):
        self._state, self._run, self._keep, self._write = state, run, keep, write
        self._memory = f"ram://checkpoints/{id(self)}"  # a file system of TensorFlow's
        self._thread: threading.Thread | None = None
        self._failure: str | None = None
        self.latest: str | None = None  # path of the last good one
        if write:
            tf.io.gfile.makedirs(run.best_dir)

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

    def save(self, step: int) -> None:
        """Starts to save the state as it is now; there is one checkpoint for each step.

        A disk that refuses is only a warning, since training can go on.

        Args:
            step: Steps done.
        """
        self.wait()
        if not self._write or self.latest == self._path(step):
            return
        self._state.save_counter.assign(step - 1)  # which names what is saved next
        self._state.save(f"{self._memory}/ckpt")
        self._thread = threading.Thread(target=self._copy_to_disk, args=(step,))
        self._thread.start()

    def wait(self) -> None:
        """Waits until the checkpoint that is being written is on the disk."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    close = wait

    def mark_best(self, step: int) -> None:
        """Keeps the checkpoint of a step, where the disk has it, as the best one."""
        self.wait()
        path = self._path(step)
        if not self._write or path != self.latest:
            return
        old = list_checkpoints(self._run.best_dir)
        try:
            for file in sorted(checkpoint_files(path)):  # the index, its last, decides
                _link(file, os.path.join(self._run.best_dir, os.path.basename(file)))
        except (tf.errors.OpError, OSError) as error:
            logging.warning("the best checkpoint was not kept: %s", _line(error))
            return
        self._remove(other for other in old if not other.endswith(f"/ckpt-{step}"))

    def best_error(self, validations: np.ndarray) -> float:
        """The error of the best model that is on disk; infinite where there is none.

        A better one that the disk refused is not there, and does not count.

        Args:
            validations: float64 `(n, 2)`: step and top-1 error of each so far.
        """
        saved = next(iter(list_checkpoints(self._run.best_dir)), "")
        errors = (e for step, e in validations if saved.endswith(f"ckpt-{step:.0f}"))
        return min(errors, default=math.inf)

    def check(self) -> None:
        """Waits; raises `UserError` if the last save failed."""
        self.wait()
        if self._failure:
            raise UserError(
                f"the last checkpoint could not be saved: {self._failure}; the same "
                f"command goes on from {self.latest or 'the beginning'}"
            )

    def _path(self, step: int) -> str:
        return os.path.join(self._run.checkpoint_dir, f"ckpt-{step}")

    def _copy_to_disk(self, step: int) -> None:
        """What the thread does."""
        directory, path = self._run.checkpoint_dir, self._path(step)
        try:
            # Those of data, then the index, by which it is there; `checkpoint`, which
            # names it as the latest one, comes last.
            for name in sorted(list_names(self._memory), key=_STATE_FILE.__eq__):
                _copy(os.path.join(self._memory, name), os.path.join(directory, name))
            self.latest, self._failure = path, None
            self._remove(list_checkpoints(directory)[self._keep :])
        except Exception as error:  # nobody else would hear of it
            self._failure = _line(error)
            self._remove_unfinished()
            logging.warning(
                "checkpoint of step %d not saved: %s; the last good one is %s; the "
                "next save tries again",
                step,
                self._failure,
                self.latest or "not there yet",
            )
        finally:
            tf.io.gfile.rmtree(self._memory)

    def _remove(self, paths) -> None:
        for file in (file for path in paths for file in checkpoint_files(path)[::-1]):
            tf.io.gfile.remove(file)  # the index first: without it there is none

    def _remove_unfinished(self) -> None:
        """Removes what a killed process or a full disk left."""
        if self._write:
            for directory in (self._run.checkpoint_dir, self._run.best_dir):
                remove_written(directory, UNFINISHED_CHECKPOINT_FILES)


def _link(path: str, copy: str) -> None:
    """Has a file appear under a second name, at no cost where the disk can do that."""
    if tf.io.gfile.exists(copy):  # this step's validation was done before a kill
        return
    with contextlib.suppress(OSError):
        os.link(path, copy)
        return
    _copy(path, copy)  # no links there


def _copy(path: str, copy: str) -> None:
    """Has a copy of a file appear when it is whole."""
    tf.io.gfile.copy(path, copy + "_temp", overwrite=True)
    tf.io.gfile.rename(copy + "_temp", copy, overwrite=True)


def _line(error: Exception) -> str:
    """What happened: what the file system said, or else the end of the first line."""
    text = str(error) or repr(error)
    return explain(error) or text.splitlines()[0].rsplit("}} ", 1)[-1][:300]

"""The model that a server answers with: loaded, warmed up, replaced by a newer one."""

import os
import re
import threading

import numpy as np
import tensorflow as tf
from absl import logging

from alexnet_tf.errors import UserError
from alexnet_tf.paths import for_tensorflow
from predict import find_saved_model

_WARM_UP = (1, 8, 32)  # batches, so that no client meets a first call


class Model:
    """A SavedModel of ours.

    Attributes:
        version: Number of its directory, 1 where it has none.
        fitting: How it wants pictures made square.
    """

    def __init__(self, directory: str, version: int):
        self.version = version
        path, self.fitting = find_saved_model(directory)
        self._signatures = tf.saved_model.load(for_tensorflow(path)).signatures
        self._directory = path
        side = self.fitting.stored_size
        for number in _WARM_UP:
            self.run("images", np.zeros((number, side, side, 3), np.uint8))

    @property
    def signatures(self) -> list[str]:
        """Names of what can be asked."""
        return sorted(self._signatures)

    def input_of(self, signature: str) -> str:
        """The name of a signature's one input."""
        (name,) = self._signatures[signature].structured_input_signature[1]
        return name

    def run(self, signature: str, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Answers a batch of any size: a dict of arrays with a row for each of its."""
        function = self._signatures[signature]
        answer = function(**{self.input_of(signature): tf.constant(rows)})
        return {name: value.numpy() for name, value in answer.items()}


class Versions:
    """The newest version in a directory; a newer one takes its place once it is warm.

    Args:
        directory: A SavedModel, a run, or a directory of numbers that are such.
        interval: Seconds between two looks for a newer version.
    """

    def __init__(self, directory: str, interval: float = 5.0):
        self._directory, self._interval = directory, interval
        self._ended = threading.Event()
        self.current: Model | None = None
        self._refused: set[int] = set()

    def load(self) -> None:
        """Loads the newest version unless it is the one in use.

        Raises:
            UserError: There is none at all.
        """
        numbers = [n for n in self._list() if n not in self._refused]
        if not numbers and self.current is None:
            self.current = Model(self._directory, 1)
        elif numbers and (self.current is None or max(numbers) > self.current.version):
            newest = max(numbers)
            try:
                path = os.path.join(self._directory, str(newest))
                self.current = Model(path, newest)
                logging.info("version %d is served", newest)
            except (UserError, tf.errors.OpError, OSError) as error:
                self._refused.add(newest)
                reason = " ".join(str(error).split())
                logging.warning("version %d is not served: %s", newest, reason)
                self.load()

    def _list(self) -> list[int]:
        """The versions that are complete: an export is moved into place as a whole."""
        names = os.listdir(self._directory) if os.path.isdir(self._directory) else []
        return [int(name) for name in names if re.fullmatch(r"\d{1,15}", name)]

    def watch(self) -> None:
        """Looks for newer versions in a thread of its own until `close`."""

        def look() -> None:
            while not self._ended.wait(self._interval):
                self.load()

        threading.Thread(target=look, daemon=True).start()

    def close(self) -> None:
        """Ends the thread."""
        self._ended.set()

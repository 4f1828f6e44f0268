"""The model that a server answers with: loaded, warmed up, replaced by another."""

import contextlib
import os
import pathlib
import re
import threading
import time

import numpy as np
from absl import logging

from alexnet_tf.exported import ExportedModel

_INTERVAL = 5.0  # seconds between two looks for another version
_WARM_UP = (1, 8, 32)  # batches, so that no client meets a first call


class Versions:
    """The newest version in a directory; a newer one takes its place once it is warm.

    A version that is removed leaves its place to the newest that is still there.

    Args:
        directory: A SavedModel, a run, or a directory of numbers that are such.

    Attributes:
        current: The model in use.
        number: Its number, 1 where it has none.

    Raises:
        UserError: There is no model at all.
    """

    def __init__(self, directory: str):
        self._directory = directory
        self._refused: dict[int, list] = {}
        self.current, self.number = None, 0
        self.look()
        if self.current is None:
            self.current, self.number = _load(directory), 1

    def look(self) -> None:
        """Loads the newest version that can be loaded, unless it is the one in use."""
        names = os.listdir(self._directory) if os.path.isdir(self._directory) else []
        numbers = (int(name) for name in names if re.fullmatch(r"[1-9]\d{0,14}", name))
        for number in sorted(numbers, reverse=True):
            if number == self.number or self._load(number):
                return

    def _load(self, number: int) -> bool:
        """Says whether it could be loaded; one that could not waits for a change."""
        path = os.path.join(self._directory, str(number))
        content = _list_files(path)
        if self._refused.get(number) == content:
            return False
        try:
            self.current, self.number = _load(path), number
        except Exception as error:  # a damaged one raises anything
            self._refused[number] = content
            reason = " ".join(str(error).split())
            logging.warning("version %d is not served: %s", number, reason)
            return False
        logging.info("version %d is served", number)
        return True

    def watch(self) -> None:
        """Looks for other versions in a thread of its own until the process ends."""

        def watch() -> None:
            while True:
                time.sleep(_INTERVAL)
                with contextlib.suppress(OSError):  # a file came or went meanwhile
                    self.look()

        threading.Thread(target=watch, daemon=True).start()


def _load(directory: str) -> ExportedModel:
    model = ExportedModel(directory)
    side = model.fitting.stored_size
    for number in _WARM_UP:
        model.run("images", np.zeros((number, side, side, 3), np.uint8))
    for signature in {*model.signatures} - {"images"}:
        model.run(signature, np.array([b""], object))
    return model


def _list_files(directory: str) -> list[tuple[str, int, int]]:
    """The files of a version, their sizes and times: a copy may still be under way."""
    states = map(os.lstat, sorted(pathlib.Path(directory).rglob("*")))
    return [(s.st_ino, s.st_size, s.st_mtime_ns) for s in states]

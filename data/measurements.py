"""What has to be measured of a data set: once, then kept for the next time."""

import concurrent.futures
import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from alexnet_tf import files
from alexnet_tf.errors import UserError
from alexnet_tf.paths import is_remote


def describe_files(directory: str, filenames: Sequence[str]) -> dict[str, tuple]:
    """Returns each file's size, bytes, and date, by its path in the directory."""

    def describe(path: str) -> tuple:
        try:
            if is_remote(path):
                stat = tf.io.gfile.stat(path)
                return stat.length, stat.mtime_nsec
            stat = os.stat(path)  # TensorFlow's counts whole seconds
            return stat.st_size, stat.st_mtime_ns
        except (tf.errors.NotFoundError, FileNotFoundError):
            return ()

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        facts = pool.map(describe, filenames)
        names = [os.path.relpath(path, directory) for path in filenames]
        return dict(zip(names, facts, strict=True))


def measured_once(
    data_dir: str,
    name: str,
    measured_on: dict,
    measure: Callable[[], dict[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """Returns what `measure` returns, calling it only if no file holds it already.

    The file lies beside the data or, where that cannot be written, in the user's cache.

    Args:
        data_dir: Directory of the data set.
        name: Of what is measured, part of the file's name.
        measured_on: What the result depends on; JSON. A file that was made of something
            else, or that cannot be read, is ignored and replaced.
        measure: Does it.
    """
    measured_on = json.dumps(measured_on, sort_keys=True)
    user_cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    digest = hashlib.sha256(measured_on.encode()).hexdigest()[:16]
    paths = (
        os.path.join(data_dir, f".alexnet_tf-{name}-{digest}.npz"),
        os.path.join(user_cache, "alexnet_tf", f"{name}-{digest}.npz"),
    )
    for path in paths:
        facts = _read(path)
        if str(facts.pop("measured_on", None)) == measured_on:
            return facts
    facts = measure()
    for path in paths:
        try:
            _write(path, {"measured_on": measured_on, **facts})
            break
        except (tf.errors.OpError, OSError, UserError):
            continue
    return facts


def _read(path: str) -> dict[str, np.ndarray]:
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            return dict(np.load(io.BytesIO(file.read())))
    except Exception:  # whatever is wrong with it, it can be measured again
        return {}


def _write(path: str, facts: dict) -> None:
    with files.writing(path, "wb") as file:  # several processes may write at once
        np.savez(file, **facts)

"""TensorFlow's first import: quiet, and as this project needs it.

It takes seconds. So programs import it after they have looked at their flags, and the
package imports it at once for everybody else (`alexnet_tf/__init__.py`).
"""

import contextlib
import gc
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator

# TensorFlow starts some 40 threads in training, and a few pools with one for each core.
_THREADS, _THREADS_OF_CORE = 40, 4


def import_tensorflow(is_verbose: bool = False) -> None:
    """Imports TensorFlow and Keras for a program, whatever the environment says.

    Args:
        is_verbose: Whether to show what TensorFlow writes when it starts.

    Raises:
        RuntimeError: So many threads as it needs cannot be started.
    """
    from absl import logging

    if "tensorflow" in sys.modules:
        return
    _try_threads()
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        logging.warning("KERAS_BACKEND=%s is not used: this is TensorFlow", backend)
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.pop("TF_USE_LEGACY_KERAS", None)
    if not os.environ.get("TF_CONFIG", "{}").strip():
        del os.environ["TF_CONFIG"]
    if sys.stderr.isatty():  # somebody waits
        logging.info("starting TensorFlow")
    # None of the 400,000 objects that come is garbage, and to look for it takes a fifth
    # of the time. Keras does without matplotlib, which takes a tenth.
    gc.disable()
    is_blocked = sys.modules.setdefault("matplotlib", None) is None
    try:
        with contextlib.nullcontext() if is_verbose else importing_quietly():
            import keras
            import tensorflow  # noqa: F401
    finally:
        if is_blocked:
            del sys.modules["matplotlib"]
        gc.freeze()
        gc.enable()
    if not is_verbose:
        warnings.simplefilter("ignore")
    # What ~/.keras/keras.json may say otherwise.
    keras.config.set_floatx("float32")
    keras.config.set_image_data_format("channels_last")
    keras.config.set_epsilon(1e-7)


def _try_threads() -> None:
    """Starts as many threads as TensorFlow, which aborts where it cannot start one."""
    is_done = threading.Event()
    try:
        for _ in range(_THREADS + _THREADS_OF_CORE * os.cpu_count()):
            threading.Thread(target=is_done.wait).start()
    finally:
        is_done.set()


@contextlib.contextmanager
def importing_quietly() -> Iterator[None]:
    """Keeps TensorFlow's start-up lines off the terminal.

    Some of them are written before its own log level is read, so the file descriptor
    is what has to be redirected.
    """
    if "tensorflow" in sys.modules or sys.stderr is None:
        yield
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if not os.path.isabs(os.path.expanduser("~")):  # Keras would make a folder `~`
        os.environ.setdefault("KERAS_HOME", f"{tempfile.gettempdir()}/keras")
    sys.stderr.flush()
    terminal = os.dup(2)
    with open(os.devnull, "w") as null, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.dup2(null.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)

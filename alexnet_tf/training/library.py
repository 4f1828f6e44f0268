"""Training as a call in Python, such as in a notebook: what train.py is in a shell."""

import contextlib
import logging as python_logging
import os
import re
import sys
from collections.abc import Iterator

import tensorflow as tf
from absl import flags, logging
from PIL import Image

from alexnet_tf import programs
from alexnet_tf.classifier import Classifier
from alexnet_tf.command_line import is_for_people
from alexnet_tf.config import check_names
from alexnet_tf.errors import UserError
from alexnet_tf.metrics_file import read_records
from alexnet_tf.paths import expand
from alexnet_tf.run import Run
from alexnet_tf.training.resuming import RUNS_DIR
from alexnet_tf.training.training import train_run


class TrainedRun(Classifier):
    """A run, and its network as it was at the end of training; see `Classifier`.

    Attributes:
        model_dir: Its directory.
        is_finished: Whether training came to its end, or was interrupted.
        accuracy: How often its last validation was right, 0..1; None without one.
    """

    def __init__(self, run: Run, is_finished: bool):
        model, config, _ = run.load_model()
        super().__init__(model, config.class_names, config.fitting)
        self.model_dir, self.is_finished = run.model_dir, is_finished
        records = read_records(run.metrics_file)
        errors = [r["top_1_error"] for r in records if r["split"] == "validation"]
        self.accuracy = 1 - errors[-1] if errors else None

    def curves(self) -> Image.Image:
        """The learning curves, as a picture that a notebook shows."""
        return Image.open(os.path.join(self.model_dir, "learning_curves.png"))


def train(
    data_dir: str | os.PathLike,
    model_dir: str | None = None,
    recipe: str = "auto",
    *,
    overwrite: bool = False,
    export: bool = False,
    **given,
) -> TrainedRun:
    """Trains on pictures as train.py does, and returns the run.

    An interrupted one (Ctrl-C, "Interrupt the kernel") is returned as it is then; the
    same call goes on with it.

    Example:
    >>> run = alexnet_tf.train("photographs", num_epochs=20)
    >>> run.curves()
    >>> run.predict_pictures("new photographs")

    Args:
        data_dir: A folder with a folder of pictures for each class, or anything else
            that data.prepare reads; a data set is made of it in runs/data, once. Or a
            data set.
        model_dir: Where to write; by default the newest unfinished run of the same
            settings in runs/, or else a new one there.
        recipe: A name in `RECIPES`, or "auto".
        overwrite: Whether to start anew in a used `model_dir`.
        export: Whether to export a SavedModel.
        **given: Settings by the names of train.py's flags, such as `num_epochs=20`.

    Raises:
        UserError: If something that was asked for is not there, or does not fit.
    """
    with _showing():
        try:
            check_names(given)
            directory = _prepare(expand(os.fspath(data_dir)), model_dir)
            outcome = train_run(
                directory, model_dir, recipe, given, overwrite=overwrite, export=export
            )
        except UserError as error:
            raise UserError(_in_python(str(error))) from None
    run = TrainedRun(outcome.run, outcome.is_finished)
    lines = map(_in_python, outcome.lines)
    if not run.is_finished:
        lines = ["interrupted, with a checkpoint: the same call of train() goes on"]
    print("\n".join(lines))
    print(
        "Next, with what train() returned as run: run.curves(), run.accuracy, "
        "run.model, run.predict_pictures(PICTURES); another time "
        f"run = alexnet_tf.load({run.model_dir!r})"
    )
    return run


def _prepare(data_dir: str, model_dir: str | None) -> str:
    """The data set that was given, or one that is made of what was given."""
    if (scripts := programs.find_directory()) not in sys.path:
        sys.path.append(scripts)  # `data` lies beside them
    from data.own_data import find_own_data

    prepared_dir = os.path.join(RUNS_DIR, "data")
    own_data = find_own_data(data_dir, prepared_dir, model_dir=model_dir)
    return own_data.prepare() if own_data else data_dir


def _in_python(text: str) -> str:
    """A text that speaks of flags, with arguments in their place."""
    return re.sub(r"(?<![\w-])--(?=[a-z])", "", text)


class _Formatter(python_logging.Formatter):
    """Formats what is logged without date and thread, and as `_in_python` has it."""

    def format(self, record: python_logging.LogRecord) -> str:
        """Returns the text of a record."""
        return _in_python(super().format(record))


@contextlib.contextmanager
def _showing() -> Iterator[None]:
    """Inside, what this package logs is printed, and of TensorFlow's only warnings."""
    logger, handler = logging.get_absl_logger(), logging.get_absl_handler()
    others, verbosity = tf.get_logger(), logging.get_verbosity()
    stream, level = handler.python_handler.stream, others.level
    is_parsed = flags.FLAGS.is_parsed()
    flags.FLAGS.mark_as_parsed()  # else all goes to stderr, across the bar
    handler.python_handler.stream = sys.stdout
    handler.setFormatter(_Formatter())
    handler.addFilter(is_for_people)
    logger.addHandler(handler)
    logger.propagate = False
    logging.set_verbosity(logging.INFO)
    others.setLevel("WARNING")
    try:
        yield
    finally:
        others.setLevel(level)
        logging.set_verbosity(verbosity)
        logger.propagate = True
        logger.removeHandler(handler)
        handler.removeFilter(is_for_people)
        handler.setFormatter(logging.PythonFormatter())
        handler.python_handler.stream = stream
        if not is_parsed:
            flags.FLAGS.unparse_flags()

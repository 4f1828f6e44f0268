"""A run as a Keras model that takes pictures and says what they show."""

import dataclasses
import functools
import os
from collections.abc import Iterable

import keras
import numpy as np
import tensorflow as tf

from alexnet_tf.errors import UserError
from alexnet_tf.files import MAX_PICTURE_BYTES, read_whole
from alexnet_tf.paths import expand
from alexnet_tf.pictures.in_graph import Fitting, decode_pictures
from alexnet_tf.run import Run

_BATCH = 32  # pictures at a time


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a picture shows, or why it is not known.

    Attributes:
        path: The picture, as it was given.
        classes: Names and probabilities, 0..1, the most probable first; empty where
            there is an error.
        error: Why the picture could not be used; None where it could.
    """

    path: str
    classes: list[tuple[str, float]]
    error: str | None = None


def load(
    model_dir: str | os.PathLike, checkpoint: str | os.PathLike = "latest"
) -> keras.Model:
    """Loads the network of a run, to use it in Python.

    Example:
    >>> model = alexnet_tf.load("runs/demo")
    >>> for prediction in model.predict_pictures(["a.jpg", "b.png"]):
    ...     print(prediction.path, prediction.error or prediction.classes[0])

    Args:
        model_dir: Directory of the run.
        checkpoint: "latest", "best" or a path.

    Returns:
        A Keras model as `alexnet` makes it, in float32, with one method more:
        `predict_pictures(paths, top_k=5)` returns a list with a `Prediction` for each
        path, in order; what is no picture costs no other. Pictures are turned as their
        EXIF data say and fitted as those that it was trained on. What Keras makes of
        the model (a clone, a copy that was saved and loaded) is the network alone.

    Raises:
        UserError: If there is no such run or checkpoint.
    """
    run = Run(expand(os.fspath(model_dir)))
    model, config, _ = run.load_model(expand(os.fspath(checkpoint)))
    fitting = Fitting(config.recipe.fit, config.stored_size, model.input_shape[1])
    decode = tf.function(
        functools.partial(decode_pictures, fitting=fitting),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )
    model.predict_pictures = functools.partial(
        _predict_pictures, model, decode, config.class_names
    )
    return model


def _predict_pictures(
    model: keras.Model,
    decode: tf.types.experimental.PolymorphicFunction,
    class_names: tuple[str, ...],
    paths: str | os.PathLike | Iterable[str | os.PathLike],
    top_k: int = 5,
) -> list[Prediction]:
    if top_k < 1:
        raise ValueError(f"top_k must be >= 1, received {top_k}")
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    paths, predictions = list(map(os.fspath, paths)), []
    for start in range(0, len(paths), _BATCH):
        batch = paths[start : start + _BATCH]
        contents, errors = zip(*map(_read, batch), strict=True)
        images, is_picture = decode(tf.constant(contents))
        rows = tf.nn.softmax(model(images, training=False)).numpy()
        found = zip(batch, errors, is_picture.numpy(), rows, strict=True)
        for path, error, is_good, row in found:
            if not is_good:
                error = error or "no JPEG, PNG, GIF, BMP or WebP of a usual size"
                predictions.append(Prediction(path, [], error))
                continue
            best = np.argsort(-row, kind="stable")[:top_k]
            classes = [(class_names[i], float(row[i])) for i in best]
            predictions.append(Prediction(path, classes))
    return predictions


def _read(path: str) -> tuple[bytes, str | None]:
    """The bytes of a file and None, or b"" and why there are none."""
    try:
        return read_whole(expand(path), MAX_PICTURE_BYTES), None
    except UserError as error:
        return b"", str(error)

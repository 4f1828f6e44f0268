"""A network that takes pictures as people have them, and says what they show."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from alexnet_tf.pictures.decoding import open_picture
from alexnet_tf.pictures.fitting import Fitting, fit_for_network
from alexnet_tf.pictures.listing import LeftOut, find_pictures
from alexnet_tf.weights.loading import load_network

_BATCH = 32  # pictures at a time


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a picture shows, or why it is not known.

    Attributes:
        path: The file; "" for a picture that is none.
        classes: Names and probabilities, 0..1, the most probable first; empty where
            there is an error.
        error: Why the picture could not be used; None where it could.
    """

    path: str
    classes: list[tuple[str, float]]
    error: str | None = None


class Classifier:
    """A network, the names of its classes, and how its pictures were made square.

    Attributes:
        model: The network, a plain Keras model from float32 RGB 0..255
            `(batch, size, size, 3)` to logits `(batch, classes)`.
        class_names: The index is the class.
        fitting: How pictures become square.
    """

    def __init__(
        self, model: keras.Model, class_names: Sequence[str], fitting: Fitting
    ):
        self.model = model
        self.class_names = tuple(class_names)
        self.fitting = fitting

    def predict_pictures(self, pictures, top_k: int = 5) -> list[Prediction]:
        """Says what pictures show; what is no picture costs no other.

        They are turned upright and fitted as those that the network was trained on.

        Args:
            pictures: A picture, or several: paths of files, paths of folders, whose
                pictures at any depth are taken, pictures of Pillow, uint8 arrays
                `(height, width, 3)` or `(number, height, width, 3)`.
            top_k: How many classes to name.

        Returns:
            A `Prediction` for each picture, in order.
        """
        if top_k < 1:
            raise ValueError(f"top_k must be >= 1, received {top_k}")
        listed, predictions = list(_list_pictures(pictures)), []
        for start in range(0, len(listed), _BATCH):
            predictions += self._predict(listed[start : start + _BATCH], top_k)
        return predictions

    def _predict(self, pictures: list, top_k: int) -> Iterator[Prediction]:
        images, errors = [], []
        for picture in pictures:
            try:
                image = open_picture(picture, self.fitting.stored_size)
            except ValueError as error:
                errors.append(str(error))
                continue
            errors.append(None)
            size = self.model.input_shape[1]
            images.append(fit_for_network(image, self.fitting, size))
        logits = self.model(np.stack(images), training=False) if images else ()
        rows = iter(tf.nn.softmax(logits).numpy() if images else ())
        for picture, error in zip(pictures, errors, strict=True):
            path = os.fspath(picture) if _is_path(picture) else ""
            classes = []
            if error is None:
                row = next(rows)
                best = np.argsort(-row, kind="stable")[:top_k]
                classes = [(self.class_names[i], float(row[i])) for i in best]
            yield Prediction(path, classes, error)


def load(
    path: str | os.PathLike,
    checkpoint: str = "latest",
    *,
    recipe: str | None = None,
    class_names: str | Sequence[str] | None = None,
) -> Classifier:
    """Loads a trained or a published network, to use it in Python.

    Example:
    >>> classifier = alexnet_tf.load("runs/demo")
    >>> for prediction in classifier.predict_pictures(["a.jpg", "photos/"]):
    ...     print(prediction.path, prediction.error or prediction.classes[0])

    Args:
        path: Directory of a run, a checkpoint, or a file of weights.
        checkpoint: "latest", "best" or a path, of a run.
        recipe: A name in `RECIPES` for weights that may be of several.
        class_names: Names of the classes of published weights, or a file with one a
            line; by default 1000 classes are ImageNet's, others have numbers.

    Returns:
        The network in float32, the names of its classes, and `predict_pictures`.

    Raises:
        UserError: If there is no such run, checkpoint or file.
    """
    model, config, _ = load_network(
        path, checkpoint=checkpoint, recipe=recipe, class_names=class_names
    )
    fitting = config.fitting
    return Classifier(model, config.class_names, fitting)


def _is_path(picture: object) -> bool:
    return isinstance(picture, str | os.PathLike)


def _list_pictures(pictures: object) -> Iterable:
    """Yields each picture; of a folder, those in it and below."""
    is_array_of_one = getattr(pictures, "ndim", 4) < 4
    if _is_path(pictures) or isinstance(pictures, Image.Image) or is_array_of_one:
        pictures = [pictures]
    for picture in pictures:
        folder = _is_path(picture) and os.path.expanduser(picture)
        if folder and os.path.isdir(folder):
            yield from find_pictures(folder, LeftOut())
        else:
            yield picture

"""A network that takes pictures as people have them, and says what they show."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from alexnet_tf.pictures.decoding import open_for_network
from alexnet_tf.pictures.fitting import Fitting
from alexnet_tf.pictures.listing import LeftOut, find_pictures
from alexnet_tf.predictions import Prediction
from alexnet_tf.weights.loading import load_network

_BATCH = 32  # pictures at a time


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
                pictures at any depth are taken, contents of files, pictures of Pillow,
                uint8 arrays `(height, width, 3)` or `(number, height, width, 3)`.
            top_k: How many classes to name.

        Returns:
            A `Prediction` for each picture, in order.
        """
        if top_k < 1:
            raise ValueError(f"top_k must be >= 1, received {top_k}")
        size = self.model.input_shape[1]

        def classify(images: np.ndarray) -> list:
            logits = self.model(images, training=False)
            answers = []
            for row in tf.nn.softmax(logits).numpy():
                best = np.argsort(-row, kind="stable")[:top_k]
                names = [self.class_names[i] for i in best]
                answers.append((names, best.tolist(), row[best].tolist()))
            return answers

        return list(predict_each(pictures, classify, self.fitting, size))


def predict_each(
    pictures,
    classify: Callable[[np.ndarray], Sequence],
    fitting: Fitting,
    image_size: int,
    batch_size: int = _BATCH,
) -> Iterator[Prediction]:
    """Says of one picture after another what it shows, or why it is not known.

    Args:
        pictures: As `Classifier.predict_pictures` takes them.
        classify: From uint8 RGB `(n, image_size, image_size, 3)` to a tuple for each:
            names of classes, their numbers and their probabilities.
        fitting: How pictures become square.
        image_size: Height and width of what `classify` takes, pixels.
        batch_size: Pictures at a time.
    """
    waiting = iter(_list_pictures(pictures))
    while batch := list(itertools.islice(waiting, batch_size)):
        opened = [open_for_network(x, fitting, image_size) for x in batch]
        squares = [image for image, error in opened if error is None]
        answers = iter(classify(np.stack(squares)) if squares else ())
        for picture, (_, error) in zip(batch, opened, strict=True):
            path = os.fspath(picture) if _is_path(picture) else ""
            if error:
                yield Prediction(path, error=error)
                continue
            names, class_ids, probabilities = next(answers)
            classes = list(zip(names, probabilities, strict=True))
            yield Prediction(path, classes, class_ids=class_ids)


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
    return Classifier(model, config.class_names, config.fitting)


def _is_path(picture: object) -> bool:
    return isinstance(picture, str | os.PathLike)


def _list_pictures(pictures: object) -> Iterable:
    """Yields each picture; of a folder, those in it and below."""
    is_array_of_one = getattr(pictures, "ndim", 4) < 4
    is_one = isinstance(pictures, str | os.PathLike | bytes | Image.Image)
    if is_one or is_array_of_one:
        pictures = [pictures]
    for picture in pictures:
        folder = _is_path(picture) and os.path.expanduser(picture)
        if folder and os.path.isdir(folder):
            yield from find_pictures(folder, LeftOut())
        else:
            yield picture

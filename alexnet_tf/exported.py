"""An export, loaded: it says what pictures show, as its network does."""

from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf

from alexnet_tf.paths import for_tensorflow
from alexnet_tf.pictures.fitting import find_saved_model


class ExportedModel:
    """A SavedModel of `alexnet_tf.export`.

    Args:
        directory: Its own, or that of a run that has one.

    Attributes:
        fitting: How it wants pictures made square.
        signatures: Names of what can be asked.
        top_k: How many classes it answers.

    Raises:
        UserError: There is none of ours.
    """

    def __init__(self, directory: str):
        path, self.fitting = find_saved_model(directory)
        # Keeps the variables, which the signatures alone do not.
        self._loaded = tf.saved_model.load(for_tensorflow(path))
        self.signatures = sorted(self._loaded.signatures)
        outputs = self._loaded.signatures["images"].structured_outputs
        self.top_k = outputs["class_ids"].shape[1]

    def input_of(self, signature: str) -> str:
        """The name of a signature's one input."""
        (name,) = self._loaded.signatures[signature].structured_input_signature[1]
        return name

    def run(self, signature: str, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Answers a batch: a dict of arrays with a row for each of its rows."""
        function = self._loaded.signatures[signature]
        answer = function(**{self.input_of(signature): tf.constant(rows)})
        return {name: value.numpy() for name, value in answer.items()}

    def classify(self, images: np.ndarray, top_k: int) -> Iterator[tuple]:
        """Yields names, numbers and probabilities of the classes of each picture.

        Args:
            images: uint8 RGB `(batch, height, width, 3)`.
            top_k: How many classes.
        """
        answer = self.run("images", images)
        for row in range(len(images)):
            names = [name.decode() for name in answer["classes"][row, :top_k]]
            numbers = answer["class_ids"][row], answer["probabilities"][row]
            yield names, *(array[:top_k].tolist() for array in numbers)


def pick_class(answer: Mapping[str, np.ndarray], class_id: int) -> np.ndarray:
    """The probabilities of a class in an answer, `(batch,)`.

    Where the class is not among those answered, it is at most as probable as the last.
    """
    is_class = answer["class_ids"] == class_id
    values = answer["probabilities"]
    return np.where(is_class.any(1), (values * is_class).sum(1), values[:, -1])

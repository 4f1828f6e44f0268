"""Compares what was exported with what it is from."""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from alexnet_tf.config import Config
from alexnet_tf.errors import UserError
from alexnet_tf.pictures.in_graph import fit_images
from alexnet_tf.pipeline.batches import evaluation_batches
from alexnet_tf.pipeline.data_set import DataSet, open_data_set
from alexnet_tf.weights.loading import Loaded

_TOLERANCE = 1e-3  # of a probability, and of the largest feature
_BATCH = 32


def draw_picture(height: int, width: int, seed: int) -> np.ndarray:
    """Draws a picture: uint8 RGB, coarse noise."""
    cells = np.random.default_rng(seed).uniform(0, 255, (6, 6, 3))
    picture = tf.image.resize(cells, (height, width), "bicubic").numpy()
    return picture.clip(0, 255).astype(np.uint8)


def require_same(found: np.ndarray, expected: np.ndarray, scale: float) -> None:
    """Raises a `UserError` where an export answers otherwise than its checkpoint."""
    difference = np.abs(found - expected).max()
    if not difference <= _TOLERANCE * scale:  # also where it is no number
        raise UserError(
            f"the export answers otherwise than its checkpoint (difference "
            f"{difference:.2g}): nothing was replaced; export anew"
        )


@dataclasses.dataclass(frozen=True)
class Measured:
    """What an approximation costs, on the same pictures of a validation split.

    Attributes:
        num_evaluated: How many pictures.
        before: The top-1 accuracy of the checkpoint, 0..1.
        after: That of the export.
        agreement: The share of pictures that both answer with the same class.
        speed: How many times as fast as in float32 it answers one picture, on this
            machine; None where that was not measured.
    """

    num_evaluated: int
    before: float
    after: float
    agreement: float
    speed: float | None = None

    def __str__(self) -> str:
        text = (
            f"top-1 accuracy {self.after:.2%}, the checkpoint's {self.before:.2%}; the "
            f"same answer to {self.agreement:.2%} of {self.num_evaluated:,} validation "
            "images"
        )
        if self.speed:
            text += f"; {self.speed:.1f} times as fast as in float32 where it was made"
        return text


def open_validation(config: Config) -> DataSet:
    """Opens the data set of a network's training, to measure an export on it.

    Raises:
        UserError: If it is not there, or has no validation images.
    """
    data_set = open_data_set(config.data_dir) if config.data_dir else None
    if data_set is None or "validation" not in data_set.splits:
        raise UserError(
            "what --precision and --quantize cost is measured on the validation images "
            "of a run's data set, and this network has none: export it in float32"
        )
    return data_set


def measure(network: Loaded, answer: Callable) -> Measured:
    """Compares an export's answers with those of its checkpoint.

    Args:
        network: With the checkpoint's weights.
        answer: The export: from uint8 RGB `(batch, stored_size, stored_size, 3)`, as a
            data set has it, to the most probable classes, `(batch,)`.
    """
    model, config, _ = network
    data_set = open_validation(config)

    @tf.function(autograph=False)
    def expect(images):
        images = fit_images(images, config.fitting, model.input_shape[1])
        return tf.argmax(model(images, training=False), axis=1)

    batches = evaluation_batches(
        data_set,
        "validation",
        global_batch_size=_BATCH,
        image_size=data_set.image_size,
    )
    rows = [np.stack([y, expect(x), answer(x)]) for x, y in batches]
    rows = np.concatenate(rows, axis=1)
    labels, before, after = rows[:, rows[0] >= 0]
    return Measured(
        len(labels),
        before=np.mean(before == labels).item(),
        after=np.mean(after == labels).item(),
        agreement=np.mean(before == after).item(),
    )

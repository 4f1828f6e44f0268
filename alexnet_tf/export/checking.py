"""Compares what was exported with what it is from."""

import numpy as np
import tensorflow as tf

from alexnet_tf.errors import UserError

_TOLERANCE = 1e-3  # of a probability, and of the largest feature


def draw_picture(height: int, width: int, seed: int) -> np.ndarray:
    """Draws a picture: uint8 RGB, coarse noise."""
    cells = np.random.default_rng(seed).uniform(0, 255, (6, 6, 3))
    return (
        tf.image.resize(cells, (height, width), "bicubic")
        .numpy()
        .clip(0, 255)
        .astype(np.uint8)
    )


def require_same(found: np.ndarray, expected: np.ndarray, scale: float) -> None:
    """Raises a `UserError` where an export answers otherwise than its checkpoint."""
    difference = np.abs(found - expected).max()
    if not difference <= _TOLERANCE * scale:  # also where it is no number
        raise UserError(
            f"the export answers otherwise than its checkpoint (difference "
            f"{difference:.2g}): nothing was replaced; export anew"
        )

"""Where a network looks: how much it costs to hide a part of a picture.

After Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV
2014, section 4.2, who made it for AlexNet.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image

_CELL = 32  # side, pixels


def find_where(
    classify: Callable[[np.ndarray], np.ndarray], image: np.ndarray, batch_size: int
) -> np.ndarray:
    """Measures where a picture shows a class.

    Squares of the picture's mean color hide it at one place after another.

    Args:
        classify: From uint8 RGB `(n, height, width, 3)` to the probabilities of the
            class, `(n,)`.
        image: uint8 RGB `(height, width, 3)`.
        batch_size: Pictures at a time.

    Returns:
        float64 `(rows, columns)`, a cell of 32×32 pixels each: by how much the
        probability falls, in the mean of the four squares of 64×64 that hide the cell.
    """
    mean = image.mean((0, 1)).round()
    rows, columns = (-(-side // _CELL) for side in image.shape[:2])
    squares = [None]  # the picture as it is
    for i in range(rows + 1):
        for j in range(columns + 1):
            top, left = max(i - 1, 0) * _CELL, max(j - 1, 0) * _CELL
            squares.append(np.s_[top : (i + 1) * _CELL, left : (j + 1) * _CELL])
    probabilities = []
    for start in range(0, len(squares), batch_size):
        batch = squares[start : start + batch_size]
        hidden = image[np.newaxis].repeat(len(batch), 0)
        for one, square in zip(hidden, batch, strict=True):
            if square:
                one[square] = mean
        probabilities.extend(np.asarray(classify(hidden), np.float64))
    falls = np.nan_to_num(probabilities[0] - np.array(probabilities[1:]))
    falls = falls.reshape(rows + 1, columns + 1)
    return (falls[:-1, :-1] + falls[1:, :-1] + falls[:-1, 1:] + falls[1:, 1:]) / 4


def light(image: np.ndarray, falls: np.ndarray) -> np.ndarray:
    """Darkens a picture but for where hiding it costs; `falls` from `find_where`."""
    falls = np.maximum(falls, 0)
    cells = Image.fromarray(np.float32(falls / max(falls.max(), 1e-6)))
    size = [side * _CELL for side in reversed(falls.shape)]
    lit = np.asarray(cells.resize(size, Image.Resampling.BICUBIC)).clip(0, 1)
    lit = lit[: image.shape[0], : image.shape[1], np.newaxis]
    return np.uint8(image * (0.3 + 0.7 * lit))

"""Where a network looks, and what its layers see, as pictures.

Two ways answer "where". Occlusion hides one part of the picture after another and
measures how much of the probability that costs (Zeiler and Fergus, "Visualizing and
Understanding Convolutional Networks", ECCV 2014, section 4.2, who made it for AlexNet).
It needs nothing but answers, so it works on an exported model too, and its unit is the
same for every picture. Grad-CAM weighs the maps of a layer by one gradient (Selvaraju
et al., "Grad-CAM", ICCV 2017). It is a hundred times faster, and relative: its largest
value is 1 in every picture.
"""

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

METHODS = ("gradcam", "occlusion")
FULL_POINTS = 50  # percentage points of probability, from which a colour is full
LEAST_POINTS = 2  # below which no single part matters
_CELL = 32  # side of what is hidden at a time, pixels
_BATCH = 32
# From dark violet to yellow (matplotlib's "plasma"): light is more, in grey, too.
_COLORS = np.array(
    [(13, 8, 135), (126, 3, 168), (204, 71, 120), (248, 149, 64), (240, 249, 33)]
)


def explain(
    model,
    images: np.ndarray,
    class_id: int | Sequence[int] | None = None,
    method: str = "gradcam",
    layer: str = "conv5",
) -> np.ndarray:
    """Shows where pictures show a class to a network.

    Example:
    >>> pictures = alexnet_tf.explain(model, images, method="occlusion")

    Args:
        model: A Keras model from `alexnet`, `AlexNet` or `load`.
        images: RGB 0..255 `(n, size, size, 3)`, as the model takes them.
        class_id: The class, of all pictures or of each; None for the answered ones.
        method: "gradcam", or "occlusion", which takes a hundred times as long.
        layer: Layer whose maps Grad-CAM weighs, such as "conv2" or "pool5".

    Returns:
        uint8 `(n, size, size, 3)`: the pictures in grey, and in colour what the class
        depends on. The colours of "occlusion" have one scale: yellow is where hiding
        costs `FULL_POINTS` percentage points of the class's probability or more. Those
        of "gradcam" are relative: yellow is the largest value of each picture.

    Raises:
        ValueError: If the method or the layer is none, or the pictures do not fit.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, received {method!r}")
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[1:] != model.input_shape[1:]:
        raise ValueError(
            f"images must be (n, {', '.join(map(str, model.input_shape[1:]))}), "
            f"received {images.shape}"
        )
    pixels = np.uint8(images.clip(0, 255).round())
    classes = class_id
    if class_id is None:
        classes = np.argmax(classify(model, pixels), axis=1)
    classes = np.broadcast_to(classes, len(pixels))
    if method == "gradcam":
        maps = measure_gradcam(model, pixels, classes, layer)
        peaks = np.maximum(maps.max((1, 2), keepdims=True), 1e-12)
        shares = (scale_up(m, pixels.shape[1:3]) for m in maps / peaks)
    else:
        shares = (
            to_shares(measure_falls(pick_class(model, c), x, _BATCH), pixels.shape[1:3])
            for x, c in zip(pixels, classes, strict=True)
        )
    return np.stack([overlay(x, s) for x, s in zip(pixels, shares, strict=True)])


def _up_to(model, name: str):
    """A network up to a layer; ValueError if there is no such layer."""
    names = [layer.name for layer in model.layers]
    if name not in names:
        raise ValueError(f"there is no layer {name!r}: give one of {', '.join(names)}")
    return keras.Model(model.inputs[0], model.get_layer(name).output)


def _find_scores(model):
    """The tensor of a score a class, before any softmax."""
    names = [layer.name for layer in model.layers]
    return model.get_layer("fc8").output if "fc8" in names else model.output


def classify(model, images: np.ndarray) -> np.ndarray:
    """The probabilities of all classes, float32 `(n, num_classes)`."""
    scores = keras.Model(model.inputs[0], _find_scores(model))
    # Batches of one size: each new one would be traced anew. And not `predict`: under a
    # strategy every replica would answer all of the images.
    size = min(_BATCH, len(images))
    padded = np.pad(images, [(0, -len(images) % size)] + [(0, 0)] * 3)
    parts = padded.reshape(-1, size, *images.shape[1:])
    logits = [np.float32(scores(part, training=False)) for part in parts]
    logits = np.concatenate(logits)[: len(images)]
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def pick_class(model, class_id: int) -> Callable[[np.ndarray], np.ndarray]:
    """A function from pictures to the probabilities of a class, for `measure_falls`."""
    return lambda images: classify(model, images)[:, class_id]


def measure_gradcam(
    model, images: np.ndarray, class_ids: Sequence[int], layer: str = "conv5"
) -> np.ndarray:
    """Weighs the maps of a layer by how much each raises the score of a class.

    Args:
        model: A Keras model whose layers have names.
        images: `(n, size, size, 3)`, RGB 0..255.
        class_ids: `(n,)`.
        layer: Name of a layer of maps.

    Returns:
        float32 `(n, rows, columns)` of the layer's maps, at least 0.

    Raises:
        ValueError: If there is no such layer, or it has no maps.
    """
    below = _up_to(model, layer)
    if len(below.output.shape) != 4:
        raise ValueError(
            f"layer {layer!r} has no maps: give a convolution or a pooling"
        )
    above = keras.Model(below.output, _find_scores(model))
    maps = below(images, training=False)
    with tf.GradientTape() as tape:
        tape.watch(maps)
        scores = above(maps, training=False)
        score = tf.gather(scores, tf.constant(class_ids, tf.int32), batch_dims=1)
    gradients = tf.cast(tape.gradient(score, maps), tf.float32)
    weights = tf.reduce_mean(gradients, axis=(1, 2), keepdims=True)
    total = tf.reduce_sum(weights * tf.cast(maps, tf.float32), axis=3)
    return tf.nn.relu(total).numpy()


def measure_falls(
    classify: Callable[[np.ndarray], np.ndarray], image: np.ndarray, batch_size: int
) -> np.ndarray:
    """Measures how much it costs to hide each part of a picture.

    Squares of the picture's mean color hide one part after another.

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
    squares = [np.s_[:0, :0]]  # hides nothing
    for i in range(rows + 1):
        for j in range(columns + 1):
            top, left = max(i - 1, 0) * _CELL, max(j - 1, 0) * _CELL
            squares.append(np.s_[top : (i + 1) * _CELL, left : (j + 1) * _CELL])
    probabilities = []
    for start in range(0, len(squares), batch_size):
        batch = squares[start : start + batch_size]
        hidden = image[np.newaxis].repeat(len(batch), 0)
        for picture, square in zip(hidden, batch, strict=True):
            picture[square] = mean
        probabilities.extend(np.asarray(classify(hidden), np.float64))
    falls = np.nan_to_num(probabilities[0] - np.array(probabilities[1:]))
    falls = falls.reshape(rows + 1, columns + 1)
    return (falls[:-1, :-1] + falls[1:, :-1] + falls[:-1, 1:] + falls[1:, 1:]) / 4


def describe_falls(falls: np.ndarray) -> str:
    """How much of the answer hangs on the part that matters most."""
    points = 100 * falls.max()
    if points < LEAST_POINTS:
        return "no single part matters"
    return f"at most {points:.0f} points"


def to_shares(falls: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """From `measure_falls` to the share of a full colour of every pixel."""
    points = 100 * falls.clip(0) * (100 * falls.max() >= LEAST_POINTS)
    shares = np.sqrt(points / FULL_POINTS)  # so that a few points can be seen, too
    whole = scale_up(shares, [side * _CELL for side in falls.shape])
    return whole[: size[0], : size[1]]


def to_points(share: float) -> float:
    """The percentage points for which `to_shares` gives a share."""
    return FULL_POINTS * share**2


def scale_up(values: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """A map as large as a picture `(height, width)`, clipped to 0..1."""
    scaled = Image.fromarray(np.float32(values)).resize(
        (size[1], size[0]), Image.Resampling.BICUBIC
    )
    return np.asarray(scaled).clip(0, 1)


def overlay(image: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """A picture in grey with a share of a full colour on every pixel.

    Args:
        image: uint8 RGB `(height, width, 3)`.
        shares: `(height, width)`, 0..1.

    Returns:
        uint8 `(height, width, 3)`.
    """
    grey = image.mean(axis=2, keepdims=True).repeat(3, axis=2)
    # Half of it stays to be seen under a full colour, and a share of 0 has none.
    opacity = np.minimum(2 * shares, 1)[..., np.newaxis] * 0.6
    return np.uint8(np.round(grey * (1 - opacity) + _color(shares) * opacity))


def _color(shares: np.ndarray) -> np.ndarray:
    at = np.linspace(0, 1, len(_COLORS))
    return np.stack([np.interp(shares, at, channel) for channel in _COLORS.T], axis=-1)

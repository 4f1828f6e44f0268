"""Where a network looks, and what its layers see, as pictures.

Two ways answer "where". Occlusion hides one part of the picture after another and
measures how much of the probability that costs (Zeiler and Fergus, "Visualizing and
Understanding Convolutional Networks", ECCV 2014, section 4.2, who made it for AlexNet).
It needs nothing but answers, so it works on an exported model too, and its unit is the
same for every picture. Grad-CAM weighs the maps of a layer by one gradient (Selvaraju
et al., "Grad-CAM", ICCV 2017). It is a hundred times faster, and relative: its largest
value is 1 in every picture.

What a unit looks for is drawn by following its gradient from noise to a picture
(Simonyan et al., "Deep Inside Convolutional Networks", 2013).
"""

from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from alexnet_tf.errors import UserError

METHODS = ("gradcam", "occlusion")
FULL_POINTS = 50  # percentage points of probability, from which a colour is full
LEAST_POINTS = 2  # below which no single part matters
_CELL = 32  # side of what is hidden at a time, pixels
_BATCH = 32
_STEP, _BLUR_EVERY = 4.0, 4  # of an ascent: pixel values, steps


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
    if class_id is None:
        class_id = np.argmax(classify(model, pixels), axis=1)
    classes = np.broadcast_to(class_id, len(pixels))
    if method == "gradcam":
        return show_gradcam(model, pixels, classes, layer)
    shown = (
        show_occlusion(lambda x, c=c: classify(model, x)[:, c], image)[0]
        for image, c in zip(pixels, classes, strict=True)
    )
    return np.stack(list(shown))


def excite(model, layer: str, unit: int, steps: int = 128) -> np.ndarray:
    """Draws a picture that excites a unit, by gradient ascent from grey noise.

    The picture is blurred now and then: without that, high frequencies excite every
    unit (Yosinski et al., "Understanding Neural Networks Through Deep Visualization",
    2015).

    Example:
    >>> picture = alexnet_tf.excite(model, "fc8", 3)

    Args:
        model: A Keras model from `alexnet`, `AlexNet` or `load`.
        layer: Name of the unit's layer, such as "fc8" or "conv3".
        unit: Its number: that of a class in fc8, that of a filter in a convolution,
            whose mean over the map is raised. What counts is the value before a ReLU.
        steps: Steps of the ascent.

    Returns:
        uint8 `(size, size, 3)`, RGB.

    Raises:
        ValueError: If there is no such layer or unit.
    """
    answer = keras.Model(model.inputs[0], before_activation(find_layer(model, layer)))
    number = answer.output.shape[-1]
    if not 0 <= unit < number:
        raise ValueError(f"unit must be in 0..{number - 1}, received {unit}")
    # A model that takes any size gets a picture of the paper's.
    shape = [1, *(side or 224 for side in model.input_shape[1:])]
    picture = tf.random.stateless_normal(shape, (0, unit), mean=128.0, stddev=8.0)
    for step in range(steps):
        if step % _BLUR_EVERY == 0:
            picture = tf.nn.avg_pool2d(picture, 3, 1, "SAME")
        with tf.GradientTape() as tape:
            tape.watch(picture)
            excitement = tf.reduce_mean(answer(picture, training=False)[..., unit])
        gradient = tape.gradient(excitement, picture)
        gradient /= tf.math.reduce_std(gradient) + 1e-12
        picture = tf.clip_by_value(picture + _STEP * gradient, 0, 255)
    return np.uint8(np.round(picture[0]))


def find_layer(model, name: str):
    """A layer behind the input, by its name; a `UserError` if there is none."""
    names = [layer.name for layer in model.layers[1:]]
    if name not in names:
        raise UserError(f"there is no layer {name!r}: give one of {', '.join(names)}")
    return model.get_layer(name)


def before_activation(layer):
    """What a layer computes before its own activation; without one, its output."""
    if not hasattr(layer, "activation"):
        return layer.output
    config = layer.get_config() | {"activation": "linear"}
    linear = type(layer).from_config(config | {"name": f"{layer.name}_before_relu"})
    output = linear(layer.input)
    linear.set_weights(layer.get_weights())
    return output


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
    logits = tf.concat([scores(part, training=False) for part in parts], axis=0)
    return tf.nn.softmax(tf.cast(logits, tf.float32)).numpy()[: len(images)]


def show_gradcam(
    model, images: np.ndarray, class_ids: Sequence[int], layer: str = "conv5"
) -> np.ndarray:
    """Shows what `measure_gradcam` finds.

    Args:
        model: See `measure_gradcam`.
        images: uint8 RGB `(n, size, size, 3)`.
        class_ids: `(n,)`.
        layer: See `measure_gradcam`.

    Returns:
        uint8 `(n, size, size, 3)`; yellow is each picture's largest value.
    """
    maps = measure_gradcam(model, images, class_ids, layer)
    shares = maps / np.maximum(maps.max((1, 2), keepdims=True), 1e-12)
    pairs = zip(images, shares, strict=True)
    return np.stack([overlay(x, scale_up(s, x.shape[:2])) for x, s in pairs])


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
    below = keras.Model(model.inputs[0], find_layer(model, layer).output)
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


def show_occlusion(
    classify: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    batch_size: int = 128,
) -> tuple[np.ndarray, str]:
    """Shows how much it costs to hide each part of a picture.

    The colours have one scale for all pictures.

    Args:
        classify: From uint8 RGB `(n, height, width, 3)` to the probabilities of the
            class, `(n,)`.
        image: uint8 RGB `(height, width, 3)`.
        batch_size: Pictures at a time.

    Returns:
        uint8 `(height, width, 3)`; and in words how much of the answer hangs on the
        part that matters most.
    """
    probabilities = [classify(hidden) for hidden in hide_parts(image, batch_size)]
    return show_falls(image, np.concatenate(probabilities))


def show_falls(
    image: np.ndarray, probabilities: Sequence[float]
) -> tuple[np.ndarray, str]:
    """Shows `to_falls` of what `hide_parts` hid; see `show_occlusion`."""
    falls = to_falls(probabilities, image.shape[:2])
    return overlay(image, to_shares(falls, image.shape[:2])), describe_falls(falls)


def hide_parts(image: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Yields a picture as it is, and with one part after another hidden, in batches.

    Squares of the picture's mean color, 64×64 pixels, hide the parts.
    """
    mean = image.mean((0, 1)).round()
    rows, columns = _count_cells(image.shape[:2])
    squares = [np.s_[:0, :0]]  # hides nothing
    for i in range(rows + 1):
        for j in range(columns + 1):
            top, left = max(i - 1, 0) * _CELL, max(j - 1, 0) * _CELL
            squares.append(np.s_[top : (i + 1) * _CELL, left : (j + 1) * _CELL])
    for start in range(0, len(squares), batch_size):
        batch = squares[start : start + batch_size]
        hidden = image[np.newaxis].repeat(len(batch), 0)
        for picture, square in zip(hidden, batch, strict=True):
            picture[square] = mean
        yield hidden


def to_falls(probabilities: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    """From the probabilities of the pictures of `hide_parts` to what each part costs.

    Returns:
        float64 `(rows, columns)`, a cell of 32×32 pixels each: by how much the
        probability falls, in the mean of the four squares that hide the cell.
    """
    rows, columns = _count_cells(size)
    probabilities = np.asarray(probabilities, np.float64)
    falls = np.nan_to_num(probabilities[0] - probabilities[1:])
    falls = falls.reshape(rows + 1, columns + 1)
    return (falls[:-1, :-1] + falls[1:, :-1] + falls[:-1, 1:] + falls[1:, 1:]) / 4


def _count_cells(size: tuple[int, int]) -> tuple[int, int]:
    return -(-size[0] // _CELL), -(-size[1] // _CELL)


def describe_falls(falls: np.ndarray) -> str:
    """How much of the answer hangs on the part that matters most."""
    points = 100 * falls.max()
    if points < LEAST_POINTS:
        return "no single part matters"
    return f"at most {points:.0f} points"


def to_shares(falls: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """From `to_falls` to the share of a full colour of every pixel."""
    points = 100 * falls.clip(0) * (100 * falls.max() >= LEAST_POINTS)
    shares = np.sqrt(points / FULL_POINTS)  # so that a few points can be seen, too
    whole = scale_up(shares, [side * _CELL for side in falls.shape])
    return whole[: size[0], : size[1]]


def scale_up(values: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """A map as large as a picture `(height, width)`, clipped to 0..1."""
    scaled = Image.fromarray(np.float32(values)).resize(
        (size[1], size[0]), Image.Resampling.BICUBIC
    )
    return np.asarray(scaled).clip(0, 1)


def draw_scale() -> list[tuple[np.ndarray, str]]:
    """Some colours of `show_occlusion`, and the percentage points that they stand for.

    Returns:
        Pairs of uint8 `(16, 60, 3)` and a text.
    """
    grey = np.full((16, 60, 3), 128, np.uint8)
    scale = []
    for share in np.linspace(0, 1, 5):
        points = f"{FULL_POINTS * share**2:.0f}{'+' if share == 1 else ''}"
        scale.append((overlay(grey, np.full(grey.shape[:2], share)), points))
    return scale


def overlay(image: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """A picture in grey with a share of a full colour on every pixel.

    Args:
        image: uint8 RGB `(height, width, 3)`.
        shares: `(height, width)`, 0..1.

    Returns:
        uint8 `(height, width, 3)`.
    """
    from matplotlib import colormaps  # takes half a second, and few ask for it

    grey = image.mean(axis=2, keepdims=True).repeat(3, axis=2)
    # Half of it stays to be seen under a full colour, and a share of 0 has none.
    opacity = np.minimum(2 * shares, 1)[..., np.newaxis] * 0.6
    # From dark violet to yellow: light is more, in grey, too.
    color = 255 * colormaps["plasma"](shares)[..., :3]
    return np.uint8(np.round(grey * (1 - opacity) + color * opacity))

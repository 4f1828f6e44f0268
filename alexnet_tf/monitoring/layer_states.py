"""How the layers answer a batch: dead units, and whether the images matter."""

import dataclasses

import keras
import tensorflow as tf

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")


@dataclasses.dataclass(frozen=True)
class LayerState:
    """How a layer answers a batch.

    Attributes:
        name: "conv1" … "fc7".
        off: Share of its units (channels of a convolution) that are 0 everywhere, for
            every image.
        on: Share of its units that are above 0 everywhere, for every image.
        variation: Share of its squared activation that differs between images.
    """

    name: str
    off: float
    on: float
    variation: float


def layer_states(model: keras.Model, images: tf.Tensor) -> list[LayerState]:
    """Looks at every layer with a ReLU.

    Args:
        model: From `alexnet`.
        images: `(batch, height, width, 3)`, RGB 0..255.

    Returns:
        One state a layer, in order.
    """
    states = []
    for name, output in activations(model, images, LAYERS):
        x = tf.nn.relu(tf.cast(output, tf.float32)).numpy()
        axes = tuple(range(x.ndim - 1))
        variance = x.var(axis=0).mean()
        states.append(
            LayerState(
                name,
                off=float((x.max(axis=axes) == 0).mean()),
                on=float((x.min(axis=axes) > 0).mean()),
                variation=float(variance / max((x * x).mean(), 1e-30)),
            )
        )
    return states


def activations(model: keras.Model, images: tf.Tensor, names: tuple[str, ...]) -> list:
    """Pairs of a layer's name and what it puts out, without dropout."""
    outputs = [model.get_layer(name).output for name in names]
    return list(zip(names, keras.Model(model.inputs[0], outputs)(images), strict=True))

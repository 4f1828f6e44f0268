"""What to look at when a network does not learn, or blows up."""

import keras
import tensorflow as tf

from alexnet_tf.evaluation.metrics import cross_entropy as cross_entropy_of
from alexnet_tf.monitoring.layer_states import LAYERS, activations, layer_states


def describe_layers(model: keras.Model, images: tf.Tensor) -> str:
    """Says how the layers answer images, a line each."""
    return "\n".join(
        f"  {s.name:6} always off {s.off:6.1%}   always on {s.on:6.1%}   differs "
        f"between images {s.variation:7.2%}"
        for s in layer_states(model, images)
    )


def find_first_bad(model: keras.Model, images: tf.Tensor, labels: tf.Tensor) -> str:
    """Names where the first NaN or Inf of a step arises.

    Args:
        model: With the weights before the step.
        images: The images of the step.
        labels: The labels of the step.

    Returns:
        A phrase such as "the output of conv3" or "the gradient of fc6".
    """
    for variable in model.trainable_variables:
        if not _finite(variable.value):
            return f"the weights {variable.path}"
    for name, output in activations(model, images, (*LAYERS, "fc8")):
        if not _finite(output):
            return f"the output of {name}"
    with tf.GradientTape() as tape:
        logits = model(images, training=True)
        loss = tf.reduce_mean(cross_entropy_of(logits, labels))
    gradients = tape.gradient(loss, model.trainable_variables)
    pairs = list(zip(model.trainable_variables, gradients, strict=True))
    for variable, gradient in reversed(pairs):  # as they are computed
        if not _finite(gradient):
            return f"the gradient of {variable.path}"
    if not _finite(tf.linalg.global_norm(gradients)):
        return "the norm of the gradient, too large for float32"
    return "the loss"


def _finite(x) -> bool:
    return bool(tf.reduce_all(tf.math.is_finite(tf.convert_to_tensor(x))))

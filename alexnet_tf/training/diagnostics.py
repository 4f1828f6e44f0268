"""What to look at when a network does not learn, or blows up."""

import keras
import numpy as np
import tensorflow as tf

from alexnet_tf.evaluation.metrics import cross_entropy as cross_entropy_of
from alexnet_tf.monitoring.layer_states import LAYERS, activations, layer_states

# A network is stuck when its loss is not 2 % below what it would be without the image.
_STUCK = 0.98
_STUCK_EPOCHS, _STUCK_MIN_STEPS, _STUCK_MAX_STEPS = 5, 80, 5000


def stuck_from(num_examples: int, global_batch_size: int) -> int:
    """The step from which a network that has learnt nothing counts as stuck.

    Args:
        num_examples: Images in the training split.
        global_batch_size: Images in a step.

    Returns:
        Five epochs, but from 80 to 5000 steps.
    """
    steps = _STUCK_EPOCHS * num_examples // global_batch_size
    return max(_STUCK_MIN_STEPS, min(_STUCK_MAX_STEPS, steps))


def is_stuck(cross_entropy: float, class_counts: np.ndarray) -> bool:
    """Whether a loss is what a network gives that does not look at the image.

    Args:
        cross_entropy: Mean over training images, nats.
        class_counts: `(num_classes,)`, how often each label was seen.

    Returns:
        Whether it is no lower, but for 2 %, than what always answering the shares of
        the classes gives: ln(classes) where they are equally frequent.
    """
    shares = class_counts[class_counts > 0] / class_counts.sum()
    entropy = -float(np.sum(shares * np.log(shares)))
    return cross_entropy >= _STUCK * entropy


def describe_stuck(
    model: keras.Model, images: tf.Tensor, cross_entropy: float, recipe: str
) -> str:
    """Says what a stuck network does, and what to do about it."""
    rows = [
        f"  {s.name:6} always off {s.off:6.1%}   always on {s.on:6.1%}   differs "
        f"between images {s.variation:7.2%}"
        for s in layer_states(model, images)
    ]
    others = [f"--recipe={name}" for name in ("original", "small") if name != recipe]
    return "\n".join(
        [
            f"The network is stuck: its cross-entropy of {cross_entropy:.3f} is no "
            "better than without looking at the image.",
            *rows,
            f"Try {' or '.join(others)} (wider initial weights in conv3 to conv5), "
            "another --learning_rate, and see that the records are shuffled "
            "(python -m data.check).",
        ]
    )


def find_first_bad(model: keras.Model, images: tf.Tensor, labels: tf.Tensor) -> str:
    """Names where the first NaN or Inf of a step arises.

    Args:
        model: With the weights before the step.
        images: Of the step.
        labels: Of the step.

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

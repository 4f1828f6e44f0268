"""What to look at when a network does not learn, or blows up."""

import keras
import numpy as np
import tensorflow as tf

from alexnet_tf.command_line import command
from alexnet_tf.evaluation.metrics import cross_entropy as cross_entropy_of
from alexnet_tf.monitoring.layer_states import LAYERS, activations, layer_states
from alexnet_tf.recipes import Recipe

# A network is stuck when its loss is not 2 % below what it would be without the image.
_STUCK = 0.98
# A network with the paper's initial weights may need a hundred steps and more to start.
_STUCK_FROM, _STUCK_FROM_AT_END = 300, 80


def is_stuck(
    step: int,
    is_last: bool,
    cross_entropy: float,
    top_1_error: float,
    class_counts: np.ndarray,
) -> bool:
    """Whether a network still answers as if it did not look at the image.

    Args:
        step: Steps done.
        is_last: Whether training ends here.
        cross_entropy: Mean over the validation images, nats.
        top_1_error: Over the same, a fraction.
        class_counts: `(num_classes,)`, how often each label is among them.

    Returns:
        Whether it has had time to start, and its loss is no lower, but for 2 %, than
        what always answering the shares of the classes gives: ln(classes) where they
        are equally frequent. Not where it is right more often than one who always
        answers the largest class: such a network looks, but is too sure of itself, as
        after too many epochs. Nor where there is one class, and nothing to learn.
    """
    if step < (_STUCK_FROM_AT_END if is_last else _STUCK_FROM):
        return False
    num_examples = class_counts.sum()
    shares = class_counts[class_counts > 0] / num_examples
    num_right = round((1 - top_1_error) * num_examples)
    if len(shares) == 1 or num_right > class_counts.max():
        return False
    entropy = -float(np.sum(shares * np.log(shares)))
    return cross_entropy >= _STUCK * entropy


def describe_stuck(
    model: keras.Model,
    images: tf.Tensor,
    cross_entropy: float,
    recipe: Recipe,
    learning_rate: float,
) -> str:
    """Says what a stuck network does, and what to do about it."""
    rows = [
        f"  {s.name:6} always off {s.off:6.1%}   always on {s.on:6.1%}   differs "
        f"between images {s.variation:7.2%}"
        for s in layer_states(model, images)
    ]
    advice = []
    if not learning_rate:
        advice.append("a --learning_rate above 0 (it is 0, so nothing can change)")
    if recipe.dropout == "inverted":
        advice.append("--dropout=mask (the paper's, which starts sooner)")
    if recipe.init == "normal" and recipe.init_stddev_conv345 is None:
        advice.append("--init_stddev_conv345=.03 (the source's, wider than the text's)")
    advice.append("another --learning_rate")
    return "\n".join(
        [
            f"The network is stuck: its cross-entropy of {cross_entropy:.3f} on the "
            "validation images is no better than without looking at them.",
            *rows,
            f"Try {', '.join(advice)}; and see that the records are shuffled "
            f"({command('python', '-m', 'data.check')}).",
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

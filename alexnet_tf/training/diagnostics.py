"""What to look at when a network does not learn, or blows up."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from alexnet_tf.command_line import command
from alexnet_tf.config import Config
from alexnet_tf.evaluation.metrics import cross_entropy as cross_entropy_of
from alexnet_tf.evaluation.results import Evaluation, Predictions
from alexnet_tf.files import shown
from alexnet_tf.monitoring.layer_states import LAYERS, activations, layer_states

# A network is stuck when its loss is not 2 % below what it would be without the image.
_STUCK = 0.98
# A network with the paper's initial weights may need a hundred steps and more to start.
_STUCK_FROM, _STUCK_FROM_AT_END = 300, 80


def is_stuck(
    step: int, is_last: bool, predictions: Predictions, weights: Sequence[float] = ()
) -> bool:
    """Whether a network still answers as if it did not look at the image.

    Args:
        step: Steps done.
        is_last: Whether training ends here.
        predictions: What it answered to the validation images.
        weights: What each class counts in the loss; all the same where there are none.

    Returns:
        Whether it has had time to start, and its loss is no lower, but for 2 %, than
        what always answering the shares of the classes gives: ln(classes) where they
        are equally frequent. Not where it is right more often than one who always
        answers the largest class: such a network looks, but is too sure of itself, as
        after too many epochs. Nor where there is one class, and nothing to learn.
    """
    if step < (_STUCK_FROM_AT_END if is_last else _STUCK_FROM):
        return False
    labels = predictions.labels
    counts = np.array(weights)[labels] if len(weights) else np.ones(len(labels))
    shares = np.bincount(labels, counts) / counts.sum()
    shares = shares[shares > 0]
    right = counts[predictions.ranks == 0].sum() / counts.sum()
    if len(shares) == 1 or right > shares.max() + 1e-9:
        return False
    entropy = -float(np.sum(shares * np.log(shares)))
    return np.average(predictions.cross_entropies, weights=counts) >= _STUCK * entropy


def describe_stuck(
    model: keras.Model,
    images: tf.Tensor,
    evaluation: Evaluation,
    config: Config,
    learning_rate: float,
) -> tuple[str, str]:
    """Says what a stuck network does, and what to do about it.

    Returns:
        A sentence; and how the layers answer the images.
    """
    advice, recipe = [], config.recipe
    largest = _find_dominant_class(evaluation.predictions.labels, config)
    if largest:
        advice.append("--class_weights=balanced")
    if not learning_rate:
        advice.append("a --learning_rate above 0 (it is 0, so nothing can change)")
    if recipe.dropout == "inverted":
        advice.append("--dropout=mask (the paper's, which starts sooner)")
    if recipe.init == "normal" and recipe.init_stddev_conv345 is None:
        advice.append("--init_stddev_conv345=.03 (the source's, wider than the text's)")
    advice.append("another --learning_rate")
    sentence = (
        f"The network is stuck: its cross-entropy of {evaluation.cross_entropy:.3f} on "
        f"the validation images is no better than without looking at them{largest}. "
        f"Try {', '.join(advice)}; and see that the records are shuffled "
        f"({command('python', '-m', 'data.check')})."
    )
    rows = [
        f"  {s.name:6} always off {s.off:6.1%}   always on {s.on:6.1%}   differs "
        f"between images {s.variation:7.2%}"
        for s in layer_states(model, images)
    ]
    return sentence, "\n".join(rows)


def _find_dominant_class(labels: np.ndarray, config: Config) -> str:
    """A remark where most images are of one class, and all count the same."""
    counts = np.bincount(labels)
    share = counts.max() / len(labels)
    if config.loss_weights or share < max(0.5, 1.5 / len(config.class_names)):
        return ""
    name = shown(config.class_names[counts.argmax()])
    return f" ({share:.0%} of them are one class, {name!r})"


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

"""Whether a network looks at the images at all, and what to try where it does not."""

from collections.abc import Sequence

import numpy as np

from alexnet_tf.command_line import command
from alexnet_tf.config import Config
from alexnet_tf.evaluation.results import Evaluation, Predictions

# A network is stuck when its loss is not 2 % below what it would be without the image.
_STUCK = 0.98
# A network with the paper's initial weights may need a hundred steps and more to start;
# where training ends, so many are enough to say so.
STEPS_TO_START, STEPS_TO_START_AT_END = 300, 80


def is_stuck(predictions: Predictions, weights: Sequence[float] = ()) -> bool:
    """Whether a network answers as if it did not look at the image.

    Args:
        predictions: What it answered.
        weights: What each class counts in the loss; all the same where there are none.

    Returns:
        Whether its loss is no lower, but for 2 %, than what always answering the shares
        of the classes gives: ln(classes) where they are equally frequent. Not where it
        is right more often than one who always answers the largest class: such a
        network looks, but is too sure of itself, as after too many epochs. Nor where
        there is one class, and nothing to learn.
    """
    labels = predictions.labels
    counts = np.array(weights)[labels] if len(weights) else np.ones(len(labels))
    shares = np.bincount(labels, counts) / counts.sum()
    shares = shares[shares > 0]
    right = counts[predictions.ranks == 0].sum() / counts.sum()
    if len(shares) == 1 or right > shares.max() + 1e-9:
        return False
    entropy = -float(np.sum(shares * np.log(shares)))
    return np.average(predictions.cross_entropies, weights=counts) >= _STUCK * entropy


def describe_stuck(evaluation: Evaluation, config: Config) -> str:
    """Says in a sentence that a network is stuck, and what to do about it."""
    advice, recipe = [], config.recipe
    dominant = _find_dominant_class(evaluation.predictions.labels, config)
    if dominant:
        advice.append("--class_weights=balanced")
    if not recipe.learning_rate:
        advice.append("a --learning_rate above 0 (it is 0, so nothing can change)")
    if recipe.dropout == "inverted":
        advice.append("--dropout=mask (the paper's, which starts sooner)")
    if recipe.init == "normal" and recipe.init_stddev_conv345 is None:
        advice.append("--init_stddev_conv345=.03 (the source's, wider than the text's)")
    num_images = config.num_train_examples * recipe.num_epochs
    steps = config.train_steps or num_images / recipe.global_batch_size
    if steps < STEPS_TO_START:
        advice.append(f"a longer training (it has {steps:.0f} steps)")
    advice.append("another --learning_rate")
    return (
        f"The network is stuck: its cross-entropy of {evaluation.cross_entropy:.3f} on "
        f"the {evaluation.split} images is no better than without looking at "
        f"them{dominant}. Try {', '.join(advice)}; and see that the records are "
        f"shuffled ({command('python', '-m', 'data.check')})."
    )


def _find_dominant_class(labels: np.ndarray, config: Config) -> str:
    """A remark where most images are of one class, and all count the same."""
    counts = np.bincount(labels)
    share = counts.max() / len(labels)
    if config.loss_weights or share < max(0.5, 1.5 / len(config.class_names)):
        return ""
    name = config.class_names[counts.argmax()]
    return f" ({share:.0%} of them are one class, {name!r})"

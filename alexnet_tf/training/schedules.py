"""Learning-rate schedules: from the epoch to a factor of the initial rate."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from alexnet_tf.recipes import Recipe

# From the epoch, a float32 scalar (a fraction counts), to the factor.
Schedule = Callable[[tf.Tensor], tf.Tensor]

# Section 5: "The learning rate was initialized at 0.01 and reduced three times".
PLATEAU_DROPS = 3
PLATEAU_PATIENCE = 5  # validations without an improvement
PLATEAU_MIN_IMPROVEMENT = 0.001  # of the top-1 error, a fraction


def make_schedule(
    name: str,
    num_epochs: float,
    drop_epochs: Sequence[float] = (),
    warmup_epochs: float = 0.0,
    epochs_per_step: float = 0.0,
) -> Schedule:
    """Returns a schedule.

    Args:
        name: "constant"; "steps", a tenth from each of `drop_epochs`
            on; "cosine", half a cosine down to 0 (Loshchilov and Hutter 2017); "poly",
            the remaining share squared (You et al. 2017); "plateau", 1 here, since its
            drops depend on the validations (see `plateau`).
        num_epochs: Where "cosine" and "poly" end, epochs.
        drop_epochs: For "steps", epochs.
        warmup_epochs: Epochs in which the factor first grows linearly to 1; "cosine"
            and "poly" begin after them, and have at least half of the training.
        epochs_per_step: How much of an epoch a step is. The warm-up counts the step
            itself, so that the first one does not have the rate 0.

    Returns:
        The schedule.
    """
    if name in ("cosine", "poly"):
        warmup_epochs = min(warmup_epochs, num_epochs / 2)

    def factor(epoch):
        # How much of the training that follows the warm-up is done.
        share = (epoch - warmup_epochs) / max(num_epochs - warmup_epochs, 1e-9)
        share = tf.clip_by_value(share, 0.0, 1.0)
        if name == "steps":
            passed = epoch >= tf.constant(drop_epochs, tf.float32)
            return 0.1 ** tf.reduce_sum(tf.cast(passed, tf.float32))
        if name == "cosine":
            return (1.0 + tf.cos(math.pi * share)) / 2.0
        if name == "poly":
            return (1.0 - share) ** 2
        return tf.ones_like(epoch)

    def with_warmup(epoch):
        grown = tf.minimum(1.0, (epoch + epochs_per_step) / warmup_epochs)
        return factor(epoch) * grown

    return with_warmup if warmup_epochs else factor


def rate_factors(
    recipe: Recipe, paths: Sequence[str], epoch: tf.Tensor, factor: tf.Tensor
) -> tf.Tensor:
    """What multiplies the initial rate of each variable.

    Args:
        recipe: Says how the rates of biases, of conv1 and of fc8 differ.
        paths: The paths of the variables: "conv1/kernel", "conv1/bias", …
        epoch: Epochs done, a float32 scalar.
        factor: The schedule's factor, a float32 scalar.

    Returns:
        float32 `(variables,)`.
    """
    never = math.inf
    drop, stop = recipe.conv1_drop_epoch, recipe.conv1_stop_epoch
    conv1_drop = tf.where(epoch >= (never if drop is None else drop), 0.1, 1.0)
    conv1_stop = tf.where(epoch >= (never if stop is None else stop), 0.0, 1.0)
    factors = []
    for path in paths:
        layer, kind = path.split("/")
        # In the source of 2012 biases keep their rate, and conv1 slows down and stops
        # before the others do; a new fc8 on old layers learns faster than they do.
        follows = kind != "bias" or recipe.biases_follow_schedule
        value = factor if follows else tf.ones_like(factor)
        if kind == "bias":
            value *= recipe.bias_learning_rate_factor
        elif layer == "conv1":
            value *= conv1_drop
        if layer == "conv1":
            value *= conv1_stop
        if layer == "fc8":
            value *= recipe.head_learning_rate_factor
        factors.append(value)
    return tf.stack(factors)


def plateau(errors: Sequence[float]) -> tuple[int, bool]:
    """Reads the paper's schedule off the validation errors so far (section 5).

    The rate is divided by 10 when the error has not improved for `PLATEAU_PATIENCE`
    validations at the current rate, `PLATEAU_DROPS` times; the next time training ends.

    Args:
        errors: Top-1 validation errors in order, fractions.

    Returns:
        How often the rate was divided by 10, and whether training has ended.
    """
    # Read off the errors anew each time: a run that goes on needs no other memory.
    drops, waited, best = 0, 0, math.inf
    for error in errors:
        if error < best - PLATEAU_MIN_IMPROVEMENT:
            best, waited = error, 0
        else:
            waited += 1
        if waited >= PLATEAU_PATIENCE:
            if drops == PLATEAU_DROPS:
                return drops, True
            drops, waited = drops + 1, 0
    return drops, False


def is_out_of_patience(errors: Sequence[float], patience: int | None) -> bool:
    """Whether the last `patience` validations have found no better network.

    Args:
        errors: Top-1 validation errors in order, fractions.
        patience: None for an endless one.
    """
    if patience is None or not len(errors):
        return False
    return len(errors) - 1 - int(np.argmin(errors)) >= patience

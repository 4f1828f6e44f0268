"""Learning-rate schedules."""

from collections.abc import Callable, Sequence

import tensorflow as tf

# Factor of the rate at an epoch: 1 at the start, .1 after a drop.
Schedule = Callable[[tf.Tensor], tf.Tensor]

# Section 5: "The learning rate was initialized at 0.01 and reduced three times".
PLATEAU_DROPS = 3
PLATEAU_PATIENCE = 5  # validations without an improvement
PLATEAU_MIN_IMPROVEMENT = 0.001  # of the top-1 error, a fraction


def constant() -> Schedule:
    """The same rate to the end."""
    return tf.ones_like


def steps(drop_epochs: Sequence[float]) -> Schedule:
    """A tenth of the rate from each of the epochs on.

    Args:
        drop_epochs: Where the rate drops, epochs.

    Returns:
        A function from the epoch (float scalar, a fraction counts) to the factor.
    """
    drops = tf.constant(drop_epochs, tf.float32)

    def factor(epoch):
        return 0.1 ** tf.reduce_sum(tf.cast(epoch >= drops, tf.float32))

    return factor


def plateau(errors: Sequence[float]) -> tuple[int, bool]:
    """Reads the paper's schedule off the validation errors so far (section 5).

    The rate is divided by 10 when the error has not improved for `PLATEAU_PATIENCE`
    validations at the current rate, `PLATEAU_DROPS` times; the next time training ends.

    Args:
        errors: Top-1 validation errors in order, fractions.

    Returns:
        How often the rate was divided by 10, and whether training has ended.
    """
    drops, waited, best = 0, 0, float("inf")
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

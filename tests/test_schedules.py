"""Schedules at, before and after every boundary."""

import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf.training.schedules import make_schedule, plateau


def factors(schedule, epochs):
    return [float(schedule(tf.constant(epoch, tf.float32))) for epoch in epochs]


def test_constant():
    schedule = make_schedule("constant", 10)
    assert factors(schedule, [0, 5, 20]) == [1, 1, 1]


def test_steps():
    schedule = make_schedule("steps", 91, (25, 51, 79))
    epochs = [0, 24.99, 25, 50.99, 51, 78.99, 79, 90.9]
    expected = [1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    np.testing.assert_allclose(factors(schedule, epochs), expected, rtol=1e-5)


def test_cosine():
    schedule = make_schedule("cosine", 8)
    expected = [1, (1 + 0.5**0.5) / 2, 0.5, 0, 0]
    np.testing.assert_allclose(factors(schedule, [0, 2, 4, 8, 9]), expected, atol=1e-6)


def test_poly():
    schedule = make_schedule("poly", 10)
    expected = [1, 0.25, 0.01, 0, 0]
    np.testing.assert_allclose(
        factors(schedule, [0, 5, 9, 10, 11]), expected, atol=1e-6
    )


@pytest.mark.parametrize("name", ["constant", "steps", "cosine", "poly", "plateau"])
def test_warmup(name):
    schedule = make_schedule(name, 12, (6,), warmup_epochs=2)
    np.testing.assert_allclose(factors(schedule, [0, 0.5, 1, 2]), [0, 0.25, 0.5, 1])
    if name == "cosine":  # begins after the warm-up
        assert factors(schedule, [7])[0] == pytest.approx(0.5)
    if name == "poly":
        assert factors(schedule, [7])[0] == pytest.approx(0.25)
    if name == "steps":
        assert factors(schedule, [5.9, 6]) == pytest.approx([1, 0.1])


@pytest.mark.parametrize("name", ["cosine", "poly"])
def test_a_schedule_ends_where_training_does_however_short(name):
    schedule = make_schedule(name, 1, warmup_epochs=2)
    np.testing.assert_allclose(
        factors(schedule, [0, 0.25, 0.5, 1]), [0, 0.5, 1, 0], atol=1e-6
    )


def test_plateau_drops_after_five_validations_without_improvement():
    improving = [0.9, 0.8, 0.7]
    assert plateau(improving) == (0, False)
    assert plateau([*improving, *[0.7] * 4]) == (0, False)
    assert plateau([*improving, *[0.7] * 5]) == (1, False)
    assert plateau([*improving, *[0.7] * 4, 0.69, *[0.7] * 4]) == (0, False)
    assert plateau([*improving, *[0.6995] * 5]) == (1, False)  # less than 0.001


def test_plateau_ends_after_three_drops():
    assert plateau([0.5, *[0.5] * 15]) == (3, False)
    assert plateau([0.5, *[0.5] * 19]) == (3, False)
    assert plateau([0.5, *[0.5] * 20]) == (3, True)
    assert plateau([0.5, *[0.5] * 19, 0.4]) == (3, False)


def test_the_first_step_of_a_warmup_moves():
    schedule = make_schedule("constant", 12, warmup_epochs=2, epochs_per_step=0.5)
    np.testing.assert_allclose(factors(schedule, [0, 0.5, 1.5, 9]), [0.25, 0.5, 1, 1])

"""The update rule against the paper's formula in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf.devices import make_strategy
from alexnet_tf.training.optimizers import LARS, MomentumSGD, sum_over_replicas


def paper_rule(w, gradients, rate, momentum, decay):
    """Section 5: v ← momentum·v − decay·rate·w − rate·gradient; w ← w + v."""
    v = 0.0
    for gradient in gradients:
        v = momentum * v - decay * rate * w - rate * gradient
        w = w + v
    return w


@pytest.mark.parametrize("momentum", [0.9, 0.0])
@pytest.mark.parametrize(("factor", "decay_biases"), [(1.0, True), (2.0, False)])
def test_update_equals_the_paper(momentum, factor, decay_biases):
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(3, 4)), rng.normal(size=4)
    gradients = [(rng.normal(size=(3, 4)), rng.normal(size=4)) for _ in range(5)]
    variables = [keras.Variable(w.astype(np.float32)) for w in (kernel, bias)]
    optimizer = MomentumSGD(0.1, momentum, 0.05, decay_biases)
    optimizer.build(variables)
    optimizer.rate_factors.assign([1.0, factor])
    apply = tf.function(lambda gradients: optimizer.apply(gradients, variables))
    for gradient in gradients:
        apply([tf.constant(g, tf.float32) for g in gradient])
    kernels, biases = zip(*gradients, strict=True)
    expected = paper_rule(kernel, kernels, 0.1, momentum, 0.05)
    np.testing.assert_allclose(variables[0], expected, rtol=1e-5)
    decay = 0.05 if decay_biases else 0.0
    expected = paper_rule(bias, biases, 0.1 * factor, momentum, decay)
    np.testing.assert_allclose(variables[1], expected, rtol=1e-5)
    assert optimizer.iterations.numpy() == 5


def test_gradients_of_replicas_are_summed_and_the_decay_counted_once():
    strategy = make_strategy(simulate_gpus=2)
    with strategy.scope():
        variable = keras.Variable(np.ones((2, 2), np.float32))
        optimizer = MomentumSGD(0.1, 0.9, 0.5)
        optimizer.build([variable])

    @tf.function
    def step():
        def replica_step():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            gradient = tf.fill((2, 2), tf.cast(replica, tf.float32) + 1.0)
            optimizer.apply(sum_over_replicas([gradient]), [variable])

        strategy.run(replica_step)

    step()
    # 1 - .1 · (.5 · 1 + (1 + 2))
    np.testing.assert_allclose(variable.numpy(), 0.65, rtol=1e-6)


def test_lars_equals_its_paper():
    """You et al. 2017, algorithm 1, with momentum .9, decay .05, η .01."""
    rng = np.random.default_rng(0)
    w = first = rng.normal(size=(3, 4))
    gradients = [rng.normal(size=(3, 4)) for _ in range(4)]
    kernel, bias, zero = (
        keras.Variable(x.astype(np.float32)) for x in (w, w[0], 0 * w)
    )
    optimizer = LARS(0.2, trust=0.01, momentum=0.9, weight_decay=0.05)
    optimizer.build([kernel, bias, zero])
    v = 0.0
    for g in gradients:
        optimizer.apply([tf.constant(x, tf.float32) for x in (g, g[0], g)])
        norm = np.linalg.norm
        local_rate = 0.01 * norm(w) / (norm(g) + 0.05 * norm(w))
        v = 0.9 * v + 0.2 * local_rate * (g + 0.05 * w)
        w = w - v
    np.testing.assert_allclose(kernel, w, rtol=1e-5)
    expected = paper_rule(first[0], [g[0] for g in gradients], 0.2, 0.9, 0.05)
    np.testing.assert_allclose(bias, expected, rtol=1e-5)
    assert np.isfinite(zero.numpy()).all()
    assert np.abs(zero.numpy()).max() > 0


@pytest.mark.parametrize("optimizer_class", [MomentumSGD, LARS])
def test_optimizer_is_serialisable(optimizer_class):
    optimizer = optimizer_class(
        0.1, momentum=0.8, weight_decay=0.05, decay_biases=False
    )
    config = optimizer.get_config()
    assert optimizer_class.from_config(config).get_config() == config

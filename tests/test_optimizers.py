"""The update rule against the paper's formula in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf.devices import make_strategy
from alexnet_tf.recipes import RECIPES
from alexnet_tf.training.optimizers import (
    LARS,
    MomentumSGD,
    make_optimizer,
    sum_over_replicas,
)


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


def torch_rule(w, gradients, rates, momentum, decay):
    """torch.optim.SGD: v ← momentum·v + (gradient + decay·w); w ← w − rate·v."""
    v = 0.0
    for gradient, rate in zip(gradients, rates, strict=True):
        v = momentum * v + gradient + decay * w
        w = w - rate * v
    return w


def caffe_rule(w, gradients, rates, momentum, decay):
    """Caffe's SGDSolver: v ← momentum·v + rate·(gradient + decay·w); w ← w − v."""
    v = 0.0
    for gradient, rate in zip(gradients, rates, strict=True):
        v = momentum * v + rate * (gradient + decay * w)
        w = w - v
    return w


@pytest.mark.parametrize(
    ("recipe", "rule", "decay", "bias_decay", "bias_factor"),
    [
        ("torchvision", torch_rule, 1e-4, 1e-4, 1.0),
        ("bvlc", caffe_rule, 5e-4, 0.0, 2.0),
        ("caffenet", caffe_rule, 5e-4, 0.0, 2.0),
    ],
)
def test_published_recipes_update_as_their_publishers(
    recipe, rule, decay, bias_decay, bias_factor
):
    """Across a drop of the rate, where the two rules part."""
    recipe = RECIPES[recipe]
    rng = np.random.default_rng(0)
    kernel, bias = 100 * rng.normal(size=(3, 4)), 100 * rng.normal(size=4)
    gradients = [(rng.normal(size=(3, 4)), rng.normal(size=4)) for _ in range(6)]
    variables = [keras.Variable(w.astype(np.float32)) for w in (kernel, bias)]
    optimizer = make_optimizer(recipe)
    optimizer.build(variables)
    rates = [0.01, 0.01, 0.01, 0.001, 0.001, 0.001]
    for gradient, rate in zip(gradients, rates, strict=True):
        factors = tf.constant([1.0, recipe.bias_learning_rate_factor]) * (rate / 0.01)
        optimizer.rate_factors.assign(factors)
        optimizer.apply([tf.constant(g, tf.float32) for g in gradient], variables)
    kernels, biases = zip(*gradients, strict=True)
    change = rule(kernel, kernels, rates, 0.9, decay) - kernel
    np.testing.assert_allclose(variables[0] - kernel, change, atol=3e-5)
    rates = [bias_factor * rate for rate in rates]
    change = rule(bias, biases, rates, 0.9, bias_decay) - bias
    np.testing.assert_allclose(variables[1] - bias, change, atol=3e-5)
    other = {torch_rule: caffe_rule, caffe_rule: torch_rule}[rule]
    parted = other(bias, biases, rates, 0.9, bias_decay) - bias
    assert np.abs(parted - change).max() > 1e-3


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


def test_lars_moves_as_far_as_the_rates_of_momentum_do():
    """By .05 times the rate, of the length of the weights, whatever the gradient."""
    for size in (1e-6, 1e3):
        kernel = keras.Variable(np.full((2, 2), 1.0, np.float32))
        optimizer = LARS(0.01, weight_decay=0.0)
        optimizer.build([kernel])
        optimizer.apply([tf.fill((2, 2), size)])
        np.testing.assert_allclose(kernel, 1 - 0.01 * 0.05, rtol=1e-6)

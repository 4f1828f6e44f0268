"""Whole training steps against NumPy in float64."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import make_trainer
from numpy_alexnet import NumpyAlexNet, update

from alexnet_tf.training import step as step_module

STEPS = 4
BATCH = 4
DROP = 2  # steps until the rate is divided by 10


def draw_masks(model):
    """The masks that the next step will draw."""
    masks = []
    for name, units in (("dropout6", "fc6"), ("dropout7", "fc7")):
        layer = model.get_layer(name)
        state = layer.seed_generator.state
        before = state.numpy()
        ones = tf.ones((BATCH, model.get_layer(units).output.shape[1]))
        masks.append(layer(ones, training=True).numpy() > 0)
        state.assign(before)
    return masks


def decide(model, images, masks):
    """What the ReLUs of a network give and its poolings take, in float32, in order."""
    x, masks, relus, pools = tf.constant(images), iter(masks), [], []
    for layer in model.layers[1:]:
        if layer.name.startswith("pool"):
            pools.append(x.numpy())
        x = x * next(masks) if layer.name.startswith("dropout") else layer(x)
        kind = getattr(layer, "activation", None)
        if kind is not None and kind.__name__ == "relu":
            relus.append(x.numpy())
    return relus, pools


def expected_rate(recipe, path, step):
    """Of the text of the paper: one rate; of the source: .02 for biases throughout."""
    if recipe.name == "original" and path.endswith("bias"):
        return 0.02
    return 0.01 if step < DROP else 0.001


@pytest.mark.parametrize(("name", "has_unit"), [("paper", True), ("original", False)])
def test_steps_of_training_equal_numpy(data_dir, monkeypatch, name, has_unit):
    """With the recipe's colours, across a drop of the rate."""
    monkeypatch.setattr(step_module, "has_matrix_unit", lambda: has_unit)
    trainer = make_trainer(
        data_dir,
        recipe=name,
        global_batch_size=BATCH,
        width=0.04,
        lr_schedule="steps",
        lr_drop_epochs=(DROP * BATCH / 150,),
        seed=0,
    )
    model, recipe = trainer.model, trainer.recipe
    assert model.get_layer("conv1").gradient_by_space_to_depth is has_unit
    for variable in model.trainable_variables:  # of size, so that every part counts
        variable.assign(variable * (4 if variable.path.endswith("kernel") else 1))
    weights = {v.path: v.numpy().astype(np.float64) for v in model.weights}
    first = dict(weights)
    velocities = {v.path: 0.0 for v in model.trainable_variables}
    batches, copy = trainer.batches(), trainer.batches()
    ties = 0
    for step in range(STEPS):
        images, labels = (x.numpy() for x in next(copy))
        masks = draw_masks(model)
        reference = NumpyAlexNet(recipe, weights, decide(model, images, masks))
        loss, gradients = reference.gradients(images, labels, masks)
        ties += reference.ties
        trainer.start_metrics()
        trainer.run_steps(batches, tf.constant(1))
        assert trainer.metrics()["cross_entropy"] == pytest.approx(loss, rel=1e-5)
        norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
        assert trainer.metrics()["gradient_norm"] == pytest.approx(norm, rel=1e-4)
        update(
            weights,
            velocities,
            gradients,
            lambda path, step=step: expected_rate(recipe, path, step),
            momentum=0.9,
            decay=5e-4,
            decay_biases=name == "paper",
        )
    assert ties < 5  # of some hundred thousand
    for variable in model.trainable_variables:
        path, ours = variable.path, variable.numpy()
        error = np.linalg.norm(ours - weights[path]) / np.linalg.norm(weights[path])
        assert error < (1e-6 if path.endswith("kernel") else 1e-5), path
        change = weights[path] - first[path]
        error = np.linalg.norm(ours - first[path] - change) / np.linalg.norm(change)
        assert error < 2e-3, path
        assert np.linalg.norm(change) > 0

"""How far the gradients of a bfloat16 training step are from those in float32.

    python -m data.prepare --source=elpv --output=runs/demo_data
    python benchmarks/gradients.py --data_dir=runs/demo_data

One batch of a data set, with the same weights and dropout masks in both precisions; for
each layer the norm of the difference of its kernel's gradients, as a share of the norm
in float32. The weights are the initial ones of a recipe, or those of a run.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import tensorflow as tf
from absl import app, flags

from alexnet_tf import alexnet
from alexnet_tf.pipeline.batches import training_batches
from alexnet_tf.pipeline.data_set import open_data_set
from alexnet_tf.recipes import LAYERS, RECIPES

_DATA = flags.DEFINE_string("data_dir", "runs/demo_data", "A prepared data set.")
_RECIPE = flags.DEFINE_enum("recipe", "paper", [*RECIPES], "The recipe.")
_WEIGHTS = flags.DEFINE_string("init_weights", None, "A run, instead of new weights.")


def kernel_gradients(dtype: str, images, labels, classes: int) -> list[tf.Tensor]:
    """The gradients of the mean cross-entropy of one step, by layer."""
    recipe = None if _WEIGHTS.value else _RECIPE.value
    model = alexnet(classes, recipe, weights=_WEIGHTS.value, dtype=dtype, seed=0)
    kernels = [model.get_layer(layer).kernel.value for layer in LAYERS]

    @tf.function
    def compute():
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses)
        return tape.gradient(loss, kernels)

    return compute()


def main(_) -> None:
    """Prints the table."""
    data_set = open_data_set(_DATA.value)
    batches = training_batches(data_set, RECIPES[_RECIPE.value], seed=0)
    images, labels = next(iter(batches))
    exact, rounded = (
        kernel_gradients(dtype, images, labels, data_set.num_classes)
        for dtype in ("float32", "mixed_bfloat16")
    )
    start = _WEIGHTS.value or f"the initial weights of {_RECIPE.value}"
    print(f"batch {len(images)} of {data_set.name}, from {start}")
    for layer, wanted, found in zip(LAYERS, exact, rounded, strict=True):
        print(f"{layer}  {float(tf.norm(found - wanted) / tf.norm(wanted)):6.1%}")


if __name__ == "__main__":
    app.run(main)

"""Images per second of a training step, beside Keras as it comes.

    python benchmarks/train_step.py

Forward, backward and update of the full network (recipe `paper`, two towers, 1000
classes), on one device, on images that are already in memory. "Keras as it comes" is
the same network with `keras.layers.Conv2D(groups=2)`,
`tf.nn.local_response_normalization` and `keras.optimizers.SGD`, in float32 (the latter
two have no bfloat16). The fraction is of the rate at which the same machine multiplies
two 2048×2048 matrices, measured in the same rounds. The update alone is measured too,
as a share of the step. Every figure is the median over the rounds.
"""

import os
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import keras
import tensorflow as tf
from absl import app, flags

from alexnet_tf import alexnet
from alexnet_tf.network import alexnet as ours
from alexnet_tf.training.optimizers import MomentumSGD

_BATCH = flags.DEFINE_integer("global_batch_size", 128, "Images in a step.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds; the medians are printed.")
_KERAS = flags.DEFINE_bool("keras", True, "Measure Keras as it comes, too.")


class _KerasLRN(keras.layers.Layer):
    """LRN as people write it."""

    def __init__(self, depth_radius, bias, alpha, beta, groups, **kwargs):
        super().__init__(**kwargs)
        self._args = (depth_radius, bias, alpha, beta)

    def call(self, inputs):
        return tf.nn.local_response_normalization(inputs, *self._args)


def _keras_dropout(rate, scale_in_training, **kwargs):
    del scale_in_training  # Keras knows no other
    return keras.layers.Dropout(rate, **kwargs)


def keras_as_it_comes(**kwargs) -> keras.Model:
    """The network of `alexnet`, out of Keras' own layers."""
    replaced = ours.GroupedConv2D, ours.LocalResponseNormalization, ours.Dropout
    ours.GroupedConv2D = keras.layers.Conv2D
    ours.LocalResponseNormalization = _KerasLRN
    ours.Dropout = _keras_dropout
    try:
        return alexnet(seed=0, **kwargs)
    finally:
        ours.GroupedConv2D, ours.LocalResponseNormalization, ours.Dropout = replaced


def flop_per_image(model: keras.Model) -> float:
    """Multiplications and additions of one training step, for each image.

    Two for every weight and output position; once forward, once for the gradient of
    the weights, once for that of the input, which conv1 does not need.
    """
    total = 0
    for layer in model.layers:
        if len(layer.trainable_weights) != 2:  # kernel and bias
            continue
        positions = 1
        for size in layer.output.shape[1:-1]:
            positions *= size
        passes = 2 if layer.name == "conv1" else 3
        total += 2 * passes * positions * int(tf.size(layer.weights[0]))
    return total


def step_function(model: keras.Model, optimizer: keras.Optimizer, images, labels):
    """A training step without arguments."""
    optimizer.build(model.trainable_variables)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            logits = tf.cast(model(images, training=True), tf.float32)
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            )
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    return step


def update_function(model: keras.Model, optimizer: keras.Optimizer):
    """The update of a training step alone, with gradients that are already there."""
    variables = model.trainable_variables
    gradients = [tf.fill(v.shape, 1e-6) for v in variables]

    @tf.function
    def update():
        optimizer.apply(gradients, variables)
        return tf.constant(0)

    return update


def matmul_function(dtype: tf.DType, size: int = 2048, times: int = 20):
    """Multiplies two matrices `times` times; returns it and its FLOP."""
    a = tf.cast(tf.random.stateless_normal((size, size), (0, 1)), dtype)
    b = tf.cast(tf.random.stateless_normal((size, size), (0, 2)) / size**0.5, dtype)

    @tf.function
    def multiply():
        product = a
        for _ in tf.range(times):
            product = tf.matmul(product, b)
        return tf.cast(product[0, 0], tf.float32)

    return multiply, times * 2 * size**3


def seconds(function) -> float:
    """Time of one call, its result read back."""
    start = time.perf_counter()
    function().numpy()
    return time.perf_counter() - start


def main(_) -> None:
    """Measures and prints the table."""
    batch = _BATCH.value
    images = tf.random.stateless_uniform((batch, 224, 224, 3), (0, 3), 0, 256, tf.int32)
    images = tf.cast(images, tf.uint8)
    labels = tf.random.stateless_uniform((batch,), (0, 4), 0, 1000, tf.int32)
    functions, flop = {}, {}
    for name, dtype in (("float32", "float32"), ("bfloat16", "mixed_bfloat16")):
        functions["matmul", name], matmul_flop = matmul_function(tf.as_dtype(name))
        model = alexnet(dtype=dtype, seed=0)
        flop[name] = flop_per_image(model)
        optimizer = MomentumSGD()
        functions["ours", name] = step_function(model, optimizer, images, labels)
        functions["update", name] = update_function(model, optimizer)
    if _KERAS.value:
        functions["keras", "float32"] = step_function(
            keras_as_it_comes(), keras.optimizers.SGD(0.01, 0.9), images, labels
        )
    times = {key: [] for key in functions}
    for function in functions.values():
        function()
    for _ in range(_ROUNDS.value):
        for key, function in functions.items():
            times[key].append(seconds(function))
    median = {key: statistics.median(values) for key, values in times.items()}
    print(f"batch {batch}, median of {_ROUNDS.value} rounds, ", end="")
    print(f"TensorFlow {tf.__version__}, {os.cpu_count()} cores")
    print(f"{flop['float32'] / 1e9:.2f} GFLOP an image")
    print("                      images/s   GFLOP/s   of matmul   of Keras")
    for (kind, name), value in median.items():
        if kind == "matmul":
            rate = matmul_flop / value / 1e9
            print(f"{kind:8} {name:10} {'':10} {rate:10.0f}")
            continue
        if kind == "update":
            share = value / median["ours", name]
            print(f"{kind:8} {name:10} {share:10.1%} of the step")
            continue
        rate = batch / value
        gflops = rate * flop[name] / 1e9
        of_matmul = gflops * 1e9 / (matmul_flop / median["matmul", name])
        of_keras = f"{median['keras', 'float32'] / value:9.1f}×" if _KERAS.value else ""
        print(
            f"{kind:8} {name:10} {rate:10.1f} {gflops:10.0f} {of_matmul:10.2f}"
            f"  {of_keras}"
        )


if __name__ == "__main__":
    app.run(main)

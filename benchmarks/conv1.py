"""conv1 as it is, and after space-to-depth: milliseconds of processor and clock.

    python benchmarks/conv1.py

The convolution of 227×227 pixels with 96 kernels of 11×11×3 and stride 4 as TensorFlow
has it, and after space-to-depth (`s2d`), as one of 57×57 blocks of 48 channels with
kernels of 3×3 and no stride: forward, and the gradient of the kernel. Training takes
the last where `devices.has_matrix_unit` says so. All take turns; medians are printed.
Processor time is that of the host, which says nothing of a GPU: gpu.py measures there.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import tensorflow as tf
from absl import app, flags

from alexnet_tf.network.layers import kernel_gradient_by_space_to_depth

_BATCH = flags.DEFINE_integer("batch_size", 64, "Images.")
_TURNS = flags.DEFINE_integer("turns", 15, "Turns; the medians are printed.")


def make_functions(batch: int, dtype: str) -> dict[str, Callable]:
    """Each computes once, and returns a number of its result."""
    draw = tf.random.stateless_normal
    x = tf.cast(draw((batch, 228, 228, 3), (0, 1), stddev=50.0), dtype)
    kernel = tf.cast(draw((11, 11, 3, 96), (0, 2), stddev=0.01), dtype)
    dy = tf.cast(draw((batch, 55, 55, 96), (0, 3)), dtype)
    block_kernel = tf.cast(draw((3, 3, 48, 96), (0, 4), stddev=0.01), dtype)

    def forward():
        return tf.nn.conv2d(x[:, :227, :227], kernel, 4, "VALID")

    def forward_s2d():
        rows = tf.transpose(tf.reshape(x, [batch, 57, 4, 57, 12]), [0, 1, 3, 2, 4])
        return tf.nn.conv2d(
            tf.reshape(rows, [batch, 57, 57, 48]), block_kernel, 1, "VALID"
        )

    def gradient():
        return tf.raw_ops.Conv2DBackpropFilter(
            input=x[:, :227, :227],
            filter_sizes=kernel.shape,
            out_backprop=dy,
            strides=[1, 4, 4, 1],
            padding="VALID",
        )

    def gradient_s2d():
        return kernel_gradient_by_space_to_depth(x[:, :227, :227], kernel.shape, dy, 4)

    functions = (forward, forward_s2d, gradient, gradient_s2d)
    return {f.__name__: tf.function(lambda f=f: f()[0, 0, 0, 0]) for f in functions}


def main(_) -> None:
    """Prints the table."""
    print(f"batch {_BATCH.value}, TensorFlow {tf.__version__}, {os.cpu_count()} cores")
    print("precision  what                CPU ms  wall ms")
    for dtype in ("float32", "bfloat16"):
        functions = make_functions(_BATCH.value, dtype)
        times = {name: [] for name in functions}
        for turn in range(_TURNS.value + 1):
            for name, function in functions.items():
                start = time.process_time(), time.perf_counter()
                function().numpy()
                end = time.process_time(), time.perf_counter()
                if turn:  # the first one builds the graph
                    times[name].append((end[0] - start[0], end[1] - start[1]))
        for name, pairs in times.items():
            cpu, wall = (1e3 * statistics.median(x) for x in zip(*pairs, strict=True))
            print(f"{dtype:9}  {name:18} {cpu:7.1f} {wall:8.1f}")


if __name__ == "__main__":
    app.run(main)

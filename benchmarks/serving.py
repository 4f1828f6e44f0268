"""Pictures per second of an export, beside Keras' `model.predict` and other frameworks.

    python benchmarks/serving.py
    python benchmarks/serving.py --peers=build/peers/bin/python

How long a call takes, in the middle (p50) and at its slowest (p99), for batches of 1, 8
and 32 and the full network (recipe `paper`, 1000 classes, random weights), of

- `bytes`: the signature `serving_default`, 256×256 JPEGs;
- `float32`: the signature `images`, the same pictures decoded;
- `bfloat16`, `float32 XLA`, `bfloat16 XLA`: the same of an export with
  `--precision=bfloat16`, `--xla` and both;
- `decode`: decoding alone, what `bytes` does before the network;
- `network`: the network alone, on images that are cropped;
- `Keras`: `model.predict` on images that are cropped;
- with `--peers` the network alone in ONNX Runtime, OpenVINO and PyTorch, compiled, of
  an environment of their own:

      python -m venv build/peers
      build/peers/bin/pip install onnx onnxruntime openvino torch

The calls of all take turns, so that a busy machine slows all of them.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags, logging

from alexnet_tf import alexnet
from alexnet_tf.export.saved_model import export_model
from alexnet_tf.pictures.fitting import Fitting
from alexnet_tf.pictures.in_graph import decode_pictures, fit_images

_ROUNDS = flags.DEFINE_integer("rounds", 30, "Calls of each kind and batch size.")
_PEERS = flags.DEFINE_string("peers", None, "Python that has the other frameworks.")
_BATCH_SIZES = (1, 8, 32)


def make_pictures(number: int) -> np.ndarray:
    """Pictures with the detail of photographs: about 20 kB as JPEG."""
    rng = np.random.default_rng(0)
    pictures = 128.0
    for cells, contrast in ((4, 60.0), (16, 30.0), (64, 15.0), (256, 6.0)):
        noise = rng.normal(0, contrast, (number, cells, cells, 3))
        pictures += tf.image.resize(noise, (256, 256), "bicubic").numpy()
    return np.clip(pictures, 0, 255).astype(np.uint8)


class Peers:
    """The same network in other frameworks, in a process of their own.

    Args:
        python: The interpreter of an environment that has them.
    """

    def __init__(self, python: str):
        script = os.path.join(os.path.dirname(__file__), "serving_peers.py")
        self._process = subprocess.Popen(
            [python, "-W", "ignore", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        answer = json.loads(self._process.stdout.readline())
        self.names, self.versions = answer["peers"], answer["versions"]

    def seconds(self, name: str, batch_size: int) -> float:
        """How long one call of a peer takes."""
        print(json.dumps([name, batch_size]), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())


def seconds(call: Callable) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def make_exports(model: keras.Model) -> dict[str, dict[str, Callable]]:
    """The signatures of an export of each kind."""
    exported, names = {}, [f"class {i}" for i in range(1000)]
    for precision in ("float32", "bfloat16"):
        for xla in (False, True):
            with tempfile.TemporaryDirectory() as directory:
                export_model(model, names, directory, precision=precision, xla=xla)
                kind = precision + " XLA" * xla
                exported[kind] = tf.saved_model.load(directory).signatures
    return exported


def make_clocks(batch_size: int, model, exported, peers: Peers | None) -> dict:
    """What runs each kind once, and says how long it took."""
    pictures = make_pictures(batch_size)
    jpegs = [tf.io.encode_jpeg(picture, quality=95).numpy() for picture in pictures]
    files, decoded = tf.constant(jpegs), tf.constant(pictures)
    crops = fit_images(decoded, Fitting(), 224)
    network = tf.function(lambda images: model(images, training=False))
    decode = tf.function(lambda files: decode_pictures(files, Fitting(), 224)[0])
    call = functools.partial
    calls = {
        "bytes": call(exported["float32"]["serving_default"], files),
        **{kind: call(x["images"], decoded) for kind, x in exported.items()},
        "decode": call(decode, files),
        "network": call(network, crops),
        "Keras": call(model.predict, crops, batch_size=batch_size, verbose=0),
    }
    clocks = {name: call(seconds, run) for name, run in calls.items()}
    if peers:
        clocks |= {x: call(peers.seconds, x, batch_size) for x in peers.names}
    return clocks


def main(_) -> None:
    """Prints the table."""
    logging.set_verbosity(logging.WARNING)
    model = alexnet(seed=0)
    exported, peers = make_exports(model), _PEERS.value and Peers(_PEERS.value)
    print(f"TensorFlow {tf.__version__}, {os.cpu_count()} cores")
    if peers:
        print(", ".join(f"{name} {x}" for name, x in peers.versions.items()))
    print("batch  what                   p50 ms   p99 ms  pictures/s")
    for batch_size in _BATCH_SIZES:
        clocks = make_clocks(batch_size, model, exported, peers)
        for clock in clocks.values():  # the first ones build the graphs
            for _ in range(3):
                clock()
        times = {name: [] for name in clocks}
        for _ in range(_ROUNDS.value):
            for name, clock in clocks.items():
                times[name].append(clock())
        for name, values in times.items():
            middle, slowest = np.percentile(values, [50, 99])
            print(
                f"{batch_size:5}  {name:20} {1e3 * middle:8.1f} {1e3 * slowest:8.1f} "
                f"{batch_size / middle:11.0f}"
            )
        alone = max(np.median(times["decode"]), np.median(times["network"]))
        print(f"       bytes / slower alone: {np.median(times['bytes']) / alone:.2f}")


if __name__ == "__main__":
    app.run(main)

"""Pictures per second of an export, beside Keras' `model.predict`.

    python benchmarks/serving.py

How long a call takes, in the middle (p50) and at its slowest (p99), for batches of 1, 8
and 32 and the full network (recipe `paper`, 1000 classes, random weights), of

- `bytes`: the signature `serving_default`, 256×256 JPEGs;
- `uint8`: the signature `images`, the same pictures decoded;
- `bfloat16`: the same of an export with `--precision=bfloat16`;
- `decode`: decoding alone, what `bytes` does before the network;
- `network`: the network alone, on images that are cropped;
- `keras`: `model.predict` on images that are cropped.

The calls of all six take turns, so that a busy machine slows all of them.
"""

import functools
import os
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np
import tensorflow as tf
from absl import app, flags, logging

from alexnet_tf import alexnet
from alexnet_tf.export.saved_model import export_model
from alexnet_tf.pictures.fitting import Fitting
from alexnet_tf.pictures.in_graph import decode_pictures, fit_images

_ROUNDS = flags.DEFINE_integer("rounds", 30, "Calls of each kind and batch size.")
_BATCH_SIZES = (1, 8, 32)


def make_pictures(number: int) -> np.ndarray:
    """Pictures with the detail of photographs: about 20 kB as JPEG."""
    rng = np.random.default_rng(0)
    pictures = 128.0
    for cells, contrast in ((4, 60.0), (16, 30.0), (64, 15.0), (256, 6.0)):
        noise = rng.normal(0, contrast, (number, cells, cells, 3))
        pictures += tf.image.resize(noise, (256, 256), "bicubic").numpy()
    return np.clip(pictures, 0, 255).astype(np.uint8)


def main(_) -> None:
    """Prints the table."""
    logging.set_verbosity(logging.WARNING)
    model = alexnet(seed=0)
    pictures = make_pictures(max(_BATCH_SIZES))
    jpegs = [tf.io.encode_jpeg(picture, quality=95).numpy() for picture in pictures]
    crops = fit_images(tf.constant(pictures), Fitting(), 224).numpy()
    exported, names = {}, [f"class {i}" for i in range(1000)]
    for precision in ("float32", "bfloat16"):
        with tempfile.TemporaryDirectory() as directory:
            export_model(model, names, directory, precision=precision)
            exported[precision] = tf.saved_model.load(directory).signatures
    network = tf.function(lambda images: model(images, training=False))
    decode = tf.function(lambda files: decode_pictures(files, Fitting(), 224)[0])
    print(f"a JPEG has {np.mean([len(jpeg) for jpeg in jpegs]) / 1000:.0f} kB")
    print("batch  what      p50 ms   p99 ms  pictures/s")
    for batch_size in _BATCH_SIZES:
        strings = tf.constant(jpegs[:batch_size])
        cropped = crops[:batch_size]
        serve, call = exported["float32"], functools.partial
        decoded = tf.constant(pictures[:batch_size])
        calls = {
            "bytes": call(serve["serving_default"], strings),
            "uint8": call(serve["images"], decoded),
            "bfloat16": call(exported["bfloat16"]["images"], decoded),
            "decode": call(decode, strings),
            "network": call(network, tf.constant(cropped)),
            "keras": call(model.predict, cropped, batch_size=batch_size, verbose=0),
        }
        times = {name: [] for name in calls}
        for number in range(_ROUNDS.value + 3):
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                if number >= 3:  # the first ones build the graphs
                    times[name].append(time.perf_counter() - start)
        for name, seconds in times.items():
            middle, slowest = np.percentile(seconds, [50, 99])
            print(
                f"{batch_size:5}  {name:8} {1e3 * middle:7.1f}  {1e3 * slowest:7.1f}  "
                f"{batch_size / middle:10.0f}"
            )
        alone = max(np.median(times["decode"]), np.median(times["network"]))
        print(f"       bytes / slower alone: {np.median(times['bytes']) / alone:.2f}")


if __name__ == "__main__":
    app.run(main)

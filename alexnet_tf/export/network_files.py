"""The network alone, as a LiteRT or ONNX file."""

import importlib
import os
import warnings
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from alexnet_tf.errors import UserError
from alexnet_tf.export.checking import draw_picture, require_same
from alexnet_tf.export.saved_model import copy_without_xla, write_labels

LITERT_FILE, ONNX_FILE = "alexnet.tflite", "alexnet.onnx"


def export_network(
    model: keras.Model, class_names: Sequence[str], output: str, format: str
) -> None:
    """Writes the network alone as a LiteRT or ONNX file, and the names of its classes.

    The file takes `images`, float32 RGB 0..255 `(batch, size, size, 3)`, cropped, and
    gives the probabilities, float32 `(batch, classes)`.

    Args:
        model: From images to logits; it stays as it is.
        class_names: The index is the class.
        output: Directory to write.
        format: "litert" or "onnx".
    """
    model = copy_without_xla(model)
    os.makedirs(output)
    write_labels(class_names, output)
    probabilities = keras.layers.Softmax(name="probabilities")(model.output)
    network = keras.Model(model.input, probabilities)
    shape = (None, *model.input_shape[1:])
    spec = keras.InputSpec("float32", shape, name="images")
    name = LITERT_FILE if format == "litert" else ONNX_FILE
    path = os.path.join(output, name)
    network.export(path, format=format, input_signature=[spec], verbose=False)


def check_network(model: keras.Model, output: str, format: str) -> None:
    """Compares a LiteRT or ONNX file, loaded anew, with the network it is from.

    Raises:
        UserError: If it does not answer as the network does.
    """
    size = model.input_shape[1]
    images = np.float32([draw_picture(size, size, seed) for seed in range(2)])
    run = _load_litert if format == "litert" else _load_onnx
    found = run(output)(images)
    require_same(found, tf.nn.softmax(model(images, training=False)).numpy(), 1.0)


def _load_litert(directory: str) -> Callable:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it will move to another package
        interpreter = tf.lite.Interpreter(os.path.join(directory, LITERT_FILE))
    return lambda images: next(
        iter(interpreter.get_signature_runner()(images=images).values())
    )


def _load_onnx(directory: str) -> Callable:
    onnxruntime = require_library("onnxruntime")
    session = onnxruntime.InferenceSession(os.path.join(directory, ONNX_FILE))
    return lambda images: session.run(None, {"images": images})[0]


def require_library(name: str):
    """Imports what `--format=onnx` needs, or says in one line how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(
            f"--format=onnx needs {name}: pip install onnx tf2onnx onnxruntime"
        ) from None

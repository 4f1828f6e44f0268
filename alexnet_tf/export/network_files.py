"""The network alone, as a LiteRT or ONNX file, with labels and preprocessing in it.

A file takes `images`, float32 RGB 0..255 `(batch, size, size, 3)`, cropped, and gives
`probabilities`, float32 `(batch, classes)`.
"""

import importlib
import json
import os
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from alexnet_tf.errors import UserError
from alexnet_tf.export.checking import draw_picture, require_same
from alexnet_tf.export.model_card import describe_input
from alexnet_tf.export.saved_model import copy_for_serving, format_labels
from alexnet_tf.pictures.in_graph import fit_images
from alexnet_tf.pipeline.batches import training_batches
from alexnet_tf.pipeline.data_set import open_data_set
from alexnet_tf.weights.loading import Loaded

NETWORK_FILES = {"litert": "alexnet.tflite", "onnx": "alexnet.onnx"}
_CALIBRATION = 200  # pictures
_TURNS = 15


def write_network(
    network: Loaded, directory: str, format: str, quantize: str | None = None
) -> str:
    """Writes a LiteRT or ONNX file.

    Args:
        network: From images to logits; it stays as it is.
        directory: Where to.
        format: "litert" or "onnx".
        quantize: For LiteRT. "weights" stores kernels as int8. "int8" also computes in
            int8, in ranges that are measured on training pictures; LiteRT has the
            response normalisation in float32 alone.

    Returns:
        The path of the file.
    """
    model = copy_for_serving(network.model)
    options = {}
    if quantize:
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
    if quantize == "int8":
        kinds = tf.lite.OpsSet
        operations = [kinds.TFLITE_BUILTINS_INT8, kinds.TFLITE_BUILTINS]
        options["target_spec"] = {"supported_ops": operations}
        options["representative_dataset"] = lambda: _training_pictures(network)
    probabilities = keras.layers.Softmax(name="probabilities")(model.output)
    keras.Model(model.input, {"probabilities": probabilities}).export(
        path := os.path.join(directory, NETWORK_FILES[format]),
        format=format,
        input_signature=[keras.InputSpec("float32", model.input.shape, name="images")],
        verbose=False,
        **options,
    )
    describe = _describe_litert if format == "litert" else _describe_onnx
    labels = format_labels(network.config.class_names)
    describe(path, {"labels": labels, "input": json.dumps(describe_input(network))})
    return path


def _training_pictures(network: Loaded) -> Iterator[list[np.ndarray]]:
    config = network.config
    data_set = open_data_set(config.data_dir)
    batches = training_batches(data_set, config.recipe, seed=config.seed)
    for image, _ in batches.unbatch().take(_CALIBRATION).as_numpy_iterator():
        yield [image[np.newaxis].astype(np.float32)]


def _describe_litert(path: str, texts: dict[str, str]) -> None:
    with zipfile.ZipFile(path, "a") as archive:  # behind the network, as LiteRT has it
        for name, text in texts.items():
            archive.writestr(f"{name}.txt", text)


def _describe_onnx(path: str, texts: dict[str, str]) -> None:
    import onnx

    proto = onnx.load(path)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.helper.set_model_props(proto, texts)
    onnx.save(proto, path)


def check_network(model: keras.Model, path: str) -> None:
    """Compares a LiteRT or ONNX file, loaded anew, with the network it is from.

    Raises:
        UserError: If it does not answer as the network does.
    """
    size = model.input_shape[1]
    images = np.float32([draw_picture(size, size, seed) for seed in range(2)])
    expected = tf.nn.softmax(model(images, training=False)).numpy()
    require_same(_load(path)(images), expected, 1.0)


def load_network_file(path: str, network: Loaded) -> Callable:
    """Loads a LiteRT or ONNX file for `checking.measure`."""
    run, fitting = _load(path), network.config.fitting
    size = network.model.input_shape[1]

    def answer(images: tf.Tensor) -> np.ndarray:
        crops = fit_images(images, fitting, size)
        return run(tf.cast(crops, tf.float32).numpy()).argmax(axis=1)

    return answer


def compare_speed(network: Loaded, path: str) -> float:
    """How many times as fast as the float32 one a LiteRT file answers one picture."""
    size = network.model.input_shape[1]
    image = np.float32([draw_picture(size, size, 0)])
    seconds = {path: []}
    with tempfile.TemporaryDirectory() as directory:
        seconds[write_network(network, directory, "litert")] = []
        runs = {file: _load(file) for file in seconds}
        for _ in range(_TURNS):  # in turns, so that a busy machine slows both
            for file, run in runs.items():
                start = time.perf_counter()
                run(image)
                seconds[file].append(time.perf_counter() - start)
    given, float32 = map(np.median, seconds.values())
    return float32 / given


def _load(path: str) -> Callable[[np.ndarray], np.ndarray]:
    """Loads a file: from images to probabilities."""
    if path.endswith(".onnx"):
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        return lambda images: session.run(None, {"images": images})[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it will move to another package
        interpreter = tf.lite.Interpreter(path, num_threads=os.cpu_count())
    run = interpreter.get_signature_runner()
    return lambda images: run(images=images)["probabilities"]


def require_library(name: str, format: str) -> None:
    """Imports what a format needs, or says in one line how to get it."""
    try:
        importlib.import_module(name)
    except ImportError:
        raise UserError(f"--format={format} needs {name}: pip install {name}") from None

"""A network as a SavedModel: what a server needs, from picture files to classes.

Its graph has plain TensorFlow operations alone, so that servers without this package,
without Python and without XLA run it; `xla` alone asks for that. It decodes and fits
pictures as evaluation sees them, because a client that did it itself would do it
otherwise.
"""

import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from alexnet_tf.export.checking import draw_picture, require_same
from alexnet_tf.exported import ExportedModel
from alexnet_tf.network.layers import LocalResponseNormalization
from alexnet_tf.pictures.fitting import FITTING_FILE, Fitting
from alexnet_tf.pictures.in_graph import decode_pictures, fit_images

MAX_BATCH_SIZE = 64  # pictures in a request
WARM_UP_BATCH_SIZES = (1, 8, 32)
LABELS_FILE = "labels.txt"
_FLOAT32 = ("images", "input_normalization", "logits")  # in every precision


def export_model(
    model: keras.Model,
    class_names: Sequence[str],
    output: str,
    fitting: Fitting | None = None,
    top_k: int = 5,
    precision: str = "float32",
    xla: bool = False,
) -> None:
    """Writes a network as a SavedModel of plain TensorFlow operations.

    Its signatures differ in what they take:

    - `serving_default`: `image_bytes`, string `(batch,)`: JPEG and PNG files of any
      size (see `alexnet_tf.pictures.in_graph`);
    - `images`: `images`, uint8 RGB `(batch, height, width, 3)`, any size;
    - `features`: as `serving_default`.

    The pictures are fitted as preparation and evaluation do it. The first two answer
    `classes` (string), `class_ids` (int32) and `probabilities` (float32), each
    `(batch, top_k)`, the most probable class first; `features` answers `features`,
    float32 `(batch, 4096)`, what fc7 puts out.

    What is no picture, is damaged, has too many pixels or is of a kind that is not
    taken costs no other picture of its batch: its classes are "", its ids -1, its
    probabilities and features 0. More than `MAX_BATCH_SIZE` pictures are refused.

    Args:
        model: From images to logits; it stays as it is.
        class_names: The index is the class.
        output: Directory to write.
        fitting: How the pictures that it was trained on were made square; None for the
            usual way.
        top_k: How many classes to answer; all where there are fewer.
        precision: What the weights are stored in and computed with: "float32", or
            "bfloat16", which halves what is read and is faster where the processor
            computes in it.
        xla: Whether XLA compiles the response normalisation, in a fraction of the time.
            The first batch of each size then waits for the compiler.
    """
    fitting = fitting or Fitting()
    model = copy_for_serving(model, precision, xla)
    module = tf.Module()
    module.variables_of_model = [variable.value for variable in model.variables]
    with tempfile.TemporaryDirectory() as directory:
        module.labels = tf.saved_model.Asset(write_labels(class_names, directory))
        top_k = min(top_k, len(class_names))
        signatures = _make_signatures(model, class_names, fitting, top_k)
        tf.saved_model.save(module, output, signatures)
    os.mkdir(os.path.join(output, "assets.extra"))
    with open(os.path.join(output, FITTING_FILE), "w") as file:
        json.dump(dataclasses.asdict(fitting), file)
    _write_warm_up_requests(output, signatures, model.input_shape[1])


def copy_for_serving(
    model: keras.Model, precision: str = "float32", xla: bool = False
) -> keras.Model:
    """Returns the same network, of plain operations where not every server has XLA."""

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if isinstance(layer, LocalResponseNormalization):
            config["jit_compile"] = xla
        if layer.name not in _FLOAT32:
            config["dtype"] = precision
        return type(layer).from_config(config)

    plain = keras.models.clone_model(model, clone_function=copy)
    plain.set_weights(model.get_weights())
    return plain


def write_labels(class_names: Sequence[str], directory: str) -> str:
    """Writes a line for each class; returns the path of the file."""
    path = os.path.join(directory, LABELS_FILE)
    with open(path, "w", encoding="utf-8") as file:
        file.write(format_labels(class_names))
    return path


def format_labels(class_names: Sequence[str]) -> str:
    """A line for each class, whatever is in its name."""
    return "".join(" ".join(name.splitlines()) + "\n" for name in class_names)


def _make_signatures(
    model: keras.Model, class_names: Sequence[str], fitting: Fitting, top_k: int
) -> dict[str, tf.types.experimental.ConcreteFunction]:
    fc7 = keras.Model(model.inputs, model.get_layer("fc7").output)
    names, size = ["", *class_names], model.input_shape[1]
    files = tf.TensorSpec((None,), tf.string, "image_bytes")
    pixels = tf.TensorSpec((None, None, None, 3), tf.uint8, "images")

    @tf.function(input_signature=[files], autograph=False)
    def decode(image_bytes):  # once in the graph, for two signatures
        return decode_pictures(image_bytes, fitting, size)

    def answer(images, is_picture):
        probabilities = tf.nn.softmax(model(images, training=False))
        probabilities, class_ids = tf.math.top_k(probabilities, top_k)
        is_picture = is_picture[:, tf.newaxis]
        class_ids = tf.where(is_picture, class_ids, -1)
        return {
            "classes": tf.gather(names, class_ids + 1),
            "class_ids": class_ids,
            "probabilities": tf.where(is_picture, probabilities, 0.0),
        }

    def answer_files(image_bytes):
        return answer(*decode(image_bytes))

    def answer_pixels(images):
        fitted = fit_images(images, fitting, size)
        return answer(fitted, tf.fill(tf.shape(images)[:1], True))

    def find_features(image_bytes):
        images, is_picture = decode(image_bytes)
        numbers = tf.cast(fc7(images, training=False), tf.float32)
        return {"features": tf.where(is_picture[:, tf.newaxis], numbers, 0.0)}

    return {
        "serving_default": _trace(answer_files, files),
        "images": _trace(answer_pixels, pixels),
        "features": _trace(find_features, files),
    }


def _trace(
    function: Callable, spec: tf.TensorSpec
) -> tf.types.experimental.ConcreteFunction:
    """Its graph, in which a batch is an error that would take a server seconds."""

    @tf.function(input_signature=[spec], autograph=False)
    def call(batch):
        message = f"at most {MAX_BATCH_SIZE} pictures in a request"
        is_bounded = tf.shape(batch)[0] <= MAX_BATCH_SIZE
        with tf.control_dependencies([tf.debugging.Assert(is_bounded, [message])]):
            return function(tf.identity(batch))

    return call.get_concrete_function()


def _write_warm_up_requests(
    output: str,
    signatures: Mapping[str, tf.types.experimental.ConcreteFunction],
    size: int,
) -> None:
    """Writes the requests that TensorFlow Serving runs before it takes others."""
    try:
        from tensorflow_serving.apis import prediction_log_pb2
    except ModuleNotFoundError:
        logging.info(
            "no warm-up requests for TensorFlow Serving: they need "
            "tensorflow-serving-api (pip install tensorflow-serving-api)"
        )
        return
    picture = tf.io.encode_jpeg(np.full((256, 256, 3), 128, np.uint8)).numpy()
    # By input: one value for the whole tensor, which keeps the file small, and what
    # follows the batch in its shape.
    inputs = {"image_bytes": (picture, ()), "images": (128, (size, size, 3))}
    path = os.path.join(output, "assets.extra", "tf_serving_warmup_requests")
    with tf.io.TFRecordWriter(path) as writer:
        for signature, function in signatures.items():
            spec = function.structured_input_signature[0][0]
            value, shape = inputs[spec.name]
            for batch_size in WARM_UP_BATCH_SIZES:
                log = prediction_log_pb2.PredictionLog()
                request = log.predict_log.request
                request.model_spec.signature_name = signature
                tensor = tf.make_tensor_proto(value, spec.dtype, (batch_size, *shape))
                request.inputs[spec.name].CopyFrom(tensor)
                writer.write(log.SerializeToString())


def load_saved_model(saved_model: str) -> Callable:
    """Loads a SavedModel for `checking.measure`."""
    exported = ExportedModel(saved_model)
    return lambda images: exported.run("images", images)["class_ids"][:, 0]


def check_export(model: keras.Model, saved_model: str, fitting: Fitting) -> None:
    """Compares a SavedModel, loaded anew, with the network it is from.

    Raises:
        UserError: If it does not answer as the network does.
    """
    size, exported = model.input_shape[1], ExportedModel(saved_model)
    sizes = [(256, 256), (200, 300), (500, 400)]
    pictures = [draw_picture(*size, seed) for seed, size in enumerate(sizes)]
    fitted = [fit_images(picture[np.newaxis], fitting, size) for picture in pictures]
    fc7 = model.get_layer("fc7").output
    expected = keras.Model(model.inputs, [model.output, fc7])(tf.concat(fitted, 0))
    logits, features = map(np.asarray, expected)
    encoded = tf.stack([tf.io.encode_png(picture) for picture in pictures])
    answer = exported.run("serving_default", encoded)
    ids = np.maximum(answer["class_ids"], 0)  # -1 has probability 0
    probabilities = np.take_along_axis(tf.nn.softmax(logits).numpy(), ids, 1)
    require_same(answer["probabilities"], probabilities, 1.0)
    found = exported.run("features", encoded)["features"]
    require_same(found, features, np.abs(features).max())

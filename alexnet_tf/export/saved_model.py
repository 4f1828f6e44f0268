"""A run as a SavedModel for serving."""

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
from alexnet_tf.network.layers import LocalResponseNormalization
from alexnet_tf.paths import for_tensorflow
from alexnet_tf.pictures.fitting import FITTING_FILE, Fitting
from alexnet_tf.pictures.in_graph import decode_pictures, fit_images, map_each

MAX_BATCH_SIZE = 64  # pictures in a request
WARM_UP_BATCH_SIZES = (1, 8, 32)
LABELS_FILE = "labels.txt"


def export_model(
    model: keras.Model,
    class_names: Sequence[str],
    output: str,
    fitting: Fitting | None = None,
    top_k: int = 5,
) -> None:
    """Writes a network as a SavedModel of plain TensorFlow operations.

    Its signatures differ in what they take:

    - `serving_default`: `image_bytes`, string `(batch,)`: JPEG and PNG files of any
      size (see `alexnet_tf.pictures.in_graph`);
    - `tf_example`: `examples`, string `(batch,)`: serialised `tf.train.Example`s with
      such a picture as `image` or `image/encoded`;
    - `images`: `images`, uint8 RGB `(batch, height, width, 3)`, any size;
    - `features`: as `serving_default`.

    The pictures are fitted as preparation and evaluation do it. The first three answer
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
    """
    fitting = fitting or Fitting()
    model = copy_without_xla(model)
    module = tf.Module()
    module.variables_of_model = [variable.value for variable in model.variables]
    with tempfile.TemporaryDirectory() as directory:
        module.labels = tf.saved_model.Asset(write_labels(class_names, directory))
        top_k = min(top_k, len(class_names))
        signatures = _make_signatures(model, class_names, fitting, top_k)
        tf.saved_model.save(module, output, signatures)
    tf.io.gfile.makedirs(os.path.join(output, "assets.extra"))
    with tf.io.gfile.GFile(os.path.join(output, FITTING_FILE), "w") as file:
        json.dump(dataclasses.asdict(fitting), file)
    _write_warm_up_requests(output, signatures, model.input_shape[1])


def copy_without_xla(model: keras.Model) -> keras.Model:
    """Returns the same network of plain operations: not every server has XLA."""

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if isinstance(layer, LocalResponseNormalization):
            config["jit_compile"] = False
        return type(layer).from_config(config)

    plain = keras.models.clone_model(model, clone_function=copy)
    plain.set_weights(model.get_weights())
    return plain


def write_labels(class_names: Sequence[str], directory: str) -> str:
    """Writes a line for each class, whatever is in its name."""
    path = os.path.join(directory, LABELS_FILE)
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(" ".join(name.splitlines()) + "\n" for name in class_names)
    return path


def _make_signatures(
    model: keras.Model, class_names: Sequence[str], fitting: Fitting, top_k: int
) -> dict[str, tf.types.experimental.ConcreteFunction]:
    fc7 = keras.Model(model.inputs, model.get_layer("fc7").output)
    names, size = ["", *class_names], model.input_shape[1]
    strings, pixels = ((None,), tf.string), ((None, None, None, 3), tf.uint8)

    @tf.function(input_signature=[tf.TensorSpec(*strings)], autograph=False)
    def decode(image_bytes):  # once in the graph, for three signatures
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

    def serving_default(image_bytes):
        return answer(*decode(image_bytes))

    def tf_example(examples):
        return serving_default(_find_pictures(examples))

    def images(images):
        fitted = fit_images(images, fitting, size)
        return answer(fitted, tf.fill(tf.shape(images)[:1], True))

    def features(image_bytes):
        images, is_picture = decode(image_bytes)
        numbers = tf.cast(fc7(images, training=False), tf.float32)
        return {"features": tf.where(is_picture[:, tf.newaxis], numbers, 0.0)}

    return {
        function.__name__: _trace(function, tf.TensorSpec(*spec, name=name))
        for function, name, spec in (
            (serving_default, "image_bytes", strings),
            (tf_example, "examples", strings),
            (images, "images", pixels),
            (features, "image_bytes", strings),
        )
    }


def _trace(
    function: Callable, spec: tf.TensorSpec
) -> tf.types.experimental.ConcreteFunction:
    traced = tf.function(_bounded(function), input_signature=[spec], autograph=False)
    return traced.get_concrete_function()


def _bounded(function: Callable) -> Callable:
    """The same, but an error for a batch that would take a server seconds."""

    def call(batch):
        message = f"at most {MAX_BATCH_SIZE} pictures in a request"
        is_bounded = tf.shape(batch)[0] <= MAX_BATCH_SIZE
        with tf.control_dependencies([tf.debugging.Assert(is_bounded, [message])]):
            return function(tf.identity(batch))

    return call


def _find_pictures(examples: tf.Tensor) -> tf.Tensor:
    """The bytes of the pictures of serialised Examples, "" where there are none."""
    keys = ("image", "image/encoded")  # as data.prepare and ImageNet have it
    absent = tf.io.FixedLenFeature((), tf.string, default_value="")

    def find(example):
        parsed = tf.io.parse_single_example(example, dict.fromkeys(keys, absent))
        return tf.strings.join([parsed[key] for key in keys])

    everyone = tf.ones_like(examples, tf.bool)
    scalar = tf.TensorSpec((), tf.string)
    indices, found = map_each(find, examples, everyone, scalar)
    empty = tf.fill(tf.shape(examples), "")
    return tf.tensor_scatter_nd_update(empty, indices[:, tf.newaxis], found)


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
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[picture]))
    example = tf.train.Example(features=tf.train.Features(feature={"image": feature}))
    inputs = {  # and the rest of the shape
        "image_bytes": (picture, ()),
        "examples": (example.SerializeToString(), ()),
        "images": (128, (size, size, 3)),
    }
    path = os.path.join(output, "assets.extra", "tf_serving_warmup_requests")
    with tf.io.TFRecordWriter(path) as writer:
        for signature, function in signatures.items():
            spec = function.structured_input_signature[0][0]
            value, shape = inputs[spec.name]
            for batch_size in WARM_UP_BATCH_SIZES:
                log = prediction_log_pb2.PredictionLog()
                request = log.predict_log.request
                request.model_spec.signature_name = signature
                # One value for the whole tensor keeps the file small.
                tensor = tf.make_tensor_proto(value, spec.dtype, (batch_size, *shape))
                request.inputs[spec.name].CopyFrom(tensor)
                writer.write(log.SerializeToString())


def check_export(model: keras.Model, saved_model: str, fitting: Fitting) -> None:
    """Compares a SavedModel, loaded anew, with the network it is from.

    Raises:
        UserError: If it does not answer as the network does.
    """
    sizes = [(256, 256), (200, 300), (500, 400)]
    pictures = [draw_picture(*size, seed) for seed, size in enumerate(sizes)]
    fitted = tf.concat(
        [fit_images(p[np.newaxis], fitting, model.input_shape[1]) for p in pictures], 0
    )
    expected = tf.nn.softmax(model(fitted, training=False)).numpy()
    fc7 = keras.Model(model.inputs, model.get_layer("fc7").output)
    serve = tf.saved_model.load(for_tensorflow(saved_model)).signatures
    encoded = tf.stack([tf.io.encode_png(picture) for picture in pictures])
    answer = serve["serving_default"](image_bytes=encoded)
    ids = np.maximum(answer["class_ids"].numpy(), 0)  # -1 has probability 0
    expected = np.take_along_axis(expected, ids, 1)
    require_same(answer["probabilities"].numpy(), expected, 1.0)
    features = serve["features"](image_bytes=encoded)["features"].numpy()
    expected = fc7(fitted, training=False).numpy()
    require_same(features, expected, np.abs(expected).max())

"""Export of a run as a SavedModel for serving."""

import os
import shutil
from collections.abc import Sequence

import keras
import tensorflow as tf

from alexnet_tf import input_pipeline
from alexnet_tf.layers import LocalResponseNormalization
from alexnet_tf.runs import Run


def export_run(
    model_dir: str,
    output: str | None = None,
    *,
    checkpoint: str = "latest",
    top_k: int = 5,
) -> str:
    """Exports a checkpoint of a run.

    Args:
        model_dir: Directory of the run.
        output: Directory to write; None for `saved_model` in `model_dir`.
        checkpoint: "latest", "best" or a path.
        top_k: How many classes the model answers.

    Returns:
        The directory written.

    Raises:
        UserError: If there is no such run or checkpoint.
    """
    run = Run(model_dir)
    model, config, _ = run.load_model(checkpoint)
    output = output or run.saved_model_dir
    unfinished = output.rstrip("/") + ".incomplete"
    shutil.rmtree(unfinished, ignore_errors=True)
    export_model(model, config.class_names, unfinished, top_k)
    shutil.rmtree(output, ignore_errors=True)
    os.replace(unfinished, output)
    return output


class _AnyPicture:
    encoding, image_shape = "jpeg", None


def _decode(image_bytes, size):
    corner = tf.constant([16, 16])
    return input_pipeline._decode_crop(image_bytes, _AnyPicture, corner, size)


def export_model(
    model: keras.Model, class_names: Sequence[str], output: str, top_k: int = 5
) -> None:
    """Writes a model as a SavedModel of plain TensorFlow operations.

    `serving_default` takes `image_bytes`, string `(batch,)`: encoded pictures of any
    size, JPEG, PNG, BMP or GIF (its first frame). `images` takes `images`, uint8 RGB
    `(batch, height, width, 3)` of the model's size. Both answer `classes` (string),
    `class_ids` (int32) and `probabilities` (float32), each `(batch, top_k)`, the most
    probable class first.

    Args:
        model: From images to logits.
        class_names: The index is the class.
        output: Directory to write.
        top_k: How many classes to answer; all where there are fewer.
    """
    size = model.input_shape[1]
    top_k = min(top_k, len(class_names))
    for layer in model.layers:
        if isinstance(layer, LocalResponseNormalization):
            layer.jit_compile = False  # not every server has XLA

    def classify(images):
        probabilities = tf.nn.softmax(model(images, training=False))
        probabilities, class_ids = tf.math.top_k(probabilities, top_k)
        return {
            "classes": tf.gather(tf.constant(class_names), class_ids),
            "class_ids": class_ids,
            "probabilities": probabilities,
        }

    def classify_bytes(image_bytes):
        images = tf.map_fn(
            lambda one: _decode(one, size),
            image_bytes,
            fn_output_signature=tf.TensorSpec((size, size, 3), tf.uint8),
        )
        return classify(images)

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "serving_default",
        classify_bytes,
        input_signature=[tf.TensorSpec((None,), tf.string, name="image_bytes")],
    )
    archive.add_endpoint(
        "images",
        classify,
        input_signature=[tf.TensorSpec((None, size, size, 3), tf.uint8, name="images")],
    )
    archive.write_out(output, verbose=False)

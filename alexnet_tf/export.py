"""Export of a run as a SavedModel for serving."""

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from alexnet_tf.errors import UserError
from alexnet_tf.network.layers import LocalResponseNormalization
from alexnet_tf.pipeline.decoding import central_crop, decode_central_crop
from alexnet_tf.run import Config, Run, checkpoint_sha256, library_versions

MAX_PIXELS = 2**26  # of a picture; 8192 × 8192
WARM_UP_BATCH_SIZES = (1, 8, 32)


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
        The directory written; an earlier export there is replaced.

    Raises:
        UserError: If there is no such run or checkpoint, or `output` holds something
            else than a SavedModel.
    """
    run = Run(model_dir)
    output = (output or run.saved_model_dir).rstrip("/")
    if os.path.exists(output) and not tf.saved_model.contains_saved_model(output):
        raise UserError(
            f"--output={output} exists and is no SavedModel: give a new directory"
        )
    model, config, path = run.load_model(checkpoint)
    unfinished = output + ".incomplete"
    shutil.rmtree(unfinished, ignore_errors=True)
    export_model(model, config.class_names, unfinished, top_k)
    card = _model_card(run, config, path)
    with open(os.path.join(unfinished, "model_card.json"), "w") as file:
        json.dump(card, file, indent=1)
    shutil.rmtree(output, ignore_errors=True)
    os.replace(unfinished, output)
    return output


def export_model(
    model: keras.Model, class_names: Sequence[str], output: str, top_k: int = 5
) -> None:
    """Writes a network as a SavedModel of plain TensorFlow operations.

    Its signatures differ in what they take:

    - `serving_default`: `image_bytes`, string `(batch,)`: encoded pictures of any size,
      JPEG, PNG, GIF and WebP (the first frame) or BMP;
    - `tf_example`: `examples`, string `(batch,)`: serialised `tf.train.Example`s with
      such a picture as `image` or `image/encoded`;
    - `images`: `images`, uint8 RGB `(batch, height, width, 3)`, any size;
    - `features`: as `serving_default`.

    The pictures are scaled and cropped as evaluation does it. The first three answer
    `classes` (string), `class_ids` (int32) and `probabilities` (float32), each
    `(batch, top_k)`, the most probable class first; `features` answers `features`,
    float32 `(batch, 4096)`, what fc7 puts out.

    What is no picture by its first bytes, or has more than `MAX_PIXELS` by its header,
    is not decoded: its classes are "", its ids -1, its probabilities and features 0. Of
    a JPEG that is cut short, what is missing is grey. What only a decoder finds out
    fails the batch with the decoder's message.

    Args:
        model: From images to logits; it is left without functions compiled by XLA.
        class_names: The index is the class.
        output: Directory to write.
        top_k: How many classes to answer; all where there are fewer.
    """
    for layer in model.layers:
        if isinstance(layer, LocalResponseNormalization):
            layer.jit_compile = False  # not every server has XLA
    module = tf.Module()
    module.variables_of_model = [variable.value for variable in model.variables]
    with tempfile.TemporaryDirectory() as directory:
        labels = os.path.join(directory, "labels.txt")
        with open(labels, "w", encoding="utf-8") as file:
            file.writelines(name + "\n" for name in class_names)
        module.class_names = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(
                labels,
                tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
                tf.string,
                tf.lookup.TextFileIndex.WHOLE_LINE,
            ),
            default_value="",
        )
        top_k = min(top_k, len(class_names))
        signatures = _make_signatures(model, module.class_names, top_k)
        tf.saved_model.save(module, output, signatures)
    _write_warm_up_requests(output, signatures, model.input_shape[1])


def _make_signatures(
    model: keras.Model, class_names: tf.lookup.StaticHashTable, top_k: int
) -> dict[str, tf.types.experimental.ConcreteFunction]:
    size = model.input_shape[1]
    fc7 = keras.Model(model.inputs, model.get_layer("fc7").output)

    def answer(images, is_picture):
        probabilities = tf.nn.softmax(model(images, training=False))
        probabilities, class_ids = tf.math.top_k(probabilities, top_k)
        is_picture = is_picture[:, tf.newaxis]
        class_ids = tf.where(is_picture, class_ids, -1)
        return {
            "classes": class_names.lookup(tf.cast(class_ids, tf.int64)),
            "class_ids": class_ids,
            "probabilities": tf.where(is_picture, probabilities, 0.0),
        }

    def serving_default(image_bytes):
        return answer(*decode_pictures(image_bytes, size))

    def tf_example(examples):
        keys = ("image", "image/encoded")  # as data.prepare and ImageNet have it
        absent = tf.io.FixedLenFeature((), tf.string, default_value="")
        parsed = tf.io.parse_example(examples, dict.fromkeys(keys, absent))
        return serving_default(tf.strings.join([parsed[key] for key in keys]))

    def images(images):
        is_picture = tf.fill(tf.shape(images)[:1], True)
        return answer(central_crop(images, size), is_picture)

    def features(image_bytes):
        images, is_picture = decode_pictures(image_bytes, size)
        numbers = tf.cast(fc7(images, training=False), tf.float32)
        return {"features": tf.where(is_picture[:, tf.newaxis], numbers, 0.0)}

    strings, pixels = ((None,), tf.string), ((None, None, None, 3), tf.uint8)
    return {
        function.__name__: tf.function(
            function,
            input_signature=[tf.TensorSpec(*spec, name=name)],
            autograph=False,
        ).get_concrete_function()
        for function, name, spec in (
            (serving_default, "image_bytes", strings),
            (tf_example, "examples", strings),
            (images, "images", pixels),
            (features, "image_bytes", strings),
        )
    }


def decode_pictures(image_bytes: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes a batch in parallel, as evaluation does.

    Args:
        image_bytes: string `(batch,)`.
        size: Height and width of the crops, pixels.

    Returns:
        uint8 RGB `(batch, size, size, 3)`, zeros where there is no picture, and bool
        `(batch,)`, whether there is one.
    """

    def decode_one(arguments):
        one, is_jpeg, num_pixels = arguments
        num_pixels = tf.cond(
            is_jpeg,
            lambda: tf.reduce_prod(
                tf.cast(tf.io.extract_jpeg_shape(one)[:2], tf.int64)
            ),
            lambda: num_pixels,
        )
        is_picture = (num_pixels > 0) & (num_pixels <= MAX_PIXELS)
        image = tf.cond(
            is_picture,
            lambda: decode_central_crop(one, size),
            lambda: tf.zeros((size, size, 3), tf.uint8),
        )
        return image, is_picture

    return tf.map_fn(
        decode_one,
        (image_bytes, *_read_headers(image_bytes)),
        fn_output_signature=(
            tf.TensorSpec((size, size, 3), tf.uint8),
            tf.TensorSpec((), tf.bool),
        ),
        parallel_iterations=32,
    )


def _read_headers(image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Which of a batch begin as JPEG, and how many pixels the others declare.

    The number, int64, is 0 for what begins as no picture, and for JPEG, whose header
    has no fixed place for it.
    """
    head = tf.strings.substr(image_bytes, 0, 30)
    head = tf.cast(tf.io.decode_raw(head, tf.uint8, fixed_length=30), tf.int64)

    def has(text, at=0):
        return tf.reduce_all(head[:, at : at + len(text)] == list(text), axis=1)

    def number(at, length, byteorder="little"):
        places = [256**place for place in range(length)]
        places = places if byteorder == "little" else places[::-1]
        return tf.reduce_sum(head[:, at : at + length] * places, axis=1)

    is_webp = has(b"RIFF") & has(b"WEBP", 8)
    sizes = number(21, 4)  # of lossless WebP: two of 14 bits
    declared = (
        (has(b"\x89PNG\r\n\x1a\n"), number(16, 4, "big") * number(20, 4, "big")),
        (has(b"GIF8"), number(6, 2) * number(8, 2)),
        (has(b"BM"), tf.ones_like(sizes)),  # not compressed: no larger than the file
        (is_webp & has(b"VP8 ", 12), number(26, 2) % 2**14 * (number(28, 2) % 2**14)),
        (
            is_webp & has(b"VP8L", 12),
            (1 + sizes % 2**14) * (1 + sizes // 2**14 % 2**14),
        ),
        (is_webp & has(b"VP8X", 12), (1 + number(24, 3)) * (1 + number(27, 3))),
    )
    num_pixels = tf.zeros_like(sizes)
    for is_format, declared_pixels in declared:
        num_pixels = tf.where(is_format, declared_pixels, num_pixels)
    return has(b"\xff\xd8\xff"), num_pixels


def _write_warm_up_requests(
    output: str,
    signatures: Mapping[str, tf.types.experimental.ConcreteFunction],
    size: int,
) -> None:
    """Writes the requests that TensorFlow Serving runs before it takes others."""
    picture = tf.io.encode_jpeg(np.full((256, 256, 3), 128, np.uint8)).numpy()
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[picture]))
    example = tf.train.Example(features=tf.train.Features(feature={"image": feature}))
    inputs = {  # and the rest of the shape
        "image_bytes": (picture, ()),
        "examples": (example.SerializeToString(), ()),
        "images": (128, (size, size, 3)),
    }
    directory = os.path.join(output, "assets.extra")
    os.makedirs(directory)
    path = os.path.join(directory, "tf_serving_warmup_requests")
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


def _model_card(run: Run, config: Config, checkpoint: str) -> dict:
    """What one needs to know in order to trust and to repeat an export."""
    sha256 = checkpoint_sha256(checkpoint)
    evaluation = None
    with contextlib.suppress(FileNotFoundError), open(run.eval_file) as file:
        report = json.load(file)
        if report.get("sha256") == [sha256]:
            evaluation = report
    return {
        "model": "AlexNet",
        "recipe": config.recipe.name,
        "training": dataclasses.asdict(config),
        "evaluation": evaluation,
        "checkpoint": checkpoint,
        "checkpoint_sha256": sha256,
        "versions": library_versions(),
    }

"""Tests of alexnet_tf/export.py: what a SavedModel answers, and to whom."""

import functools
import hashlib
import io
import json
import pathlib
import shutil
import struct
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from helpers import make_config
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from alexnet_tf import alexnet, export
from alexnet_tf.errors import UserError
from alexnet_tf.pipeline.batches import evaluation_batches
from alexnet_tf.pipeline.data_set import DataSet, Split
from alexnet_tf.run import Run

NAMES = ("cat", "großer Hund", "fish, small", "bird")
TENSORFLOW = pathlib.Path(tf.__file__).parent


def noise(height, width, seed=0):
    """Coarse noise: pictures that differ and survive JPEG."""
    cells = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    image = PIL.Image.fromarray(cells).resize((width, height), PIL.Image.BICUBIC)
    return np.asarray(image)


def encode(image, form="PNG", **options):
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, form, **options)
    return file.getvalue()


def make_example(**features):
    example = tf.train.Example()
    for key, values in features.items():
        feature = example.features.feature[key]
        if isinstance(values[0], bytes):
            feature.bytes_list.value.extend(values)
        else:
            feature.int64_list.value.extend(values)
    return example.SerializeToString()


def write_data_set(folder, examples, image_shape):
    shard = str(folder / "shard")
    with tf.io.TFRecordWriter(shard) as writer:
        for example in examples:
            writer.write(example)
    return DataSet(
        data_dir=str(folder),
        name="test",
        class_names=NAMES,
        splits={
            name: Split(name, (shard,), (len(examples),))
            for name in ("train", "validation")
        },
        encoding="jpeg",
        image_shape=image_shape,
        image_key="image",
        label_key="label",
        label_offset=0,
    )


def make_model():
    """A network whose answers depend on the picture, the same one every time."""
    model = alexnet(len(NAMES), "original", width=0.05, seed=1)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if layer.weights:
            shape = layer.kernel.shape
            stddev = 1.5 / np.sqrt(np.prod(shape[:-1]))
            layer.kernel.assign(rng.normal(0, stddev, shape))
    images = np.stack([noise(224, 224, seed) for seed in range(20)])
    logits = model(images, training=False).numpy()
    fc8 = model.get_layer("fc8")
    fc8.kernel.assign(fc8.kernel.numpy() / logits.std(0))
    fc8.bias.assign(-logits.mean(0) / logits.std(0))
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    output = str(tmp_path_factory.mktemp("export") / "saved_model")
    export.export_model(make_model(), NAMES, output, top_k=3)
    return output


@pytest.fixture(scope="module")
def serve(saved_model):
    """The signatures, functions from tensors to NumPy arrays."""
    loaded = tf.saved_model.load(saved_model)

    def answer(name, **inputs):
        outputs = loaded.signatures[name](**inputs)
        return {key: value.numpy() for key, value in outputs.items()}

    return {name: functools.partial(answer, name) for name in loaded.signatures}


def softmax(logits):
    exponentials = np.exp(np.float64(logits) - np.max(logits, 1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def check_answer(answer, probabilities):
    """The answer is the top 3 of the probabilities, float64 (batch, classes)."""
    ids = np.argsort(-probabilities, axis=1)[:, :3]
    np.testing.assert_array_equal(answer["class_ids"], ids)
    expected = np.take_along_axis(probabilities, ids, 1)
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)
    assert [[name.decode() for name in row] for row in answer["classes"].tolist()] == [
        [NAMES[i] for i in row] for row in ids
    ]


SIZES = [(256, 256), (300, 300), (480, 360), (200, 700), (60, 50)]


@pytest.mark.parametrize("stored_size", [(256, 256, 3), None])
def test_bytes_and_examples_are_answered_as_evaluation_answers(
    stored_size, model, serve, tmp_path
):
    sizes = SIZES[:1] * 3 if stored_size else SIZES
    pictures = [
        encode(noise(*size, seed=i), "JPEG" if i % 2 else "PNG")
        for i, size in enumerate(sizes)
    ]
    examples = [make_example(image=[picture], label=[1]) for picture in pictures]
    data_set = write_data_set(tmp_path, examples, stored_size)
    batches = evaluation_batches(data_set, "validation", global_batch_size=8)
    ((images, labels),) = batches
    expected = softmax(model(images[: len(examples)], training=False).numpy())
    assert (labels[: len(examples)].numpy() >= 0).all()
    assert np.ptp(expected, axis=0).max() > 0.1  # pictures matter
    answer = serve["serving_default"](image_bytes=tf.constant(pictures))
    check_answer(answer, expected)
    check_answer(serve["tf_example"](examples=tf.constant(examples)), expected)


def test_examples_may_have_imagenets_key(serve):
    picture = encode(noise(256, 256))
    example = make_example(**{"image/encoded": [picture]})
    answer = serve["tf_example"](examples=tf.constant([example]))
    expected = serve["serving_default"](image_bytes=tf.constant([picture]))
    np.testing.assert_array_equal(answer["probabilities"], expected["probabilities"])


def test_a_picture_of_256_pixels_is_cropped_and_not_resampled(model, serve):
    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    logits = model(image[np.newaxis, 16:240, 16:240], training=False)
    expected = softmax(logits.numpy())
    check_answer(serve["images"](images=tf.constant(image[np.newaxis])), expected)
    picture = tf.constant([encode(image)])
    check_answer(serve["serving_default"](image_bytes=picture), expected)


def resize_like_pil(image):
    """Shorter side to 256, centre 224, by PIL's antialiased triangle filter."""
    height, width, _ = image.shape
    scale = 256 / min(height, width)
    box = (
        width / 2 - 112 / scale,
        height / 2 - 112 / scale,
        width / 2 + 112 / scale,
        height / 2 + 112 / scale,
    )
    picture = PIL.Image.fromarray(image)
    return np.asarray(picture.resize((224, 224), PIL.Image.BILINEAR, box=box))


@pytest.mark.parametrize("size", SIZES[1:])
def test_pixels_of_any_size_are_scaled_as_pil_scales(size, model, serve):
    images = np.stack([noise(*size, seed=i) for i in range(3)])
    answer = serve["images"](images=tf.constant(images))
    crops = np.stack([resize_like_pil(image) for image in images])
    expected = softmax(model(crops, training=False).numpy())
    ids = np.argsort(-expected, axis=1)[:, :3]
    expected = np.take_along_axis(expected, ids, 1)
    np.testing.assert_array_equal(answer["class_ids"][:, 0], ids[:, 0])
    np.testing.assert_allclose(answer["probabilities"], expected, atol=0.03)


def test_features_are_what_fc7_puts_out(model, serve):
    image = noise(256, 256)
    layers = [layer.name for layer in model.layers]
    x = image[np.newaxis, 16:240, 16:240]
    for layer in model.layers[1 : layers.index("fc7") + 1]:
        x = layer(x)
    pictures = tf.constant([encode(image), b"no picture"])
    features = serve["features"](image_bytes=pictures)["features"]
    assert features.shape == (2, model.get_layer("fc7").units)
    assert x.numpy().max() > 0
    np.testing.assert_allclose(features[0], x[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(features[1], 0)


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {}),
        ("PNG", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": b"Exif\0\0"}),
    ],
)
def test_every_format_is_decoded(form, options, serve):
    image = noise(300, 400)
    encoded = encode(image, form, **options)
    answer = serve["serving_default"](image_bytes=tf.constant([encoded]))
    expected = serve["images"](images=tf.constant(image[np.newaxis]))
    assert answer["class_ids"][0, 0] == expected["class_ids"][0, 0]
    np.testing.assert_allclose(
        answer["probabilities"], expected["probabilities"], atol=0.1
    )


def bomb(form):
    """A few bytes that declare 60,000 × 60,000 pixels (WebP: 16,383 × 16,383)."""
    side = 60_000
    if form == "PNG":
        size = struct.pack(">II", side, side)
        return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + size + b"\x08\x02\0\0\0" + bytes(99)
    if form == "GIF":
        return b"GIF89a" + struct.pack("<HH", side, side) + bytes(99)
    if form == "JPEG":
        small = encode(noise(16, 16), "JPEG")
        at = small.index(b"\xff\xc0") + 5
        return small[:at] + struct.pack(">HH", side, side) + small[at + 4 :]
    head = b"RIFF" + struct.pack("<I", 99) + b"WEBP" + form.encode() + bytes(4)
    if form == "VP8 ":
        return head + bytes(6) + struct.pack("<HH", 16_383, 16_383) + bytes(99)
    if form == "VP8L":
        return head + b"\x2f" + struct.pack("<I", 2**28 - 1) + bytes(99)
    return head + bytes(4) + b"\xff\x7f\0" * 2 + bytes(99)


BAD = {
    "empty": b"",
    "text": b"hello",
    "pdf": b"%PDF-1.7" + bytes(99),
    **{form: bomb(form) for form in ("PNG", "GIF", "JPEG", "VP8 ", "VP8L", "VP8X")},
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_picture_does_not_fail_the_others(name, serve):
    good = encode(noise(256, 256))
    answer = serve["serving_default"](image_bytes=tf.constant([good, BAD[name], good]))
    alone = serve["serving_default"](image_bytes=tf.constant([good]))
    for row in (0, 2):
        np.testing.assert_array_equal(answer["classes"][row], alone["classes"][0])
        np.testing.assert_allclose(
            answer["probabilities"][row], alone["probabilities"][0], rtol=1e-4
        )
    assert answer["classes"][1].tolist() == [b""] * 3
    assert answer["class_ids"][1].tolist() == [-1] * 3
    assert answer["probabilities"][1].tolist() == [0] * 3


def test_the_largest_picture_that_is_decoded(serve):
    def png(height, width):
        return encode(np.zeros((height, width), np.uint8), "PNG")

    pictures = [png(2**13, 2**13), png(2**13, 2**13 + 1)]
    answer = serve["serving_default"](image_bytes=tf.constant(pictures))
    assert (answer["class_ids"][:, 0] >= 0).tolist() == [True, False]


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {}),
        ("GIF", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": b"Exif\0\0"}),
    ],
)
def test_headers_tell_the_size(form, options):
    picture = encode(np.zeros((300, 7000, 3), np.uint8), form, **options)
    _, num_pixels = export._read_headers(tf.constant([b"", picture]))
    assert num_pixels.numpy().tolist() == [0, 300 * 7000]


def test_a_jpeg_that_is_cut_short_is_decoded_as_far_as_it_goes(serve):
    whole = encode(noise(256, 256), "JPEG")
    cut = whole[: int(0.6 * len(whole))]
    with pytest.raises(tf.errors.InvalidArgumentError):
        tf.io.decode_jpeg(cut)
    answer = serve["serving_default"](image_bytes=tf.constant([cut]))
    decode = functools.partial(tf.io.decode_jpeg, dct_method="INTEGER_ACCURATE")
    image = decode(cut, try_recover_truncated=True).numpy()
    np.testing.assert_array_equal(image[:100], decode(whole)[:100])
    np.testing.assert_array_equal(image[200:], 128)  # what is missing is grey
    expected = serve["images"](images=tf.constant(image[np.newaxis]))
    np.testing.assert_allclose(
        answer["probabilities"], expected["probabilities"], atol=0.02
    )


def test_what_only_the_decoder_finds_fails_with_its_message(serve):
    broken = encode(noise(256, 256))[:500]
    with pytest.raises(tf.errors.InvalidArgumentError, match="Invalid PNG data"):
        serve["serving_default"](image_bytes=tf.constant([broken]))


def test_the_graph_has_no_xla_and_no_python(saved_model):
    proto = saved_model_pb2.SavedModel()
    proto.ParseFromString(pathlib.Path(saved_model, "saved_model.pb").read_bytes())
    (meta_graph,) = proto.meta_graphs
    functions = meta_graph.graph_def.library.function
    nodes = [*meta_graph.graph_def.node, *(n for f in functions for n in f.node_def)]
    assert {"Conv2D", "MatMul", "DecodeAndCropJpeg"} <= {node.op for node in nodes}
    assert not {n.op for n in nodes if "Xla" in n.op or "PyFunc" in n.op}
    for thing in (*nodes, *functions):
        assert not thing.attr["_XlaMustCompile"].b, thing.name


def test_labels_are_an_asset(saved_model):
    assert pathlib.Path(saved_model, "assets", "labels.txt").read_text(
        encoding="utf-8"
    ) == "".join(name + "\n" for name in NAMES)


def test_every_warm_up_request_can_be_answered(saved_model, serve):
    path = pathlib.Path(saved_model, "assets.extra", "tf_serving_warmup_requests")
    seen = set()
    for record in tf.data.TFRecordDataset(str(path)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        inputs = {
            name: tf.io.parse_tensor(proto.SerializeToString(), proto.dtype)
            for name, proto in request.inputs.items()
        }
        answer = serve[request.model_spec.signature_name](**inputs)
        (batch_size,) = {len(value) for value in (*inputs.values(), *answer.values())}
        assert "class_ids" not in answer or answer["class_ids"].min() >= 0
        seen.add((request.model_spec.signature_name, batch_size))
    assert seen == {(name, size) for name in serve for size in (1, 8, 32)}


def test_loads_where_the_package_cannot_be_imported(saved_model, serve, tmp_path):
    picture = encode(noise(300, 400), "JPEG")
    (tmp_path / "picture.jpg").write_bytes(picture)
    code = f"""
import sys
sys.modules["alexnet_tf"] = sys.modules["keras"] = None
import tensorflow as tf
answer = tf.saved_model.load({saved_model!r}).signatures["serving_default"](
    image_bytes=tf.constant([open("picture.jpg", "rb").read()]))
print(answer["class_ids"].numpy().tolist())
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    expected = serve["serving_default"](image_bytes=tf.constant([picture]))
    assert done.stdout.strip() == str(expected["class_ids"].tolist()), done.stderr


def test_saved_model_cli_runs_it(saved_model, serve, tmp_path):
    np.save(tmp_path / "images.npy", noise(300, 400)[np.newaxis])
    command = [
        pathlib.Path(sys.executable).parent / "saved_model_cli",
        *("run", "--dir", saved_model, "--tag_set", "serve"),
        *("--signature_def", "images", "--inputs", f"images={tmp_path}/images.npy"),
        *("--outdir", tmp_path),
    ]
    subprocess.run(command, capture_output=True, check=True)
    expected = serve["images"](images=tf.constant(noise(300, 400)[np.newaxis]))
    np.testing.assert_allclose(
        np.load(tmp_path / "probabilities.npy"), expected["probabilities"], rtol=1e-5
    )


C_PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <tensorflow/c/c_api.h>

static void check(TF_Status* status) {
  if (TF_GetCode(status) == TF_OK) return;
  fprintf(stderr, "%s\n", TF_Message(status));
  exit(1);
}

/* Prints the class ids of a picture: SAVED_MODEL INPUT OUTPUT INDEX < picture. */
int main(int argc, char** argv) {
  static char bytes[1 << 20];
  size_t length = fread(bytes, 1, sizeof bytes, stdin);
  const char* tags[] = {"serve"};
  TF_Status* status = TF_NewStatus();
  TF_Graph* graph = TF_NewGraph();
  TF_Session* session = TF_LoadSessionFromSavedModel(
      TF_NewSessionOptions(), NULL, argv[1], tags, 1, graph, NULL, status);
  check(status);
  int64_t one = 1;
  TF_Tensor* tensor = TF_AllocateTensor(TF_STRING, &one, 1, sizeof(TF_TString));
  TF_TString* string = TF_TensorData(tensor);
  TF_TString_Init(string);
  TF_TString_Copy(string, bytes, length);
  TF_Output input = {TF_GraphOperationByName(graph, argv[2]), 0};
  TF_Output output = {TF_GraphOperationByName(graph, argv[3]), atoi(argv[4])};
  TF_Tensor* answer;
  TF_SessionRun(session, NULL, &input, &tensor, 1, &output, &answer, 1, NULL, 0,
                NULL, status);
  check(status);
  for (int i = 0; i < TF_Dim(answer, 1); ++i)
    printf("%d ", ((int32_t*)TF_TensorData(answer))[i]);
  return 0;
}
"""


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_runs_through_the_c_interface(saved_model, serve, tmp_path):
    (tmp_path / "program.c").write_text(C_PROGRAM)
    library = ["libtensorflow_cc.so.2", "libtensorflow_framework.so.2"]
    command = [
        *("cc", "-w", "program.c", "-o", "program", f"-I{TENSORFLOW}/include"),
        *(str(TENSORFLOW / name) for name in library),
        f"-Wl,-rpath,{TENSORFLOW}",
    ]
    subprocess.run(command, cwd=tmp_path, check=True)
    proto = saved_model_pb2.SavedModel()
    proto.ParseFromString(pathlib.Path(saved_model, "saved_model.pb").read_bytes())
    signature = proto.meta_graphs[0].signature_def["serving_default"]
    input_name, _ = signature.inputs["image_bytes"].name.split(":")
    output_name, index = signature.outputs["class_ids"].name.split(":")
    picture = encode(noise(300, 400), "JPEG")
    done = subprocess.run(
        [tmp_path / "program", saved_model, input_name, output_name, index],
        input=picture,
        capture_output=True,
    )
    expected = serve["serving_default"](image_bytes=tf.constant([picture]))
    assert done.stdout.split() == [b"%d" % i for i in expected["class_ids"][0]], (
        done.stderr
    )


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    data_set = write_data_set(folder, [make_example(label=[0])], (256, 256, 3))
    run = Run(str(folder / "run"))
    run.start(make_config(data_set, "original", width=0.05))
    checkpoint = tf.train.Checkpoint(model=model)
    path = tf.train.CheckpointManager(checkpoint, run.checkpoint_dir, 1).save()
    return run, path


def test_a_run_is_exported_with_a_model_card(run, serve):
    run, checkpoint = run
    files = [f"{checkpoint}.data-00000-of-00001", f"{checkpoint}.index"]
    data = b"".join(pathlib.Path(file).read_bytes() for file in files)
    digest = hashlib.sha256(data).hexdigest()
    report = {"sha256": [digest], "top_1_error": 0.25}
    pathlib.Path(run.eval_file).write_text(json.dumps(report))
    output = export.export_run(run.model_dir, top_k=9)
    assert output == run.saved_model_dir
    picture = tf.constant([encode(noise(256, 256))])
    answer = tf.saved_model.load(output).signatures["serving_default"](picture)
    assert answer["classes"].shape == (1, len(NAMES))
    expected = serve["serving_default"](image_bytes=picture)["probabilities"]
    np.testing.assert_allclose(answer["probabilities"][:, :3], expected, rtol=1e-5)

    card = json.loads(pathlib.Path(output, "model_card.json").read_text())
    assert card["checkpoint_sha256"] == digest
    assert card["recipe"] == "original"
    assert card["training"]["class_names"] == [*NAMES]
    assert card["evaluation"] == report
    assert card["versions"]["tensorflow"] == tf.__version__

    # Figures of another checkpoint are not this one's; an earlier export is replaced.
    pathlib.Path(run.eval_file).write_text(json.dumps(report | {"sha256": ["x"]}))
    export.export_run(run.model_dir)
    card = json.loads(pathlib.Path(output, "model_card.json").read_text())
    assert card["evaluation"] is None


def test_an_export_replaces_nothing_but_an_export(run, tmp_path):
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(UserError, match="no SavedModel"):
        export.export_run(run[0].model_dir, str(tmp_path))
    assert (tmp_path / "precious").exists()

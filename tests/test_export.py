"""Tests of alexnet_tf/export: what a SavedModel answers, and to whom."""

import dataclasses
import functools
import hashlib
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import types
import zipfile

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from helpers import make_config, run_script
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from alexnet_tf import alexnet
from alexnet_tf.errors import UserError
from alexnet_tf.export import exporting, network_files
from alexnet_tf.export.checking import Measured, open_validation
from alexnet_tf.export.exporting import LIBRARIES, Form, export_run
from alexnet_tf.export.model_card import _FIGURES, write_card
from alexnet_tf.export.saved_model import MAX_BATCH_SIZE, export_model
from alexnet_tf.file_names import EXPORT_FILES
from alexnet_tf.files import check_ours
from alexnet_tf.pictures.fitting import FITTING_FILE
from alexnet_tf.pipeline.batches import evaluation_batches
from alexnet_tf.pipeline.data_set import DataSet, Split
from alexnet_tf.recipes import LAYERS
from alexnet_tf.run import Run, build_model
from alexnet_tf.weights.loading import load_network
from alexnet_tf.weights.weight_files import read_weights
from benchmarks.hostile import png, resized

NAMES = ("cat", "großer Hund", "fish,\nsm\u2028all\x0c", "bird")
LABELS = ["cat", "großer Hund", "fish, sm all", "bird"]
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


def write_data_set(folder, examples):
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
        image_size=256,
    )


def make_model():
    """A network whose answers depend on the picture, the same one every time."""
    model = alexnet(len(NAMES), "original", width=0.05, seed=1)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if hasattr(layer, "kernel"):
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
    export_model(make_model(), NAMES, output, top_k=3)
    return output


@pytest.fixture(scope="module")
def serve(saved_model):
    """The signatures, functions from tensors to NumPy arrays."""
    loaded = tf.saved_model.load(saved_model)

    def answer(name, *batch, **inputs):
        outputs = loaded.signatures[name](*batch, **inputs)
        return {key: value.numpy() for key, value in outputs.items()}

    return {name: functools.partial(answer, name) for name in loaded.signatures}


def softmax(logits):
    exponentials = np.exp(np.float64(logits) - np.max(logits, 1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def check_answer(answer, probabilities, atol=1e-5):
    """The answer is the top 3 of the probabilities, float64 (batch, classes)."""
    ids = np.argsort(-probabilities, axis=1)[:, :3]
    np.testing.assert_array_equal(answer["class_ids"], ids)
    expected = np.take_along_axis(probabilities, ids, 1)
    np.testing.assert_allclose(answer["probabilities"], expected, atol=atol)
    assert [[name.decode() for name in row] for row in answer["classes"].tolist()] == [
        [NAMES[i] for i in row] for row in ids
    ]


def test_pictures_are_answered_as_evaluation_answers(model, serve, tmp_path):
    pictures = [encode(noise(256, 256, seed=i), "JPEG") for i in range(2)]
    examples = [make_example(image=[picture], label=[1]) for picture in pictures]
    data_set = write_data_set(tmp_path, examples)
    batches = evaluation_batches(data_set, "validation", global_batch_size=8)
    ((images, labels),) = batches
    assert (labels[: len(examples)].numpy() >= 0).all()
    expected = softmax(model(images[: len(examples)], training=False).numpy())
    assert np.ptp(expected, axis=0).max() > 0.1  # pictures matter
    answer = serve["serving_default"](image_bytes=tf.constant(pictures))
    check_answer(answer, expected)


def test_pixels_are_fitted_as_bytes_are(serve):
    image = noise(300, 400)
    answer = serve["images"](images=tf.constant(image[np.newaxis]))
    expected = serve["serving_default"](image_bytes=tf.constant([encode(image)]))
    np.testing.assert_allclose(
        answer["probabilities"], expected["probabilities"], rtol=1e-5
    )


def test_a_picture_of_256_pixels_is_cropped_and_not_resampled(model, serve):
    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    logits = model(image[np.newaxis, 16:240, 16:240], training=False)
    expected = softmax(logits.numpy())
    check_answer(serve["images"](images=tf.constant(image[np.newaxis])), expected)
    picture = tf.constant([encode(image)])
    check_answer(serve["serving_default"](image_bytes=picture), expected)


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


BAD = {
    "empty": b"",
    "text": b"hello",
    "pdf": b"%PDF-1.7" + bytes(99),
    "GIF": encode(noise(16, 16), "GIF"),
    "PNG": png(20_000, 20_000, 1, 0),
    "JPEG": resized(encode(noise(16, 16), "JPEG"), 60_000, 60_000),
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


@pytest.mark.parametrize("name", ["serving_default", "images"])
def test_a_batch_that_would_take_seconds_is_refused(name, serve):
    few, many = (
        np.zeros((number, 1, 1, 3), np.uint8) if name == "images" else [b""] * number
        for number in (MAX_BATCH_SIZE, MAX_BATCH_SIZE + 1)
    )
    assert len(serve[name](tf.constant(few))["class_ids"]) == MAX_BATCH_SIZE
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 64 pictures"):
        serve[name](tf.constant(many))


def read_graph(saved_model):
    proto = saved_model_pb2.SavedModel()
    proto.ParseFromString(pathlib.Path(saved_model, "saved_model.pb").read_bytes())
    (meta_graph,) = proto.meta_graphs
    return meta_graph.graph_def


def test_the_graph_has_no_xla_and_no_python(saved_model):
    graph = read_graph(saved_model)
    functions = graph.library.function
    nodes = [*graph.node, *(n for f in functions for n in f.node_def)]
    assert {"Conv2D", "MatMul", "DecodeJpeg"} <= {node.op for node in nodes}
    assert not {n.op for n in nodes if "Xla" in n.op or "PyFunc" in n.op}
    for thing in (*nodes, *functions):
        assert not thing.attr["_XlaMustCompile"].b, thing.name


def test_labels_are_an_asset_of_a_line_each(saved_model):
    assert pathlib.Path(saved_model, "assets", "labels.txt").read_text(
        encoding="utf-8"
    ) == "".join(name + "\n" for name in LABELS)


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
    """By TensorFlow, and by its `saved_model_cli`, which wants no Keras either."""
    picture, image = encode(noise(300, 400), "JPEG"), noise(300, 400)[np.newaxis]
    (tmp_path / "picture.jpg").write_bytes(picture)
    np.save(tmp_path / "images.npy", image)
    code = f"""
import sys
sys.modules["alexnet_tf"] = sys.modules["keras"] = None
import tensorflow as tf
answer = tf.saved_model.load({saved_model!r}).signatures["serving_default"](
    image_bytes=tf.constant([open("picture.jpg", "rb").read()]))
print(answer["class_ids"].numpy().tolist())
from tensorflow.python.tools import saved_model_cli
words = "saved_model_cli run --tag_set=serve --signature_def=images --outdir=."
sys.argv = [*words.split(), "--inputs=images=images.npy", "--dir="+{saved_model!r}]
saved_model_cli.main()
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    expected = serve["serving_default"](image_bytes=tf.constant([picture]))
    ids = str(expected["class_ids"].tolist())
    assert done.stdout.splitlines()[0] == ids, done.stderr
    expected = serve["images"](images=tf.constant(image))
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

/* Prints the class ids of pictures: SAVED_MODEL INPUT OUTPUT INDEX FILE… */
int main(int argc, char** argv) {
  static char bytes[1 << 20];
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
  TF_Output input = {TF_GraphOperationByName(graph, argv[2]), 0};
  TF_Output output = {TF_GraphOperationByName(graph, argv[3]), atoi(argv[4])};
  for (char** file = argv + 5; *file; ++file) {
    TF_TString_Copy(string, bytes, fread(bytes, 1, sizeof bytes, fopen(*file, "r")));
    TF_Tensor* answer;
    TF_SessionRun(session, NULL, &input, &tensor, 1, &output, &answer, 1, NULL, 0,
                  NULL, status);
    check(status);
    for (int i = 0; i < TF_Dim(answer, 1); ++i)
      printf("%d ", ((int32_t*)TF_TensorData(answer))[i]);
  }
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
    whole = encode(noise(300, 400))
    (tmp_path / "whole").write_bytes(whole)
    (tmp_path / "half").write_bytes(whole[:999])
    command = ["./program", saved_model, input_name, output_name, index]
    command += ["whole", "half"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True)
    expected = serve["serving_default"](image_bytes=tf.constant([whole]))
    ids = [*expected["class_ids"][0], -1, -1, -1]
    assert done.stdout.split() == [b"%d" % i for i in ids], done.stderr


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    data_set = write_data_set(folder, [make_example(label=[0])])
    run = Run(str(folder / "run"))
    run.start(make_config(data_set, "original", width=0.05))
    checkpoint = tf.train.Checkpoint(model=model)
    path = tf.train.CheckpointManager(checkpoint, run.checkpoint_dir, 1).save()
    return run, path


def write_evaluation(run, digest):
    """What eval.py leaves, with more than may be published."""
    report = dict.fromkeys(_FIGURES, 1) | {"data_set": 'of "bars"', "split": "test"}
    report |= {"sha256": [digest], "top_1_error": 0.25, "data_dir": run.model_dir}
    pathlib.Path(run.eval_file).write_text(json.dumps(report))


@pytest.fixture(scope="module")
def exported(run):
    """The run's directory, the digest of its checkpoint, its export."""
    run, checkpoint = run
    files = [f"{checkpoint}.data-00000-of-00001", f"{checkpoint}.index"]
    data = b"".join(pathlib.Path(file).read_bytes() for file in files)
    digest = hashlib.sha256(data).hexdigest()
    write_evaluation(run, digest)
    return run, digest, export_run(run.model_dir, form=Form(top_k=9))


def test_a_run_is_exported_with_a_model_card(exported, run, serve):
    _, checkpoint = run
    run, digest, output = exported
    assert output == run.saved_model_dir
    picture = tf.constant([encode(noise(256, 256))])
    answer = tf.saved_model.load(output).signatures["serving_default"](picture)
    assert answer["classes"].shape == (1, len(NAMES))
    expected = serve["serving_default"](image_bytes=picture)["probabilities"]
    np.testing.assert_allclose(answer["probabilities"][:, :3], expected, rtol=1e-5)
    fitting = {"fit": "crop", "stored_size": 256, "resampling": "bicubic"}
    assert json.loads(pathlib.Path(output, FITTING_FILE).read_text()) == fitting

    card = pathlib.Path(output, "README.md").read_text()
    assert "pipeline_tag: image-classification" in card
    assert '{type: "of \\"bars\\"", name: "of \\"bars\\"", split: "test"}' in card
    assert "{type: accuracy, name: top-1 accuracy, value: 0.75}" in card
    assert "Top-1 accuracy 75.00% on test" in card
    facts = json.loads(card[card.index("    {\n") :])
    assert facts["sha256"] == digest
    assert facts["weights"] == os.path.basename(checkpoint)
    assert facts["settings"]["recipe"]["name"] == "original"
    assert facts["settings"]["fitting"] == fitting
    assert facts["versions"]["tensorflow"] == tf.__version__
    # No path of the machine that it was made on.
    assert os.path.dirname(run.model_dir) not in card

    # Figures of another checkpoint are not this one's; damaged ones are one line.
    write_evaluation(run, "x")
    network = load_network(run.model_dir)
    write_card(network, "npy", None, output)
    card = pathlib.Path(output, "README.md").read_text()
    assert "model-index" not in card
    assert "Nothing yet: run eval.py" in card
    for make in (lambda path: pathlib.Path(path).write_text("{"), os.mkfifo):
        make(run.eval_file)
        with pytest.raises(UserError, match=r"eval.json is damaged: run eval.py again"):
            write_card(network, "npy", None, output)
        os.remove(run.eval_file)


def test_an_export_replaces_nothing_but_an_export(run, tmp_path):
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(UserError, match="holds precious, which this program"):
        export_run(run[0].model_dir, str(tmp_path))
    assert (tmp_path / "precious").exists()


def test_the_root_is_not_the_current_directory(run, tmp_path, monkeypatch):
    (tmp_path / "current").mkdir()
    monkeypatch.chdir(tmp_path / "current")
    with pytest.raises(UserError, match="--output=/ overlaps the input"):
        export_run(run[0].model_dir, "/")
    assert os.listdir() == []


def test_an_export_in_the_run_replaces_only_what_an_export_wrote(exported, tmp_path):
    run, _, output = exported
    directory = pathlib.Path(output)
    for name in ("labels.txt", "assets/photo.jpg"):
        (directory / name).write_text("mine")
        with pytest.raises(UserError, match=f"saved_model holds {name}, which"):
            export_run(run.model_dir)
        assert (directory / name).read_text() == "mine"
        (directory / name).unlink()
    directory.rename(tmp_path / "mine")
    directory.symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match="saved_model is a link: remove it"):
        export_run(run.model_dir)
    directory.unlink()
    (tmp_path / "mine").rename(directory)


def test_a_file_of_an_export_cannot_be_remote(run):
    with pytest.raises(UserError, match="cannot be remote"):
        export_run(run[0].model_dir, "ram://test_export/x", form=Form("litert"))


def test_an_export_that_answers_otherwise_replaces_nothing(run, monkeypatch, tmp_path):
    write = export_model

    def write_another(model, *args):
        kernel = model.get_layer("conv3").kernel
        value = kernel.numpy()
        kernel.assign(value * 1.1)
        write(model, *args)
        kernel.assign(value)

    monkeypatch.setattr(exporting, "export_model", write_another)
    output = tmp_path / "earlier"
    output.mkdir()
    (output / "saved_model.pb").write_text("earlier")
    with pytest.raises(UserError, match="answers otherwise than its checkpoint"):
        export_run(run[0].model_dir, str(output))
    assert [path.name for path in tmp_path.iterdir()] == ["earlier"]
    assert (output / "saved_model.pb").read_text() == "earlier"


def test_a_checkpoint_of_something_else_is_refused(run, tmp_path):
    def save(**objects):
        checkpoint = tf.train.Checkpoint(**objects)
        return checkpoint.write(str(tmp_path / "-".join(objects)))

    other = alexnet(len(NAMES) + 1, "original", width=0.05)
    small = keras.Model(other.inputs, other.get_layer("fc7").output)
    for path, message in (
        (save(x=tf.Variable(1.0)), "no weights for conv"),
        (save(model=small, fc7=small), "no weights for fc8/bias"),
        (save(model=other, more=other), "of another network"),
    ):
        with pytest.raises(UserError, match=message):
            run[0].load_model(path)
    index = pathlib.Path(path + ".index")
    index.write_bytes(index.read_bytes()[:50])
    with pytest.raises(UserError, match="is damaged"):
        run[0].load_model(path)


def test_litert_gives_what_the_network_gives(run, model, tmp_path):
    output = export_run(run[0].model_dir, str(tmp_path / "x"), Form("litert"))
    path = tmp_path / "x" / "alexnet.tflite"
    images = np.float32([noise(224, 224, seed) for seed in range(2)])
    answer = tf.lite.Interpreter(str(path)).get_signature_runner()
    found = answer(images=images)["probabilities"]
    expected = softmax(model(images, training=False).numpy())
    np.testing.assert_allclose(found, expected, atol=1e-4)
    with zipfile.ZipFile(path) as texts:
        assert texts.read("labels.txt").decode() == "".join(f"{x}\n" for x in LABELS)
        told = json.loads(texts.read("input.txt"))
    assert (told["image_size"], told["fit"]) == (224, "crop")
    names = ["README.md", "alexnet.tflite", "labels.txt"]
    assert sorted(os.listdir(output)) == names
    check_ours(output, EXPORT_FILES["litert"])  # the next may replace it


def test_onnx_gives_what_the_network_gives(run, model, tmp_path):
    pytest.importorskip("tf2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    export_run(run[0].model_dir, str(tmp_path / "x"), Form("onnx"))
    images = np.float32([noise(224, 224, seed) for seed in range(2)])
    session = onnxruntime.InferenceSession(str(tmp_path / "x" / "alexnet.onnx"))
    (found,) = session.run(["probabilities"], {"images": images})
    expected = softmax(model(images, training=False).numpy())
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert session.get_inputs()[0].shape == ["batch", 224, 224, 3]
    assert session.get_outputs()[0].shape == ["batch", len(NAMES)]
    texts = session.get_modelmeta().custom_metadata_map
    assert texts["labels"].split("\n")[:-1] == LABELS
    assert json.loads(texts["input"])["resampling"] == "bicubic"


def test_npy_is_what_bvlc_alexnet_npy_is(run, model, tmp_path):
    output = export_run(run[0].model_dir, str(tmp_path / "x"), Form("npy"))
    path = tmp_path / "x" / "alexnet.npy"
    arrays = np.load(path, allow_pickle=True, encoding="latin1").item()
    read = read_weights(str(path)).layers
    assert [*arrays] == [*read] == [*LAYERS]
    for name, (kernel, bias) in arrays.items():
        layer = model.get_layer(name)
        for found, expected in ((kernel, layer.kernel), (bias, layer.bias)):
            np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(read[name]["kernel"], layer.kernel)
    assert "`(pixels - mean) / stddev`" in pathlib.Path(output, "README.md").read_text()


def test_weights_that_a_file_does_not_hold_replace_nothing(run, tmp_path, monkeypatch):
    save = np.save

    def save_another(path, pairs, **options):
        pairs["fc6"][1] = pairs["fc6"][1] + 1e-6
        save(path, pairs, **options)

    monkeypatch.setattr(np, "save", save_another)
    with pytest.raises(UserError, match="holds another bias of fc6: export anew"):
        export_run(run[0].model_dir, str(tmp_path / "x"), Form("npy"))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("format", "library"),
    [("onnx", "tf2onnx"), ("safetensors", "safetensors"), ("torch", "torch")],
)
def test_what_is_missing_is_one_line(run, monkeypatch, format, library):
    for name in LIBRARIES[format]:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, library, None)
    message = f"--format={format} needs {library}: pip install {library}"
    with pytest.raises(UserError, match=message):
        export_run(run[0].model_dir, form=Form(format))


@pytest.fixture(scope="module")
def run_on_data(data_dir, tmp_path_factory):
    """A run whose data set is there, and whose answers differ."""
    run = Run(str(tmp_path_factory.mktemp("run_on_data")))
    run.write_config(make_config(data_dir, "small", width=0.1))
    network = build_model(run.read_config(), "float32")
    for variable in network.trainable_variables:
        variable.assign(variable * 3)
    tf.train.Checkpoint(model=network).save(f"{run.checkpoint_dir}/ckpt")
    return run.model_dir


def test_bfloat16_halves_the_size_and_is_measured(run_on_data, tmp_path, monkeypatch):
    half, lines = str(tmp_path / "half"), []
    with monkeypatch.context() as patch:
        patch.setattr(
            exporting.logging, "info", lambda x, *args: lines.append(x % args)
        )
        export_run(run_on_data, half, Form(precision="bfloat16"))
    told = r"the same answer to \d+\.\d\d% of 25 validation images"
    assert re.search(told, "\n".join(lines))
    assert re.search(told, pathlib.Path(half, "README.md").read_text())
    model, image = load_network(run_on_data).model, noise(256, 256)
    size = pathlib.Path(half, "variables/variables.data-00000-of-00001").stat().st_size
    assert 0.5 < size / sum(4 * np.prod(v.shape) for v in model.weights) < 0.6
    fc7 = keras.Model(model.inputs, model.get_layer("fc7").output)
    expected = fc7(image[np.newaxis, 16:240, 16:240]).numpy()
    serve = tf.saved_model.load(half).signatures["features"]
    found = serve(tf.constant([encode(image)]))["features"].numpy()
    assert 0 < np.abs(found - expected).max() < 0.05 * expected.max()

    measured = Measured(200, before=0.9, after=0.9, agreement=0.989)
    with pytest.raises(UserError, match=r"98\.9% .* less than 99%: export it in"):
        exporting._judge(Form(precision="bfloat16"), measured)


def test_xla_compiles_the_response_normalisation_where_it_is_asked_for(run, tmp_path):
    # `export_run` has compared its answers with the checkpoint's.
    output = export_run(run[0].model_dir, str(tmp_path / "x"), Form(xla=True))
    graph = read_graph(output)
    compiled = [f for f in graph.library.function if f.attr["_XlaMustCompile"].b]
    assert len(compiled) == 4, "two layers, of the network and of its features"


@pytest.mark.parametrize("quantize", ["weights", "int8"])
def test_quantized_files_are_smaller_and_measured(run_on_data, tmp_path, quantize):
    form = Form("litert", quantize=quantize)
    output = export_run(run_on_data, str(tmp_path / "x"), form)
    path = tmp_path / "x" / "alexnet.tflite"
    network = load_network(run_on_data)
    weights = sum(np.prod(v.shape) for v in network.model.trainable_variables)
    assert path.stat().st_size < 0.35 * 4 * weights
    card = pathlib.Path(output, "README.md").read_text()
    assert f"({weights:,} parameters, {weights * 4 / 2**20:.1f} MiB in float32)" in card
    assert re.search(r"same answer to \d+\.\d\d% of 25 validation images", card)
    assert re.search(r"; \d\.\d times as fast as in float32 where it was made\.", card)
    images = np.float32([noise(224, 224, seed) for seed in range(4)])
    answer = tf.lite.Interpreter(str(path)).get_signature_runner()
    found = answer(images=images)["probabilities"]
    expected = tf.nn.softmax(network.model(images)).numpy()
    assert 0 < np.abs(found - expected).max() < 0.1


def test_the_speed_of_a_file_is_its_ratio_to_float32(run_on_data, monkeypatch):
    network = load_network(run_on_data)
    clock, seconds = [0.0], {"float32": 3.0, "int8": 1.0}

    def load(path):
        def answer(_):
            clock[0] += seconds[path]

        return answer

    monkeypatch.setattr(network_files, "_load", load)
    monkeypatch.setattr(network_files, "write_network", lambda *_: "float32")
    monkeypatch.setattr(network_files.time, "perf_counter", lambda: clock[0])
    speed = network_files.compare_speed(network, "int8")
    assert speed == pytest.approx(3.0)


def test_accuracy_that_is_lost_is_said(caplog):
    measured = Measured(200, before=0.9, after=0.89, agreement=0.95)
    exporting._judge(Form("litert", quantize="int8"), measured)
    assert "--quantize=int8 loses 1.0 points of top-1 accuracy" in caplog.text
    caplog.clear()
    measured = dataclasses.replace(measured, after=0.896)
    exporting._judge(Form("litert", quantize="int8"), measured)
    assert "loses" not in caplog.text


def test_what_cannot_be_measured_is_not_approximated(run_on_data):
    config = dataclasses.replace(load_network(run_on_data).config, data_dir="")
    with pytest.raises(UserError, match="this network has none: export it in float32"):
        open_validation(config)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format=onnx", "--quantize=int8"], "--quantize is for --format=litert"),
        (["--format=npy", "--precision=bfloat16"], "--precision is for --format=saved"),
        (["--format=onnx", "--xla"], "--xla is for --format=saved_model"),
    ],
)
def test_options_of_other_formats_are_refused(run, capsys, arguments, message):
    assert run_script("export", f"--model_dir={run[0].model_dir}", *arguments) == 2
    assert message in capsys.readouterr().err

"""Weights of others and ours: read from every kind of file, put into a network."""

import dataclasses
import functools
import hashlib
import importlib.util
import io
import json
import os
import pathlib
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from helpers import SMALL, make_config
from weight_writers import (
    torchvision_arrays,
    write_caffe,
    write_onnx,
    write_safetensors,
)

from alexnet_tf import RECIPES, alexnet, imagenet
from alexnet_tf.errors import UserError
from alexnet_tf.evaluation.evaluation import _has_classes, evaluate_run, fit_as_trained
from alexnet_tf.export import export_run
from alexnet_tf.pipeline.batches import evaluation_batches
from alexnet_tf.pipeline.data_set import open_data_set
from alexnet_tf.run import Run, build_model, load_published
from alexnet_tf.training.training import _first_weights, train
from alexnet_tf.weights import weight_files
from alexnet_tf.weights.published import LAYERS, assign, read_weights

WIDTH = 0.1


def draw_layers(recipe, num_classes=5):
    """Random weights of a small network, by layer, in our layout."""
    model = alexnet(num_classes, recipe, width=WIDTH)
    rng = np.random.default_rng(0)
    return {
        name: {
            v.name: rng.normal(size=v.shape).astype(np.float32)
            for v in model.get_layer(name).weights
        }
        for name in LAYERS
    }


@pytest.fixture(scope="module")
def layers():
    """Weights of a small network of Caffe's."""
    return draw_layers("bvlc")


def assert_same(found, layers):
    """That weights are bit by bit those of another."""
    for layer, variables in layers.items():
        for name, values in variables.items():
            np.testing.assert_array_equal(found[layer][name], values, strict=True)


def as_lists(layers):
    return {name: [v["kernel"], v["bias"]] for name, v in layers.items()}


def as_arrays_of_arrays(layers):
    pairs = {name: np.empty(2, object) for name in layers}
    for name, pair in pairs.items():
        pair[:] = layers[name]["kernel"], layers[name]["bias"]
    return pairs


def as_dicts_of_python_2(layers):
    return {
        name.encode(): {b"weights": v["kernel"], b"biases": v["bias"]}
        for name, v in layers.items()
    }


@pytest.mark.parametrize("form", [as_lists, as_arrays_of_arrays, as_dicts_of_python_2])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickled_dicts_of_layers(layers, tmp_path, form, protocol):
    path = str(tmp_path / "weights")  # the name does not matter
    array = np.array(form(layers), dtype=object)
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, np.lib.format.header_data_from_array_1_0(array)
        )
        pickle.dump(array, file, protocol)
    weights = read_weights(path)
    assert_same(weights.layers, layers)
    assert [recipe.name for recipe in weights.recipes] == ["bvlc", "caffenet"]
    assert weights.num_classes == 5
    assert path in weights.source


def test_a_pickle_of_python_2_is_read(tmp_path, layers):
    # As Python 2 writes it: its `str`, of keys and of an array's bytes, is bytes.
    array = np.float32([[1.5, -2.0]])
    data = array.tobytes()
    text = (
        b"\x80\x02}U\x05conv1](cnumpy.core.multiarray\n_reconstruct\n"
        b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x01K\x02\x86cnumpy\ndtype\n"
        b"U\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08" + data + b"tbes."
    )
    path = tmp_path / "weights.pkl"
    path.write_bytes(text)
    with pytest.raises(UserError, match=r"conv1's bias is missing .* holds conv1;"):
        read_weights(str(path))


def test_a_pickle_can_run_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    for name, value in (("a.npy", np.array({"conv1": Evil()})), ("b.pkl", [Evil()])):
        path = tmp_path / name
        if name.endswith("npy"):
            np.save(path, value)
        else:
            path.write_bytes(pickle.dumps(value))
        with pytest.raises(UserError, match=r"would call (posix|os)\.mkdir"):
            read_weights(str(path))
    assert not (tmp_path / "made").exists()


def test_a_pickle_cannot_forge_what_numpy_takes_numbers_for(tmp_path):
    class Forged:  # floats that NumPy would take for addresses of objects
        def __reduce__(self):
            state = (3, "<", None, None, None, -1, -1, 0x3F)
            return np.dtype, ("f4", False, True), state

    array = np.ones((4, 3), np.float32)
    reconstruct, args, state = array.__reduce__()

    class Array:
        def __reduce__(self):
            return reconstruct, args, (state[0], state[1], Forged(), *state[3:])

    (tmp_path / "w").write_bytes(pickle.dumps({"conv1": [Array()]}, protocol=2))
    with pytest.raises(UserError, match="conv1's bias is missing"):
        read_weights(str(tmp_path / "w"))


@pytest.mark.parametrize("form", ["old", "new", "mixed"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("lrn_first", [True, False])
def test_caffemodels(layers, tmp_path, form, packed, lrn_first):
    path = tmp_path / "weights"
    write_caffe(path, layers, form, lrn_first=lrn_first, packed=packed)
    weights = read_weights(str(path))
    assert_same(weights.layers, layers)
    names = ["bvlc"] if lrn_first else ["caffenet"]
    if form == "mixed":  # nothing tells the order of its layers
        names = ["bvlc", "caffenet"]
    assert [recipe.name for recipe in weights.recipes] == names


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("lrn_first", [True, False])
def test_onnx_files(layers, tmp_path, raw, lrn_first):
    path = tmp_path / "weights"
    write_onnx(path, layers, raw=raw, lrn_first=lrn_first)
    weights = read_weights(str(path))
    assert_same(weights.layers, layers)
    assert [r.name for r in weights.recipes] == ["bvlc" if lrn_first else "caffenet"]


def test_safetensors(tmp_path):
    layers = draw_layers("torchvision")
    path = tmp_path / "weights"
    write_safetensors(path, torchvision_arrays(layers))
    weights = read_weights(str(path))
    assert_same(weights.layers, layers)
    assert [recipe.name for recipe in weights.recipes] == ["torchvision"]


def test_bfloat16_is_read(tmp_path):
    arrays = torchvision_arrays(draw_layers("torchvision"))
    arrays = {k: v.astype(tf.bfloat16.as_numpy_dtype) for k, v in arrays.items()}
    write_safetensors(tmp_path / "weights", arrays)
    bias = read_weights(str(tmp_path / "weights")).layers["fc8"]["bias"]
    assert bias.dtype == np.float32
    np.testing.assert_array_equal(bias, arrays["classifier.6.bias"].astype(np.float32))


@pytest.mark.skipif(bool(importlib.util.find_spec("torch")), reason="torch is here")
def test_pytorch_files_without_pytorch_say_what_to_do(tmp_path):
    with zipfile.ZipFile(tmp_path / "new", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
    (tmp_path / "old").write_bytes(magic)
    for name in ("new", "old"):
        with pytest.raises(UserError, match=r"pip install torch .*safetensors\.torch"):
            read_weights(str(tmp_path / name))


def test_known_files_are_said(layers, tmp_path, monkeypatch):
    sha1 = "9116a64c0fbe4459d18f4bb6b56d647b63920377"  # models/bvlc_alexnet/readme.md
    name = weight_files._KNOWN[sha1]
    assert name == "BVLC AlexNet, iteration 360,000"
    path = tmp_path / "renamed"
    write_caffe(path, layers, "old")
    assert name not in read_weights(str(path)).source
    for sum_ in (hashlib.sha1, hashlib.sha256):
        known = {sum_(path.read_bytes()).hexdigest()[:16]: name}
        monkeypatch.setattr(weight_files, "_KNOWN", known)
        assert read_weights(str(path)).source.endswith(f"(Caffe's protobuf: {name})")


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def write_npy(path, layers):
    with open(path, "wb") as file:
        np.save(file, as_lists(layers))


@pytest.mark.parametrize("write", [write_caffe, write_onnx, write_npy])
def test_files_that_are_cut_off_are_one_line(layers, tmp_path, write):
    path = tmp_path / "weights"
    write(path, layers)
    assert_same(read_weights(str(path)).layers, layers)
    content = path.read_bytes()
    for length in (len(content) - 100, len(content) // 2, 100):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match="cut off") as caught:
            read_weights(str(path))
        assert "\n" not in str(caught.value)


def write_without_head(path, layers):
    write_onnx(path, {name: layers[name] for name in LAYERS[:-1]})


def write_other_tensors(path, layers):
    write_safetensors(path, {"x": np.ones(3, np.float32)})


def write_matrix_of_conv1(path, layers):
    kernel = np.ones((363, 10), np.float32)
    write_caffe(path, layers | {"conv1": {"kernel": kernel, "bias": kernel[0]}})


def write_fc6_of_another_map(path, layers):
    arrays = torchvision_arrays(layers)
    arrays["classifier.1.weight"] = arrays["classifier.1.weight"][:, 1:].copy()
    write_safetensors(path, arrays)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (functools.partial(write_onnx, data_type=3), "conv1_w_0 is kept in whole num"),
        (functools.partial(write_onnx, location=1), "conv1_w_0 is kept in another"),
        (write_without_head, "fc8's kernel is missing in ONNX that holds conv1_w_0, "),
        (write_other_tensors, "conv1's kernel is missing in safetensors that holds x;"),
        (write_matrix_of_conv1, "conv1's kernel is 10×363, which no AlexNet's is"),
        (write_fc6_of_another_map, "fc6's kernel is 410×935, which no AlexNet's is"),
    ],
)
def test_other_weights_are_one_line(layers, tmp_path, write, message):
    path = tmp_path / "weights"
    write(path, layers)
    with pytest.raises(UserError, match=message) as caught:
        read_weights(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS"),
        (b"<!DOCTYPE html><html><body>404", "a web page"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "compressed"),
        (b"conv1 is not here", "nothing that is known"),
        (b"\x0a\x03abc", "neither a Caffe network nor an ONNX model"),
        (b"PK\x05\x06" + bytes(18), "a zip archive of nothing"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (bytes(8), "cut off, damaged or nothing that is known"),
        (b"\x93NUMPY\x01\x00", "damaged or cut off"),
        (b"\x80\x02}q\x00X", "damaged or cut off"),
    ],
)
def test_what_holds_no_weights_is_one_line(tmp_path, content, message):
    path = tmp_path / "weights"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_weights(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_tensorflow_1_is_none_of_ours(tmp_path):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variable = tf.compat.v1.get_variable("conv1/weights", initializer=tf.ones(3))
        session.run(variable.initializer)
        saver = tf.compat.v1.train.Saver()
        saver.save(session, str(tmp_path / "model.ckpt"))
    with pytest.raises(UserError, match="it is a checkpoint of TensorFlow 1"):
        read_weights(str(tmp_path / "model.ckpt"))


def test_other_places_are_one_line(tmp_path):
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(
        UserError, match=r"it is no run that has a checkpoint; it holds holiday\.jpg"
    ):
        read_weights(str(tmp_path))
    with pytest.raises(UserError, match="it is not there"):
        read_weights(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda v: v.pop("conv3"),
            "conv3's kernel is missing .* holds conv1, conv2, conv4",
        ),
        (lambda v: v["fc7"].pop(), "fc7's bias is missing"),
        (lambda v: v["conv2"][0].fill(np.nan), "conv2's kernel .* not finite"),
        (lambda v: v["conv2"].__setitem__(0, np.array("x")), "array of U1, not floats"),
        (
            lambda v: v["conv2"].__setitem__(0, v["conv2"][0].astype(object)),
            r"conv2's kernel has the shape \(\d+,\), its bias \(26,\)",
        ),
        (
            lambda v: v["fc7"].__setitem__(1, np.float32([[1, 2]])),
            r"fc7's kernel has the shape \(410, 410\), its bias \(1, 2\)",
        ),
        (
            lambda v: v["fc7"].__setitem__(1, np.array(1.0, np.float32)),
            r"fc7's kernel has the shape \(410, 410\), its bias \(1,\)",
        ),
    ],
)
def test_weights_that_cannot_be_used_are_named(layers, tmp_path, change, message):
    values = {k: [x.copy() for x in v] for k, v in as_lists(layers).items()}
    change(values)
    np.save(tmp_path / "w.npy", values)
    with pytest.raises(UserError, match=message):
        read_weights(str(tmp_path / "w.npy"))


def save_npy(layers, path) -> str:
    np.save(path, as_lists(layers))
    return f"{path}.npy"


def test_every_layer_is_put_in_and_reported(layers, tmp_path):
    weights = read_weights(save_npy(layers, tmp_path / "w"))
    model = alexnet(5, "bvlc", width=WIDTH)
    states = {report.name: report.state for report in assign(model, weights)}
    assert states == dict.fromkeys(LAYERS, "loaded") | {"input_normalization": "left"}
    found = {n: {v.name: v.numpy() for v in model.get_layer(n).weights} for n in LAYERS}
    assert_same(found, layers)


def test_a_head_of_other_classes_is_new(layers, tmp_path):
    weights = read_weights(save_npy(layers, tmp_path / "w"))
    model = alexnet(7, "bvlc", width=WIDTH, seed=0)
    head = model.get_layer("fc8").kernel.numpy()
    reports = {report.name: str(report) for report in assign(model, weights)}
    assert reports["fc8"] == "fc8: new (410×7, 7)"
    assert reports["conv1"] == "conv1: loaded (11×11×3×10, 10)"
    np.testing.assert_array_equal(model.get_layer("fc8").kernel, head)
    features = alexnet(recipe="bvlc", width=WIDTH, include_top=False)
    reports = {report.name: str(report) for report in assign(features, weights)}
    assert reports["fc8"] == "fc8: left (410×5, 5)"


def test_another_shape_is_an_error_and_changes_nothing(layers, tmp_path):
    values = layers | {"fc7": {"kernel": np.ones((410, 400)), "bias": np.ones(400)}}
    weights = read_weights(save_npy(values, tmp_path / "w"))
    model = alexnet(5, "bvlc", width=WIDTH)
    before = [v.numpy() for v in model.weights]
    with pytest.raises(UserError, match="fc7's kernel is 410×400, the network's 410×4"):
        assign(model, weights)
    for old, new in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_network_takes_its_weights_from_a_file(layers, tmp_path, caplog):
    caplog.set_level("INFO", "absl")
    path = save_npy(layers, tmp_path / "w")
    model = alexnet(weights=pathlib.Path(path), width=WIDTH)
    assert (model.name, model.output_shape) == ("alexnet_bvlc", (None, 5))
    found = {n: {v.name: v.numpy() for v in model.get_layer(n).weights} for n in LAYERS}
    assert_same(found, layers)
    assert alexnet(recipe="caffenet", weights=path, width=WIDTH).name.endswith(
        "caffenet"
    )
    assert "new" not in caplog.text
    assert alexnet(7, weights=path, width=WIDTH).output_shape == (None, 7)
    assert "fc8: new (410×7, 7)" in caplog.text
    features = alexnet(weights=path, width=WIDTH, include_top=False)
    assert features.output_shape == (None, 410)
    with pytest.raises(ValueError, match="is for the recipe bvlc or caffenet"):
        alexnet(recipe="torchvision", weights=path, width=WIDTH)
    # The published networks have their own colour, whatever the caller's is.
    model = alexnet(weights=path, width=WIDTH, image_mean=(1, 2, 3))
    mean = model.get_layer("input_normalization").mean
    np.testing.assert_array_equal(mean, np.float32([123, 117, 104]))


def test_a_recipe_of_another_network_is_refused(layers, tmp_path):
    weights = read_weights(save_npy(layers, tmp_path / "w"))
    width = 410 / 4096
    bvlc, caffenet = (
        dataclasses.replace(RECIPES[n], width=width) for n in ("bvlc", "caffenet")
    )
    assert weights.recipe_for() == bvlc
    assert weights.recipe_for(RECIPES["caffenet"]) == caffenet
    with pytest.raises(UserError, match=r"image_size is 227; in paper it is 224"):
        weights.recipe_for(RECIPES["paper"])


@pytest.fixture(scope="module")
def imagenet_npy(tmp_path_factory):
    """Weights for ImageNet's classes, nearly sure of the first, as a file."""
    values = draw_layers("bvlc", 1000)
    for variables in values.values():
        variables["kernel"] *= 0.01
        variables["bias"] *= 0.01
    values["fc8"]["bias"][0] = 9.5
    return save_npy(values, tmp_path_factory.mktemp("imagenet") / "w")


def test_published_weights_become_a_saved_model(imagenet_npy, tmp_path):
    output = export_run(None, str(tmp_path / "out"), init_weights=imagenet_npy)
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    picture = io.BytesIO()
    PIL.Image.fromarray(noise).save(picture, "PNG")
    serve = tf.saved_model.load(output).signatures["serving_default"]
    answer = serve(image_bytes=tf.constant([picture.getvalue()]))
    assert answer["classes"][0, 0] == b"tench"
    # Both sides are scaled to 256 pixels, as Caffe's own preparation does.
    warped = PIL.Image.open(picture).resize((256, 256), PIL.Image.BICUBIC)
    crop = np.asarray(warped)[np.newaxis, 14:241, 14:241]
    model = alexnet(weights=imagenet_npy, width=WIDTH)
    expected = tf.nn.softmax(model(crop)).numpy()[0, answer["class_ids"][0]]
    np.testing.assert_allclose(answer["probabilities"][0], expected, rtol=1e-3)
    card = json.loads(pathlib.Path(output, "model_card.json").read_text())
    assert card["fitting"] == {"fit": "warp", "stored_size": 256, "image_size": 227}
    content = pathlib.Path(imagenet_npy).read_bytes()
    assert card["checkpoint_sha256"] == hashlib.sha256(content).hexdigest()


def test_published_weights_are_evaluated(data_dir, tmp_path):
    path = tmp_path / "w"
    write_safetensors(path, torchvision_arrays(draw_layers("torchvision", 3)))
    evaluation = evaluate_run(None, data_dir, init_weights=str(path))
    model = alexnet(weights=str(path), width=WIDTH)
    data_set = open_data_set(data_dir)
    batches = evaluation_batches(data_set, "validation", global_batch_size=25)
    ((images, labels),) = batches
    wrong = tf.argmax(model(images), 1).numpy() != labels.numpy()
    assert evaluation.num_evaluated == 25
    assert evaluation.top_1_error == wrong.mean()


def test_pictures_made_square_in_another_way_are_said(
    data_dir, caplog, layers, tmp_path
):
    caplog.set_level("INFO", "absl")
    _, config, _ = load_published(save_npy(layers, tmp_path / "w"))
    assert "fc8: loaded (410×5, 5)" in caplog.text
    data_set = open_data_set(data_dir)
    assert fit_as_trained(config, data_set) == data_set
    assert "square by crop, those of the training by warp" in caplog.text
    caplog.clear()
    warped = dataclasses.replace(data_set, fit="warp")
    assert fit_as_trained(config, warped) == warped
    own_sizes = dataclasses.replace(data_set, image_shape=None)
    assert fit_as_trained(config, own_sizes).fit == "warp"
    assert not caplog.text


def test_weights_for_other_classes_are_not_evaluated(imagenet_npy, data_dir):
    with pytest.raises(UserError, match="knows 1000 classes, which are not the 3 of"):
        evaluate_run(None, data_dir, init_weights=imagenet_npy)
    with pytest.raises(UserError, match="give --data_dir"):
        evaluate_run(None, init_weights=imagenet_npy)
    with pytest.raises(UserError, match="is for the recipe bvlc or caffenet"):
        load_published(imagenet_npy, "small")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export.py"], "give --model_dir or --init_weights"),
        (["export.py", "--init_weights=w"], "--init_weights needs --output"),
        (["eval.py", "--init_weights=w"], "--init_weights needs a data set"),
        (["eval.py", "--init_weights=w", "--model_dir=."], "not both"),
        (["eval.py", "--init_weights=w", "--checkpoint=best"], "is one of a run"),
        (["export.py", "--init_weights=w", "--checkpoint=best"], "is one of a run"),
        (["eval.py", "--checkpoint=a", "--predictions"], "--predictions needs"),
        (["eval.py", "--model_dir=.", "--recipe=bvlc"], "--recipe is that of --init_w"),
    ],
)
def test_flags_that_do_not_go_together(words, message):
    root = pathlib.Path(__file__).parent.parent
    command = [sys.executable, str(root / words[0]), *words[1:]]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert message in ended.stderr.splitlines()[0]


@pytest.fixture(scope="module")
def run_dir(data_dir, tmp_path_factory):
    """A run that has a checkpoint, and the mean of each pixel."""
    run = Run(str(tmp_path_factory.mktemp("runs") / "first"))
    config = make_config(data_dir, "small", mean="image")
    run.start(config)
    mean = np.random.default_rng(1).uniform(0, 255, (224, 224, 3))
    state = tf.train.Checkpoint(model=build_model(config, "float32", mean))
    tf.train.CheckpointManager(state, run.checkpoint_dir, 1).save(2)
    return run.model_dir


def test_a_run_its_checkpoint_and_a_keras_file_of_ours(run_dir, tmp_path):
    model, config, checkpoint = Run(run_dir).load_model()
    model.save(tmp_path / "m.keras")
    (tmp_path / "m.keras").rename(tmp_path / "weights")
    expected = {
        layer.name: {v.name: v.numpy() for v in layer.weights}
        for layer in model.layers
        if layer.weights
    }
    assert expected["input_normalization"]["mean"].shape == (224, 224, 3)
    for path in (run_dir, checkpoint, str(tmp_path / "weights")):
        weights = read_weights(path)
        assert weights.layers.keys() == expected.keys()
        assert_same(weights.layers, expected)
        assert weights.recipes[0].name == "small"
    weights = read_weights(run_dir)
    assert weights.recipes == (config.recipe,)
    assert weights.class_names == config.class_names
    other = alexnet(3, config.recipe, width=WIDTH)
    states = {r.name: r.state for r in assign(other, weights, ("a", "b", "c"))}
    assert states["fc8"] == "new"  # as many classes, but others
    states = {r.name: r.state for r in assign(other, weights, config.class_names)}
    assert set(states.values()) == {"loaded"}


@pytest.mark.parametrize(
    "changes",
    [
        {"dropout_rate": 0.2, "groups": 1},
        {"dropout": "inverted", "dropout_before": True, "lrn": False, "pool_size": 2},
        {"lrn_alpha": 0.1, "lrn_beta": 0.5, "lrn_bias": 1.5, "lrn_depth_radius": 3},
        {"lrn_within_towers": True, "lrn_after_pool": True, "lrn1_before_relu": False},
        {"spatial_normalization": False, "activation": "tanh", "mean": "color"},
        {"image_size": 227, "conv1_padding": (0, 0), "bgr": True},
        {"input_stddev": (2.0, 3.0, 4.0)},
    ],
    ids=str,
)
def test_a_keras_file_says_what_was_changed_of_its_recipe(tmp_path, changes):
    recipe, path = dataclasses.replace(RECIPES["original"], **changes), tmp_path / "m"
    model = alexnet(3, recipe, width=0.03)
    model.save(f"{path}.keras")
    again, config, _ = load_published(f"{path}.keras")
    assert dataclasses.replace(config.recipe, width=1.0) == recipe
    images = tf.random.stateless_uniform((2, *model.input_shape[1:]), (0, 1), 0, 255)
    np.testing.assert_allclose(again(images), model(images), rtol=1e-4, atol=1e-7)


def test_a_keras_file_of_one_tower_goes_into_one(tmp_path):
    path = tmp_path / "m.keras"
    alexnet(3, "small", width=0.03, groups=1).save(path)
    for given in ({}, {"recipe": "small", "groups": 1}):
        model = alexnet(**given, weights=path)
        assert model.get_layer("conv2").groups == 1
    with pytest.raises(ValueError, match="where groups is 1; in small it is 2"):
        alexnet(recipe="small", weights=path, width=0.03)


def test_a_run_stands_for_published_weights_too(run_dir, layers):
    run = Run(run_dir)
    for path in (run_dir, run.checkpoint_path()):
        model, config, checkpoint = load_published(path)
        assert config == run.read_config()
        assert checkpoint == run.checkpoint_path()
    assert_same(read_weights(run_dir).layers, {"fc8": variables_of(model, "fc8")})
    # A file of weights is what it is, wherever it lies.
    model, config, path = load_published(save_npy(layers, pathlib.Path(run_dir, "w")))
    assert (config.recipe.name, config.init_weights) == ("bvlc", path)
    assert_same(layers, {"fc8": variables_of(model, "fc8")})
    os.remove(path)


def variables_of(model, name):
    return {v.name: v.numpy() for v in model.get_layer(name).weights}


def test_imagenets_classes_may_be_called_by_their_synsets(imagenet_npy, data_dir):
    _, config, _ = load_published(imagenet_npy)
    data_set = open_data_set(data_dir)
    names = imagenet.synsets()
    assert (names[0], config.class_names[0]) == ("n01440764", "tench")
    for class_names in (names, config.class_names):
        other = dataclasses.replace(data_set, class_names=class_names)
        assert _has_classes(config, other)
    other = dataclasses.replace(data_set, class_names=names[::-1])
    assert not _has_classes(config, other)


def test_training_starts_from_weights_and_goes_on_from_its_checkpoint(
    run_dir, data_dir, tmp_path
):
    start = read_weights(run_dir)
    directory = str(tmp_path / "second")
    given = SMALL | {"train_steps": 1, "init_weights": run_dir, "learning_rate": 0.0}
    given |= {"warmup_epochs": 0.0}
    assert train(data_dir, directory, given=given, export=False)
    config = Run(directory).read_config()
    assert config.init_weights == run_dir
    assert config.recipe.mean == "image"  # the network is that of the weights
    assert_same(read_weights(directory).layers, start.layers)
    # It never reads them again, even if they are gone.
    given["init_weights"] = str(tmp_path / "gone")
    assert _first_weights(Run(directory), config, given) is None
    with pytest.raises(UserError, match=r"has init_weights .*, now .*gone was given"):
        train(data_dir, directory, given=given)

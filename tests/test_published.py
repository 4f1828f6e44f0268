"""Weights of others and ours: read from every kind of file, put into a network."""

import dataclasses
import hashlib
import importlib.util
import io
import os
import pathlib
import pickle
import zipfile

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from helpers import evaluate_run, run_script
from weight_writers import (
    caffe_net,
    change,
    change_caffe,
    insert,
    outputs_first,
    remove,
    write_caffe,
)

from alexnet_tf import RECIPES, alexnet
from alexnet_tf.errors import UserError
from alexnet_tf.evaluation.evaluation import (
    _has_classes,
    compare_fits,
    load_networks,
)
from alexnet_tf.export.exporting import Form, export_run
from alexnet_tf.imagenet_classes import synsets
from alexnet_tf.pictures.fitting import Fitting, fit_picture
from alexnet_tf.pipeline.batches import evaluation_batches
from alexnet_tf.pipeline.data_set import open_data_set
from alexnet_tf.recipes import LAYERS
from alexnet_tf.weights import downloads
from alexnet_tf.weights.description import kernel_shapes
from alexnet_tf.weights.loading import load_network
from alexnet_tf.weights.published import assign
from alexnet_tf.weights.weight_files import read_weights
from alexnet_tf.weights.weight_layout import from_outputs_first, to_outputs_first

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
    assert weights.recipe_for("bvlc").width == 410 / 4096
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
    with pytest.raises(UserError, match="conv1 holds kernel, not a kernel and a"):
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
    with pytest.raises(UserError, match="conv1 holds kernel, not a"):
        read_weights(str(tmp_path / "w"))


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("pools_first", [True, False])
def test_caffemodels(layers, tmp_path, old, packed, pools_first):
    path, net = tmp_path / "weights", caffe_net(pools_first=pools_first)
    write_caffe(path, layers, net, old=old, packed=packed)
    weights = read_weights(str(path))
    assert_same(weights.layers, layers)
    recipe = weights.recipe_for()
    assert recipe.name == ("caffenet" if pools_first else "bvlc")
    assert (weights.is_exact, weights.left, recipe.width) == (True, "", 410 / 4096)


LONG_LRN = {"local_size": 7, "alpha": 1e-4, "beta": 0.75}


@pytest.mark.parametrize(
    ("altered", "message"),
    [
        # cvjena's AlexNet_cvgj: no LRN, and its arrays hold an average and a variance.
        (lambda n: insert(n, "conv1", ("BatchNorm", "conv1/bn")), "bn is another"),
        (lambda n: insert(n, "conv4", ("Scale", "s")), "s is another Scale, where"),
        (lambda n: remove(n, "LRN"), "conv2 is convolution .*, where .* has lrn"),
        (lambda n: change(n, "pool2", pool={"pool": 1, "kernel_size": 3, "stride": 2}),
         "pool2 is another Pooling"),
        (lambda n: change(n, "pool2", pool={"kernel_size": 3, "stride": 1}),
         "pool2 is max_pooling .size 3, strides 1, padding .0, 0.., where"),
        (lambda n: change(n, "relu3", relu={"negative_slope": 0.1}), "another ReLU"),
        (lambda n: change(n, "relu3", type="ELU"), "another ELU, where .* relu"),
        (lambda n: change(n, "norm2", lrn=LONG_LRN), "norm2 is lrn .size 7"),
        (lambda n: change(n, "norm2", lrn={"alpha": 1e-4, "k": 2}), "k 2"),
        (lambda n: change(n, "norm2", lrn={"alpha": 1e-4, "norm_region": 1}), "LRN"),
        (lambda n: change(n, "conv4", conv={"kernel_size": [3], "pad": [1]}), "s 1"),
        (lambda n: change(n, "conv3", conv={"kernel_size": [3], "pad": [1],
                                            "dilation": [2]}), "dilation .2"),
        (lambda n: change(n, "conv1", conv={"kernel_h": 11, "kernel_w": 5,
                                            "stride": [4]}), r"size \(5, 11\)"),
        (lambda n: change(n, "fc7", dense={"transpose": True}), "transpose True"),
        (lambda n: change(n, "conv3", bottom=["conv2"]),
         "conv3 is Convolution of conv2, not of pool2"),
        (lambda n: change(n, "data", transform={"scale": 1 / 256}),
         "data is preprocessing .scale 0.0039"),
        (lambda n: change(n, "data", data={"scale": 0.5}), "scale 0.5"),
        (lambda n: change(n, "data", transform={"mean_value": [128.0] * 3}), "128.0"),
        (lambda n: insert(n, "fc6", ("InnerProduct", "extra")), "extra is dense"),
        (lambda n: change(n, "data", transform={"mean_value": [123.0, 117.0, 104.0]}),
         "mean .123.0, 117.0, 104.0"),
        # What no scaling in training leaves to the test, as a fork has it.
        (lambda n: change(n, "drop6", dropout={"scale_train": False}),
         "drop6 is another Dropout .dropout_param with field 2"),
        (lambda n: change(n, "drop6", arrays="fc7"), "drop6 is Dropout with arrays"),
        (lambda n: change(n, "norm1", arrays="fc7"), "norm1 is LRN with arrays"),
        (lambda n: change(n, "pool1", pool={"kernel_size": 3, "stride": 2,
                                            "round_mode": 1}), "with field 13"),
        (lambda n: change(n, "conv5", conv={"kernel_size": [3], "pad": [1], "group": 2,
                                            "axis": 2}), "with field 16"),
        (lambda n: n[:9], "its end"),
    ],
)  # fmt: skip
def test_a_caffe_network_that_is_not_alexnet_is_refused(
    layers, tmp_path, altered, message
):
    path = tmp_path / "weights"
    write_caffe(path, layers, altered(caffe_net()))
    with pytest.raises(UserError, match=message) as caught:
        read_weights(str(path))
    assert "\n" not in str(caught.value)
    assert "it is another network" in str(caught.value)


def set_crop(layer, side):
    layer.transform.crop_size = side


@pytest.mark.parametrize(
    ("old", "set_side"),
    [
        (False, lambda net, side: set_crop(net.layer[0], side)),
        (True, lambda net, side: setattr(net.layers[0].data, "crop_size", side)),
        (False, lambda net, side: net.input_dim.extend([10, 3, side, side])),
        (False, lambda net, side: net.input_shape.add(dim=[10, 3, side, side])),
        (False, lambda n, side: n.layer[0].input.shape.add(dim=[10, 3, side, side])),
    ],
)
def test_the_size_of_the_pictures_is_compared(layers, tmp_path, old, set_side):
    path = tmp_path / "weights"
    for side in (227, 224):  # Caffe rounds up, so that fc6 fits both
        write_caffe(path, layers, old=old)
        change_caffe(path, lambda net, side=side: set_side(net, side))
        if side == 227:
            assert read_weights(str(path)).recipe_for().name == "bvlc"
    with pytest.raises(UserError, match="of 224 pixels, the recipe bvlc those of 227"):
        read_weights(str(path))


def test_a_caffe_network_is_told_by_its_layers_not_by_their_names(layers, tmp_path):
    net = caffe_net()
    net[-2] |= {"name": "fc8_flickr", "arrays": "fc8"}
    net = change(net, "data", transform={"mean_value": [104.007, 116.669, 122.679]})
    net = change(net, "drop6", dropout={"ratio": 0.5})
    net = insert(net, "relu5", ("Split", "split"))
    net += [
        {"name": "loss", "type": "SoftmaxWithLoss", "bottom": ["fc8"], "top": ["l"]}
    ]
    write_caffe(tmp_path / "w", layers, net)
    weights = read_weights(str(tmp_path / "w"))
    assert_same(weights.layers, layers)
    assert weights.num_classes == 5


@pytest.mark.parametrize(
    ("altered", "left", "number"),
    [
        (lambda n: n[:-2], "nothing after fc7", 7),
        (
            lambda n: insert(n, "fc8", ("Sigmoid", "s")),
            "fc8 (dense), s (another Sigmoid)",
            7,
        ),
        (
            lambda n: insert(n, "drop7", ("InnerProduct", "x")),
            "x (dense), fc8 (dense)",
            7,
        ),
        (
            lambda n: insert(n, "relu7", ("BatchNorm", "b")),
            "b (another BatchNorm), fc8 (dense)",
            7,
        ),
        (lambda n: n[:16], "nothing after conv5", 5),
    ],
)
def test_a_body_with_another_head_is_a_body(layers, tmp_path, altered, left, number):
    path = tmp_path / "weights"
    write_caffe(path, layers, altered(caffe_net()))
    weights = read_weights(str(path))
    assert_same(weights.layers, {name: layers[name] for name in LAYERS[:number]})
    assert [*weights.layers] == [*LAYERS[:number]]
    assert left in weights.left
    with pytest.raises(UserError, match=r"is no whole network: instead of fc8 it has"):
        load_network(path)
    model = alexnet(3, weights=path, width=WIDTH)
    states = assign(model, weights)
    assert states["fc8"].startswith("new")
    assert states[weights.left] == "left"
    assert_same({"conv5": variables_of(model, "conv5")}, {"conv5": layers["conv5"]})


@pytest.mark.skipif(bool(importlib.util.find_spec("torch")), reason="torch is here")
def test_pytorch_files_without_pytorch_say_what_to_do(tmp_path):
    with zipfile.ZipFile(tmp_path / "new", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
    (tmp_path / "old").write_bytes(magic)
    for name in ("new", "old"):
        with pytest.raises(UserError, match=r"pip install torch .*safetensors\.torch"):
            read_weights(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("safetensors", (2).to_bytes(8, "little") + b"{}" + bytes(8)),
        ("onnx", b"\x08\x07\x12\x04onnx"),
    ],
)
def test_files_whose_library_is_missing_say_what_to_do(tmp_path, name, content):
    if importlib.util.find_spec(name):
        pytest.skip(f"{name} is here")
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(UserError, match=f"pip install {name}"):
        read_weights(str(tmp_path / "w"))


def test_known_files_are_said(layers, tmp_path, monkeypatch):
    path = tmp_path / "renamed"
    write_caffe(path, layers, old=True)
    assert "published" not in read_weights(str(path)).source
    for sum_ in (hashlib.sha1, hashlib.sha256):
        digest = sum_(path.read_bytes()).hexdigest()[:16]
        monkeypatch.setitem(downloads.DOWNLOADS, "bvlc", ("", digest))
        source = read_weights(str(path)).source
        assert source.endswith("(Caffe's protobuf, published as bvlc)")


def write_npy(path, layers):
    with open(path, "wb") as file:
        np.save(file, as_lists(layers))


@pytest.mark.parametrize("write", [write_caffe, write_npy])
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


def write_matrix_of_conv1(path, layers):
    kernel = np.ones((363, 10), np.float32)
    write_caffe(path, layers | {"conv1": {"kernel": kernel, "bias": kernel[0]}})


def test_fc6_must_read_the_map_of_conv5(layers):
    arrays = outputs_first(layers)
    kernel, bias = arrays["fc6"]
    with pytest.raises(UserError, match="fc6's kernel is 410×935, which no AlexNet's"):
        from_outputs_first(arrays | {"fc6": (kernel[:, 1:], bias)})


def test_layouts_turn_into_each_other(layers):
    arrays = to_outputs_first(layers)
    for layer, pair in outputs_first(layers).items():
        for ours, expected in zip(arrays[layer], pair, strict=True):
            np.testing.assert_array_equal(ours, expected, strict=True)
    assert_same(from_outputs_first(arrays), layers)


def write_grey(path, layers):
    kernel = layers["conv1"]["kernel"][:, :, :1]
    write_npy(path, layers | {"conv1": layers["conv1"] | {"kernel": kernel}})


def write_batch_norm(path, layers):
    write_npy(path, layers | {"conv1_bn": {"kernel": np.ones(3), "bias": np.ones(3)}})


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_matrix_of_conv1, "conv1's kernel is 10×363, which no AlexNet's is"),
        (write_grey, r"conv1 reads 1 channel.s., the network three .*np\.repeat"),
        (write_batch_norm, "it holds conv1_bn, which no AlexNet has"),
    ],
)
def test_other_weights_are_one_line(layers, tmp_path, write, message):
    path = tmp_path / "weights"
    write(path, layers)
    with pytest.raises(UserError, match=message) as caught:
        read_weights(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_dict_without_fc8_or_with_another_head_is_a_body(layers, tmp_path):
    body = {name: layers[name] for name in LAYERS[:-1]}
    for extra in ({}, {"fc8_oxford_102": layers["fc8"]}):
        write_npy(tmp_path / "w", body | extra)
        weights = read_weights(str(tmp_path / "w"))
        assert [*weights.layers] == [*body]
        assert weights.left == "".join(extra)
        assert weights.num_classes is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS"),
        (b"<!DOCTYPE html><html><body>404", "a web page"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "compressed"),
        (b"conv1 is not here", "nothing that is known"),
        (b"\x0a\x03abc", "no Caffe network and no ONNX model"),
        (b"PK\x05\x06" + bytes(18), "a zip archive of nothing"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "damaged or cut off"),
        (b"MATLAB 5.0 MAT-file, Platform", "a .mat file of MATLAB"),
        (b"\x1c\0\0\0TFL3" + bytes(20), "a network of LiteRT"),
        (b"\x12\x01" + bytes(20), "a .params file of MXNet"),
        (bytes(8), "cut off, damaged or nothing that is known"),
        (b"\x93NUMPY\x01\x00", "damaged or cut off"),
        (b"\x80\x02}q\x00X", "damaged or cut off"),
        # Few bytes that ask for 32 GiB, and for the hash of 2^60 tuples.
        (b"\x80\x02Nr\xff\xff\xff\xff.", "something else than a dict"),
        (b"\x80\x02})" + b"2\x86" * 60 + b"Ns.", "a pickle of a dict by tuple"),
        (b"\x80\x02\x8f.", "damaged or cut off"),
    ],
)
def test_what_holds_no_weights_is_one_line(tmp_path, content, message):
    path = tmp_path / "weights"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_weights(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_is_shown_of_a_file_that_is_no_weights(tmp_path):
    (tmp_path / "secret").write_bytes(b"root:x:0:0:root:/root:/bin/bash\n")
    (tmp_path / "w").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="nothing that is known") as caught:
        read_weights(str(tmp_path / "w"))
    assert "root" not in str(caught.value).replace(str(tmp_path), "")


def test_a_device_or_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", tmp_path / "pipe"):
        with pytest.raises(UserError, match=r"cannot be read \(not a regular file"):
            read_weights(str(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda v: v.pop("conv3"),
            "conv3 is missing in NumPy's pickle that holds conv1, conv2, conv4",
        ),
        (lambda v: v["fc7"].pop(), "fc7 holds kernel, not a kernel and a bias"),
        (
            lambda v: v["conv4"].append(np.ones(3, np.float32)),
            "conv4 holds kernel, bias, 2, not a kernel and a bias",
        ),
        (
            lambda v: v["conv2"].__setitem__(0, v["conv2"][0].astype(np.uint8)),
            r"conv2's kernel holds whole numbers \(uint8\), as quantised",
        ),
        (
            lambda v: v.update(norm=[v["fc8"][1]] * 2, fc8=v.pop("fc8")),
            "it holds norm, which no AlexNet has",
        ),
        (
            lambda v: v.update(norm=[v.pop("fc8")[1]] * 2),
            "it holds norm, which no AlexNet has",
        ),
        (
            lambda v: v.update(conv3=dict(zip("ab", v["conv3"], strict=True))),
            "conv3 holds a, b, not a kernel and a bias",
        ),
        (
            lambda v: v.update(
                conv3={
                    "weight": v["conv3"][0],
                    "weights": v["conv3"][0],
                    "bias": v["conv3"][1],
                }
            ),
            "conv3 holds weight, weights, bias, not a kernel and a bias",
        ),
        (
            lambda v: v.update(input_normalization=v["conv3"]),
            "input_normalization holds kernel, bias, not a mean",
        ),
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
    states = {x: state.split()[0] for x, state in assign(model, weights).items()}
    assert states == dict.fromkeys(LAYERS, "loaded") | {"input_normalization": "left"}
    found = {n: {v.name: v.numpy() for v in model.get_layer(n).weights} for n in LAYERS}
    assert_same(found, layers)


def test_a_head_of_other_classes_is_new(layers, tmp_path):
    weights = read_weights(save_npy(layers, tmp_path / "w"))
    model = alexnet(7, "bvlc", width=WIDTH, seed=0)
    head = model.get_layer("fc8").kernel.numpy()
    states = assign(model, weights)
    assert states["fc8"] == "new (410×7, 7)"
    assert states["conv1"] == "loaded (11×11×3×10, 10)"
    np.testing.assert_array_equal(model.get_layer("fc8").kernel, head)
    features = alexnet(recipe="bvlc", width=WIDTH, include_top=False)
    assert assign(features, weights)["fc8"] == "left (410×5, 5)"


def test_another_shape_is_an_error_before_anything_is_built(layers, tmp_path):
    values = layers | {"fc7": {"kernel": np.ones((410, 400)), "bias": np.ones(400)}}
    path = save_npy(values, tmp_path / "w")
    with pytest.raises(UserError, match=r"the kernels of no recipe: .* fc7 410×400"):
        alexnet(5, "bvlc", width=WIDTH, weights=path)
    write_caffe(tmp_path / "c", values)
    with pytest.raises(UserError, match="fc7's kernel is 410×400, in the recipe bvlc"):
        alexnet(weights=tmp_path / "c", width=WIDTH)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_shapes_of_kernels_are_known_without_the_network(recipe):
    for changes in ({"width": 0.03}, {"width": 0.05, "groups": 1, "image_size": 131}):
        model = alexnet(3, recipe, **changes)
        expected = {name: tuple(model.get_layer(name).kernel.shape) for name in LAYERS}
        changed = dataclasses.replace(RECIPES[recipe], **changes)
        assert kernel_shapes(changed, 3) == expected


def test_a_network_takes_its_weights_from_a_file(layers, tmp_path, caplog):
    caplog.set_level("INFO", "absl")
    path = tmp_path / "w"
    write_caffe(path, layers)
    model = alexnet(weights=path)
    assert (model.name, model.output_shape) == ("alexnet_bvlc", (None, 5))
    found = {n: {v.name: v.numpy() for v in model.get_layer(n).weights} for n in LAYERS}
    assert_same(found, layers)
    assert "new" not in caplog.text
    features = alexnet(7, weights=path, include_top=False)
    assert "fc8: left (410×5, 5)" in caplog.text
    assert features.output_shape == (None, 410)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"recipe": "torchvision"}, "is for the recipe bvlc, not for torchvision"),
        ({"groups": 1}, "groups is 2 in .*, and 1 was given: leave it out"),
        ({"width": 0.5}, "conv1's kernel is 11×11×3×10, in the recipe bvlc 11×11×3×48"),
        ({"dropout": "mask"}, "dropout is inverted in .*, and mask was given"),
        ({"image_mean": (1, 2, 3)}, "image_mean: .* has a mean of its own"),
        ({"recipe": RECIPES["caffenet"]}, "for the recipe bvlc, not for caffenet"),
    ],
)
def test_what_the_weights_say_cannot_be_otherwise(layers, tmp_path, given, message):
    write_caffe(tmp_path / "w", layers)
    with pytest.raises(ValueError, match=message):
        alexnet(weights=tmp_path / "w", **given)


def test_what_does_not_change_the_function_can_be_otherwise(layers, tmp_path):
    write_caffe(tmp_path / "w", layers)
    model = alexnet(weights=tmp_path / "w", dropout_rate=0.25, seed=1)
    assert model.get_layer("dropout6").rate == 0.25


def test_a_file_that_describes_nothing_must_be_named(layers, tmp_path):
    weights = read_weights(save_npy(layers, tmp_path / "w"))
    message = (
        "does not tell its recipe, which may be paper or original or small or bvlc"
    )
    with pytest.raises(UserError, match=message):
        weights.recipe_for()
    with pytest.raises(UserError, match=r"is for the recipe .* not for torchvision"):
        weights.recipe_for("torchvision")
    # What others write scales in training what dropout keeps, not at test time.
    assert weights.recipe_for("small").dropout == "inverted"
    with pytest.raises(UserError, match="does not hold the mean that small subtracts"):
        load_network(tmp_path / "w.npy", recipe="small")
    with pytest.raises(UserError, match=r"does not hold the mean .* give image_mean"):
        alexnet(weights=tmp_path / "w.npy", recipe="small")
    model = alexnet(weights=tmp_path / "w.npy", recipe="small", image_mean=(1, 2, 3))
    mean = model.get_layer("input_normalization").mean
    np.testing.assert_array_equal(mean, np.float32([1, 2, 3]))
    with pytest.raises(UserError, match="has the kernels of no recipe: conv1 11×11"):
        weights.recipe_for("bvlc", {"groups": 1})
    torchvision = save_npy(draw_layers("torchvision"), tmp_path / "t")
    assert read_weights(torchvision).recipe_for().name == "torchvision"


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
    output = export_run(imagenet_npy, str(tmp_path / "out"), recipe="bvlc")
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    picture = io.BytesIO()
    PIL.Image.fromarray(noise).save(picture, "PNG")
    serve = tf.saved_model.load(output).signatures["serving_default"]
    answer = serve(image_bytes=tf.constant([picture.getvalue()]))
    assert answer["classes"][0, 0] == b"tench"
    # Both sides are scaled to 256 pixels, as Caffe's own preparation does.
    warped = fit_picture(PIL.Image.open(picture), Fitting("warp", 256, "opencv"))
    crop = np.asarray(warped)[np.newaxis, 14:241, 14:241]
    model = alexnet(weights=imagenet_npy, recipe="bvlc")
    expected = tf.nn.softmax(model(crop)).numpy()[0, answer["class_ids"][0]]
    np.testing.assert_allclose(answer["probabilities"][0], expected, rtol=5e-3)
    card = pathlib.Path(output, "README.md").read_text()
    assert "made square (fit warp, 256 pixels a side, opencv)" in card
    assert "Trained on what the publishers of `w.npy` say" in card
    assert str(tmp_path) not in card
    assert os.path.dirname(imagenet_npy) not in card
    content = pathlib.Path(imagenet_npy).read_bytes()
    assert hashlib.sha256(content).hexdigest() in card


def test_published_weights_are_evaluated(data_dir, tmp_path):
    path = save_npy(draw_layers("torchvision", 3), tmp_path / "w")
    evaluation = evaluate_run(path, data_dir)
    model = alexnet(weights=path)
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
    write_caffe(tmp_path / "w", layers)
    config = load_network(tmp_path / "w").config
    assert "fc8: loaded (410×5, 5)" in caplog.text
    data_set = open_data_set(data_dir)
    compare_fits(config.fitting.fit, data_set.fit)
    assert "by crop, those that the weights are from by warp" in caplog.text
    caplog.clear()
    compare_fits(config.fitting.fit, "warp")
    assert not caplog.text


def test_weights_for_other_classes_are_not_evaluated(imagenet_npy, data_dir):
    with pytest.raises(UserError, match="knows 1000 classes, which are not the 3 of"):
        evaluate_run(imagenet_npy, data_dir, recipe="bvlc")
    with pytest.raises(UserError, match="give --data_dir"):
        evaluate_run(imagenet_npy, recipe="bvlc")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export"], "give --model_dir or --init_weights"),
        (["export", "--init_weights=w"], "--init_weights needs --output"),
        (["eval", "--init_weights=w"], "--init_weights needs a data set"),
        (["eval", "--init_weights=w", "--model_dir=."], "not both"),
        (["eval", "--init_weights=w", "--checkpoint=best"], "is one of a run"),
        (["export", "--init_weights=w", "--checkpoint=best"], "is one of a run"),
        (["eval", "--checkpoint=a", "--predictions"], "--predictions needs"),
        (["eval", "--model_dir=.", "--recipe=bvlc"], "--recipe is that of --init_w"),
        (["export", "--model_dir=.", "--class_names=."], "--class_names is that of"),
    ],
)
def test_flags_that_do_not_go_together(words, message, capsys):
    assert run_script(*words) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert message in errors.splitlines()[0]


def variables_of(model, name):
    return {v.name: v.numpy() for v in model.get_layer(name).weights}


def test_imagenets_classes_may_be_called_by_their_synsets(imagenet_npy, data_dir):
    config = load_network(imagenet_npy, recipe="bvlc").config
    data_set = open_data_set(data_dir)
    names = synsets()
    assert (names[0], config.class_names[0]) == ("n01440764", "tench")
    for class_names in (names, config.class_names):
        other = dataclasses.replace(data_set, class_names=class_names)
        assert _has_classes(config, other)
    other = dataclasses.replace(data_set, class_names=names[::-1])
    assert not _has_classes(config, other)


def test_names_of_classes_may_be_given(layers, tmp_path):
    write_caffe(tmp_path / "w", layers)
    names = tmp_path / "names"
    lines = ["n01440764 tench, Tinca tinca", "n01443537\tgoldfish, Carassius"]
    lines += ["n02012849 crane", "n03126707 crane, lift", "n02123045 cat"]
    names.write_text("\n".join([*lines, ""]))
    expected = ("tench", "goldfish", "crane", "crane, lift", "cat")
    given = {"class_names": str(names)}
    (network,) = load_networks(["latest"], str(tmp_path / "w"), **given)
    assert network.config.class_names == expected
    output = export_run(str(tmp_path / "w"), str(tmp_path / "o"), Form("npy"), **given)
    labels = pathlib.Path(output, "labels.txt").read_text().splitlines()
    assert tuple(labels) == expected
    assert load_network(tmp_path / "w").config.class_names[4] == "class 4"
    for given in ("abcd", "abcdef"):
        with pytest.raises(
            UserError, match=f"are {len(given)} class names, and .* 5 outputs"
        ):
            load_network(tmp_path / "w", class_names=tuple(given))
    for content in ("a\n\nb", "a\na"):
        names.write_text(content)
        with pytest.raises(UserError, match="must have a name on each line"):
            load_network(tmp_path / "w", class_names=str(names))

"""The published networks against the frameworks that they are from.

Run by `make weights-test`, in an environment of its own (requirements-weights.txt):
forward pass, gradients and files of `bvlc`, `caffenet` and `torchvision`, at full size
and on photographs, against PyTorch, torchvision, ONNX Runtime and safetensors; and our
own weights, exported, in PyTorch.
"""

import argparse
import pathlib

import elpv_dataset
import matplotlib
import numpy as np
import onnx
import onnxruntime
import PIL.Image
import pytest
import safetensors.torch
import tensorflow as tf
import torch
import torchvision
from onnx import helper, numpy_helper
from torch.nn import functional
from weight_writers import outputs_first, torchvision_arrays

from alexnet_tf import RECIPES, alexnet
from alexnet_tf.config import Config
from alexnet_tf.export.framework_files import WEIGHT_FILES, write_weights
from alexnet_tf.recipes import LAYERS
from alexnet_tf.weights.loading import Loaded, load_network
from alexnet_tf.weights.weight_files import read_weights

CAFFE_MEAN = np.array([104, 117, 123], np.float32)  # blue, green, red
TOLERANCE = 1e-5  # of a layer's largest value


def photographs(size):
    """A portrait in colour, upright and mirrored, and two solar cells: uint8 RGB."""
    portrait = pathlib.Path(matplotlib.get_data_path(), "sample_data/grace_hopper.jpg")
    cells = pathlib.Path(elpv_dataset.__file__).parent.glob("data/images/*.png")
    files = [portrait, portrait, *sorted(cells)[:2]]
    images = [
        PIL.Image.open(file).convert("RGB").resize((size, size)) for file in files
    ]
    images[1] = images[1].transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
    return np.stack([np.asarray(image) for image in images])


def draw_layers(recipe, **fields):
    """Random weights, of full size unless told, that let a picture through to fc8."""
    rng = np.random.default_rng(0)
    model = alexnet(1000, recipe, **fields)
    layers = {}
    for name in LAYERS:
        kernel = model.get_layer(name).kernel
        fan_in = np.prod(kernel.shape[:-1])
        layers[name] = {
            "kernel": rng.normal(0, (2 / fan_in) ** 0.5, kernel.shape),
            "bias": rng.normal(0, 0.1, kernel.shape[-1:]),
        }
        layers[name] = {k: v.astype(np.float32) for k, v in layers[name].items()}
    return layers


@pytest.fixture(scope="module", params=["bvlc", "caffenet", "torchvision"])
def network(request, tmp_path_factory):
    """A recipe, its layers and the model that has read them from a file."""
    recipe = request.param
    layers = draw_layers(recipe)
    path = str(tmp_path_factory.mktemp("weights") / "file")
    if recipe == "torchvision":
        arrays = torchvision_arrays(layers)
        torch.save({name: torch.tensor(array) for name, array in arrays.items()}, path)
    else:
        onnx.save(caffe_graph(layers, pools_first=recipe == "caffenet"), path)
    model = alexnet(weights=path)
    assert model.name == f"alexnet_{recipe}"
    yield recipe, layers, model
    tf.keras.backend.clear_session()


def outputs_of(model, images):
    """What each layer puts out, after its ReLU."""
    outputs = {name: model.get_layer(name).output for name in LAYERS}
    found = tf.keras.Model(model.input, outputs)(images)
    return {name: values.numpy() for name, values in found.items()}


def assert_close(found, expected):
    """Within `TOLERANCE`; prints by how much."""
    for name, values in expected.items():
        assert found[name].shape == values.shape
        largest = np.abs(values).max()
        difference = np.abs(found[name] - values).max() / largest
        print(f"{name}: {difference:.1e} of {largest:.3g}")
        assert difference <= TOLERANCE, name
        assert largest > 1e-3 * np.abs(values).std() > 0


# PyTorch.


def torch_forward(recipe, layers, images, parameters=None, places=None):
    """The outputs of each layer by PyTorch's functional operations, channels first.

    `places` are those of the largest values, for each pooling; by default PyTorch finds
    them.
    """
    p = parameters or torch_parameters(layers)
    if recipe == "torchvision":
        mean, stddev = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        x = (images / np.float32(255) - np.float32(mean)) / np.float32(stddev)
    else:
        x = images[..., ::-1].astype(np.float32) - CAFFE_MEAN
    x = torch.tensor(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    groups, padding = (1, 2) if recipe == "torchvision" else (2, 0)

    def conv(x, name, groups=1, **options):
        return functional.relu(functional.conv2d(x, *p[name], groups=groups, **options))

    def pool(x, name):
        if places:
            chosen = x.flatten(2).gather(2, places[name].flatten(2))
            return chosen.reshape(places[name].shape)
        return functional.max_pool2d(x, 3, 2, ceil_mode=recipe != "torchvision")

    def normalize(x):  # PyTorch divides alpha by the window, as Caffe does
        return functional.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0)

    def shrink(x, name):
        if recipe == "torchvision":
            return pool(x, name)
        if recipe == "caffenet":
            return normalize(pool(x, name))
        return pool(normalize(x), name)

    out = {"conv1": conv(x, "conv1", stride=4, padding=padding)}
    out["conv2"] = conv(shrink(out["conv1"], "pool1"), "conv2", groups, padding=2)
    out["conv3"] = conv(shrink(out["conv2"], "pool2"), "conv3", padding=1)
    out["conv4"] = conv(out["conv3"], "conv4", groups, padding=1)
    out["conv5"] = conv(out["conv4"], "conv5", groups, padding=1)
    x = pool(out["conv5"], "pool5").flatten(1)
    out["fc6"] = functional.relu(functional.linear(x, *p["fc6"]))
    out["fc7"] = functional.relu(functional.linear(out["fc6"], *p["fc7"]))
    out["fc8"] = functional.linear(out["fc7"], *p["fc8"])
    return out


def torch_parameters(layers):
    return {
        name: tuple(torch.tensor(array, requires_grad=True) for array in arrays)
        for name, arrays in outputs_first(layers).items()
    }


def places_of_largest(model, images):
    """Where the network's own poolings find their values.

    Two of a window may be the same to seven digits; rounding decides then which of them
    has the gradient, and PyTorch's own in float32 and float64 differ by 6e-4.
    """
    inputs = {name: model.get_layer(name).input for name in ("pool1", "pool2", "pool5")}
    found = tf.keras.Model(model.input, inputs)(images)
    return {
        name: functional.max_pool2d(
            torch.tensor(np.moveaxis(values.numpy(), -1, 1)), 3, 2, return_indices=True
        )[1]
        for name, values in found.items()
    }


def channels_last(tensor):
    values = tensor.detach().numpy()
    return values.transpose(0, 2, 3, 1) if values.ndim == 4 else values


def test_every_layer_equals_pytorch(network):
    recipe, layers, model = network
    images = photographs(RECIPES[recipe].image_size)
    expected = torch_forward(recipe, layers, images)
    expected = {name: channels_last(values) for name, values in expected.items()}
    assert_close(outputs_of(model, images), expected)


def test_gradients_equal_pytorch(network):
    recipe, layers, model = network
    images = photographs(RECIPES[recipe].image_size)
    labels = np.array([0, 5, 500, 999])
    parameters = torch_parameters(layers)
    places = places_of_largest(model, images)
    logits = torch_forward(recipe, layers, images, parameters, places)["fc8"]
    functional.cross_entropy(logits, torch.tensor(labels)).backward()
    expected = {
        name: [p.grad.numpy() for p in pair] for name, pair in parameters.items()
    }
    variables = {v.path: v for v in model.trainable_variables}
    with tf.GradientTape() as tape:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model(images))
        loss = tf.reduce_mean(losses)
    found = dict(
        zip(variables, tape.gradient(loss, [*variables.values()]), strict=True)
    )
    for name in LAYERS:
        gradients = {
            layer: {
                "kernel": found[f"{layer}/kernel"].numpy(),
                "bias": found[f"{layer}/bias"].numpy(),
            }
            for layer in ("conv5", name)
        }
        kernel, bias = outputs_first(gradients)[name]
        pairs = {f"{name}/kernel": kernel, f"{name}/bias": bias}
        assert_close(pairs, dict(zip(pairs, expected[name], strict=True)))


def by_torchvision(layers, images):
    """The outputs of each layer of torchvision's own network."""
    arrays = torchvision_arrays(layers).items()
    return by_torchvisions_class({name: torch.tensor(a) for name, a in arrays}, images)


def by_torchvisions_class(state, images):
    network = torchvision.models.alexnet().eval()
    network.load_state_dict(state)
    steps = [*network.features, network.avgpool, torch.nn.Flatten()]
    normalize = torchvision.transforms.Normalize(
        [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    x = normalize(torch.tensor(images).permute(0, 3, 1, 2) / 255)
    outputs = []
    with torch.no_grad():
        for step in (*steps, *network.classifier):
            x = step(x)
            if isinstance(step, torch.nn.ReLU):
                outputs.append(channels_last(x.clone()))
    return dict(zip(LAYERS, [*outputs, x.numpy()], strict=True))


# Ours, exported.


def ours(recipe):
    """A network of ours with random weights and a mean that is not the usual one."""
    model = alexnet(1000, recipe, seed=0)
    for name, variables in draw_layers(recipe).items():
        for variable in model.get_layer(name).weights:
            variable.assign(variables[variable.name])
    if not RECIPES[recipe].mean_color:
        mean = model.get_layer("input_normalization").mean
        mean.assign(np.random.default_rng(1).uniform(90, 130, mean.shape))
    names = tuple(f"class {i}" for i in range(1000))
    config = Config(RECIPES[recipe], "", class_names=names, num_train_examples=1)
    return Loaded(model, config, "")


@pytest.mark.parametrize("recipe", ["paper", "small"])
def test_the_module_of_the_docs_equals_ours(recipe, tmp_path):
    network = ours(recipe)
    write_weights(network, str(tmp_path), "safetensors")
    docs = pathlib.Path(__file__).parents[1] / "docs/evaluation_and_serving.md"
    (code,) = (
        block.split("```")[0]
        for block in docs.read_text().split("```python\n")
        if "class AlexNet" in block
    )
    theirs = {}
    exec(code, theirs)
    module, mean = theirs["load"](str(tmp_path / "alexnet.safetensors"))
    found = {}

    def keep(layer, output):
        found[layer] = channels_last(output)

    parts = [*module.features.values(), *module.classifier.values()]
    for layer, part in zip(LAYERS, parts, strict=True):
        part.register_forward_hook(lambda _, __, y, layer=layer: keep(layer, y))
    images = photographs(224)
    with torch.no_grad():
        theirs["logits"](module, mean, images)
    for layer in LAYERS[:-1]:  # the module's ReLU stands behind its layers
        found[layer] = np.maximum(found[layer], 0)
    assert_close(found, outputs_of(network.model, images))


@pytest.mark.parametrize("format", ["safetensors", "torch"])
def test_torchvisions_own_class_loads_ours(format, tmp_path):
    network = ours("torchvision")
    write_weights(network, str(tmp_path), format)
    path = str(tmp_path / WEIGHT_FILES[format])
    if format == "torch":
        state = torch.load(path, weights_only=True)
    else:
        state = safetensors.torch.load_file(path)
    images = photographs(224)
    found = by_torchvisions_class(state, images)
    assert_close(found, outputs_of(network.model, images))


@pytest.mark.parametrize("recipe", RECIPES)
def test_safetensors_of_ours_are_read_back_whole(recipe, tmp_path):
    network = ours(recipe)
    write_weights(network, str(tmp_path), "safetensors")
    again = load_network(str(tmp_path / "alexnet.safetensors"))
    assert again.config.recipe == network.config.recipe
    assert again.config.class_names == network.config.class_names
    for found, expected in zip(again.model.weights, network.model.weights, strict=True):
        if not found.path.startswith("dropout"):
            np.testing.assert_array_equal(found, expected, err_msg=found.path)


# ONNX.


def caffe_nodes(pools_first):
    """The nodes of Caffe's deploy.prototxt up to fc8, without dropout."""
    nodes = []

    def add(op, source, name, *weights, **attributes):
        nodes.append(
            helper.make_node(op, [source, *weights], [name], name, **attributes)
        )
        return name

    def weighted(op, source, name, **attributes):
        weights = f"{name}_w_0", f"{name}_b_0"
        return add(op, source, f"{name}_linear", *weights, **attributes)

    def conv(x, name, size, pad, strides=1, group=1):
        x = weighted(
            *("Conv", x, name),
            kernel_shape=[size, size],
            pads=[pad] * 4,
            strides=[strides] * 2,
            **({"group": group} if group > 1 else {}),
        )
        return add("Relu", x, name)

    def pool(x, name):
        window = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0] * 4}
        return add("MaxPool", x, name, **window)

    def shrink(x, number):
        lrn = {"size": 5, "alpha": 1e-4, "beta": 0.75, "bias": 1.0}
        if pools_first:
            return add("LRN", pool(x, f"pool{number}"), f"norm{number}", **lrn)
        return pool(add("LRN", x, f"norm{number}", **lrn), f"pool{number}")

    x = shrink(conv("data_0", "conv1", 11, 0, strides=4), 1)
    x = shrink(conv(x, "conv2", 5, 2, group=2), 2)
    x = conv(x, "conv3", 3, 1)
    x = conv(x, "conv4", 3, 1, group=2)
    x = pool(conv(x, "conv5", 3, 1, group=2), "pool5")
    x = add("Reshape", x, "flat", "shape")
    for name in ("fc6", "fc7"):
        x = add("Relu", weighted("Gemm", x, name, transB=1), name)
    weighted("Gemm", x, "fc8", transB=1)
    nodes[-1].output[0] = "fc8"
    return nodes


def caffe_graph(layers, pools_first):
    """An ONNX model of Caffe's network that puts out every layer."""
    tensors = {"shape": np.array([0, -1])}
    for layer, (kernel, bias) in outputs_first(layers).items():
        tensors |= {f"{layer}_w_0": kernel, f"{layer}_b_0": bias}
    number = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        caffe_nodes(pools_first),
        "caffe",
        [helper.make_tensor_value_info("data_0", number, ["batch", 3, 227, 227])],
        [
            helper.make_tensor_value_info(name, number, [None] * len(kernel.shape))
            for name, (kernel, _) in outputs_first(layers).items()
        ],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    opset = helper.make_opsetid("", 12)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    onnx.checker.check_model(model)
    return model


def by_onnxruntime(layers, images, pools_first):
    """The outputs of each layer of Caffe's network."""
    graph = caffe_graph(layers, pools_first)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    data = images[..., ::-1].astype(np.float32) - CAFFE_MEAN
    outputs = session.run(list(LAYERS), {"data_0": data.transpose(0, 3, 1, 2)})
    outputs = [np.moveaxis(values, 1, -1) for values in outputs]
    return dict(zip(LAYERS, outputs, strict=True))


def test_every_layer_equals_the_framework_that_it_is_from(network):
    recipe, layers, model = network
    images = photographs(RECIPES[recipe].image_size)
    if recipe == "torchvision":
        expected = by_torchvision(layers, images)
    else:
        expected = by_onnxruntime(layers, images, pools_first=recipe == "caffenet")
    assert_close(outputs_of(model, images), expected)


def test_where_the_graph_of_the_onnx_zoo_is_not_caffes():
    """`light_bvlc_alexnet`, of the onnx wheel, node by node beside Caffe's network."""
    folder = pathlib.Path(onnx.__file__).parent / "backend/test/data/light"
    graph = onnx.load(folder / "light_bvlc_alexnet.onnx").graph
    zoo = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    extra = [node.op_type for node in zoo if node.op_type in ("Dropout", "Softmax")]
    zoo = [node for node in zoo if node.op_type not in extra]
    caffe = caffe_nodes(pools_first=False)
    assert extra == ["Dropout", "Dropout", "Softmax"]  # Caffe's has them, too
    assert [node.op_type for node in zoo] == [node.op_type for node in caffe]
    differences = []
    for theirs, ours in zip(zoo, caffe, strict=True):
        assert theirs.input[1:2] == ours.input[1:2] or theirs.op_type == "Reshape"
        first, second = ({a.name: a for a in n.attribute} for n in (theirs, ours))
        assert first.keys() == second.keys()
        for name in first:
            values = [helper.get_attribute_value(a[name]) for a in (first, second)]
            if values[0] != values[1]:
                differences.append((ours.name, name, *values))
    assert differences == [("pool5", "pads", [0, 0, 1, 1], [0, 0, 0, 0])]
    sizes = [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim]
    assert sizes == [1, 3, 224, 224]  # Caffe's: 227


def with_size(layers, side, pads):
    """Caffe's graph for pictures of another size, with the pads of the last pooling."""
    model = caffe_graph(layers, pools_first=False)
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = side
    last = next(node for node in model.graph.node if node.output[0] == "pool5")
    (given,) = (a for a in last.attribute if a.name == "pads")
    given.ints[:] = pads
    return model


@pytest.mark.parametrize("side", [224, 256])
def test_a_graph_for_other_pictures_is_refused_but_the_zoos(tmp_path, side):
    layers, path = draw_layers("bvlc", width=0.05), str(tmp_path / "w")
    onnx.save(with_size(layers, side, [0, 0, 0, 0]), path)
    message = f"it reads pictures of {side} pixels, the recipe bvlc those of 227"
    with pytest.raises(ValueError, match=message):
        read_weights(path)
    onnx.save(with_size(layers, side, [0, 0, 1, 1]), path)
    if side == 224:
        found = read_weights(path)
        assert "the zoo, whose graph reads 224 pixels" in found.source
        assert_same(found.layers, layers)
    else:
        with pytest.raises(ValueError, match=message):
            read_weights(path)
    onnx.save(with_size(layers, 0, [0, 0, 0, 0]), path)  # of any size
    assert_same(read_weights(path).layers, layers)


# Files.


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors", "half", "parameter"])
def test_files_that_pytorch_writes_hold_the_same_kernels(tmp_path, form):
    layers = draw_layers("torchvision")
    path = tmp_path / "weights"
    arrays = torchvision_arrays(layers)
    state = {name: torch.tensor(array) for name, array in arrays.items()}
    if form == "safetensors":
        safetensors.torch.save_file(state, path)
    elif form == "half":
        half = {name: tensor.half() for name, tensor in state.items()}
        safetensors.torch.save_file(half, path)
        layers = {
            name: {k: v.astype(np.float16).astype(np.float32) for k, v in pair.items()}
            for name, pair in layers.items()
        }
    elif form == "parameter":  # what `torch.save(model.state_dict())` of a module is
        network = torchvision.models.alexnet()
        network.load_state_dict(state)
        torch.save(network.state_dict(), path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    found = read_weights(str(path))
    assert found.recipe_for().name == "torchvision"
    assert_same(found.layers, layers)


def with_prefix(prefix):
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


def in_features(
    state,
):  # as DataParallel of the convolutions alone, in Places365's file
    return {n.replace("features.", "features.module."): x for n, x in state.items()}


def as_parameters(state):
    return {name: torch.nn.Parameter(tensor) for name, tensor in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": s, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
        lambda s: {"model": s, "optimizer": {"state": {}}},
        lambda s: {"model": {"state_dict": s}},
        lambda s: {"model_state_dict": s, "epoch": 3},
        lambda s: {"net": as_parameters(s), "acc": 57.1},
        lambda s: {"ema": with_prefix("module.")(s) | {"n_averaged": torch.tensor(3)}},
        lambda s: {
            "state_dict": with_prefix("model.")(s),
            "hyper_parameters": {"a": 1},
        },
        lambda s: {"state_dict": in_features(s)},
        with_prefix("module."),
        with_prefix("net."),
        with_prefix("_orig_mod.module."),
        with_prefix("backbone."),
    ],
)
def test_state_dicts_as_people_save_them(tmp_path, wrap):
    layers = draw_layers("torchvision", width=0.05)
    arrays = torchvision_arrays(layers)
    state = {name: torch.tensor(array) for name, array in arrays.items()}
    torch.save(wrap(state), tmp_path / "w")
    found = read_weights(str(tmp_path / "w"))
    assert found.recipe_for().name == "torchvision"
    assert_same(found.layers, layers)


def repeated(state):
    return state | {"classifier.4.weight": torch.zeros(1, 1).expand(10**6, 10**6)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: with_prefix("teacher.")(s) | with_prefix("student.")(s),
         r"it holds student\.features\.0, .* which no AlexNet has"),
        (lambda s: s | with_prefix("module.")(s), r"features\.0\.weight twice"),
        (lambda s: {name: x.to(torch.int8) for name, x in s.items()}, "whole numbers"),
        (repeated, "more numbers than any AlexNet"),
        (lambda s: s | {"features.1.weight": torch.ones(3)}, r"features\.1, which"),
        (lambda s: torch.ones(3), "PyTorch's Tensor, not a state_dict"),
        (lambda s: s | {"scale": torch.ones(1)}, "it holds scale, which no AlexNet"),
        (lambda s: s | {"features.1._extra_state": {"k": 2}},
         r"it holds features\.1\._extra_state \(dict\), which is no plain"),
        (lambda s: {"weights": s}, r"it holds weights \(dict\), which is no plain"),
        (lambda s: {name: x.to_sparse() for name, x in s.items()},
         r"features\.0\.weight \(Tensor\), which is no plain tensor"),
    ],
)  # fmt: skip
def test_state_dicts_that_hold_more_than_a_network_are_refused(
    tmp_path, change, message
):
    arrays = torchvision_arrays(draw_layers("torchvision", width=0.05))
    state = {name: torch.tensor(array) for name, array in arrays.items()}
    torch.save(change(state), tmp_path / "w")
    with pytest.raises(ValueError, match=message):
        read_weights(str(tmp_path / "w"))


def test_two_towers_by_torchvisions_names_must_be_named(tmp_path):
    layers = draw_layers("bvlc", width=0.05)
    arrays = torchvision_arrays(layers)
    safetensors.torch.save_file(
        {f"model.{name}": torch.tensor(array) for name, array in arrays.items()},
        tmp_path / "w",
    )
    found = read_weights(str(tmp_path / "w"))
    with pytest.raises(ValueError, match=r"may be paper or .* bvlc .*: give --recipe"):
        found.recipe_for()
    assert found.recipe_for("bvlc").groups == 2
    assert_same(found.layers, layers)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("dynamo", [False, True])  # its older exporter and today's
def test_onnx_as_torch_exports_it(tmp_path, dynamo):
    network = torchvision.models.alexnet(num_classes=7).eval()
    path = tmp_path / "a.onnx"
    torch.onnx.export(network, torch.zeros(1, 3, 224, 224), path, dynamo=dynamo)
    images = photographs(224)
    normalize = torchvision.transforms.Normalize(
        [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    x = normalize(torch.tensor(images).permute(0, 3, 1, 2) / 255)
    found = {"fc8": alexnet(weights=path)(images).numpy()}
    assert_close(found, {"fc8": network(x).detach().numpy()})
    graph = onnx.load(path)
    node = next(n for n in graph.graph.node if n.op_type == "Relu")
    node.op_type = "Elu"
    onnx.save(graph, path)
    with pytest.raises(
        ValueError, match="is Elu, where the recipe torchvision has relu"
    ):
        read_weights(str(path))


@pytest.mark.parametrize("pools_first", [False, True])
def test_files_that_onnx_writes_hold_the_same_kernels(tmp_path, pools_first):
    layers = draw_layers("bvlc")
    onnx.save(caffe_graph(layers, pools_first), tmp_path / "weights")
    found = read_weights(str(tmp_path / "weights"))
    names = ["caffenet" if pools_first else "bvlc"]
    assert [recipe.name for recipe in found.recipes] == names
    assert_same(found.layers, layers)


def test_a_torch_file_can_run_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return pathlib.Path.mkdir, (tmp_path / "made",)

    torch.save({"features.0.weight": Evil()}, tmp_path / "weights")
    with pytest.raises(ValueError, match="could run code") as caught:
        read_weights(str(tmp_path / "weights"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()


def assert_same(found, layers):
    for layer, variables in layers.items():
        for name, values in variables.items():
            np.testing.assert_array_equal(found[layer][name], values, strict=True)

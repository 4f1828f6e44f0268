"""Caffe's networks with their weights: `.caffemodel`, a message of protobuf.

The numbers of the fields are those of BVLC/caffe `src/caffe/proto/caffe.proto`; what
decides a network's function is read, and no more.
"""

import math

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.unknown_fields import UnknownFieldSet

from alexnet_tf.errors import UserError
from alexnet_tf.recipes import LAYERS
from alexnet_tf.weights.description import Step, lrn_step, match
from alexnet_tf.weights.published import PublishedWeights
from alexnet_tf.weights.weight_layout import format_shape, from_outputs_first

# Each field as in caffe.proto: number, name, type, with * if it is repeated.
_MESSAGES = {
    "BlobShape": "1 dim int64*",
    "BlobProto": "1 num int32, 2 channels int32, 3 height int32, 4 width int32, "
    "5 data float*, 7 shape BlobShape, 8 double_data double*",
    "Convolution": "3 pad uint32*, 4 kernel_size uint32*, 5 group uint32, "
    "6 stride uint32*, 9 pad_h uint32, 10 pad_w uint32, 11 kernel_h uint32, "
    "12 kernel_w uint32, 13 stride_h uint32, 14 stride_w uint32, 18 dilation uint32*",
    "Dropout": "",
    "Lrn": "1 local_size uint32, 2 alpha float, 3 beta float, 4 norm_region int32, "
    "5 k float",
    "Pooling": "1 pool int32, 2 kernel_size uint32, 3 stride uint32, 4 pad uint32, "
    "5 kernel_h uint32, 6 kernel_w uint32, 7 stride_h uint32, 8 stride_w uint32, "
    "9 pad_h uint32, 10 pad_w uint32, 12 global_pooling bool",
    "Dense": "5 axis int32, 6 transpose bool",
    "Relu": "1 negative_slope float",
    "Transform": "1 scale float, 3 crop_size uint32, 5 mean_value float*",
    # Where it was before Transform.
    "Data": "2 scale float, 5 crop_size uint32",
    "Input": "1 shape BlobShape*",
    # The older form of a layer has numbers for the types.
    "V1LayerParameter": "2 bottom string*, 3 top string*, 4 name string, 5 type int32, "
    "6 blobs BlobProto*, 10 convolution Convolution, 11 data Data, 12 dropout Dropout, "
    "17 dense Dense, 18 lrn Lrn, 19 pooling Pooling, 30 relu Relu, "
    "36 transform Transform",
    "LayerParameter": "1 name string, 2 type string, 3 bottom string*, 4 top string*, "
    "7 blobs BlobProto*, 100 transform Transform, 106 convolution Convolution, "
    "107 data Data, 108 dropout Dropout, 117 dense Dense, 118 lrn Lrn, "
    "121 pooling Pooling, 123 relu Relu, 143 input Input",
    "NetParameter": "2 layers V1LayerParameter*, 4 input_dim int32*, "
    "8 input_shape BlobShape*, 100 layer LayerParameter*",
}
# The other fields of a layer's numbers: initial values, sizes that the arrays show, the
# share of dropout, which program computes. In one that is not here, a file says
# something that is not understood.
_HARMLESS = {
    "convolution": (1, 2, 7, 8, 15),
    "dense": (1, 2, 3, 4),
    "dropout": (1,),
    "lrn": (6,),
    "pooling": (11,),
    "relu": (2,),
}
# Those of the older types that may be in an AlexNet; others are shown as numbers.
_OLD_TYPES = {
    1: "Accuracy",
    4: "Convolution",
    5: "Data",
    6: "Dropout",
    12: "ImageData",
    14: "InnerProduct",
    15: "LRN",
    17: "Pooling",
    18: "ReLU",
    20: "Softmax",
    21: "SoftmaxWithLoss",
    22: "Split",
    36: "Silence",
}
_SOURCES = ("Data", "ImageData", "Input", "DummyData", "HDF5Data", "MemoryData")
_WITHOUT_EFFECT = ("Accuracy", "Dropout", "Silence", "SoftmaxWithLoss")
_MEAN = [104, 117, 123]  # blue, green, red
_ACTIVATIONS = {"Softmax": "softmax", "TanH": "tanh"}


def _make_message(name: str) -> type:
    """Makes the class of a message; a repeated number may be packed or not."""
    file = descriptor_pb2.FileDescriptorProto(name="caffe", package="caffe")
    for message, fields in _MESSAGES.items():
        described = file.message_type.add(name=message)
        for field in filter(None, fields.split(", ")):
            number, field, kind = field.split()
            added = described.field.add(name=field, number=int(number))
            is_list, kind = kind.endswith("*"), kind.removesuffix("*")
            added.label = added.LABEL_REPEATED if is_list else added.LABEL_OPTIONAL
            if kind in _MESSAGES:
                added.type, added.type_name = added.TYPE_MESSAGE, f".caffe.{kind}"
            else:
                added.type = added.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = pool.FindMessageTypeByName(f"caffe.{name}")
    return message_factory.GetMessageClass(found)


_Net = _make_message("NetParameter")


def read_caffe(content: bytes) -> PublishedWeights:
    """Reads a `.caffemodel`, of the older form or the newer.

    Raises:
        DecodeError: If it is no protobuf, or cut off.
        UserError: If it is of another message, or its network is not AlexNet's.
    """
    net = _Net.FromString(content)
    layers = [*net.layers, *net.layer]
    if not layers or (net.layers and net.layer):
        raise UserError("it is protobuf, but no Caffe network and no ONNX model")
    recipes, names, left = match(_read_steps(layers), _read_sides(net, layers))
    weighted = [layer for layer in layers if layer.blobs]
    blobs = {layer.name: layer.blobs for layer in weighted}
    if len(blobs) < len(weighted):
        raise UserError("two of its layers with arrays have one name")
    arrays = {}
    for layer, name in zip(LAYERS, names, strict=False):
        held = blobs.get(name, ())
        if len(held) != 2:
            raise UserError(f"{name} has {len(held)} arrays, not a kernel and a bias")
        arrays[layer] = tuple(_read_blob(name, blob) for blob in held)
    return PublishedWeights(
        "Caffe's protobuf", from_outputs_first(arrays), recipes, left=left
    )


def _read_steps(layers) -> list[Step]:
    """What a chain of layers does, from the pictures on."""
    steps, before, aliases = [], None, {}
    for layer in layers:
        kind = _OLD_TYPES.get(layer.type, layer.type)
        if kind in _SOURCES:
            steps += _read_preprocessing(layer)
            continue
        bottoms = [aliases.get(name, name) for name in layer.bottom]
        unknown = _find_unknown(layer)
        if kind == "Split":
            aliases |= dict.fromkeys(layer.top, bottoms[0])
            continue
        if kind in _WITHOUT_EFFECT and not (unknown or layer.blobs):
            aliases |= {top: bottoms[0] for top in layer.top if top != bottoms[0]}
            continue
        step = _read_step(kind, layer)
        if before is not None and bottoms != [before]:
            kind = f"{kind} of {' and '.join(bottoms) or 'nothing'}, not of {before}"
            step = Step(kind, {}, layer.name)
        steps.append(Step(step.operation, {**step.numbers, **unknown}, step.name))
        before = (layer.top or [layer.name])[0]
    return steps


def _read_sides(net, layers) -> set[int]:
    """Heights and widths of the pictures, wherever the file has them."""
    shapes = [net.input_dim, *(shape.dim for shape in net.input_shape)]
    shapes += [shape.dim for layer in net.layer for shape in layer.input.shape]
    crops = {x.crop_size for y in layers for x in (y.transform, y.data)}
    return crops.union(*(shape[2:4] for shape in shapes))


def _find_unknown(layer) -> dict[str, str]:
    """What the file says of a layer that this reader does not know."""
    return {
        f"{name}_param": f"with field {field.field_number}"
        for name, harmless in _HARMLESS.items()
        if layer.HasField(name)
        for field in UnknownFieldSet(getattr(layer, name))
        if field.field_number not in harmless
    }


def _read_preprocessing(layer) -> list[Step]:
    """What is done to the pixels, but for subtracting the usual mean."""
    scale = layer.transform.scale or layer.data.scale or 1
    mean = list(layer.transform.mean_value) or _MEAN
    if scale == 1 and [round(value) for value in mean] == _MEAN:
        return []
    return [Step("preprocessing", {"scale": scale, "mean": mean}, layer.name)]


def _read_step(kind: str, layer) -> Step:
    if layer.blobs and kind not in ("Convolution", "InnerProduct"):
        return Step(f"{kind} with arrays", {}, layer.name)
    if kind == "Convolution":
        given = layer.convolution
        numbers = _read_window(given, "kernel_size") | {"groups": given.group or 1}
        if set(given.dilation) - {1}:
            numbers["dilation"] = tuple(given.dilation)
        return Step("convolution", numbers, layer.name)
    given = layer.pooling
    if kind == "Pooling" and not (given.pool or given.global_pooling):
        return Step("max_pooling", _read_window(given, "kernel_size"), layer.name)
    if kind == "LRN" and not layer.lrn.norm_region:
        given, defaults = layer.lrn, {"local_size": 5, "alpha": 1, "beta": 0.75, "k": 1}
        size, alpha, beta, k = (
            getattr(given, name) if given.HasField(name) else default
            for name, default in defaults.items()
        )
        return lrn_step(layer.name, size, alpha / size, beta, k)
    if kind == "InnerProduct" and layer.dense.axis in (0, 1):
        numbers = {"transpose": True} if layer.dense.transpose else {}
        return Step("dense", numbers, layer.name)
    if kind == "ReLU" and not layer.relu.negative_slope:
        return Step("relu", {}, layer.name)
    return Step(_ACTIVATIONS.get(kind, f"another {kind}"), {}, layer.name)


def _read_window(given, size: str) -> dict[str, object]:
    """Size, strides and padding; a pair of numbers where height and width differ."""

    def side(name, short, default):
        value = getattr(given, name)
        values = list(value) if not isinstance(value, int) else [value] * bool(value)
        pair = [getattr(given, f"{short}_{axis}") for axis in "hw"]
        values = set(values if not any(pair) else pair) or {default}
        return values.pop() if len(values) == 1 else tuple(sorted(values))

    padding = side("pad", "pad", 0)
    return {
        "size": side(size, "kernel", 0),
        "strides": side("stride", "stride", 1),
        "padding": (padding, padding),
    }


def _read_blob(layer: str, blob) -> np.ndarray:
    older = (blob.num, blob.channels, blob.height, blob.width)
    shape = tuple(blob.shape.dim) or older
    values = np.array(blob.double_data or blob.data)
    if len(shape) > 4 or min(shape) < 0 or math.prod(shape) != len(values):
        raise UserError(
            f"{layer} has {len(values):,} values for {format_shape(shape[:8])}: the "
            "file is damaged; get it again"
        )
    return values.reshape(shape)

"""Caffe's networks with their weights: `.caffemodel`, a message of protobuf.

The numbers of the fields are those of BVLC/caffe `src/caffe/proto/caffe.proto`; what
decides a network's function is read, and no more.
"""

import math
from collections.abc import Mapping

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from alexnet_tf.errors import UserError
from alexnet_tf.recipes import LAYERS
from alexnet_tf.weights.description import Step, lrn_step, match
from alexnet_tf.weights.weight_layout import Found, format_shape, from_outputs_first

_Field = descriptor_pb2.FieldDescriptorProto
_MESSAGES = {
    "BlobShape": {"dim": (1, "int64[]")},
    "BlobProto": {
        "num": (1, "int32"),
        "channels": (2, "int32"),
        "height": (3, "int32"),
        "width": (4, "int32"),
        "data": (5, "float[]"),
        "shape": (7, "BlobShape"),
        "double_data": (8, "double[]"),
    },
    "Convolution": {
        "pad": (3, "uint32[]"),
        "kernel_size": (4, "uint32[]"),
        "group": (5, "uint32"),
        "stride": (6, "uint32[]"),
        "pad_h": (9, "uint32"),
        "pad_w": (10, "uint32"),
        "kernel_h": (11, "uint32"),
        "kernel_w": (12, "uint32"),
        "stride_h": (13, "uint32"),
        "stride_w": (14, "uint32"),
        "dilation": (18, "uint32[]"),
    },
    "Lrn": {
        "local_size": (1, "uint32"),
        "alpha": (2, "float"),
        "beta": (3, "float"),
        "norm_region": (4, "int32"),
        "k": (5, "float"),
    },
    "Pooling": {
        "pool": (1, "int32"),
        "kernel_size": (2, "uint32"),
        "stride": (3, "uint32"),
        "pad": (4, "uint32"),
        "kernel_h": (5, "uint32"),
        "kernel_w": (6, "uint32"),
        "stride_h": (7, "uint32"),
        "stride_w": (8, "uint32"),
        "pad_h": (9, "uint32"),
        "pad_w": (10, "uint32"),
        "global_pooling": (12, "bool"),
    },
    "Dense": {"axis": (5, "int32"), "transpose": (6, "bool")},
    "Relu": {"negative_slope": (1, "float")},
    "Transform": {"scale": (1, "float"), "mean_value": (5, "float[]")},
    "Data": {"scale": (2, "float")},  # where it was before Transform
    # The older form of a layer has numbers for the types.
    "V1LayerParameter": {
        "bottom": (2, "string[]"),
        "top": (3, "string[]"),
        "name": (4, "string"),
        "type": (5, "int32"),
        "blobs": (6, "BlobProto[]"),
        "convolution": (10, "Convolution"),
        "data": (11, "Data"),
        "dense": (17, "Dense"),
        "lrn": (18, "Lrn"),
        "pooling": (19, "Pooling"),
        "relu": (30, "Relu"),
        "transform": (36, "Transform"),
    },
    "LayerParameter": {
        "name": (1, "string"),
        "type": (2, "string"),
        "bottom": (3, "string[]"),
        "top": (4, "string[]"),
        "blobs": (7, "BlobProto[]"),
        "transform": (100, "Transform"),
        "convolution": (106, "Convolution"),
        "data": (107, "Data"),
        "dense": (117, "Dense"),
        "lrn": (118, "Lrn"),
        "pooling": (121, "Pooling"),
        "relu": (123, "Relu"),
    },
    "NetParameter": {
        "layers": (2, "V1LayerParameter[]"),
        "layer": (100, "LayerParameter[]"),
    },
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
_ACTIVATIONS = {"Softmax": "softmax", "TanH": "tanh"}


def _message_class(package: str, messages: Mapping[str, Mapping], name: str) -> type:
    """Makes the class of a message; a repeated number may be packed or not."""
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package}.proto", package=package, syntax="proto2"
    )
    for message, fields in messages.items():
        described = file.message_type.add(name=message)
        for field, (number, kind) in fields.items():
            repeated = kind.endswith("[]")
            kind = kind.removesuffix("[]")
            label = "LABEL_REPEATED" if repeated else "LABEL_OPTIONAL"
            added = described.field.add(name=field, number=number)
            added.label = _Field.Label.Value(label)
            if kind in messages:
                added.type = _Field.TYPE_MESSAGE
                added.type_name = f".{package}.{kind}"
            else:
                added.type = _Field.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName(f"{package}.{name}")
    )


_Net = _message_class("alexnet_caffe", _MESSAGES, "NetParameter")


def read_caffe(content: bytes) -> Found:
    """Reads a `.caffemodel`, of the older form or the newer.

    Raises:
        DecodeError: If it is no protobuf, or cut off.
        UserError: If it is of another message, or its network is not AlexNet's.
    """
    net = _Net.FromString(content)
    layers = [*net.layers, *net.layer]
    if not layers or (net.layers and net.layer):
        raise UserError("it is protobuf, but no Caffe network and no ONNX model")
    found = match(_read_steps(layers))
    blobs = {layer.name: layer.blobs for layer in layers}
    arrays = {}
    for layer, name in zip(LAYERS, found.names, strict=False):
        if len(blobs[name]) != 2:
            raise UserError(
                f"{name} has {len(blobs[name])} arrays, not a kernel and a bias"
            )
        arrays[layer] = tuple(_read_blob(name, blob) for blob in blobs[name])
    return Found(
        "Caffe's protobuf", from_outputs_first(arrays), found.recipes, left=found.left
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
        if kind == "Split":
            aliases |= dict.fromkeys(layer.top, bottoms[0])
            continue
        if kind in _WITHOUT_EFFECT:
            aliases |= {top: bottoms[0] for top in layer.top if top != bottoms[0]}
            continue
        step = _read_step(kind, layer)
        if before is not None and bottoms != [before]:
            kind = f"{kind} of {' and '.join(bottoms) or 'nothing'}, not of {before}"
            step = Step(kind, {}, layer.name)
        steps.append(step)
        before = (layer.top or [layer.name])[0]
    return steps


def _read_preprocessing(layer) -> list[Step]:
    """What is done to the pixels, but for subtracting the usual mean."""
    scale = layer.transform.scale or layer.data.scale or 1
    mean = sorted(layer.transform.mean_value) or [104, 117, 123]
    if scale == 1 and mean == [104, 117, 123]:
        return []
    return [Step("preprocessing", {"scale": scale, "mean": mean}, layer.name)]


def _read_step(kind: str, layer) -> Step:
    if kind == "Convolution":
        given = layer.convolution
        numbers = _read_window(given, "kernel_size") | {"groups": given.group or 1}
        if set(given.dilation) - {1}:
            numbers["dilation"] = tuple(given.dilation)
        return Step("convolution", numbers, layer.name)
    if (
        kind == "Pooling"
        and not layer.pooling.pool
        and not layer.pooling.global_pooling
    ):
        return Step(
            "max_pooling", _read_window(layer.pooling, "kernel_size"), layer.name
        )
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
    if layer.blobs:
        return Step(f"{kind} with arrays", {}, layer.name)
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
    shape = tuple(blob.shape.dim) or (
        blob.num,
        blob.channels,
        blob.height,
        blob.width,
    )
    with np.errstate(over="ignore"):  # what is not finite is refused later
        values = np.array(blob.data or blob.double_data, np.float32)
    if min(shape, default=1) < 0 or math.prod(shape) != len(values):
        raise UserError(
            f"{layer} has {len(values):,} values for {format_shape(shape)}: the file "
            "is damaged; get it again"
        )
    return values.reshape(shape)

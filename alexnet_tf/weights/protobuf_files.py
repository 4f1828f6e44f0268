"""Weights in the protobuf messages of Caffe and ONNX.

The numbers of the fields are those of BVLC/caffe `src/caffe/proto/caffe.proto` and of
onnx/onnx `onnx/onnx.proto`.
"""

import math
from collections.abc import Mapping

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from alexnet_tf.errors import UserError
from alexnet_tf.recipes import LAYERS, Recipe
from alexnet_tf.weights.weight_layout import (
    BVLC,
    CAFFENET,
    Found,
    format_shape,
    from_outputs_first,
)

_Field = descriptor_pb2.FieldDescriptorProto
_CAFFE = {
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
    "V1LayerParameter": {
        "name": (4, "string"),
        "type": (5, "int32"),
        "blobs": (6, "BlobProto[]"),
    },
    "LayerParameter": {
        "name": (1, "string"),
        "type": (2, "string"),
        "blobs": (7, "BlobProto[]"),
    },
    "NetParameter": {
        "layers": (2, "V1LayerParameter[]"),
        "layer": (100, "LayerParameter[]"),
    },
}
_ONNX_TYPES = {1: "<f4", 10: "<f2", 11: "<f8"}
_ONNX = {
    "TensorProto": {
        "dims": (1, "int64[]"),
        "data_type": (2, "int32"),
        "float_data": (4, "float[]"),
        "name": (8, "string"),
        "raw_data": (9, "bytes"),
        "double_data": (10, "double[]"),
        "data_location": (14, "int32"),
    },
    "NodeProto": {"op_type": (4, "string")},
    "GraphProto": {"node": (1, "NodeProto[]"), "initializer": (5, "TensorProto[]")},
    "ModelProto": {"graph": (7, "GraphProto")},
}


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


_Caffe = _message_class("caffe", _CAFFE, "NetParameter")
_Onnx = _message_class("onnx", _ONNX, "ModelProto")


def read_protobuf(content: bytes) -> Found:
    """Reads a `.caffemodel` or an ONNX file.

    Raises:
        DecodeError: If it is no protobuf, or cut off.
        UserError: If it is of another message, or its weights cannot be taken.
    """
    model = _Onnx.FromString(content)
    if model.HasField("graph"):
        return _read_onnx(model.graph)
    net = _Caffe.FromString(content)
    if net.layer or net.layers:
        return _read_caffe(net)
    raise UserError("it is protobuf, but neither a Caffe network nor an ONNX model")


def _read_caffe(net) -> Found:
    layers = [*net.layers, *net.layer]
    blobs = {layer.name: layer.blobs for layer in layers if layer.blobs}
    found = {
        name: (_read_blob(name, blobs[name][0]), _read_blob(name, blobs[name][1]))
        for name in LAYERS
        if len(blobs.get(name, ())) > 1
    }
    # The older form has numbers for the types of layers. Where both forms are in a
    # file, nothing tells the order.
    ordered = [] if net.layers and net.layer else layers
    kinds = [{15: "LRN", 17: "Pooling"}.get(x.type, x.type) for x in ordered]
    recipes = _tell_recipes(kinds, "LRN", "Pooling")
    return Found("Caffe's protobuf", from_outputs_first(found), blobs, recipes)


def _read_blob(layer: str, blob) -> np.ndarray:
    shape = tuple(blob.shape.dim) or (
        blob.num,
        blob.channels,
        blob.height,
        blob.width,
    )
    with np.errstate(over="ignore"):  # what is not finite is refused later
        values = np.array(blob.data or blob.double_data, np.float32)
    return _reshape(layer, values, shape)


def _read_onnx(graph) -> Found:
    """Takes the initializers by their names; the graph of the zoo is not Caffe's."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    pairs = {layer: (f"{layer}_w_0", f"{layer}_b_0") for layer in LAYERS}
    found = {
        layer: tuple(_read_tensor(tensors[name]) for name in names)
        for layer, names in pairs.items()
        if set(names) <= set(tensors)
    }
    recipes = _tell_recipes([node.op_type for node in graph.node], "LRN", "MaxPool")
    return Found("ONNX", from_outputs_first(found), tensors, recipes)


def _read_tensor(tensor) -> np.ndarray:
    if tensor.data_type not in _ONNX_TYPES or tensor.data_location:
        where = "another file" if tensor.data_location else "whole numbers, quantised"
        raise UserError(
            f"{tensor.name} is kept in {where}: give the file that holds it as float32"
        )
    if tensor.raw_data:
        values = np.frombuffer(tensor.raw_data, _ONNX_TYPES[tensor.data_type])
    else:
        values = np.array(tensor.float_data or tensor.double_data)
    return _reshape(tensor.name, values.astype(np.float32), tuple(tensor.dims))


def _reshape(name: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if min(shape, default=1) < 0 or math.prod(shape) != len(values):
        raise UserError(
            f"{name} has {len(values):,} values for {format_shape(shape)}: the file is "
            "damaged; get it again"
        )
    return values.reshape(shape)


def _tell_recipes(kinds: list[str], lrn: str, pool: str) -> tuple[Recipe, ...]:
    """By what comes first in the network, response normalisation or pooling."""
    first = next((kind for kind in kinds if kind in (lrn, pool)), None)
    return {lrn: (BVLC,), pool: (CAFFENET,), None: (BVLC, CAFFENET)}[first]

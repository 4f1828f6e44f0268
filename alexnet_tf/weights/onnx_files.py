"""ONNX files: their graph, node by node, and its tensors."""

import numpy as np

from alexnet_tf.errors import UserError
from alexnet_tf.recipes import LAYERS
from alexnet_tf.weights.description import Step, lrn_step, match
from alexnet_tf.weights.weight_layout import Found, from_outputs_first

_WITHOUT_EFFECT = ("Dropout", "Flatten", "Identity", "Reshape")
_ACTIVATIONS = {"Relu": "relu", "Softmax": "softmax", "Tanh": "tanh"}
# Attributes that say nothing.
_DEFAULTS = [
    ("alpha", 1.0),
    ("auto_pad", b"NOTSET"),
    ("beta", 1.0),
    ("dilations", [1, 1]),
    ("storage_order", 0),
    ("transA", 0),
    ("transB", 1),  # kernels are (out, in)
]


def read_onnx(path: str) -> Found:
    """Reads an ONNX file, and what of its weights lies beside it.

    Raises:
        DecodeError: If it is no protobuf, or cut off.
        UserError: If `onnx` is missing, or its network is not AlexNet's.
    """
    try:
        import onnx
    except ImportError:
        raise UserError("it is an ONNX file, for which: pip install onnx") from None
    graph = onnx.load(path).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    steps, held, aliases, before = [], {}, {}, None
    for node in graph.node:
        attributes = {
            a.name: onnx.helper.get_attribute_value(a) for a in node.attribute
        }
        if node.op_type == "Constant" and "value" in attributes:
            tensors[node.output[0]] = attributes["value"]
            continue
        inputs = [aliases.get(x, x) for x in node.input if x and x not in tensors]
        arrays = [x for x in node.input if x in tensors]
        if node.op_type in _WITHOUT_EFFECT or _is_identity(node.op_type, attributes):
            aliases[node.output[0]] = inputs[0]
            continue
        step = _read_node(node, attributes, arrays)
        if before is not None and inputs != [before]:
            step = step._replace(operation=f"{node.op_type} of {', '.join(inputs)}")
        steps.append(step)
        held[step.name] = arrays
        before = node.output[0]
    found = match(steps)
    layers = {
        layer: tuple(_to_array(onnx, tensors[name]) for name in held[step])
        for layer, step in zip(LAYERS, found.names, strict=False)
    }
    return Found("ONNX", from_outputs_first(layers), found.recipes, left=found.left)


def _is_identity(operation: str, attributes: dict) -> bool:
    """Whether it is what torch makes of an adaptive average of 6×6 to 6×6."""
    return operation == "AveragePool" and attributes.get("kernel_shape") == [1, 1]


def _read_node(node, attributes: dict, arrays: list[str]) -> Step:
    name = arrays[0] if arrays else node.name or node.output[0]
    numbers = {"transB": 0} | attributes if node.op_type == "Gemm" else {**attributes}
    if node.op_type == "LRN":
        alpha = numbers.get("alpha", 1e-4) / numbers["size"]
        beta, k = numbers.get("beta", 0.75), numbers.get("bias", 1.0)
        return lrn_step(name, numbers["size"], alpha, beta, k)
    numbers = {k: v for k, v in numbers.items() if (k, v) not in _DEFAULTS}
    if node.op_type == "Conv" and len(arrays) == 2:
        groups = numbers.pop("group", 1)
        numbers = _read_window(numbers) | {"groups": groups}
        return Step("convolution", numbers, name)
    if node.op_type == "MaxPool":
        numbers.pop("ceil_mode", None)
        # The networks' maps divide into windows, so that neither what hangs over the
        # edge counts nor a row and a column of padding behind, which the zoo's have.
        if numbers.get("pads") == [0, 0, 1, 1]:
            del numbers["pads"]
        return Step("max_pooling", _read_window(numbers), name)
    if node.op_type == "Gemm" and len(arrays) == 2:
        return Step("dense", numbers, name)
    return Step(_ACTIVATIONS.get(node.op_type, node.op_type), {}, name)


def _read_window(numbers: dict) -> dict:
    """Size, strides and padding, and whatever else is given."""
    top, left, bottom, right = numbers.pop("pads", [0, 0, 0, 0])
    padding = (top, bottom) if (top, bottom) == (left, right) else "uneven"
    sizes = numbers.pop("kernel_shape"), numbers.pop("strides", [1, 1])
    size, strides = (x[0] if x[0] == x[1] else tuple(x) for x in sizes)
    return {"size": size, "strides": strides, "padding": padding, **numbers}


def _to_array(onnx, tensor) -> np.ndarray:
    return onnx.numpy_helper.to_array(tensor).astype(np.float32)

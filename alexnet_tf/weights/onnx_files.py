"""ONNX files: their graph, node by node, and its tensors."""

from alexnet_tf.errors import UserError
from alexnet_tf.recipes import LAYERS
from alexnet_tf.weights.description import Step, lrn_step, match
from alexnet_tf.weights.published import PublishedWeights
from alexnet_tf.weights.weight_layout import from_outputs_first

_WITHOUT_EFFECT = ("Dropout", "Flatten", "Identity", "Reshape")
_ACTIVATIONS = {"Relu": "relu", "Softmax": "softmax", "Tanh": "tanh"}
_BEHIND = [0, 0, 1, 1]  # pads of a row and a column below and at the right
_SINGLE_PIXELS = {"kernel_shape": [1, 1]}
# Attributes that say nothing.
_DEFAULTS = [
    ("alpha", 1.0),
    ("auto_pad", b"NOTSET"),
    ("beta", 1.0),
    ("ceil_mode", 0),
    ("count_include_pad", 0),
    ("count_include_pad", 1),  # where there is no padding, which is named else
    ("dilations", [1, 1]),
    ("pads", [0, 0, 0, 0]),
    ("storage_order", 0),
    ("strides", [1, 1]),
    ("transA", 0),
    ("transB", 1),  # kernels are (out, in)
]


def read_onnx(content: bytes, folder: str) -> PublishedWeights:
    """Reads an ONNX file, and what of its weights lies beside it in a folder.

    Raises:
        DecodeError: If it is no protobuf, or cut off.
        UserError: If `onnx` is missing, or its network is not AlexNet's.
    """
    try:
        import onnx
    except ImportError:
        raise UserError("it is an ONNX file, for which: pip install onnx") from None
    graph = onnx.load_model_from_string(content).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    steps, pads, arrays_of, aliases, before = [], [], {}, {}, None
    for node in graph.node:
        attributes = {
            a.name: onnx.helper.get_attribute_value(a) for a in node.attribute
        }
        if node.op_type == "Constant" and "value" in attributes:
            tensors[node.output[0]] = attributes["value"]
            continue
        arrays = [x for x in node.input[1:] if x in tensors]
        inputs = [aliases.get(x, x) for x in node.input if x and x not in arrays]
        step = _read_node(node, attributes, len(arrays))
        if step is None:
            aliases[node.output[0]] = inputs[0]
            continue
        if len(inputs) != 1 or before not in (None, inputs[0]):
            step = step._replace(operation=f"{node.op_type} of {', '.join(inputs)}")
        steps.append(step)
        pads.append(attributes.get("pads"))
        before = node.output[0]
        arrays_of[before] = arrays
    kind, inputs = "ONNX", [x for x in graph.input if x.name not in tensors]
    sides = {d.dim_value for x in inputs for d in x.type.tensor_type.shape.dim[2:]}
    if sides == {224} and _BEHIND in pads:
        # The zoo's graphs have the weights that Caffe trained on 227 pixels.
        kind, sides = "ONNX of the zoo, whose graph reads 224 pixels", {227}
    recipes, names, left = match(steps, sides)
    layers = {
        layer: tuple(
            onnx.numpy_helper.to_array(tensors[x], folder) for x in arrays_of[name]
        )
        for layer, name in zip(LAYERS, names, strict=False)
    }
    return PublishedWeights(kind, from_outputs_first(layers), recipes, left=left)


def _read_node(node, attributes: dict, num_arrays: int) -> Step | None:
    """What a node does; None if nothing, called as what it puts out."""
    kind, name = node.op_type, node.output[0]
    given = {k: v for k, v in attributes.items() if (k, v) not in _DEFAULTS}
    if node.domain not in ("", "ai.onnx"):
        return Step(f"{node.domain}.{kind}", {}, name)
    # torch makes an average of single pixels of an adaptive one from 6×6 to 6×6.
    if kind in _WITHOUT_EFFECT or (kind, given) == ("AveragePool", _SINGLE_PIXELS):
        return None
    if kind == "LRN":
        defaults = {"alpha": 1e-4, "beta": 0.75, "bias": 1.0} | attributes
        size, alpha, beta, k = (defaults[x] for x in ("size", "alpha", "beta", "bias"))
        return lrn_step(name, size, alpha / size, beta, k)
    if kind == "Conv" and num_arrays == 2:
        groups = given.pop("group", 1)
        return Step("convolution", _read_window(given) | {"groups": groups}, name)
    if kind == "MaxPool":
        given.pop("ceil_mode", None)
        # The networks' maps divide into windows, so that neither what hangs over the
        # edge counts nor a row and a column of padding behind, which the zoo's have.
        if given.get("pads") == _BEHIND:
            del given["pads"]
        return Step("max_pooling", _read_window(given), name)
    if kind == "Gemm" and num_arrays == 2:
        if "transB" not in attributes:
            given["transB"] = 0
        return Step("dense", given, name)
    return Step(_ACTIVATIONS.get(kind, kind), {}, name)


def _read_window(numbers: dict) -> dict:
    """Size, strides and padding, and whatever else is given."""
    top, left, bottom, right = numbers.pop("pads", [0, 0, 0, 0])
    padding = (top, bottom) if (top, bottom) == (left, right) else "uneven"
    sizes = numbers.pop("kernel_shape"), numbers.pop("strides", [1, 1])
    size, strides = (x[0] if x[0] == x[1] else tuple(x) for x in sizes)
    return {"size": size, "strides": strides, "padding": padding, **numbers}

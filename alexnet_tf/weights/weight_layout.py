"""How a network's weights are laid out: ours, and those of Caffe, ONNX and PyTorch."""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from alexnet_tf.errors import UserError
from alexnet_tf.recipes import LAYERS

HEAD = LAYERS[-1]

# What torchvision's AlexNet calls the layers. Caffe calls them as the paper and we do.
TORCHVISION = {
    "conv1": "features.0",
    "conv2": "features.3",
    "conv3": "features.6",
    "conv4": "features.8",
    "conv5": "features.10",
    "fc6": "classifier.1",
    "fc7": "classifier.4",
    "fc8": "classifier.6",
}


_VARIABLES = {
    **dict.fromkeys(("kernel", "weights", "weight"), "kernel"),
    **dict.fromkeys(("bias", "biases"), "bias"),
    "mean": "mean",
}
_WANTED = {
    "input_normalization": ("mean",),
    **dict.fromkeys(LAYERS, ("kernel", "bias")),
}


def take_layers(
    arrays: Mapping[str, Mapping[str, np.ndarray]],
) -> tuple[dict[str, dict[str, np.ndarray]], str]:
    """Takes the layers of a file that holds arrays and describes no network.

    Args:
        arrays: By the names of layers, ours as far as they are known, their arrays.

    Returns:
        Our layers, each with "kernel" and "bias" (or "mean"); and the name of another
        dense layer that stands in the place of fc8, or "".

    Raises:
        UserError: If the file holds anything else.
    """
    layers = {}
    for layer, variables in arrays.items():
        layers[layer] = {_VARIABLES.get(key, key): variables[key] for key in variables}
        wanted, is_twice = _WANTED.get(layer), len(layers[layer]) < len(variables)
        if wanted and (is_twice or set(layers[layer]) != set(wanted)):
            held = ", ".join(list(variables)[:8])
            raise UserError(f"{layer} holds {held}, not a {' and a '.join(wanted)}")
    others = [name for name in layers if name not in _WANTED]
    if not others:
        return layers, ""
    head = layers.pop(others[0])
    is_dense = set(head) == {"kernel", "bias"} and len(np.shape(head["kernel"])) == 2
    if HEAD in layers or len(others) > 1 or not is_dense or LAYERS[0] not in layers:
        names = ", ".join(others[:8]) + ", …" * (len(others) > 8)
        raise UserError(
            f"it holds {names}, which no AlexNet has: give a file with {LAYERS[0]} … "
            f"{HEAD}, or their names in torchvision, and nothing else"
        )
    return layers, others[0]


def from_outputs_first(
    found: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> dict[str, dict[str, np.ndarray]]:
    """Lays out what Caffe, ONNX or PyTorch have.

    The order of the colours in conv1 stays: a recipe's network turns them itself.

    Args:
        found: By layer the kernel, (out, in / groups, height, width) or (out, in), and
            the bias; the inputs of fc6 in the order channel, height, width.

    Returns:
        By layer "kernel" and "bias", as `PublishedWeights` has them.

    Raises:
        UserError: If a kernel has another number of axes, or fc6 does not read conv5.
    """
    converted = {}
    for layer, (kernel, bias) in found.items():
        shape = kernel.shape
        try:
            if layer.startswith("conv"):
                kernel = kernel.transpose(2, 3, 1, 0)
            else:  # Caffe wrote (1, 1, out, in) before its blobs could have two axes
                kernel = kernel.reshape(shape[-2:]).T
            if layer == "fc6" and "conv5" in found:
                channels = len(found["conv5"][0])
                kernel = kernel.reshape(channels, *_map_side(kernel, channels), -1)
                kernel = kernel.transpose(1, 2, 0, 3).reshape(shape[-2:][::-1])
        except ValueError:
            raise UserError(
                f"{layer}'s kernel is {format_shape(shape)}, which no AlexNet's is"
            ) from None
        converted[layer] = {"kernel": kernel, "bias": bias.reshape(-1)}
    return converted


def to_outputs_first(
    layers: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Lays out our arrays as Caffe, ONNX and PyTorch have them.

    Args:
        layers: By layer "kernel" and "bias", as `PublishedWeights` has them.

    Returns:
        By layer the kernel and the bias, as `from_outputs_first` takes them.
    """
    converted = {}
    for layer, variables in layers.items():
        kernel, bias = variables["kernel"], variables["bias"]
        if kernel.ndim == 4:
            kernel = kernel.transpose(3, 2, 0, 1)
        else:
            if layer == "fc6":
                channels = len(layers["conv5"]["bias"])
                maps = kernel.reshape(*_map_side(kernel, channels), channels, -1)
                kernel = maps.transpose(2, 0, 1, 3).reshape(kernel.shape)
            kernel = kernel.T
        converted[layer] = np.ascontiguousarray(kernel), bias
    return converted


def _map_side(kernel: np.ndarray, channels: int) -> tuple[int, int]:
    """Height and width of the map that fc6, (in, out), reads."""
    side = math.isqrt(len(kernel) // channels)
    return side, side


def format_shape(shape: Iterable[int]) -> str:
    """A shape for people: 11×11×3×96."""
    return "×".join(map(str, shape))

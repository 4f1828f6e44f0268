"""How a network's weights are laid out: ours, and what the others' become."""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from alexnet_tf.errors import UserError
from alexnet_tf.recipes import LAYERS, Recipe

HEAD = LAYERS[-1]


class Found(NamedTuple):
    """What a file holds.

    Attributes:
        kind: What the file is, for messages.
        layers: Arrays in our layout, by layer and "kernel", "bias" or "mean".
        recipes: See `PublishedWeights`.
        is_exact: See `PublishedWeights`.
        left: See `PublishedWeights`.
        class_names: See `PublishedWeights`.
    """

    kind: str
    layers: dict[str, Mapping[str, np.ndarray]]
    recipes: tuple[Recipe, ...]
    is_exact: bool = True
    left: str = ""
    class_names: tuple[str, ...] | None = None


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
                kernel = _to_channels_last(kernel, len(found["conv5"][0]))
        except ValueError:
            raise UserError(
                f"{layer}'s kernel is {format_shape(shape)}, which no AlexNet's is"
            ) from None
        converted[layer] = {"kernel": kernel, "bias": bias.reshape(-1)}
    return converted


def _to_channels_last(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Rows in the order channel, height, width to height, width, channel."""
    rows, outputs = kernel.shape
    side = math.isqrt(rows // channels)
    maps = kernel.reshape(channels, side, side, outputs)
    return maps.transpose(1, 2, 0, 3).reshape(rows, outputs)


def format_shape(shape: Iterable[int]) -> str:
    """A shape for people: 11×11×3×96."""
    return "×".join(map(str, shape))

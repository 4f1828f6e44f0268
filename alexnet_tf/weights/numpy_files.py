"""Pickled NumPy arrays by layer, as `bvlc_alexnet.npy` has them.

Its kernels are laid out as ours are; most such files were written by Python 2.
"""

import io
from collections.abc import Mapping

import numpy as np

from alexnet_tf.errors import UserError
from alexnet_tf.pickles import Array, load_arrays
from alexnet_tf.weights.description import FOREIGN
from alexnet_tf.weights.published import PublishedWeights
from alexnet_tf.weights.weight_layout import take_layers


def read_npy(content: bytes) -> PublishedWeights:
    """Reads a `.npy` file that holds a pickled dict.

    Raises:
        UserError: If it is an array, or the pickle would call something.
        ValueError: If it is damaged; `pickle` raises other errors, too.
    """
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, _, dtype = read_header(file)
    if not dtype.hasobject:
        raise UserError(f"it is an array of {dtype} {shape}, not a dict of layers")
    return read_pickle(content[file.tell() :])


def read_pickle(content: bytes) -> PublishedWeights:
    """Reads `{layer: [kernel, bias]}` or `{layer: {"weights": …, "biases": …}}`.

    Raises:
        UserError: If it is no dict, would call something, or holds other layers.
    """
    value = load_arrays(content)
    if isinstance(value, Array) and value.shape == ():
        (value,) = value.values
    if not isinstance(value, dict):
        raise UserError("it is a pickle of something else than a dict of layers")
    arrays = {
        _to_text(layer): {_to_text(key): array.values for key, array in _items(held)}
        for layer, held in value.items()
    }
    layers, left = take_layers(arrays)
    return PublishedWeights("NumPy's pickle", layers, FOREIGN, False, left)


def _items(held: object):
    """The names and arrays of a layer; in a list the kernel comes first."""
    if isinstance(held, Mapping):
        return held.items()
    held = list(held)
    return zip(["kernel", "bias", *range(2, len(held))], held, strict=False)


def _to_text(name: object) -> str:
    return name.decode("latin1") if isinstance(name, bytes) else str(name)

"""Pickled NumPy arrays by layer, as `bvlc_alexnet.npy` has them.

Its kernels are laid out as ours are; most such files were written by Python 2.
"""

import io

import numpy as np

from alexnet_tf.errors import UserError
from alexnet_tf.pickles import Array, load_arrays
from alexnet_tf.recipes import LAYERS
from alexnet_tf.weights.weight_layout import BVLC, CAFFENET, Found


def read_npy(content: bytes) -> Found:
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


def read_pickle(content: bytes) -> Found:
    """Reads `{layer: [kernel, bias]}` or `{layer: {"weights": …, "biases": …}}`.

    Raises:
        UserError: If it is no dict, or would call something.
    """
    value = load_arrays(content)
    if isinstance(value, Array) and value.shape == ():
        (value,) = value.values
    if not isinstance(value, dict):
        raise UserError("it is a pickle of something else than a dict of layers")
    value = {_to_text(name): variables for name, variables in value.items()}
    found = {}
    for layer in LAYERS:
        variables = value.get(layer, ())
        if isinstance(variables, dict):
            variables = {_to_text(name): array for name, array in variables.items()}
            variables = [variables.get(name) for name in ("weights", "biases")]
        pairs = zip(("kernel", "bias"), variables, strict=False)
        found[layer] = {name: array.values for name, array in pairs if array}
    return Found("NumPy's pickle", found, value, (BVLC, CAFFENET))


def _to_text(name: object) -> str:
    return name.decode("latin1") if isinstance(name, bytes) else str(name)

"""Pickled NumPy arrays by layer, as `bvlc_alexnet.npy` has them.

Its kernels are laid out as ours are; most such files were written by Python 2.
"""

import io

import numpy as np

from alexnet_tf.errors import UserError
from alexnet_tf.pickles import Array, load_arrays
from alexnet_tf.recipes import LAYERS
from alexnet_tf.weights.description import FOREIGN
from alexnet_tf.weights.weight_layout import HEAD, Found

_NAMES = (("weights", "kernel", "weight"), ("biases", "bias"))


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
        UserError: If it is no dict, would call something, or holds other layers.
    """
    value = load_arrays(content)
    if isinstance(value, Array) and value.shape == ():
        (value,) = value.values
    if not isinstance(value, dict):
        raise UserError("it is a pickle of something else than a dict of layers")
    value = {_to_text(name): _to_pair(pair) for name, pair in value.items()}
    others = [name for name in value if name not in LAYERS]
    if others and (HEAD in value or len(others) > 1 or LAYERS[0] not in value):
        raise UserError(
            f"it holds {', '.join(others[:8])}, which no AlexNet has: give a dict of "
            f"{LAYERS[0]} … {HEAD}"
        )
    found = {
        layer: {
            name: array.values
            for name, array in zip(("kernel", "bias"), value[layer], strict=False)
            if array
        }
        for layer in LAYERS
        if layer in value
    }
    left = ", ".join(others)
    return Found("NumPy's pickle", found, FOREIGN, is_exact=False, left=left)


def _to_pair(variables: object) -> list:
    """A layer's kernel and bias."""
    if not isinstance(variables, dict):
        return list(variables)
    variables = {_to_text(name): array for name, array in variables.items()}
    known = [next((n for n in names if n in variables), None) for names in _NAMES]
    if set(variables) - set(known):
        raise UserError(
            f"a layer holds {', '.join(variables)}, not a kernel and a bias"
        )
    return [variables.get(name) for name in known]


def _to_text(name: object) -> str:
    return name.decode("latin1") if isinstance(name, bytes) else str(name)

"""Pickled NumPy arrays by layer, as `bvlc_alexnet.npy` has them.

Its kernels are laid out as ours are; most such files were written by Python 2.
"""

import collections
import io
import pickle

import numpy as np

from alexnet_tf.errors import UserError
from alexnet_tf.network.weight_layout import BVLC, CAFFENET, LAYERS, Found


class SafeUnpickler(pickle.Unpickler):
    """Makes NumPy arrays and plain containers; nothing in a file can run code."""

    def __init__(self, file):
        super().__init__(file, encoding="latin1")  # what Python 2 wrote

    def find_class(self, module: str, name: str):
        """Returns what a pickle may call; raises `UserError` for all else."""
        module = module.replace("numpy._core", "numpy.core")
        if (module, name) in _HARMLESS:
            return _HARMLESS[module, name]
        raise UserError(
            f"it is a pickle that would call {module}.{name}; only arrays and plain "
            "containers are taken, since others can run code"
        )


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """What pickles of protocol 2 call to make bytes."""
    return text.encode("latin1")


_HARMLESS = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
    ("numpy.core.multiarray", "scalar"): np._core.multiarray.scalar,
    ("numpy.core.numeric", "_frombuffer"): np._core.numeric._frombuffer,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): _encode,
}


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
    return from_dict("NumPy's pickle", SafeUnpickler(file).load().item())


def from_dict(kind: str, value: object) -> Found:
    """Takes `{layer: [kernel, bias]}` or `{layer: {"weights": …, "biases": …}}`.

    Args:
        kind: Of the file, for messages.
        value: What was unpickled; text may be bytes.

    Raises:
        UserError: If it is no dict.
    """
    if not isinstance(value, dict):
        raise UserError(f"it is {kind} of {type(value).__name__}, not a dict of layers")
    value = {_to_text(name): variables for name, variables in value.items()}
    found = {}
    for layer in LAYERS:
        variables = value.get(layer, ())
        if isinstance(variables, dict):
            variables = {_to_text(name): array for name, array in variables.items()}
            variables = [variables.get(name) for name in ("weights", "biases")]
        pairs = zip(("kernel", "bias"), variables, strict=False)
        found[layer] = {
            name: np.asarray(array) for name, array in pairs if array is not None
        }
    return Found(kind, found, value, (BVLC, CAFFENET))


def _to_text(name: object) -> str:
    return name.decode("latin1") if isinstance(name, bytes) else str(name)

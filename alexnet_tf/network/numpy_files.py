"""Pickled NumPy arrays by layer, as `bvlc_alexnet.npy` has them.

Its kernels are laid out as ours are; most such files were written by Python 2.
"""

import collections
import io
import pickle

import numpy as np

from alexnet_tf.errors import UserError
from alexnet_tf.network.weight_layout import BVLC, CAFFENET, Found
from alexnet_tf.recipes import LAYERS


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
    value = _Unpickler(io.BytesIO(content)).load()
    if isinstance(value, _Array) and value.shape == ():
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


# Nothing in a pickle gets at NumPy's own constructors: a dtype whose state is forged
# has it take numbers for addresses. These stand for them.


class _Unpickler(pickle.Unpickler):
    """Makes arrays of floats and plain containers; nothing in a file can run code."""

    def __init__(self, file):
        super().__init__(file, encoding="latin1")  # what Python 2 wrote

    def find_class(self, module: str, name: str):
        module = module.replace("numpy._core", "numpy.core")
        if (module, name) in _STAND_INS:
            return _STAND_INS[module, name]
        raise UserError(
            f"it is a pickle that would call {module}.{name}; only arrays and plain "
            "containers are taken, since others can run code"
        )


class _Dtype:
    def __init__(self, name: str, align=False, copy=False):
        self.name, self.order = name, "="

    def __setstate__(self, state: tuple):
        self.order = state[1]


class _Array:
    """An array of floats, or a list of objects."""

    def __setstate__(self, state: tuple):
        _, shape, dtype, is_fortran, data = state
        self._fill(data, dtype, shape, "F" if is_fortran else "C")

    def _fill(self, data, dtype: _Dtype, shape: tuple, order: str) -> "_Array":
        self.shape = shape
        if isinstance(data, list):  # of objects
            self.values = data
        elif dtype.name in ("f2", "f4", "f8"):
            data = data.encode("latin1") if isinstance(data, str) else data
            kind = np.dtype(dtype.name).newbyteorder(dtype.order)
            self.values = np.frombuffer(data, kind).reshape(shape, order=order)
        else:
            raise UserError(f"it is a pickle with an array of {dtype.name}, not floats")
        return self

    def __iter__(self):
        return iter(self.values)


_STAND_INS = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),
    ("numpy.core.numeric", "_frombuffer"): lambda *args: _Array()._fill(*args),
    ("collections", "OrderedDict"): collections.OrderedDict,
    # What pickles of protocol 2 call to make bytes.
    ("_codecs", "encode"): lambda text, _="latin1": text.encode("latin1"),
}

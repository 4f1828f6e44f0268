"""Pickles of arrays and plain containers, read so that nothing in them runs."""

import io
import pickle

import numpy as np

from alexnet_tf.errors import UserError

_NUMBERS = ("u1", "f2", "f4", "f8")


def load_arrays(content: bytes) -> object:
    """Reads a pickle, also one that Python 2 wrote.

    Args:
        content: The pickle, and whatever follows it.

    Returns:
        What was pickled, with an `Array` in the place of each of NumPy's.

    Raises:
        UserError: If it holds anything else than arrays of numbers or objects, plain
            containers, text and numbers.
        ValueError: If it is damaged; `pickle` raises other errors, too.
    """
    return _Unpickler(io.BytesIO(content), encoding="latin1").load()


class Array:
    """What a pickled array is read as: NumPy's own classes never see the file.

    A type whose state is forged would have them take numbers for addresses.

    Attributes:
        shape: The array's shape.
        values: NumPy's array of the numbers; of objects a list of them.
    """

    def __setstate__(self, state: tuple):
        _, shape, dtype, is_fortran, data = state
        self._fill(data, dtype, shape, "F" if is_fortran else "C")

    def _fill(self, data, dtype: "_Dtype", shape: tuple, order: str) -> "Array":
        self.shape = shape
        if isinstance(data, list):
            self.values = data
        elif dtype.code in _NUMBERS:
            data = data.encode("latin1") if isinstance(data, str) else data
            kind = np.dtype(dtype.code).newbyteorder(dtype.order)
            self.values = np.frombuffer(data, kind).reshape(shape, order=order)
        else:
            raise UserError(f"it is a pickle with an array of {dtype.code}, not floats")
        return self

    def __iter__(self):
        return iter(self.values)


class _Dtype:
    def __init__(self, code: str, *_):
        self.code, self.order = code.lstrip("|"), "="

    def __setstate__(self, state: tuple):
        self.order = state[1]


class _Dict(dict):
    """A dict by names: to hash tuples of tuples, a few bytes of them, may never end."""

    __setstate__ = None  # else a pickle could change this class

    def __init__(self, items=()):
        super().__init__()
        for key, value in items:
            self[key] = value

    def __setitem__(self, key, value):
        if not isinstance(key, str | bytes):
            raise UserError(f"it is a pickle of a dict by {type(key).__name__}")
        super().__setitem__(key, value)


class _Unpickler(pickle._Unpickler):
    """The one in Python, which allots nothing because a number in the file says so."""

    def load_dict(self):
        items = self.pop_mark()
        self.append(_Dict(zip(items[::2], items[1::2], strict=True)))

    def load_empty_dict(self):
        self.append(_Dict())

    def load_bytearray(self):
        self.append(self.read(int.from_bytes(self.read(8), "little")))

    dispatch = {  # noqa: RUF012
        **pickle._Unpickler.dispatch,
        pickle.DICT[0]: load_dict,
        pickle.EMPTY_DICT[0]: load_empty_dict,
        pickle.BYTEARRAY8[0]: load_bytearray,
    }
    for _opcode in (pickle.FROZENSET, pickle.EMPTY_SET):
        del dispatch[_opcode[0]]

    def find_class(self, module: str, name: str):
        module = module.replace("numpy._core", "numpy.core")
        if (module, name) in _STAND_INS:
            return _STAND_INS[module, name]
        raise UserError(
            f"it is a pickle that would call {module}.{name}; only arrays and plain "
            "containers are taken, since others can run code"
        )


_STAND_INS = {
    ("numpy", "ndarray"): Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): lambda *_: Array(),
    ("numpy.core.numeric", "_frombuffer"): lambda *args: Array()._fill(*args),
    ("collections", "OrderedDict"): _Dict,
    # What pickles of protocol 2 call to make bytes.
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),
}

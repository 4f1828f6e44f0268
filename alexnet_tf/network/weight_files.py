"""The kinds of files that hold an AlexNet: from bytes to kernels in our layout.

A file's content tells its kind, never its name.
"""

import collections
import io
import json
import os
import pickle
import tempfile
import zipfile
from collections.abc import Mapping
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from alexnet_tf import files
from alexnet_tf.errors import UserError
from alexnet_tf.network import layers  # noqa: F401  (Keras loads ours by their names)
from alexnet_tf.recipes import LAYERS, RECIPES, Recipe, from_json

HEAD = LAYERS[-1]
_CAFFE = (RECIPES["bvlc"], RECIPES["caffenet"])  # their layers have the same shapes
_MAX_BYTES = 2**31  # AlexNet has a quarter of a gigabyte
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_HELP = (
    "give a .npy of Caffe's weights, or a run, a checkpoint or a .keras file of ours"
)


class Found(NamedTuple):
    """What a file holds.

    Attributes:
        kind: Of the file, for messages.
        layers: Arrays in our layout, by layer and "kernel", "bias" or "mean".
        names: What the file calls what it holds.
        recipes: See `PublishedWeights`.
        class_names: See `PublishedWeights`.
        width: See `PublishedWeights`.
    """

    kind: str
    layers: Mapping[str, Mapping[str, np.ndarray]]
    names: list[str]
    recipes: tuple[Recipe, ...] = ()
    class_names: tuple[str, ...] | None = None
    width: float | None = None


def read_file(path: str) -> Found:
    """Reads what a file, a run or a checkpoint holds.

    Raises:
        UserError: If it is not there, damaged, or of none of the kinds.
    """
    gfile = tf.io.gfile
    try:
        if gfile.isdir(path):
            return _read_run(path)
        if gfile.exists(f"{path}.index"):
            return _read_checkpoint(path)
        if not gfile.exists(path):
            raise UserError(f"there are no weights {path}: {_HELP}")
        if gfile.stat(path).length > _MAX_BYTES:
            raise UserError(f"{path} is larger than any AlexNet: {_HELP}")
        with gfile.GFile(path, "rb") as file:
            return _read(path, file.read())
    except UserError:
        raise
    except Exception as error:  # readers raise all sorts of things on bad bytes
        line = files.explain(error) or " ".join(f"{error}".split())[:200]
        raise UserError(
            f"{path} is damaged, cut off or no file of weights "
            f"({line or type(error).__name__}): get it again, or {_HELP}"
        ) from None


def _read(path: str, content: bytes) -> Found:
    """Reads a file by what its first bytes say."""
    if content.startswith(b"\x93NUMPY"):
        return _read_npy(content)
    if content.startswith(b"\x80"):
        return _from_dict("a pickle", _SafeUnpickler(io.BytesIO(content)).load())
    if zipfile.is_zipfile(io.BytesIO(content)):
        return _read_zip(content)
    raise UserError(f"{path} holds {_describe(content)}: {_HELP}")


def _describe(content: bytes) -> str:
    """What a file is that holds no weights."""
    start = content[:1024].lstrip().lower()
    if not content:
        return "nothing, it is empty"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself (git lfs pull gets it)"
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return "a web page, not the file itself (see what the link leads to)"
    if content.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!")):
        return "an archive or compressed file (unpack it first)"
    if content.startswith(b"\x89HDF"):
        return "HDF5, of which nothing tells whose network it is"
    return f"nothing that is known (it begins with {content[:16]!r})"


# NumPy.


class _SafeUnpickler(pickle.Unpickler):
    """Makes NumPy arrays and plain containers; nothing in a file can run code."""

    def __init__(self, file):
        super().__init__(file, encoding="latin1")  # what Python 2 wrote

    def find_class(self, module: str, name: str):
        module = module.replace("numpy._core", "numpy.core")
        if (module, name) in _HARMLESS:
            return _HARMLESS[module, name]
        raise UserError(
            f"a pickle that would call {module}.{name}: only arrays and plain "
            "containers are taken, since others can run code; give another file"
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


def _read_npy(content: bytes) -> Found:
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, _, dtype = read_header(file)
    if not dtype.hasobject:
        raise UserError(
            f"an array of {dtype} {shape} instead of a dict of layers: {_HELP}"
        )
    value = _SafeUnpickler(file).load()
    return _from_dict("NumPy's pickle", value.item())


def _from_dict(kind: str, value: object) -> Found:
    """`{layer: [kernel, bias]}` or `{layer: {"weights": kernel, "biases": bias}}`."""
    if not isinstance(value, dict):
        raise UserError(f"{kind} of {type(value).__name__}, not a dict of layers")
    value = {_to_text(name): variables for name, variables in value.items()}
    found = {}
    for layer in LAYERS:
        variables = value.get(layer, {})
        if isinstance(variables, dict):
            variables = {_to_text(name): array for name, array in variables.items()}
            variables = [variables.get(name) for name in ("weights", "biases")]
        pairs = zip(("kernel", "bias"), variables, strict=False)
        found[layer] = {
            name: np.asarray(array) for name, array in pairs if array is not None
        }
    return Found(kind, found, list(value), _CAFFE)


def _to_text(name: object) -> str:
    return name.decode("latin1") if isinstance(name, bytes) else str(name)


# Ours.


def _read_run(directory: str) -> Found:
    checkpoints = os.path.join(directory, "checkpoints")
    if not (paths := files.list_checkpoints(checkpoints)):
        names = ", ".join(files.list_names(directory)[:8]) or "nothing"
        raise UserError(f"{directory} is no run with a checkpoint, it holds {names}")
    return _read_checkpoint(paths[0])


def _read_checkpoint(path: str) -> Found:
    """Reads a checkpoint, in which layers are numbered in the order of the network."""
    reader = tf.train.load_checkpoint(files.for_tensorflow(path))
    graph = TrackableObjectGraph.FromString(reader.get_tensor(_OBJECT_GRAPH))

    def children(node: int) -> dict[str, int]:
        return {child.local_name: child.node_id for child in graph.nodes[node].children}

    def variables(node: int) -> dict[str, np.ndarray]:
        names = {"kernel": "_kernel", "bias": "bias", "mean": "mean"}
        inside = children(node)
        return {
            name: reader.get_tensor(
                graph.nodes[inside[key]].attributes[0].checkpoint_key
            )
            for name, key in names.items()
            if key in inside
        }

    model = children(0).get("model")
    numbered = children(children(model)["_operations"]) if model else {}
    held = [variables(numbered[number]) for number in sorted(numbered, key=int)]
    names = ("input_normalization", *LAYERS)
    found = dict(zip(names, filter(None, held), strict=False))
    kind = f"checkpoint {os.path.basename(path)} of ours"
    return Found(kind, found, list(found), *_read_config_above(path))


def _read_config_above(checkpoint: str) -> tuple:
    """What the run that a checkpoint lies in says: recipes, class names, width."""
    directory = checkpoint
    for _ in range(3):  # checkpoints/ckpt-1 or checkpoints/best/ckpt-1
        directory = os.path.dirname(directory)
        config = os.path.join(directory, "config.json")
        if tf.io.gfile.exists(config):
            with tf.io.gfile.GFile(config) as file:
                values = json.load(file)
            recipe, class_names = values["recipe"], tuple(values["class_names"])
            return (from_json(Recipe, recipe),), class_names, values["width"]
    return (), None, None


def _read_zip(content: bytes) -> Found:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
    if "model.weights.h5" not in names:
        held = ", ".join(names[:8])
        raise UserError(f"a zip archive of {held or 'nothing'}, not of ours: {_HELP}")
    with tempfile.NamedTemporaryFile(suffix=".keras") as file:
        file.write(content)
        file.flush()
        model = keras.saving.load_model(file.name, compile=False)
    found = {
        layer.name: {v.name: v.numpy() for v in layer.weights}
        for layer in model.layers
        if layer.weights
    }
    recipe = RECIPES.get(model.name.removeprefix("alexnet_"))
    return Found("Keras model", found, list(found), (recipe,) if recipe else ())

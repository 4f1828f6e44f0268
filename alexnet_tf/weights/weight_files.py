"""The kinds of files that hold an AlexNet: from bytes to arrays in our layout.

A file's content tells its kind, never its name.
"""

import dataclasses
import hashlib
import io
import json
import os
import pickle
import tempfile
import zipfile

import keras
import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from alexnet_tf import files
from alexnet_tf.errors import UserError
from alexnet_tf.network import layers  # noqa: F401  (Keras loads ours by their names)
from alexnet_tf.paths import find_above, for_tensorflow, list_checkpoints, list_names
from alexnet_tf.recipes import LAYERS, RECIPES, Recipe
from alexnet_tf.settings import CONFIG_FILE, from_json
from alexnet_tf.weights.numpy_files import read_npy, read_pickle
from alexnet_tf.weights.protobuf_files import read_protobuf
from alexnet_tf.weights.weight_layout import Found, from_outputs_first

_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_MAX_BYTES = 2**31  # AlexNet has a quarter of a gigabyte
_HELP = (
    "give bvlc_alexnet.npy, a .caffemodel, an ONNX file, torchvision's .pth or "
    ".safetensors; or a run, a checkpoint or a .keras file of ours"
)
# Files as their publishers name their content: SHA-1 (the model's readme.md in
# BVLC/caffe) or SHA-256 (ONNX_HUB_MANIFEST.json in onnx/models; the first digits in the
# name of torchvision's file).
_KNOWN = {
    "9116a64c0fbe4459d18f4bb6b56d647b63920377": "BVLC AlexNet, iteration 360,000",
    "4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46": "BVLC CaffeNet, iteration 310,000",
    "d9c9134b90c760d4": "AlexNet of the ONNX model zoo, opset 7",
    "9a4dc22fd706a194": "AlexNet of the ONNX model zoo, opset 8",
    "ef3c82dad5c512f9": "AlexNet of the ONNX model zoo, opset 9",
    "6b0da9510f27f234": "AlexNet of the ONNX model zoo, opset 12",
    "a249fe5683aa6b51": "CaffeNet of the ONNX model zoo, opset 7",
    "82f8997778cd9c5e": "CaffeNet of the ONNX model zoo, opset 8",
    "802138332cf3e423": "CaffeNet of the ONNX model zoo, opset 9",
    "ea563e5c47d1f58e": "CaffeNet of the ONNX model zoo, opset 12",
    "7be5be79": "torchvision's AlexNet, IMAGENET1K_V1",
}


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
            raise UserError(f"it is not there; {_HELP}")
        content = files.read_whole(path, _MAX_BYTES)
        found = _read(content)
        known = _recognize(content)
        return found._replace(kind=": ".join(filter(None, (found.kind, known))))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # readers raise all sorts of things on bad bytes
        line = files.explain(error) or " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: it is damaged or cut off ({line or type(error).__name__}); "
            f"get it again, or {_HELP}"
        ) from None


def _recognize(content: bytes) -> str | None:
    """What its publisher calls exactly this file."""
    sums = hashlib.sha1(content).hexdigest(), hashlib.sha256(content).hexdigest()
    known = (
        name for start, name in _KNOWN.items() if any(s.startswith(start) for s in sums)
    )
    return next(known, None)


def _read(content: bytes) -> Found:
    """Reads a file by what its first bytes say."""
    if content.startswith(b"\x93NUMPY"):
        return read_npy(content)
    if content.startswith(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."):
        return _read_torch(content)
    if content.startswith(b"\x80"):
        return read_pickle(content)
    if zipfile.is_zipfile(io.BytesIO(content)):
        return _read_zip(content)
    if content[8:9] == b"{" and int.from_bytes(content[:8], "little") < len(content):
        return _read_safetensors(content)
    if what := _describe(content):
        raise UserError(f"it is {what}; {_HELP}")
    try:
        return read_protobuf(content)
    except DecodeError:
        raise UserError(
            f"it is cut off, damaged or nothing that is known (it begins with "
            f"{content[:16]!r}); get it again, or {_HELP}"
        ) from None


def _describe(content: bytes) -> str | None:
    """What a file is that is often found in the place of weights."""
    start = content[:1024].lstrip().lower()
    if not content:
        return "empty"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself (git lfs pull gets it)"
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "a web page, not the file itself (see what the link leads to)"
    if content.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!")):
        return "an archive or compressed (unpack it first)"
    if content.startswith(b"\x89HDF"):
        return "HDF5, in which nothing tells whose network it is"
    return None


# PyTorch.

_TORCHVISION = {
    "conv1": "features.0",
    "conv2": "features.3",
    "conv3": "features.6",
    "conv4": "features.8",
    "conv5": "features.10",
    "fc6": "classifier.1",
    "fc7": "classifier.4",
    "fc8": "classifier.6",
}
_SAFETENSORS_TYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(tf.bfloat16.as_numpy_dtype),
}


def _read_torch(content: bytes) -> Found:
    try:
        import torch
    except ImportError:
        raise UserError(
            "it is PyTorch's, which its own library reads: pip install torch here, or "
            "where it is installed convert the file with safetensors.torch.save_file("
            "torch.load(FILE, weights_only=True), 'alexnet.safetensors') and give that"
        ) from None
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            "it is damaged, or holds objects that could run code, such as a whole "
            "model: save its state_dict() alone"
        ) from None
    if not isinstance(state, dict):
        raise UserError(f"it is PyTorch's {type(state).__name__}, not a state_dict")
    tensors = {
        name: tensor.float().numpy()
        for name, tensor in state.items()
        if isinstance(tensor, torch.Tensor)
    }
    return _from_torchvision("PyTorch's dict", tensors)._replace(names=state)


def _read_safetensors(content: bytes) -> Found:
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        if dtype := _SAFETENSORS_TYPES.get(entry["dtype"]):
            begin, end = entry["data_offsets"]
            values = np.frombuffer(content[start + begin : start + end], dtype)
            tensors[name] = values.reshape(entry["shape"])
    return _from_torchvision("safetensors", tensors)


def _from_torchvision(kind: str, tensors: dict[str, np.ndarray]) -> Found:
    pairs = {
        layer: (f"{name}.weight", f"{name}.bias")
        for layer, name in _TORCHVISION.items()
    }
    found = {
        layer: tuple(tensors[name] for name in names)
        for layer, names in pairs.items()
        if set(names) <= set(tensors)
    }
    recipes = (RECIPES["torchvision"],)
    return Found(kind, from_outputs_first(found), tensors, recipes)


# Ours.


def _read_run(directory: str) -> Found:
    checkpoints = os.path.join(directory, "checkpoints")
    if not (paths := list_checkpoints(checkpoints)):
        names = ", ".join(list_names(directory)[:8]) or "nothing"
        raise UserError(f"it is no run that has a checkpoint; it holds {names}")
    return _read_checkpoint(paths[0])


def _read_checkpoint(path: str) -> Found:
    """Reads a checkpoint, in which layers are numbered in the order of the network."""
    reader = tf.train.load_checkpoint(for_tensorflow(path))
    if not reader.has_tensor(_OBJECT_GRAPH):
        raise UserError("it is a checkpoint of TensorFlow 1, not of this program")
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
    """What the run that a checkpoint lies in says: recipes, class names."""
    if not (directory := find_above(checkpoint, CONFIG_FILE)):
        return (), None
    with tf.io.gfile.GFile(os.path.join(directory, CONFIG_FILE)) as file:
        values = json.load(file)
    recipe, class_names = values["recipe"], tuple(values["class_names"])
    return (from_json(Recipe, recipe),), class_names


def _read_zip(content: bytes) -> Found:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        if sum(entry.file_size for entry in archive.infolist()) > _MAX_BYTES:
            raise UserError(f"it unpacks to more than any AlexNet; {_HELP}")
    if any(name.endswith("/data.pkl") for name in names):
        return _read_torch(content)
    if "model.weights.h5" not in names:
        held = ", ".join(names[:8]) or "nothing"
        raise UserError(f"it is a zip archive of {held}; {_HELP}")
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
    is_whole = recipe and {*LAYERS} <= {*found}
    recipes = (_as_in_layers(recipe, model),) if is_whole else ()
    return Found("Keras model", found, list(found), recipes)


def _as_in_layers(recipe: Recipe, model: keras.Model) -> Recipe:
    """A recipe with what was changed of it when a network was made: its layers tell."""
    parts = {layer.name: layer for layer in model.layers}
    places = {name: place for place, name in enumerate(parts)}
    pixels, dropout = parts["input_normalization"], parts["dropout7"]
    found = {
        "image_size": model.input_shape[1],
        "groups": parts["conv2"].groups,
        "conv1_padding": parts["pad1"].padding[0],
        "activation": parts["fc7"].activation.__name__,
        "lrn": "lrn1" in parts,
        "lrn1_before_relu": "relu1" in parts,
        "spatial_normalization": "spatial_norm2" in parts,
        "pool_size": parts["pool1"].pool_size[0],
        "dropout": "inverted" if dropout.scale_in_training else "mask",
        "dropout_rate": dropout.rate,
        "dropout_before": places["dropout7"] < places["fc7"],
        "mean": "image" if pixels.per_pixel else "color",
        "input_stddev": pixels.stddev,
        "bgr": pixels.reverse_channels,
    }
    if lrn := parts.get("lrn1"):
        found |= {
            "lrn_depth_radius": lrn.depth_radius,
            "lrn_bias": lrn.bias,
            "lrn_alpha": lrn.alpha,
            "lrn_beta": lrn.beta,
            "lrn_after_pool": places["pool1"] < places["lrn1"],
        }
        if found["groups"] > 1:  # one tower is normalised as a whole in any case
            found["lrn_within_towers"] = lrn.groups > 1
    return dataclasses.replace(recipe, **found)

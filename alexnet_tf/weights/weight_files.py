"""The kinds of files that hold an AlexNet: from any of them to arrays in our layout.

A file's content tells its kind, never its name.
"""

import dataclasses
import io
import os
import zipfile
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from alexnet_tf import files
from alexnet_tf.errors import UserError
from alexnet_tf.recipes import LAYERS, Recipe
from alexnet_tf.run import Run, run_of
from alexnet_tf.weights.caffe_files import read_caffe
from alexnet_tf.weights.description import find_difference
from alexnet_tf.weights.downloads import find_file, recognize
from alexnet_tf.weights.keras_files import read_keras, read_weights_h5
from alexnet_tf.weights.numpy_files import read_npy, read_pickle
from alexnet_tf.weights.onnx_files import read_onnx
from alexnet_tf.weights.published import PublishedWeights
from alexnet_tf.weights.torch_files import read_safetensors, read_torch

_MAX_BYTES = 2**31  # AlexNet has a quarter of a gigabyte
_MAX_RATIO = 20  # to which a file may unpack; numbers hardly do
_MAX_MESSAGE = 500  # characters: names in a file may have any length
_TORCH_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_HELP = (
    "give bvlc_alexnet.npy, a .caffemodel, an ONNX file, torchvision's .pth or "
    ".safetensors; or a run, a checkpoint or a .keras file of ours"
)


def read_weights(path: str) -> PublishedWeights:
    """Reads weights; what kind of file it is, its content tells.

    Args:
        path: A name in `DOWNLOADS`; the path of a pickled dict of `[kernel, bias]` by
            layer (`bvlc_alexnet.npy`), a `.caffemodel`, an ONNX file, PyTorch's `.pth`
            or `.safetensors` with torchvision's names; or, of ours, of a run, a
            checkpoint without its `.index`, a `.keras` or a `.weights.h5` file.

    Returns:
        The weights of the five convolutions at least.

    Raises:
        UserError: If the file is not there, is of no such kind, is damaged, or holds
            anything that is not understood.
    """
    path = find_file(path)
    run = run_of(path)
    try:
        return _check(_read_run(*run) if run else _read_file(path), path)
    except UserError as error:
        message = " ".join(str(error).split())
        raise UserError(f"{path}: {message[:_MAX_MESSAGE]}") from None


def _read_run(run: Run, checkpoint: str) -> PublishedWeights:
    model, config, path = run.load_model(checkpoint)
    layers = {
        layer.name: {v.name: v.numpy() for v in layer.weights}
        for layer in model.layers
        if layer.weights
    }
    kind, names = f"checkpoint {os.path.basename(path)} of ours", config.class_names
    return PublishedWeights(kind, layers, (config.recipe,), class_names=names)


def _read_file(path: str) -> PublishedWeights:
    try:
        content = files.read_whole(path, _MAX_BYTES)
    except UserError as error:
        raise UserError(f"it cannot be read ({error}); {_HELP}") from None
    try:
        weights = _read(content, os.path.dirname(path))
    except UserError:
        raise
    except Exception as error:  # readers raise all sorts of things on bad bytes
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"it is damaged or cut off ({reason}); get it again, or {_HELP}"
        ) from None
    if name := recognize(content):
        source = f"{weights.source}, published as {name}"
        weights = dataclasses.replace(weights, source=source)
    return weights


def _read(content: bytes, folder: str) -> PublishedWeights:
    """Reads a file by what its first bytes say."""
    if what := _describe(content[:1024]):
        raise UserError(f"it is {what}; {_HELP}")
    if zipfile.is_zipfile(io.BytesIO(content)):
        return _read_zip(content)
    if content.startswith(_TORCH_MAGIC):
        return read_torch(content)
    if content.startswith(b"\x89HDF"):
        return read_weights_h5(content)
    if content[8:9] == b"{" and int.from_bytes(content[:8], "little") < len(content):
        return read_safetensors(content)
    if content.startswith(b"\x93NUMPY"):
        return read_npy(content)
    if content.startswith(b"\x80"):
        return read_pickle(content)
    try:
        if content[:1] == b"\x08":  # ONNX begins with its version, Caffe with a name
            return read_onnx(content, folder)
        return read_caffe(content)
    except DecodeError:
        raise UserError(
            f"it is cut off, damaged or nothing that is known; get it again, or {_HELP}"
        ) from None


def _describe(start: bytes) -> str | None:
    """What a file is that is often found in the place of weights."""
    text = start.lstrip().lower()
    if not start:
        return "empty"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself (git lfs pull gets it)"
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "a web page, not the file itself (see what the link leads to)"
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!")):
        return "an archive or compressed (unpack it first)"
    if start.startswith(b"MATLAB 5.0"):
        return "a .mat file of MATLAB, as MatConvNet has it"
    if start[4:8] == b"TFL3":
        return "a network of LiteRT"
    if start.startswith(b"\x12\x01\x00\x00\x00\x00\x00\x00"):
        return "a .params file of MXNet"
    return None


def _read_zip(content: bytes) -> PublishedWeights:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > min(_MAX_BYTES, _MAX_RATIO * len(content)):
            raise UserError(f"it unpacks to more than an AlexNet can; {_HELP}")
        if "model.weights.h5" in names:
            return read_keras(archive)
    if any("/code/" in name for name in names):
        raise UserError(
            "it is TorchScript, a program: where it was made save the state_dict() of "
            "the network instead"
        )
    if any(name.endswith("/data.pkl") for name in names):
        return read_torch(content)
    held = ", ".join(names[:8]) or "nothing"
    raise UserError(f"it is a zip archive of {held}; {_HELP}")


def _check(weights: PublishedWeights, path: str) -> PublishedWeights:
    """Weights whose arrays are float32 and those of an AlexNet, without a gap."""
    layers = {
        layer: {name: _to_float32(x, f"{layer}'s {name}") for name, x in arrays.items()}
        for layer, arrays in weights.layers.items()
    }
    number = max((i + 1 for i, x in enumerate(LAYERS) if x in layers), default=0)
    for layer in LAYERS[: max(number, 5)]:
        if layer not in layers:
            held = ", ".join(layers) or "no layer that is known"
            raise UserError(f"{layer} is missing in {weights.source} that holds {held}")
        kernel, bias = (layers[layer][name].shape for name in ("kernel", "bias"))
        if bias != kernel[-1:] or len(bias) != 1 or 0 in kernel:
            raise UserError(
                f"{layer}'s kernel has the shape {kernel}, its bias {bias}: the file "
                "is damaged, or of another network; give another"
            )
    kernel = layers["conv1"]["kernel"]
    if kernel.ndim == 4 and kernel.shape[2] != 3:
        raise UserError(
            f"conv1 reads {kernel.shape[2]} channel(s), the network three (RGB): "
            "repeat a kernel for grey as np.repeat(kernel, 3, axis=2) / 3"
        )
    recipes = tuple(_with_width(recipe, layers) for recipe in weights.recipes)
    source = f"{path} ({weights.source})"
    return dataclasses.replace(weights, source=source, layers=layers, recipes=recipes)


def _to_float32(values: np.ndarray | list, what: str) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype.kind in "iu":
        raise UserError(
            f"{what} holds whole numbers ({values.dtype}), as quantised networks do, "
            "without what scales them: give the network before it was quantised"
        )
    if values.dtype.kind != "f" and values.dtype != tf.bfloat16.as_numpy_dtype:
        raise UserError(
            f"{what} holds no numbers but {values.dtype}: give another file"
        )
    with np.errstate(over="ignore"):  # what is then not finite is refused
        values = np.ascontiguousarray(values, np.float32)
    if not np.isfinite(values).all():
        raise UserError(
            f"{what} holds values that are not finite: its training had failed, or "
            "the file is damaged; give another"
        )
    return values


def _with_width(recipe: Recipe, layers: Mapping) -> Recipe:
    """A recipe of another one's file at the width that the layers have."""
    if recipe.width != 1:  # ours, which says it
        return recipe
    # Channels are whole numbers, so that not each of them tells the width exactly.
    full = dict(zip(LAYERS, (*recipe.filters, 4096, 4096), strict=False))
    widths = [len(layers[x]["bias"]) / full[x] for x in full if x in layers]
    recipes = [
        dataclasses.replace(recipe, width=min(max(width, 1e-3), 4.0))
        for width in widths[::-1]
    ]
    fitting = (recipe for recipe in recipes if not find_difference(recipe, layers))
    return next(fitting, recipes[0])

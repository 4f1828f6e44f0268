"""The kinds of files that hold an AlexNet: from a file to arrays in our layout.

A file's content tells its kind, never its name.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator

import tensorflow as tf
from google.protobuf.message import DecodeError

from alexnet_tf import files
from alexnet_tf.errors import UserError
from alexnet_tf.paths import is_remote
from alexnet_tf.weights.caffe_files import read_caffe
from alexnet_tf.weights.keras_files import read_keras, read_weights_h5
from alexnet_tf.weights.numpy_files import read_npy, read_pickle
from alexnet_tf.weights.onnx_files import read_onnx
from alexnet_tf.weights.torch_files import read_safetensors, read_torch
from alexnet_tf.weights.weight_layout import Found

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
    """Reads what a file holds.

    Raises:
        UserError: If it is not there, damaged, or of none of the kinds.
    """
    try:
        with _local(path) as local:
            found = _read(local)
            known = _recognize(local)
        return found._replace(kind=": ".join(filter(None, (found.kind, known))))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # readers raise all sorts of things on bad bytes
        line = files.explain(error) or " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: it is damaged or cut off ({line or type(error).__name__}); "
            f"get it again, or {_HELP}"
        ) from None


@contextlib.contextmanager
def _local(path: str) -> Iterator[str]:
    """The file itself, or a copy of a remote one."""
    if not tf.io.gfile.exists(path):
        raise UserError(f"it is not there; {_HELP}")
    if tf.io.gfile.stat(path).length > _MAX_BYTES:
        raise UserError(f"it is larger than any AlexNet; {_HELP}")
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, "weights")
        with tf.io.gfile.GFile(path, "rb") as remote, open(copy, "wb") as file:
            shutil.copyfileobj(remote, file)
        yield copy


def _recognize(path: str) -> str | None:
    """What its publisher calls exactly this file."""
    sums = []
    for algorithm in ("sha1", "sha256"):
        with open(path, "rb") as file:
            sums.append(hashlib.file_digest(file, algorithm).hexdigest())
    known = (
        name for start, name in _KNOWN.items() if any(s.startswith(start) for s in sums)
    )
    return next(known, None)


def _read(path: str) -> Found:
    """Reads a file by what its first bytes say."""
    with open(path, "rb") as file:
        start = file.read(1024)
    if zipfile.is_zipfile(path):
        return _read_zip(path)
    if start.startswith(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."):
        return read_torch(path)
    if start.startswith(b"\x89HDF"):
        return read_weights_h5(path)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < os.path.getsize(
        path
    ):
        return read_safetensors(path)
    if what := _describe(start):
        raise UserError(f"it is {what}; {_HELP}")
    content = files.read_whole(path, _MAX_BYTES)
    if start.startswith(b"\x93NUMPY"):
        return read_npy(content)
    if start.startswith(b"\x80"):
        return read_pickle(content)
    try:
        if start[:1] == b"\x08":  # ONNX begins with its version, Caffe with a name
            return read_onnx(path)
        return read_caffe(content)
    except DecodeError:
        raise UserError(
            f"it is cut off, damaged or nothing that is known (it begins with "
            f"{content[:16]!r}); get it again, or {_HELP}"
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


def _read_zip(path: str) -> Found:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if sum(entry.file_size for entry in archive.infolist()) > _MAX_BYTES:
            raise UserError(f"it unpacks to more than any AlexNet; {_HELP}")
    if any(name.endswith("/data.pkl") for name in names):
        return read_torch(path)
    if "model.weights.h5" in names:
        return read_keras(path)
    held = ", ".join(names[:8]) or "nothing"
    raise UserError(f"it is a zip archive of {held}; {_HELP}")

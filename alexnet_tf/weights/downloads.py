"""Published weights by name: fetched once from their publishers, and checked."""

import hashlib
import importlib.util
import os

import keras

from alexnet_tf.errors import UserError

# By name: where the file is, and how its publisher knows it: the SHA-1 of the model's
# readme.md in BVLC/caffe; the first digits of the SHA-256, in torchvision's file name.
DOWNLOADS = {
    "bvlc": (
        "http://dl.caffe.berkeleyvision.org/bvlc_alexnet.caffemodel",
        "9116a64c0fbe4459d18f4bb6b56d647b63920377",
    ),
    "caffenet": (
        "http://dl.caffe.berkeleyvision.org/bvlc_reference_caffenet.caffemodel",
        "4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46",
    ),
    "torchvision": (
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        "7be5be79",
    ),
}


def recognize(content: bytes) -> str | None:
    """The name in `DOWNLOADS` of exactly this file; None for any other."""
    sums = [make(content).hexdigest() for make in (hashlib.sha1, hashlib.sha256)]
    for name, (_, digest) in DOWNLOADS.items():
        if any(total.startswith(digest) for total in sums):
            return name
    return None


def find_file(path: str) -> str:
    """The file that a path or a name in `DOWNLOADS` means.

    Args:
        path: A name, whose file is fetched if Keras' cache does not hold it; any other
            path is returned as it is.

    Raises:
        UserError: If it cannot be fetched, or is another file than its publisher's.
    """
    if path not in DOWNLOADS:
        return path
    url, digest = DOWNLOADS[path]
    name = os.path.basename(url)
    if name.endswith(".pth") and not importlib.util.find_spec("torch"):
        raise UserError(f"{path}'s weights are PyTorch's: pip install torch first")
    folder = os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")
    try:
        file = keras.utils.get_file(name, url, cache_dir=folder, cache_subdir="models")
    except Exception as error:  # `get_file` raises all sorts of things
        reason = " ".join(str(error).split())
        raise UserError(
            f"{reason}: get {url} by another way and put it at "
            f"{os.path.join(folder, 'models', name)}"
        ) from None
    with open(file, "rb") as content:
        if recognize(content.read()) != path:
            raise UserError(
                f"{file} is not what {url} holds, whose SHA begins with {digest}: "
                "remove it, and it is fetched again"
            )
    return file

"""Mosaics: kernels and maps beside each other, as uint8 pixels; names that fit.

What needs axes is in `figures.py`. To lay out pixels with NumPy is many times faster,
and training draws these at every validation.
"""

import io
import textwrap

import keras
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from alexnet_tf.errors import escape

_DPI = 220  # of a figure; two pixels for each of the page's
_MAPS, _KERNELS, _UNITS = 64, 16, 256  # of a layer, at most, that are drawn


def encode_png(figure: Figure | np.ndarray, software: str = "alexnet_tf") -> bytes:
    """Encodes a figure, or uint8 pixels.

    Args:
        figure: What to draw.
        software: Name of the program that writes a figure; the file holds it.
    """
    file = io.BytesIO()
    if isinstance(figure, np.ndarray):
        Image.fromarray(figure).save(file, "PNG")
    else:
        metadata = {"Software": software}
        figure.savefig(file, format="png", dpi=_DPI, metadata=metadata)
    return file.getvalue()


def lay_out(images: np.ndarray, columns: int, space: int = 2) -> np.ndarray:
    """Lays images out in rows on white.

    Args:
        images: uint8 `(n, height, width, channels)`.
        columns: Images in a row, where there are so many.
        space: Pixels around each.

    Returns:
        uint8 `(height, width, channels)`.
    """
    columns = min(columns, len(images))  # no empty ones
    missing = -len(images) % columns
    edges = [(0, missing), (space, space), (space, space), (0, 0)]
    images = np.pad(images, edges, constant_values=255)
    images = images.reshape(-1, columns, *images.shape[1:]).swapaxes(1, 2)
    return images.reshape(images.shape[0] * images.shape[1], -1, images.shape[-1])


def draw_kernels(kernel: np.ndarray, towers: int = 1, scale: int = 3) -> np.ndarray:
    """The kernels of a convolution, the towers apart: Figure 3 of the paper.

    Args:
        kernel: float `(height, width, channels, filters)`. Three channels are drawn as
            RGB; of others a row holds the first filters on one channel.
        towers: In how many blocks of rows.
        scale: Pixels for each of a kernel's.

    Returns:
        uint8 `(height, width, 3)`; each kernel has its own range, 0 is grey.
    """
    kernel = np.moveaxis(np.asarray(kernel, np.float32), -1, 0)
    columns = _KERNELS
    if kernel.shape[-1] != 3:
        kernel = np.moveaxis(kernel[:_KERNELS, ..., :_KERNELS], -1, 0)
        columns = kernel.shape[1]  # the filters on a channel
        kernel = kernel.reshape(-1, *kernel.shape[2:], 1).repeat(3, axis=-1)
    largest = np.abs(kernel).max(axis=(1, 2, 3), keepdims=True)
    pixels = np.uint8(np.round(127.5 + 127.5 * kernel / np.maximum(largest, 1e-12)))
    pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    blocks = [lay_out(tower, columns) for tower in np.array_split(pixels, towers)]
    gap = np.full((8, blocks[0].shape[1], 3), 255, np.uint8)
    rows = [part for block in blocks for part in (block, gap)]
    return np.concatenate(rows[:-1])


def draw_layer(
    model: keras.Model, name: str, image: np.ndarray | None = None
) -> np.ndarray:
    """Draws the kernels of a layer, or what the layer makes of a picture.

    Example:
    >>> keras.utils.array_to_img(alexnet_tf.draw_layer(model, "conv2", picture))

    Args:
        model: A network from `alexnet`.
        name: Name of the layer: "conv1" … "conv5", "fc6" …; with a picture any layer.
        image: RGB 0..255 `(size, size, 3)`, as the model takes it; None for kernels.

    Returns:
        uint8 `(height, width, 3)`. Of kernels: see `draw_kernels`; those of conv1 are
        for RGB also where the network turns the pixels to BGR. Of fully connected
        layers a part of the matrix, 0 is grey. Of a picture: the first maps, or the
        values of all units in rows of 64; white is the layer's largest value.
    """
    layer = model.get_layer(name)
    if image is not None:
        values = keras.Model(model.inputs[0], layer.output)(image[np.newaxis])[0]
        return _draw_outputs(np.float32(values))
    kernel, towers = layer.kernel.numpy(), 1
    if kernel.ndim == 2:
        kernel = kernel[:_UNITS, :_UNITS, np.newaxis, np.newaxis]
        return draw_kernels(kernel, scale=2)
    if name == "conv1":
        towers = model.get_layer("conv2").groups
        if model.get_layer("input_normalization").reverse_channels:
            kernel = kernel[:, :, ::-1]
    return draw_kernels(kernel, towers, scale=max(3, 15 // kernel.shape[0]))


def _draw_outputs(values: np.ndarray) -> np.ndarray:
    """The maps of a layer `(height, width, channels)`, or its units `(units,)`."""
    shares = np.maximum(values, 0) / max(values.max(), 1e-12)
    pixels = np.uint8(np.round(255 * shares))
    if pixels.ndim == 1:
        tiles, columns, scale = pixels[:, np.newaxis, np.newaxis], 64, 8
    else:
        tiles, columns = np.moveaxis(pixels[..., :_MAPS], -1, 0), 8
        scale = max(1, 56 // tiles.shape[1])
    tiles = tiles.repeat(scale, axis=1).repeat(scale, axis=2)[..., np.newaxis]
    return lay_out(tiles, columns).repeat(3, axis=2)


def shorten(name: str, length: int = 32) -> str:
    """The first of a class's names, cut to `length` letters."""
    return cut(name.split(",")[0], length)


def cut(name: str, length: int) -> str:
    """A name of at most so many letters."""
    name = escape(name)
    return name if len(name) <= length else name[: length - 1] + "…"


def wrap(name: str, width: int) -> str:
    """The first of a class's names in at most two lines of so many letters."""
    lines = textwrap.wrap(shorten(name, 2 * width), width) or [""]
    rest = " ".join(lines[1:])
    return "\n".join([lines[0], shorten(rest, width)] if rest else lines)

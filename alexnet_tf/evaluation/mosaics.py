"""Mosaics: pictures beside each other, as uint8 pixels.

What needs axes is in `figures.py`. Drawing pixels with NumPy and Pillow is many times
faster than with matplotlib, and training draws some of these at every validation.
"""

import io
import os
import textwrap
from collections.abc import Sequence

import keras
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from alexnet_tf.files import shown

_DPI = 220  # of a figure; two pixels for each of the page's
# Blue and orange, which people with any kind of colour vision tell apart.
RIGHT, WRONG = "#0072b2", "#d55e00"
_FONT = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
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
        columns: Images in a row.
        space: Pixels around each.

    Returns:
        uint8 `(height, width, channels)`.
    """
    missing = -len(images) % columns
    edges = [(0, missing), (space, space), (space, space), (0, 0)]
    images = np.pad(images, edges, constant_values=255)
    images = images.reshape(-1, columns, *images.shape[1:]).swapaxes(1, 2)
    return images.reshape(images.shape[0] * images.shape[1], -1, images.shape[-1])


def lay_beside(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """A row for each image: the image, and to its right those that belong to it.

    Args:
        images: uint8 `(n, size, size, 3)`.
        others: uint8 `(n, k, size, size, 3)`.

    Returns:
        uint8 `(height, width, 3)`.
    """
    rows = np.concatenate([images[:, np.newaxis], others], axis=1)
    return lay_out(rows.reshape(-1, *rows.shape[2:]), columns=rows.shape[1])


def lay_after(
    image: np.ndarray, others: np.ndarray, is_right: Sequence[bool]
) -> np.ndarray:
    """A row of pictures of half the size, each with its frame, after a large one.

    Args:
        image: uint8 `(size, size, 3)`, the large one.
        others: uint8 `(k, size, size, 3)`.
        is_right: See `frame`; of each of the others.

    Returns:
        uint8 `(height, width, 3)`.
    """
    small = [frame(x, r) for x, r in zip(halve(others), is_right, strict=True)]
    row = lay_out(np.stack(small), columns=len(small), space=4)
    above = image.shape[0] - row.shape[0]
    edges = [(above // 2, above - above // 2), (12, 0), (0, 0)]
    return np.concatenate([image, np.pad(row, edges, constant_values=255)], axis=1)


def lay_out_captioned(
    images: np.ndarray,
    captions: Sequence[str],
    columns: int = 4,
    is_right: Sequence[bool | None] = (),
) -> np.ndarray:
    """Lays images out in rows with text below each; far faster than matplotlib.

    Args:
        images: uint8 `(n, height, width, 3)`.
        captions: One for each, of at most two lines.
        columns: Images in a row.
        is_right: See `frame`; None for no frame.

    Returns:
        uint8 `(height, width, 3)`.
    """
    height, width = images.shape[1:3]
    font = ImageFont.truetype(_FONT, size=max(12, width // 10))
    lines = 1 + max((caption.count("\n") for caption in captions), default=0)
    below = 4 + lines * (font.size + 4)
    tiles = []
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        if i < len(is_right) and is_right[i] is not None:
            image = frame(image, is_right[i])
        edges = [(0, below), (0, 0), (0, 0)]
        tile = Image.fromarray(np.pad(image, edges, constant_values=255))
        ImageDraw.Draw(tile).text((3, height + 1), caption, "black", font, spacing=2)
        tiles.append(np.asarray(tile))
    return lay_out(np.stack(tiles), columns, space=4)


def frame(image: np.ndarray, is_right: bool) -> np.ndarray:
    """A picture in a whole blue frame, or else in a broken orange one.

    The frames differ in form, so that no colour is needed to tell them apart.
    """
    height, width = image.shape[:2]
    thick = max(3, width // 40)
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    border = (0, 0, width - 1, height - 1)
    draw.rectangle(border, outline=RIGHT if is_right else WRONG, width=thick)
    if not is_right:
        for start in range(6 * thick, max(width, height), 8 * thick):
            gap = start, start + 2 * thick
            for y in (0, height - thick):
                draw.rectangle((gap[0], y, gap[1], y + thick - 1), fill="white")
            for x in (0, width - thick):
                draw.rectangle((x, gap[0], x + thick - 1, gap[1]), fill="white")
    return np.asarray(picture)


def halve(images: np.ndarray) -> np.ndarray:
    """Pictures of half the height and width, uint8 `(n, height, width, 3)`."""
    n, height, width, _ = images.shape
    even = images[:, : height // 2 * 2, : width // 2 * 2]
    blocks = even.reshape(n, height // 2, 2, width // 2, 2, 3)
    return np.uint8(np.round(blocks.mean(axis=(2, 4))))


def find_kernels(model: keras.Model) -> tuple[np.ndarray, int]:
    """The kernels of the first layer and the number of towers.

    Returns:
        float32 `(height, width, 3, filters)`, for pixels in RGB also where the network
        turns them to BGR; 1 or 2.
    """
    kernel = model.get_layer("conv1").kernel.numpy()
    if model.get_layer("input_normalization").reverse_channels:
        kernel = kernel[:, :, ::-1]
    return kernel, model.get_layer("conv2").groups


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
    if kernel.shape[-1] != 3:
        kernel = np.moveaxis(kernel[:_KERNELS, ..., :_KERNELS], -1, 0)
        kernel = kernel.reshape(-1, *kernel.shape[2:], 1).repeat(3, axis=-1)
    largest = np.abs(kernel).max(axis=(1, 2, 3), keepdims=True)
    pixels = np.uint8(np.round(127.5 + 127.5 * kernel / np.maximum(largest, 1e-12)))
    pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    blocks = [lay_out(tower, columns=16) for tower in np.array_split(pixels, towers)]
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
        uint8 `(height, width, 3)`. Of kernels: see `draw_kernels`; of fully connected
        layers a part of the matrix, 0 is grey. Of a picture: the first maps, or the
        values of all units in rows of 64; white is the layer's largest value.
    """
    layer = model.get_layer(name)
    if image is not None:
        values = keras.Model(model.inputs[0], layer.output)(image[np.newaxis])[0]
        values = np.maximum(np.float32(values), 0)
        pixels = np.uint8(np.round(255 * values / max(values.max(), 1e-12)))
        if pixels.ndim == 3:
            maps = np.moveaxis(pixels[..., :_MAPS], -1, 0)[..., np.newaxis]
            scale = max(1, 56 // maps.shape[1])
            maps = maps.repeat(scale, axis=1).repeat(scale, axis=2)
            return lay_out(maps, columns=8).repeat(3, axis=2)
        pixels = np.pad(pixels, (0, -len(pixels) % 64)).reshape(-1, 64)
        return pixels.repeat(4, 0).repeat(4, 1)[..., np.newaxis].repeat(3, axis=2)
    if name == "conv1":
        return draw_kernels(*find_kernels(model))
    kernel = layer.kernel.numpy()
    if kernel.ndim == 2:
        kernel = kernel[:_UNITS, :_UNITS, np.newaxis, np.newaxis]
        return draw_kernels(kernel, scale=2)
    return draw_kernels(kernel, scale=max(3, 15 // kernel.shape[0]))


def shorten(name: str, length: int = 32) -> str:
    """The first of a class's names, cut to `length` letters."""
    return cut(name.split(",")[0], length)


def cut(name: str, length: int) -> str:
    """A name of at most so many letters."""
    name = shown(name)
    return name if len(name) <= length else name[: length - 1] + "…"


def wrap(name: str, width: int) -> str:
    """The first of a class's names in at most two lines of so many letters."""
    lines = textwrap.wrap(shorten(name, 2 * width), width) or [""]
    rest = " ".join(lines[1:])
    return "\n".join([lines[0], shorten(rest, width)] if rest else lines)

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

from alexnet_tf.evaluation.results import printable

_DPI = 220  # of a figure; two pixels for each of the page's
# Blue and orange, which people with any kind of colour vision tell apart.
RIGHT, WRONG = "#0072b2", "#d55e00"
_FONT = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


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


def draw_kernels(kernel: np.ndarray, towers: int, scale: int = 3) -> np.ndarray:
    """The kernels of the first layer, the towers apart: Figure 3 of the paper.

    Args:
        kernel: float `(height, width, 3, filters)`.
        towers: In how many blocks of rows.
        scale: Pixels for each of a kernel's.

    Returns:
        uint8 `(height, width, 3)`; each kernel has its own range, 0 is grey.
    """
    kernel = np.moveaxis(np.asarray(kernel, np.float32), -1, 0)
    largest = np.abs(kernel).max(axis=(1, 2, 3), keepdims=True)
    pixels = np.uint8(np.round(127.5 + 127.5 * kernel / np.maximum(largest, 1e-12)))
    pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    blocks = [lay_out(tower, columns=16) for tower in np.array_split(pixels, towers)]
    gap = np.full((8, blocks[0].shape[1], 3), 255, np.uint8)
    rows = [part for block in blocks for part in (block, gap)]
    return np.concatenate(rows[:-1])


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
        is_right: For each whether it gets a whole blue frame, or (False) a broken
            orange one; None for no frame.

    Returns:
        uint8 `(height, width, 3)`.
    """
    height, width = images.shape[1:3]
    font = ImageFont.truetype(_FONT, size=max(12, width // 10))
    lines = 1 + max((caption.count("\n") for caption in captions), default=0)
    below = 4 + lines * (font.size + 4)
    tiles = []
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        edges = [(0, below), (0, 0), (0, 0)]
        tile = Image.fromarray(np.pad(image, edges, constant_values=255))
        draw = ImageDraw.Draw(tile)
        draw.text((3, height + 1), caption, "black", font, spacing=2)
        if i < len(is_right) and is_right[i] is not None:
            _frame(draw, (width, height), is_right[i])
        tiles.append(np.asarray(tile))
    return lay_out(np.stack(tiles), columns, space=4)


def _frame(draw: ImageDraw.ImageDraw, size: tuple[int, int], is_right: bool) -> None:
    """A whole frame or a broken one, so that no colour is needed to tell them apart."""
    width, height = size
    thick = max(3, width // 40)
    draw.rectangle(
        (0, 0, width - 1, height - 1),
        outline=RIGHT if is_right else WRONG,
        width=thick,
    )
    if not is_right:
        for start in range(6 * thick, max(size), 8 * thick):
            gap = start, start + 2 * thick
            for y in (0, height - thick):
                draw.rectangle((gap[0], y, gap[1], y + thick - 1), fill="white")
            for x in (0, width - thick):
                draw.rectangle((x, gap[0], x + thick - 1, gap[1]), fill="white")


def shorten(name: str, length: int = 32) -> str:
    """The first of a class's names, cut to `length` letters."""
    return cut(name.split(",")[0], length)


def cut(name: str, length: int) -> str:
    """A name of at most so many letters."""
    name = printable(name)
    return name if len(name) <= length else name[: length - 1] + "…"


def wrap(name: str, width: int) -> str:
    """The first of a class's names in at most two lines of so many letters."""
    lines = textwrap.wrap(shorten(name, 2 * width), width) or [""]
    rest = " ".join(lines[1:])
    return "\n".join([lines[0], shorten(rest, width)] if rest else lines)

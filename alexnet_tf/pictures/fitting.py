"""How a picture of any size is made square."""

import dataclasses

import numpy as np
from PIL import Image


@dataclasses.dataclass(frozen=True)
class Fitting:
    """How pictures of any size become those of a data set.

    Attributes:
        fit: "crop" scales the shorter side and keeps the centre, "pad" shrinks the
            picture onto a square of its mean colour, "warp" scales both sides alone.
        stored_size: Height and width of the square, pixels.
        resampling: How it is scaled: "bicubic" or "bilinear".
    """

    fit: str = "crop"
    stored_size: int = 256
    resampling: str = "bicubic"


def fit_crop(image: Image.Image, size: int) -> Image.Image:
    """Scales the shorter side to `size` and cuts out the centre, in one step."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BICUBIC, box)


def fit_pad(image: Image.Image, size: int) -> Image.Image:
    """Centres the whole picture, shrunk if need be, on a square of its mean colour."""
    longest = max(image.size)
    if longest > size:
        sides = (max(1, round(size * side / longest)) for side in image.size)
        image = image.resize(tuple(sides), Image.Resampling.BICUBIC)
    mean = np.asarray(image).mean(axis=(0, 1)).round().astype(int)
    canvas = Image.new("RGB", (size, size), tuple(mean.tolist()))
    canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return canvas


def fit_warp(image: Image.Image, size: int) -> Image.Image:
    """Scales both sides to `size`."""
    return image.resize((size, size), Image.Resampling.BICUBIC)


FITS = {"crop": fit_crop, "pad": fit_pad, "warp": fit_warp}

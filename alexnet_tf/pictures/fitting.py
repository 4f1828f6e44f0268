"""How a picture of any size is made square, with Pillow and without TensorFlow.

`in_graph.fit_images` does the same in a graph, to within a level on average.
"""

import dataclasses
import os

import numpy as np
from PIL import Image

from alexnet_tf.errors import UserError
from alexnet_tf.files import read_json
from alexnet_tf.paths import list_names

# Scaling needs memory for the sides of a picture, not only for its pixels.
MAX_SIDE, MAX_ASPECT = 2**14, 100
FITS = ("crop", "pad", "warp")
RESAMPLINGS = ("bicubic", "bilinear", "opencv")
FITTING_FILE = "assets.extra/fitting.json"  # in a SavedModel: how it fits pictures


@dataclasses.dataclass(frozen=True)
class Fitting:
    """How pictures of any size become those of a data set.

    Attributes:
        fit: "crop" scales the shorter side and keeps the centre, "pad" shrinks the
            picture onto a square of its mean colour, "warp" scales both sides alone.
        stored_size: Height and width of the square, pixels.
        resampling: How it is scaled. "bicubic" and "bilinear" are Pillow's, which mean
            over all pixels that a smaller one covers; torchvision's networks want the
            second. "opencv" is `cv2.resize`, which looks at four pixels alone; Caffe's
            networks want it.
    """

    fit: str = "crop"
    stored_size: int = 256
    resampling: str = "bicubic"

    def __post_init__(self):
        size = self.stored_size
        is_size = isinstance(size, int) and 0 < size <= MAX_SIDE
        if not is_size or self.fit not in FITS or self.resampling not in RESAMPLINGS:
            raise ValueError(f"there is no such way to make pictures square: {self}")


def find_saved_model(directory: str) -> tuple[str, Fitting]:
    """The directory of the SavedModel in an export or a run, and how it fits pictures.

    Raises:
        UserError: There is none of ours.
    """
    for candidate in (directory, os.path.join(directory, "saved_model")):
        if "saved_model.pb" in list_names(candidate):
            try:
                path = os.path.join(candidate, FITTING_FILE)
                return candidate, Fitting(**read_json(path))
            except (TypeError, ValueError):
                raise UserError(
                    f"{candidate} is an export of another program or version: give a "
                    "directory that export.py of this version wrote"
                ) from None
    raise UserError(
        f"{directory} is no SavedModel and no run that has one: give the directory "
        "that export.py wrote"
    )


def fit_picture(image: Image.Image, fitting: Fitting) -> Image.Image:
    """Makes a picture square, as it is stored.

    Args:
        image: RGB, of any size.
        fitting: How.

    Returns:
        RGB of `stored_size` × `stored_size` pixels.
    """
    side = fitting.stored_size
    if fitting.fit == "pad":
        return _pad(image, side, fitting.resampling)
    box = (0.0, 0.0, *image.size)
    if fitting.fit == "crop":
        # The shorter side is scaled to `side`, the longer one to whole pixels, and the
        # window begins at a whole pixel of those, as in torchvision's transforms.
        shorter, (width, height) = min(image.size), image.size
        scaled = [side * length // shorter for length in image.size]
        left, top = (round((length - side) / 2) for length in scaled)
        across, down = width / scaled[0], height / scaled[1]
        box = (left * across, top * down, (left + side) * across, (top + side) * down)
    return _resize(image, (side, side), box, fitting.resampling)


def fit_for_network(
    image: Image.Image, fitting: Fitting, image_size: int
) -> np.ndarray:
    """Makes of a picture what a network sees of it in evaluation.

    Args:
        image: RGB, of any size.
        fitting: How the network's data set was made.
        image_size: Height and width of the network's input, pixels.

    Returns:
        uint8 `(image_size, image_size, 3)`: the centre of what is stored.
    """
    frame = max(fitting.stored_size, image_size)
    fitting = dataclasses.replace(fitting, stored_size=frame)
    stored = np.asarray(fit_picture(image, fitting))
    corner = (frame - image_size) // 2
    return stored[corner : corner + image_size, corner : corner + image_size]


def _pad(image: Image.Image, side: int, resampling: str) -> Image.Image:
    """Centres the whole picture, shrunk if need be, on a square of its mean colour."""
    longest = max(image.size)
    if longest > side:
        size = tuple(max(1, round(side * length / longest)) for length in image.size)
        image = _resize(image, size, (0.0, 0.0, *image.size), resampling)
    mean = np.asarray(image).mean(axis=(0, 1)).round().astype(int)
    canvas = Image.new("RGB", (side, side), tuple(mean.tolist()))
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


def _resize(image: Image.Image, size, box, resampling: str) -> Image.Image:
    """Scales what is in the box: left, top, right, bottom in pixels of the picture."""
    if resampling != "opencv":
        return image.resize(size, Image.Resampling[resampling.upper()], box)
    left, top, right, bottom = box
    across, down = (right - left) / size[0], (bottom - top) / size[1]
    matrix = (across, 0, left, 0, down, top)
    bilinear = Image.Resampling.BILINEAR
    return image.transform(size, Image.Transform.AFFINE, matrix, bilinear)

"""From any picture file to a stored picture, in worker processes without TensorFlow."""

import dataclasses
import io
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from alexnet_tf.pictures.depth import to_8_bits
from alexnet_tf.pictures.listing import FORMATS
from alexnet_tf.settings import check, setting
from data.held_out import content_digest, split_of
from data.source import Item

# A picture of so many pixels takes half a gigabyte to decode; larger ones are refused
# by what their header declares.
MAX_PIXELS = 2**27
MIN_SIDE = 8  # pixels; below that there is nothing to see
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf")
# How a picture is turned upright, by the orientation in its EXIF data.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclasses.dataclass(frozen=True)
class Options:
    """How pictures are stored, and how many are held out."""

    image_size: int = setting(256, "Side of the stored square, pixels.", lower_bound=8)
    fit: str = setting(
        "crop",
        "crop: scale the shorter side, cut out the centre (section 2 of the paper); "
        "pad: keep the whole picture, enlarge none, and pad it with its mean colour; "
        "warp: scale both sides, as Caffe does.",
        choices=("crop", "pad", "warp"),
    )
    encoding: str = setting(
        "jpeg", "raw: the pixels themselves.", choices=("jpeg", "raw")
    )
    quality: int = setting(95, "Of JPEG.", lower_bound=1, upper_bound=100)
    validation_fraction: float = setting(
        0.1,
        "Part of each class to hold out where nothing is for validation.",
        lower_bound=0,
        upper_bound=0.9,
    )

    def __post_init__(self):
        check(self)


class Record(NamedTuple):
    """What became of one item.

    Attributes:
        name: The item's.
        label: The item's.
        split: The item's, or what the hash of its content says.
        digest: 20 bytes, the hash of the picture file.
        image: What is stored: JPEG bytes, or the bytes of the pixels; b"" if rejected.
        num_bytes: Their number.
        conversions: What had to be converted ("CMYK", "grey", "PNG named .jpg", …).
        rejected: Why the picture cannot be used; "" if it can.
    """

    name: str
    label: int
    split: str
    digest: bytes
    image: bytes = b""
    num_bytes: int = 0
    conversions: tuple[str, ...] = ()
    rejected: str = ""


def transcode(
    items: Sequence[Item], options: Options, thresholds: Mapping[int, int]
) -> list[Record]:
    """Turns picture files into stored pictures, none of them fatal.

    Args:
        items: The pictures.
        options: How to store them.
        thresholds: What `find_thresholds` found for those without a split.
    """
    Image.init()
    Image.MAX_IMAGE_PIXELS = None  # MAX_PIXELS is ours
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on odd EXIF data
        return [_transcode(item, options, thresholds) for item in items]


def _transcode(item: Item, options: Options, thresholds) -> Record:
    try:
        content = item.read()
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        return Record(item.name, item.label, item.split, b"", rejected=reason)
    digest = content_digest(content)
    split = split_of(item, digest, thresholds)
    record = Record(item.name, item.label, split, digest)
    try:
        image, conversions = load_rgb(content, item.name, options.image_size)
        image = FITS[options.fit](image, options.image_size)
    except Exception as error:  # decoders raise all sorts of things on bad bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "not a picture in a known format" if content else "empty file"
        return record._replace(rejected=reason)
    is_raw = options.encoding == "raw"
    stored = image.tobytes() if is_raw else to_jpeg(image, options.quality)
    return record._replace(
        image=stored, num_bytes=len(stored), conversions=tuple(conversions)
    )


def load_rgb(
    content: bytes, name: str, image_size: int
) -> tuple[Image.Image, list[str]]:
    """Decodes a picture to 8-bit RGB, upright.

    Args:
        content: The picture file, in one of `FORMATS`, recognised by its content.
        name: Its name, to notice a wrong extension.
        image_size: The size that it will have; a JPEG many times larger is decoded at
            a fraction of its size.

    Returns:
        The picture, and what had to be converted.
    """
    conversions = []
    content = _without_metadata(content)
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(f"too large: its header declares {width}×{height} pixels")
        if min(width, height) < MIN_SIDE:
            raise ValueError(f"too small: {width}×{height} pixels")
        suffix = os.path.splitext(name)[1]
        file_format = "JPEG" if image.format == "MPO" else image.format
        named = Image.registered_extensions().get(suffix.lower())
        if named in FORMATS and named != file_format:
            conversions.append(f"{file_format} named {suffix}")
        is_deep = image.mode.startswith("I") or ";16" in str(image.tile)
        image.draft(None, (2 * image_size, 2 * image_size))
        is_turned = _orientation(image) in _UPRIGHT
        image.load()  # which turns a TIFF, and forgets that it was to be turned
        turn = _UPRIGHT.get(_orientation(image))
        if is_deep:
            image = to_8_bits(image, content, conversions)
        if is_turned:
            conversions.append("EXIF-rotated")
        if turn is not None:
            image = image.transpose(turn)
        return _to_rgb(image, conversions), conversions


def _without_metadata(content: bytes) -> bytes:
    """Leaves out a PNG's texts and profiles, which may inflate without bound."""
    if not content.startswith(_PNG):
        return content
    kept, position = [content[:8]], 8
    while position < len(content):
        end = position + 12 + int.from_bytes(content[position : position + 4])
        if content[position + 4 : position + 8] in _PNG_CHUNKS:
            kept.append(content[position:end])
        position = end
    return b"".join(kept)


def _orientation(image: Image.Image) -> int:
    image.info.pop("xmp", None)  # viewers, and exports, go by the EXIF data alone
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # broken EXIF data, in a dozen ways, cost no picture
        return 1


def _to_rgb(image: Image.Image, conversions: list[str]) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode == "F":
        raise ValueError("floating-point pixels")
    kind = {"CMYK": "CMYK", "P": "palette", "PA": "palette"}
    kind |= dict.fromkeys(("1", "L", "LA", "La"), "grey")
    if image.mode in kind:
        conversions.append(kind[image.mode])
    if image.has_transparency_data:
        conversions.append("alpha")
        canvas = Image.new("RGBA", image.size, "white")
        canvas.alpha_composite(image.convert("RGBA"))
        image = canvas
    return image.convert("RGB")


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


def to_jpeg(image: Image.Image, quality: int) -> bytes:
    """Encodes a picture as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()

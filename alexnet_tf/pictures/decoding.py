"""From a picture file to RGB, with Pillow and without TensorFlow.

Preparation, predict.py, the library and features.py all decode here: a picture that one
of them takes is taken by the others, and looks the same to all of them. What comes out
is upright, opaque (on white), sRGB as far as the file tells, and of 8 bits.
"""

import contextlib
import io
import os
import threading
import zlib

import numpy as np
from PIL import Image, ImageChops, ImageCms

from alexnet_tf.files import MAX_PICTURE_BYTES, read_whole
from alexnet_tf.paths import expand
from alexnet_tf.pictures.fitting import (
    MAX_ASPECT,
    MAX_SIDE,
    Fitting,
    fit_for_network,
)
from alexnet_tf.pictures.listing import FORMATS

# A picture of so many pixels takes half a gigabyte to decode; larger ones are refused
# by what their header declares, unless a JPEG's decoder can leave out the rest.
MAX_PIXELS = 2**27
# Fewer of those formats whose decoders hold a picture several times.
_MAX_PIXELS_OF = {"WEBP": 2**25, "JPEG2000": 2**24, "AVIF": 2**26, "HEIF": 2**26}
_LARGE_PIXELS, _BAND_PIXELS = 2**23, 2**21
MIN_SIDE = 8  # pixels; below that there is nothing to see
_MAX_PROFILE_BYTES = 2**22
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf")
_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE = 258, 281  # tags of TIFF
_PROFILE = "icc_profile"
_opening = threading.Lock()  # Pillow's own limit is a global variable
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

with contextlib.suppress(ImportError):  # whoever has HEIC pictures installs it
    import pillow_heif

    pillow_heif.register_heif_opener()
    FORMATS = (*FORMATS, "HEIF")


class TooManyPixelsError(ValueError):
    """A picture has more pixels than the caller wants to decode."""


def open_picture(picture, image_size: int = 256) -> Image.Image:
    """Opens what a person calls a picture.

    Args:
        picture: Path of a file, local or remote; its content; a picture of Pillow; or
            an array, uint8 `(height, width, 3)`, or of 1 or 4 channels, or without any.
        image_size: See `load_rgb`.

    Returns:
        RGB.

    Raises:
        ValueError: In words, why it cannot be used.
    """
    if isinstance(picture, str | os.PathLike):
        picture = read_whole(expand(os.fspath(picture)), MAX_PICTURE_BYTES)
    if isinstance(picture, bytes):
        return load_rgb(picture, image_size=image_size)[0]
    if not isinstance(picture, Image.Image):
        array = np.asarray(picture)
        channels = array.shape[2:] or (1,)
        if array.dtype != np.uint8 or channels not in ((1,), (3,), (4,)):
            raise ValueError(
                "a picture is a path, a picture of Pillow, or a uint8 array (height, "
                f"width, 3); received {array.dtype} {array.shape}"
            )
        picture = Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array)
    return _to_upright_rgb(picture.copy(), [], image_size, MAX_PIXELS)


def open_for_network(
    picture, fitting: Fitting, image_size: int
) -> tuple[np.ndarray, str | None]:
    """What a network sees of what a person calls a picture.

    Args:
        picture: See `open_picture`.
        fitting: How the pictures of the network's data set were made square.
        image_size: Height and width of the network's input, pixels.

    Returns:
        uint8 `(image_size, image_size, 3)`; and None or, where these are zeros, why
        the picture cannot be used.
    """
    try:
        image = open_picture(picture, fitting.stored_size)
        return fit_for_network(image, fitting, image_size), None
    except ValueError as error:
        return np.zeros((image_size, image_size, 3), np.uint8), str(error)


def load_rgb(
    content: bytes, name: str = "", image_size: int = 256, max_pixels: int = MAX_PIXELS
) -> tuple[Image.Image, list[str]]:
    """Decodes a picture file to 8-bit RGB, upright.

    Args:
        content: The file, in one of `FORMATS`, recognised by its content.
        name: Its name, to notice a wrong extension.
        image_size: The size that it will have; a JPEG many times larger is decoded at
            a fraction of its size.
        max_pixels: A picture of more is not decoded.

    Returns:
        The picture, and what had to be converted.

    Raises:
        ValueError: In words, why it cannot be used.
    """
    conversions = []
    try:
        with _open(content) as image:
            suffix = os.path.splitext(name)[1]
            file_format = "JPEG" if image.format == "MPO" else image.format
            named = Image.registered_extensions().get(suffix.lower())
            if named in FORMATS and named != file_format:
                conversions.append(f"{file_format} named {suffix}")
            image = _to_upright_rgb(image, conversions, image_size, max_pixels)
        return image, conversions
    except Image.UnidentifiedImageError:
        raise ValueError(_describe(content)) from None
    except (MemoryError, TooManyPixelsError):  # the first says nothing of the picture
        raise
    except Exception as error:  # decoders raise all sorts of things on bad bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(reason) from None


def _describe(content: bytes) -> str:
    if content[4:8] == b"ftyp":
        return "HEIC or a film: for HEIC, pip install pillow-heif"
    return "not a picture in a known format" if content else "empty file"


def _open(content: bytes) -> Image.Image:
    content, profile = _without_metadata(content)
    with _opening:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    if profile:
        image.info[_PROFILE] = profile
    return image


def _without_metadata(content: bytes) -> tuple[bytes, bytes]:
    """Leaves out a PNG's texts, which may inflate without bound; finds its profile."""
    if not content.startswith(_PNG):
        return content, b""
    kept, position, profile = [content[:8]], 8, b""
    while position < len(content):
        end = position + 12 + int.from_bytes(content[position : position + 4])
        chunk = content[position + 4 : position + 8]
        if chunk in _PNG_CHUNKS:
            kept.append(content[position:end])
        elif chunk == b"iCCP":
            _, _, packed = content[position + 8 : end - 4].partition(b"\0")
            with contextlib.suppress(zlib.error):
                inflate = zlib.decompressobj()
                profile = inflate.decompress(packed[1:], _MAX_PROFILE_BYTES)
        position = end
    return b"".join(kept), profile


def _to_upright_rgb(
    image: Image.Image, conversions: list[str], image_size: int, max_pixels: int
) -> Image.Image:
    """Loads a picture and brings it into the form that all others have."""
    width, height = image.size
    size = f"{width}×{height} pixels"
    if max(width, height) > MAX_SIDE:
        raise ValueError(f"too large: {size}, and a side may have {MAX_SIDE:,}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(f"too thin: {size}")
    if min(width, height) < MIN_SIDE:
        raise ValueError(f"too small: {size}")
    image.draft(None, (2 * image_size, 2 * image_size))
    if not image.info.get("progressive"):  # such a JPEG is kept whole on the way
        width, height = image.size
    if width * height > min(max_pixels, _MAX_PIXELS_OF.get(image.format, MAX_PIXELS)):
        raise TooManyPixelsError(f"too large: its header declares {size}")
    is_deep = image.mode.startswith("I") or ";16" in str(getattr(image, "tile", ""))
    is_turned = _orientation(image) in _UPRIGHT
    image.load()  # which turns a TIFF, and forgets that it was to be turned
    turn = _UPRIGHT.get(_orientation(image))
    bits = _find_depth(image, conversions) if is_deep else 8
    rgb = _to_smaller_rgb(image, bits, image_size, conversions)
    if is_turned:
        conversions.append("EXIF-rotated")
    return rgb if turn is None else rgb.transpose(turn)


def _orientation(image: Image.Image) -> int:
    image.info.pop("xmp", None)  # viewers, and exports, go by the EXIF data alone
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # broken EXIF data, in a dozen ways, cost no picture
        return 1


def _find_depth(image: Image.Image, conversions: list[str]) -> int:
    """How many of its 16 bits a picture uses, as its format defines it.

    Only a TIFF can say that it uses fewer bits (BitsPerSample, MaxSampleValue). The
    rule does not look at the samples: day and night of a camera stay apart.
    """
    bits, tags = 16, getattr(image, "tag_v2", {})
    if image.mode == "I" and image.format != "PPM":
        raise ValueError("its pixels have 32 bits: save it with 8 or 16")
    is_grey = image.mode.startswith("I")  # of colours, Pillow has kept the high bytes
    if is_grey:
        declared = max(np.ravel(tags.get(_BITS_PER_SAMPLE, 16)))
        largest = int(max(np.ravel(tags.get(_MAX_SAMPLE_VALUE, 65535))))
        bits = max(8, min(16, int(declared), largest.bit_length()))
    # The last channel of four is the opacity.
    most = np.max(np.atleast_2d(image.getextrema())[:3])
    used = ", none above 4095" if most < (4096 if is_grey else 16) else ""
    conversions.append(f"{bits} of 16 bits" if bits < 16 else f"16-bit{used}")
    return bits


def _to_smaller_rgb(
    image: Image.Image, bits: int, image_size: int, conversions: list[str]
) -> Image.Image:
    """Converts a picture; one far too large is shrunk band by band.

    So the largest ones cost no memory but their own.
    """
    width, height = image.size
    factor = min(width, height) // (2 * image_size)
    if width * height <= _LARGE_PIXELS or factor < 2:
        return _to_rgb(image, bits, conversions)
    rows = factor * -(-_BAND_PIXELS // (width * factor))
    small = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(top + rows, height)))
        band.format, notes = image.format, []
        small.paste(_to_rgb(band, bits, notes).reduce(factor), (0, top // factor))
    conversions += notes
    return small


def _to_rgb(image: Image.Image, bits: int, conversions: list[str]) -> Image.Image:
    """Takes depth, transparency, palettes, CMYK and profiles out of a picture."""
    if image.mode.startswith("I"):
        samples = np.asarray(image).astype(np.int32) >> (bits - 8)
        image = Image.fromarray(samples.clip(0, 255).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels")
    names = {"CMYK": "CMYK", "P": "palette", "PA": "palette"}
    names |= dict.fromkeys(("1", "L", "LA", "La"), "grey")
    name, profile = names.get(image.mode), image.info.get(_PROFILE)
    if name:
        conversions.append(name)
    if name == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        image = ImageChops.invert(image)  # Pillow takes all for Adobe's, which are
    if image.has_transparency_data:
        conversions.append("alpha")
        canvas = Image.new("RGBA", image.size, "white")
        canvas.alpha_composite(image.convert("RGBA"))
        image = canvas.convert("RGB")
    if profile and len(profile) < _MAX_PROFILE_BYTES:
        space = {"CMYK": "CMYK", "grey": "GRAY"}.get(name, "RGB")
        image = _to_srgb(image, profile, space, conversions)
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_srgb(
    image: Image.Image, profile: bytes, space: str, conversions: list[str]
) -> Image.Image:
    """Converts colours by their profile; one that does not fit them is counted."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in (source.profile.profile_description or ""):
            return image
        has = source.profile.xcolor_space.strip()
        if has != space and (has, space) != ("RGB", "GRAY"):
            raise ImageCms.PyCMSError(f"a profile of {has}")
        image = image.convert({"GRAY": "L"}.get(has, has))
        srgb = ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
        conversions.append("colour profile")
    except (ImageCms.PyCMSError, OSError, TypeError):
        conversions.append("colour profile ignored")
    return image

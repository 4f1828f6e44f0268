"""From the bytes of a picture file to RGB, with Pillow and without TensorFlow."""

import io
import os

from PIL import Image

from alexnet_tf.pictures.depth import to_8_bits
from alexnet_tf.pictures.listing import FORMATS

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

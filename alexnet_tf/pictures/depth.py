"""Pictures of more than 8 bits a sample, scaled to 8 by what the file holds."""

import io
import sys
import zlib

import numpy as np
from PIL import Image

# Pillow keeps the high bytes of colours of 16 bits; with the other order, the low ones.
_NATIVE_SWAPPED = "16B" if sys.byteorder == "little" else "16L"
_SWAPPED = {"16B": "16L", "16L": "16B", "16N": _NATIVE_SWAPPED}
_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE = 258, 281  # tags of TIFF
# Depth and kind in a PNG's header: 16 bits of grey and alpha, read as four of 8 bits.
_PNG_GREY_ALPHA, _PNG_RGBA = b"\x10\x04", b"\x08\x06"
_DEPTHS = (8, 10, 12, 14, 16, 24, 32)


def to_8_bits(
    image: Image.Image, content: bytes, conversions: list[str]
) -> Image.Image:
    """Scales a picture of more than 8 bits a sample; returns others as they are.

    The range is what the file declares (PPM; TIFF of 10, 12 or 14 bits or with a
    largest value), else the fewest of 8, 10, 12, 14, 16, 24 or 32 bits that hold the
    largest sample: many files of 16 bits hold the 0..4095 of a camera, or 0..255.

    Args:
        image: Loaded, in whatever mode.
        content: The file that it is from.
        conversions: Gets the bits: "16-bit", or "12 of 16 bits".
    """
    if image.mode.startswith("I"):
        samples = np.asarray(image).astype(np.int64).clip(0)
        depth = 32 if image.mode == "I" and image.format == "TIFF" else 16
    else:
        samples, depth = _read_colors(image, content), 16
        if samples is None:
            return image
    has_alpha = samples.ndim == 3 and samples.shape[2] in (2, 4)
    color = samples[..., :-1] if has_alpha else samples
    bits = _bits(color, image)
    conversions.append(f"{depth}-bit" if bits == depth else f"{bits} of {depth} bits")
    scaled = _scale(color, bits)
    if has_alpha:
        alpha = samples[..., -1:]
        scaled = np.concatenate([scaled, _scale(alpha, _fewest_bits(alpha))], axis=2)
    return Image.fromarray(scaled)


def _read_colors(image: Image.Image, content: bytes) -> np.ndarray | None:
    """Returns colours of 16 bits `(height, width, 2..4)`; None where there are none.

    Pillow has no such mode: it is asked for the high bytes and for the low ones.
    """
    if content[24:26] == _PNG_GREY_ALPHA and content.startswith(b"\x89PNG"):
        header = content[12:24] + _PNG_RGBA + content[26:29]
        checksum = zlib.crc32(header).to_bytes(4, "big")
        content = content[:12] + header + checksum + content[33:]
        with Image.open(io.BytesIO(content), formats=["PNG"]) as four_bytes:
            samples = np.asarray(four_bytes).astype(np.int64)
        return samples[..., ::2] << 8 | samples[..., 1::2]
    with Image.open(io.BytesIO(content), formats=[image.format]) as low:
        low.tile = tiles = [_swapped(tile) for tile in low.tile]
        if not tiles or None in tiles or low.mode not in ("RGB", "RGBA"):
            return None
        low.load()
        return np.asarray(image).astype(np.int64) << 8 | np.asarray(low)


def _swapped(tile):
    arguments = (tile.args,) if isinstance(tile.args, str) else tuple(tile.args or ())
    mode, _, order = str(arguments[0] if arguments else "").partition(";")
    if mode not in ("RGB", "RGBA") or order not in _SWAPPED:
        return None
    swapped = f"{mode};{_SWAPPED[order]}"
    if isinstance(tile.args, str):
        return tile._replace(args=swapped)
    return tile._replace(args=(swapped, *arguments[1:]))


def _bits(samples: np.ndarray, image: Image.Image) -> int:
    if image.format == "PPM":
        return 16  # Pillow has scaled it by the largest value that it declares
    tags = getattr(image, "tag_v2", {})
    declared = max(np.ravel(tags.get(_BITS_PER_SAMPLE, 0)))
    if declared in (10, 12, 14):
        return int(declared)
    largest = max(np.ravel(tags.get(_MAX_SAMPLE_VALUE, 0)))
    if largest + 1 < 2**declared:
        return max(_fewest_bits(samples), _fewest_bits(largest))
    return _fewest_bits(samples)


def _fewest_bits(samples: np.ndarray | int) -> int:
    largest = int(np.max(samples))
    return next(bits for bits in _DEPTHS if largest < 2**bits)


def _scale(samples: np.ndarray, bits: int) -> np.ndarray:
    return (samples >> (bits - 8)).clip(0, 255).astype(np.uint8)

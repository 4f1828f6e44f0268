"""Reads picture files for a network that decodes them itself.

What the network does not take is decoded here as preparation decodes it, and sent as
PNG.
"""

import dataclasses
import io
import sys
from collections.abc import Callable, Iterator, Sequence

from alexnet_tf.errors import UserError
from alexnet_tf.files import MAX_PICTURE_BYTES, read_bounded, read_whole
from alexnet_tf.pictures.listing import FORMATS

_MAX_PIXELS = 2**25  # that are decoded here: half a gigabyte where there is alpha


@dataclasses.dataclass(frozen=True)
class Asked:
    """A picture and what a network answered, or why it is not known.

    Attributes:
        name: Of the file.
        content: What was sent, the bytes of a picture file.
        answer: Of the network.
        error: Why there is none.
    """

    name: str
    content: bytes
    answer: object = None
    error: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether neither is known."""
        return self.answer is None and self.error is None


def ask(names: Sequence[str], network: Callable[[list[bytes]], Sequence]) -> list:
    """Asks a network of picture files; one that cannot be used costs no other.

    Args:
        names: Of files; "-" is the standard input.
        network: From the bytes of picture files to an answer for each, None for what it
            takes for no picture.

    Returns:
        An `Asked` for each, in order.
    """
    asked = _send([_read(name) for name in names], network)
    asked = _send([_decode_here(a) if a.is_open else a for a in asked], network)
    error = "larger than the model takes"
    return [dataclasses.replace(a, error=error) if a.is_open else a for a in asked]


def _send(asked: list[Asked], network: Callable) -> list[Asked]:
    """Fills in the answers where they are open; what is no picture stays so."""
    waiting = [a.content for a in asked if a.is_open]
    answers: Iterator = iter(network(waiting) if waiting else ())
    return [
        dataclasses.replace(a, answer=next(answers)) if a.is_open else a for a in asked
    ]


def _read(name: str) -> Asked:
    try:
        if name == "-":
            content = read_bounded(sys.stdin.buffer, MAX_PICTURE_BYTES)
        else:
            content = read_whole(name, MAX_PICTURE_BYTES)
    except (OSError, UserError) as error:
        return Asked(name, b"", error=str(error))
    return Asked(name, content)


def load(content: bytes):
    """Decodes a picture as preparation does: upright RGB of Pillow.

    Raises:
        ValueError: In words, why it cannot be used.
    """
    from PIL import Image

    from alexnet_tf.pictures.decoding import load_rgb

    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            image.draft(None, (512, 512))
            if image.width * image.height > _MAX_PIXELS:
                raise ValueError(f"too large: {image.width}×{image.height} pixels")
        return load_rgb(content, "", 256)[0]
    except Image.UnidentifiedImageError:
        raise ValueError("not a picture in a known format") from None
    except Exception as error:  # decoders raise all sorts of things on bad bytes
        raise ValueError(" ".join(str(error).split())) from None


def _decode_here(asked: Asked) -> Asked:
    try:
        image = load(asked.content)
    except ValueError as error:
        return dataclasses.replace(asked, error=str(error))
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return dataclasses.replace(asked, content=file.getvalue())

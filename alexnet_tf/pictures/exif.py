"""How a camera was held: pictures are turned upright, as preparation turns them.

The EXIF data in a file are those of a small TIFF file, whose first directory has the
orientation, 1 to 8. What is broken there turns nothing.
"""

import tensorflow as tf

from alexnet_tf.pictures.octets import head, number, part

EXIF_MARKER = 0xE1  # of the segment of a JPEG that may hold EXIF data
_MAX_PARTS = 256  # segments or chunks of a file that are looked through
_MAX_ENTRIES = 512  # of the directory; cameras write a dozen
_PREFIX = b"Exif\0\0"
_ORIENTATION, _SHORT = 0x0112, 3


def exif_of_jpeg(file: tf.Tensor) -> tf.Tensor:
    """The EXIF data of a JPEG file, string scalars both; "" where it has none."""

    def is_open(at, exif):
        start = head(file, 2, at)
        return (exif == b"") & (start[0] == 0xFF) & (start[1] != 0xDA)

    def look(at, _):
        start = head(file, 4, at)
        length = number(start, 2, 2, "big")
        is_exif = (start[1] == EXIF_MARKER) & (
            part(file, at + 4, len(_PREFIX)) == _PREFIX
        )
        exif = tf.where(is_exif, part(file, at + 10, length - 8), b"")
        is_filling = start[1] == 0xFF  # a byte that may stand before a marker
        return at + tf.where(is_filling, tf.ones_like(length), 2 + length), exif

    begin = tf.constant(2, tf.int64), tf.constant(b"")
    return tf.while_loop(is_open, look, begin, maximum_iterations=_MAX_PARTS)[1]


def exif_of_webp(file: tf.Tensor) -> tf.Tensor:
    """The EXIF data of a WebP file, string scalars both; "" where it has none."""
    end = tf.cast(tf.strings.length(file), tf.int64)

    def look(at, _):
        length = number(head(file, 8, at), 4, 4)
        is_exif = part(file, at, 4) == b"EXIF"
        exif = tf.where(is_exif, part(file, at + 8, length), b"")
        return at + 8 + length + length % 2, exif

    return tf.while_loop(
        lambda at, exif: (exif == b"") & (at < end),
        look,
        (tf.constant(12, tf.int64), tf.constant(b"")),
        maximum_iterations=_MAX_PARTS,
    )[1]


def turn_upright(image: tf.Tensor, exif: tf.Tensor) -> tf.Tensor:
    """Turns a picture `(height, width, channels)` as its EXIF data say."""
    none = tf.constant(1, tf.int64)
    orientation = tf.cond(exif == b"", lambda: none, lambda: _orientation(exif))

    def has(*orientations):
        return tf.reduce_any(orientation == orientations)

    def turn():
        turned = tf.cond(
            has(5, 6, 7, 8), lambda: tf.transpose(image, [1, 0, 2]), lambda: image
        )
        turned = tf.cond(has(3, 4, 7, 8), lambda: turned[::-1], lambda: turned)
        return tf.cond(has(2, 3, 6, 7), lambda: turned[:, ::-1], lambda: turned)

    return tf.cond(has(2, 3, 4, 5, 6, 7, 8), turn, lambda: image)


def _orientation(exif: tf.Tensor) -> tf.Tensor:
    """The number that EXIF data have of the orientation, int64; 1 where none."""
    begin = tf.where(part(exif, 0, len(_PREFIX)) == _PREFIX, len(_PREFIX), 0)
    start = head(exif, 8, begin)
    is_little = tf.reduce_all(start[:4] == list(b"II*\0"))
    is_big = tf.reduce_all(start[:4] == list(b"MM\0*"))
    weights = tf.where(is_little, [1, 256], [256, 1])

    def shorts(octets):
        return tf.reduce_sum(tf.cast(octets, tf.int64) * tf.cast(weights, tf.int64), -1)

    first, second = shorts(start[4:6]), shorts(start[6:])
    at = tf.where(is_little, first + 2**16 * second, second + 2**16 * first)
    at += tf.cast(begin, tf.int64)
    number = tf.where(is_little | is_big, shorts(head(exif, 2, at)), 0)
    entries = tf.reshape(head(exif, 12 * _MAX_ENTRIES, at + 2), [-1, 12])[:number]
    is_it = shorts(entries[:, :2]) == _ORIENTATION
    is_it &= shorts(entries[:, 2:4]) == _SHORT
    values = shorts(tf.boolean_mask(entries, is_it)[:, 8:10])
    return tf.concat([values, [1]], 0)[0]

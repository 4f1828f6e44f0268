"""From the bytes of a picture file, whatever it holds, to what evaluation sees.

Everything is plain TensorFlow operations, for a graph that others feed. A kind of
file is taken where its cost can be bounded before it is decoded:

- JPEG of up to `MAX_SCANS` scans, also where it is cut short (the rest is grey);
- PNG, of which only the chunks that make the picture reach the decoder;
- GIF, the first frame, which must fill the screen;
- BMP that is not compressed, of 8 (palette), 24 or 32 bits a pixel;
- WebP that is not animated.

Whatever is transparent lies on white, and whatever EXIF data say is lying or mirrored
is turned upright, as in `data.prepare`. All else is no picture.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from alexnet_tf.pictures.exif import (
    EXIF_MARKER,
    exif_of_jpeg,
    exif_of_webp,
    turn_upright,
)
from alexnet_tf.pictures.octets import head, number, part
from alexnet_tf.pipeline.decoding import RESIZED

# A picture may have so many pixels, and so many more for each byte of its file: what a
# request of many small files can cost is then bounded by its own size.
FREE_PIXELS, PIXELS_PER_BYTE, MAX_PIXELS = 2**20, 32, 2**26
MAX_SCANS = 32  # of a JPEG and the thumbnails in it; encoders write about ten
MAX_CHUNKS = 4096  # of a PNG; encoders write one for every 8 kB or more
MAX_BLOCKS = 2**14  # of a GIF; encoders write one for every 255 bytes
_IN_FLIGHT = 4  # pictures that are decoded at once: their memory adds up
_ROW_BLOCKS = 16
_JPEG_END, _PNG_END, _GIF_END = b"\xff\xd9", b"\0\0\0\0IEND\xaeB`\x82", b";"
_PNG_NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")


class Fitting(NamedTuple):
    """How pictures of any size become the network's, in preparation and evaluation.

    Attributes:
        fit: "crop" scales the shorter side and keeps the centre, "pad" shrinks the
            picture onto a square of its mean colour, "warp" scales both sides alone.
        stored_size: Side of the square that preparation stores, pixels; None where
            it stores pictures as they are.
        image_size: Height and width of what the network sees, pixels.
    """

    fit: str = "crop"
    stored_size: int | None = 256
    image_size: int = 224


def decode_pictures(
    image_bytes: tf.Tensor, fitting: Fitting
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes a batch, each picture on its own, and fits it as evaluation does.

    Args:
        image_bytes: string `(batch,)`.
        fitting: How pictures become the network's.

    Returns:
        uint8 RGB `(batch, image_size, image_size, 3)`, zeros where there is no
        picture, and bool `(batch,)`, whether there is one.
    """
    shape = [fitting.image_size] * 2 + [3]

    def decode_with(decode, where):
        def decode_and_fit(one):
            image = tf.ensure_shape(decode(one), [None, None, 3])
            return fit_images(image[tf.newaxis], fitting)[0]

        spec = tf.TensorSpec(shape, tf.uint8)
        return map_each(decode_and_fit, image_bytes, where, spec)

    size = tf.shape(image_bytes, tf.int64)
    # JPEG alone first: what is larger than its graph costs milliseconds a request.
    is_jpeg = tf.strings.substr(image_bytes, 0, 3) == b"\xff\xd8\xff"
    indices, images = decode_with(_decode_jpeg, is_jpeg)

    def decode_the_others():
        found = (indices, images), decode_with(_decode_other, ~is_jpeg)
        places, pixels = (tf.concat(values, 0) for values in zip(*found, strict=True))
        places = places[:, tf.newaxis]
        is_picture = tf.scatter_nd(places, tf.ones_like(places[:, 0], tf.bool), size)
        return tf.scatter_nd(places, pixels, tf.concat([size, shape], 0)), is_picture

    return tf.cond(
        tf.shape(indices, tf.int64)[0] == size[0],
        lambda: (images, tf.fill(size, True)),
        decode_the_others,
    )


def map_each(
    function: Callable, elements: tf.Tensor, where: tf.Tensor, spec: tf.TensorSpec
) -> tuple[tf.Tensor, tf.Tensor]:
    """Calls a function on some of a batch; one that fails costs no other.

    Args:
        function: From a scalar of the batch to what `spec` says.
        elements: `(batch,)`.
        where: bool `(batch,)`, which of them.
        spec: Shape and dtype of what the function returns.

    Returns:
        int64 `(number,)`, the indices of those that did not fail, in order, and what
        the function made of them, `(number, …)`.
    """
    indices = tf.where(where)[:, 0]

    def call(index, element):
        return index, tf.ensure_shape(function(element), spec.shape)

    chosen = tf.data.Dataset.from_tensor_slices((indices, tf.gather(elements, indices)))
    good = chosen.map(call, _IN_FLIGHT, deterministic=True).ignore_errors()
    none = tf.zeros([0], tf.int64), tf.zeros([0, *spec.shape], spec.dtype)
    good = good.batch(tf.shape(elements, tf.int64)[0] + 1)
    good = good.concatenate(tf.data.Dataset.from_tensors(none))
    return good.take(1).get_single_element()


def _decode_other(image_bytes: tf.Tensor) -> tf.Tensor:
    """Decodes what is no JPEG: uint8 RGB `(height, width, 3)`; else an error."""
    kinds = (
        (0, b"\x89PNG\r\n\x1a\n", _decode_png),
        (0, b"GIF8", _decode_gif),
        (0, b"BM", _decode_bmp),
        (8, b"WEBP", _decode_webp),
    )
    branches = [
        (
            tf.strings.substr(image_bytes, at, len(magic)) == magic,
            lambda decode=decode: decode(image_bytes),
        )
        for at, magic, decode in kinds
    ]

    def refuse():
        with _require(False, "no picture"):
            return tf.zeros([1, 1, 3], tf.uint8)

    return tf.case(branches, default=refuse)


def _require(condition, message: str):
    return tf.control_dependencies([tf.debugging.Assert(condition, [message])])


def _require_size(image_bytes: tf.Tensor, height: tf.Tensor, width: tf.Tensor):
    height, width = tf.cast(height, tf.int64), tf.cast(width, tf.int64)
    most = FREE_PIXELS + PIXELS_PER_BYTE * tf.strings.length(image_bytes)
    most = tf.cast(tf.minimum(most, MAX_PIXELS), tf.int64)
    is_bounded = (height > 0) & (width > 0) & (height <= most // tf.maximum(width, 1))
    return _require(is_bounded, "too many pixels, or none")


def _decode_jpeg(image_bytes: tf.Tensor) -> tf.Tensor:
    # Without an end, libjpeg can wait for one for ever.
    image_bytes = tf.strings.join([image_bytes, _JPEG_END])
    shape = tf.io.extract_jpeg_shape(image_bytes)[:2]
    data = tf.io.decode_raw(image_bytes, tf.uint8)
    markers = tf.boolean_mask(data[1:], data[:-1] == 0xFF)
    num_scans = tf.math.count_nonzero(markers == 0xDA)
    exif = tf.cond(
        tf.reduce_any(markers == EXIF_MARKER),
        lambda: exif_of_jpeg(image_bytes),
        lambda: tf.constant(b""),
    )
    with (
        _require_size(image_bytes, shape[0], shape[1]),
        _require(num_scans <= MAX_SCANS, "too many scans"),
    ):
        image = tf.io.decode_jpeg(
            image_bytes,
            channels=3,
            dct_method="INTEGER_ACCURATE",  # as evaluation
            try_recover_truncated=True,
        )
    return turn_upright(image, exif)


def _decode_png(image_bytes: tf.Tensor) -> tf.Tensor:
    chunks, has_transparent_colors, exif = _png_chunks(image_bytes)
    signature = tf.strings.substr(image_bytes, 0, 8)
    needed = tf.strings.join([signature, chunks, _PNG_END])
    start = head(needed, 26)
    height, width = number(start, 20, 4, "big"), number(start, 16, 4, "big")
    is_deep = start[24] == 16
    has_alpha = tf.bitwise.bitwise_and(start[25], 4) > 0
    # Twice the bytes: a pixel of 16 bits counts as two.
    with _require_size(image_bytes, height, tf.where(is_deep, 2 * width, width)):
        image = tf.case(
            [
                (is_deep & has_alpha, lambda: _on_white(_decode_deep(needed, 4))),
                (is_deep, lambda: _decode_deep(needed, 3)),
                (
                    has_alpha | has_transparent_colors,
                    lambda: _on_white(tf.io.decode_png(needed, channels=4)),
                ),
            ],
            default=lambda: tf.io.decode_png(needed, channels=3),
        )
    return turn_upright(image, exif)


def _decode_deep(picture: tf.Tensor, channels: int) -> tf.Tensor:
    """Decodes a PNG of 16 bits, scaled to 8 as `alexnet_tf.pictures.depth` does it."""
    samples = tf.io.decode_png(picture, channels, tf.uint16)

    def scale(samples):
        largest = tf.cast(tf.reduce_max(samples), tf.int32)
        limits = [2**8, 2**10, 2**12, 2**14]  # what cameras and scanners fill
        shift = 2 * tf.math.count_nonzero(largest >= limits, dtype=tf.uint16)
        return tf.cast(tf.bitwise.right_shift(samples, shift), tf.uint8)

    color, alpha = scale(samples[:, :, :3]), samples[:, :, 3:]
    return color if channels == 3 else tf.concat([color, scale(alpha)], 2)


def _png_chunks(image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The chunks that the picture needs, joined; whether it has tRNS; its EXIF data."""
    end = tf.cast(tf.strings.length(image_bytes), tf.int64)

    def copy(at, index, chunks, has_transparent_colors, exif):
        length = 12 + number(head(image_bytes, 4, at), 0, 4, "big")
        kind = tf.strings.substr(image_bytes, at + 4, 4)
        is_needed = tf.reduce_any(kind == _PNG_NEEDED)
        copied = tf.where(is_needed, length, 0)
        chunks = chunks.write(index, tf.strings.substr(image_bytes, at, copied))
        exif = tf.where(kind == b"eXIf", part(image_bytes, at + 8, length - 12), exif)
        has_transparent_colors |= kind == b"tRNS"
        at = tf.where(kind == b"IEND", end, at + length)
        return at, index + 1, chunks, has_transparent_colors, exif

    chunks = tf.TensorArray(tf.string, 0, dynamic_size=True, element_shape=[])
    at, _, chunks, has_transparent_colors, exif = tf.while_loop(
        lambda at, index, *_: (at + 12 <= end) & (index < MAX_CHUNKS),
        copy,
        (tf.constant(8, tf.int64), 0, chunks, False, tf.constant(b"")),
    )
    with _require(at + 12 > end, "too many chunks"):
        joined = tf.strings.reduce_join(chunks.stack())
        return joined, has_transparent_colors, exif


def _decode_gif(image_bytes: tf.Tensor) -> tf.Tensor:
    """Decodes a file made of the tables and the first frame of another."""
    data = tf.cast(tf.io.decode_raw(image_bytes, tf.uint8), tf.int32)
    begin = 13 + _gif_table_length(data[10])
    frame, control = _skip_gif_extensions(data, begin)
    table_length = _gif_table_length(data[frame + 9])
    end = _skip_gif_blocks(data, frame + 11 + table_length)
    only_frame = tf.strings.substr(image_bytes, frame, end - frame)
    tables = tf.strings.substr(image_bytes, 0, begin)
    picture = tf.strings.join([tables, only_frame, _GIF_END])
    # The color that stands for transparent becomes white in the table in force.
    table = tf.where(table_length > 0, begin + 10, 13)
    length = tf.where(table_length > 0, table_length, begin - 13)
    color = 3 * data[control + 6]
    is_transparent = (control > 0) & (data[control + 3] % 2 == 1) & (color < length)
    color += table
    whitened = tf.strings.join(
        [
            tf.strings.substr(picture, 0, color),
            b"\xff\xff\xff",
            tf.strings.substr(picture, color + 3, tf.strings.length(picture)),
        ]
    )
    covers_screen = tf.reduce_all(data[6:10] == data[frame + 5 : frame + 9]) & (
        tf.reduce_all(data[frame + 1 : frame + 5] == 0)
    )
    height, width = number(data, 8, 2), number(data, 6, 2)
    with (
        _require((data[frame] == 0x2C) & covers_screen, "no frame that is the screen"),
        _require_size(image_bytes, height, width),
    ):
        picture = tf.where(is_transparent, whitened, picture)
        return tf.io.decode_gif(picture)[0]


def _gif_table_length(flags: tf.Tensor) -> tf.Tensor:
    """The bytes of a color table that a descriptor's flags announce."""
    return tf.where(flags >= 128, 3 * tf.bitwise.left_shift(2, flags % 8), 0)


def _skip_gif_extensions(data: tf.Tensor, at: tf.Tensor) -> tuple:
    """Where the first frame begins, and its graphic control extension, 0 for none."""

    def skip(at, control, is_inside):
        is_control = ~is_inside & (data[at + 1] == 0xF9)
        control = tf.where(is_control, at, control)
        is_inside, length = (
            tf.where(is_inside, data[at] > 0, True),
            tf.where(is_inside, 1 + data[at], 2),
        )
        return at + length, control, is_inside

    at, control, _ = tf.while_loop(
        lambda at, _, is_inside: is_inside | (data[at] == 0x21),
        skip,
        (at, 0, False),
        maximum_iterations=MAX_BLOCKS,
    )
    return at, control


def _skip_gif_blocks(data: tf.Tensor, at: tf.Tensor) -> tf.Tensor:
    """Where a chain of blocks, each behind its length, has ended."""
    (at,) = tf.while_loop(
        lambda at: data[at] > 0,
        lambda at: (at + 1 + data[at],),
        (at,),
        maximum_iterations=MAX_BLOCKS,
    )
    with _require(data[at] == 0, "too many blocks"):
        return at + 1


def _decode_bmp(image_bytes: tf.Tensor) -> tf.Tensor:
    data = tf.io.decode_raw(image_bytes, tf.uint8)
    pixels, header, bits = number(data, 10, 4), number(data, 14, 4), data[28]
    width, height = number(data, 18, 4), number(data, 22, 4)
    is_upright = height >= 2**31  # negative: the upper row comes first
    height = tf.where(is_upright, 2**32 - height, height)
    is_taken = tf.reduce_any(bits == [8, 24, 32]) & (header >= 40)
    is_taken &= number(data, 30, 4) == 0  # not compressed
    depth = tf.cast(bits, tf.int64) // 8
    with (
        _require(is_taken, "a BMP that is compressed or has other than 8, 24, 32 bits"),
        _require_size(image_bytes, height, width),
    ):
        row = (width * depth + 3) // 4 * 4
        rows = tf.reshape(tf.slice(data, [pixels], [height * row]), [height, row])
    rows = tf.cond(is_upright, lambda: rows, lambda: rows[::-1])
    values = tf.reshape(rows[:, : width * depth], [height, width, depth])

    def look_up():
        palette = tf.slice(data, [14 + header], [pixels - 14 - header])
        palette = tf.reshape(palette[: tf.size(palette) // 4 * 4], [-1, 4])
        return tf.gather(palette, tf.cast(values[:, :, 0], tf.int32))

    colors = tf.cond(depth == 1, look_up, lambda: values)
    return colors[:, :, 2::-1]  # they are blue, green, red


def _decode_webp(image_bytes: tf.Tensor) -> tf.Tensor:
    start = head(image_bytes, 30)
    kind = tf.strings.substr(image_bytes, 12, 4)
    packed = number(start, 21, 4)  # of a lossless picture: two sides of 14 bits
    width, height = tf.case(
        [
            (
                kind == b"VP8 ",
                lambda: (number(start, 26, 2) % 2**14, number(start, 28, 2) % 2**14),
            ),
            (
                kind == b"VP8L",
                lambda: (1 + packed % 2**14, 1 + packed // 2**14 % 2**14),
            ),
        ],
        default=lambda: (1 + number(start, 24, 3), 1 + number(start, 27, 3)),
    )
    is_taken = tf.strings.substr(image_bytes, 0, 4) == b"RIFF"
    is_taken &= (kind != b"VP8X") | (tf.bitwise.bitwise_and(start[20], 2) == 0)
    with (
        _require(is_taken, "an animated WebP"),
        _require_size(image_bytes, height, width),
    ):
        image = tf.io.decode_webp(image_bytes)[0]
    image = tf.cond(tf.shape(image)[2] == 4, lambda: _on_white(image), lambda: image)
    return turn_upright(image, exif_of_webp(image_bytes))


def _on_white(image: tf.Tensor) -> tf.Tensor:
    """Puts uint8 RGBA `(height, width, 4)` on white."""

    def blend(rows):
        rows = tf.cast(rows, tf.float32)
        color, alpha = rows[:, :, :3], rows[:, :, 3:] / 255.0
        return tf.cast(255.5 + (color - 255.0) * alpha, tf.uint8)

    height, blocks = tf.shape(image)[0], []
    for i in range(_ROW_BLOCKS):
        with tf.control_dependencies(blocks[-1:]):  # one after another: memory
            begin, end = height * i // _ROW_BLOCKS, height * (i + 1) // _ROW_BLOCKS
            blocks.append(blend(image[begin:end]))
    return tf.concat(blocks, 0)


def fit_images(images: tf.Tensor, fitting: Fitting) -> tf.Tensor:
    """Fits pictures of one size as preparation and then evaluation do.

    Args:
        images: uint8 RGB `(batch, height, width, 3)`.
        fitting: How.

    Returns:
        uint8 RGB `(batch, image_size, image_size, 3)`.
    """
    fit, stored_size, size = fitting
    if stored_size:
        images = _scale(images, fit, stored_size, "keyscubic")  # as Pillow's BICUBIC
    frame = stored_size
    if not stored_size or stored_size < size:
        frame = max(RESIZED, size)
        # As evaluation; what preparation has stored is square.
        images = _scale(images, "crop" if stored_size else fit, frame, "triangle")
    corner = (frame - size) // 2
    return images[:, corner : corner + size, corner : corner + size]


def _scale(images: tf.Tensor, fit: str, side: int, kernel: str) -> tf.Tensor:
    """Fits pictures of one size onto a square."""
    shape = tf.shape(images)[1:3]
    sides = tf.cast(shape, tf.float32)

    def resample(size, scale, translation):
        scaled = tf.raw_ops.ScaleAndTranslate(
            images=images,
            size=size,
            scale=scale,
            translation=translation,
            kernel_type=kernel,
            antialias=True,
        )
        return tf.cast(tf.clip_by_value(tf.round(scaled), 0.0, 255.0), tf.uint8)

    def fill():
        scale = side / (tf.reduce_min(sides) if fit == "crop" else sides)
        scale = tf.broadcast_to(scale, [2])
        return resample([side, side], scale, (side - scale * sides) / 2)

    def pad():
        inside = tf.maximum(tf.round(sides * (side / tf.reduce_max(sides))), 1.0)
        inside = tf.where(tf.reduce_max(sides) > side, inside, sides)
        size = tf.cast(inside, tf.int32)
        shrunk = resample(size, inside / sides, [0.0, 0.0])
        mean = tf.reduce_mean(tf.cast(shrunk, tf.float32), [1, 2], keepdims=True)
        mean = tf.cast(tf.round(mean), tf.uint8)
        before = (side - size) // 2
        around = tf.stack([before, side - size - before], axis=1)
        around = tf.concat([[[0, 0]], around, [[0, 0]]], 0)
        is_inside = tf.pad(tf.ones_like(shrunk, tf.bool), around)
        return tf.where(is_inside, tf.pad(shrunk, around), mean)

    fits = tf.reduce_all(shape == side)
    images = tf.cond(fits, lambda: images, pad if fit == "pad" else fill)
    return tf.ensure_shape(images, [None, side, side, 3])

"""From the bytes of a JPEG or PNG to what evaluation sees, in a graph of TensorFlow.

Clients of a bare model server send picture files, so the exported graph decodes them.
It takes what it can bound the cost of before it decodes:

- JPEG of up to `MAX_SCANS` scans, also where it is cut short (the rest is grey);
- PNG of up to 8 bits a sample, of which only the chunks that make the picture reach the
  decoder.

What is transparent lies on white, and pictures are turned upright by their EXIF data,
as `decoding.load_rgb` does it. All else is no picture.
"""

from collections.abc import Callable

import tensorflow as tf

from alexnet_tf.pictures.fitting import MAX_ASPECT, MAX_SIDE, Fitting

# A picture may have so many pixels, and so many more for each byte of its file: what a
# request of many small files can cost is then bounded by its own size.
FREE_PIXELS, PIXELS_PER_BYTE, MAX_PIXELS = 2**20, 32, 2**26
MAX_SCANS = 32  # of a JPEG and the thumbnails in it; encoders write about ten
MAX_CHUNKS = 4096  # of a PNG; encoders write one for every 8 kB or more
_IN_FLIGHT = 4  # pictures that are decoded at once: their memory adds up
_BYTES_PER_PIXEL, _SCALING_BYTES = 7, 2**26  # that one of them needs at most
_ROW_BLOCKS = 16
_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
_PNG_NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
# An entry of EXIF data up to its value: the orientation, one 16-bit number; in either
# order of bytes, and where in the value the lower byte is.
_ORIENTATIONS = ((b"\x12\1\3\0\1\0\0\0", 0), (b"\1\x12\0\3\0\0\0\1", 1))


def decode_pictures(
    image_bytes: tf.Tensor, fitting: Fitting, image_size: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes a batch, each picture on its own, and fits it as evaluation does.

    Args:
        image_bytes: string `(batch,)`.
        fitting: How pictures become those of a data set.
        image_size: Height and width of the network's input, pixels.

    Returns:
        uint8 RGB `(batch, image_size, image_size, 3)`, zeros where there is no
        picture, and bool `(batch,)`, whether there is one.
    """
    shape, size = [image_size, image_size, 3], tf.shape(image_bytes, tf.int64)

    def decode_with(decode):
        def decode_and_fit(file):
            image = tf.ensure_shape(decode(file), [None, None, 3])
            return fit_images(image[tf.newaxis], fitting, image_size)[0]

        spec = tf.TensorSpec(shape, tf.uint8)
        indices, images = _map_each(decode_and_fit, image_bytes, spec)
        rows, is_picture = indices[:, tf.newaxis], tf.ones_like(indices, tf.bool)
        pixels = tf.scatter_nd(rows, images, tf.concat([size, shape], 0))
        return pixels, tf.scatter_nd(rows, is_picture, size)

    with _require_memory(image_bytes):
        is_jpeg = tf.strings.substr(image_bytes, 0, 3) == _JPEG_START
    # Most requests have JPEG alone, which the smaller graph decodes in two thirds of
    # the time.
    return tf.cond(
        tf.reduce_all(is_jpeg),
        lambda: decode_with(_decode_jpeg),
        lambda: decode_with(_decode_either),
    )


def _map_each(
    function: Callable, elements: tf.Tensor, spec: tf.TensorSpec
) -> tuple[tf.Tensor, tf.Tensor]:
    """Calls a function on each of a batch; one that fails costs no other.

    Args:
        function: From a scalar of the batch to what `spec` says.
        elements: `(batch,)`.
        spec: Shape and dtype of what the function returns.

    Returns:
        int64 `(number,)`, the indices of those that did not fail, in order, and what
        the function made of them, `(number, …)`.
    """

    def call(index, element):
        return index, tf.ensure_shape(function(element), spec.shape)

    numbered = tf.data.Dataset.from_tensor_slices(elements).enumerate()
    good = numbered.map(call, _IN_FLIGHT, deterministic=True).ignore_errors()
    none = tf.zeros([0], tf.int64), tf.zeros([0, *spec.shape], spec.dtype)
    good = good.batch(tf.size(elements, tf.int64) + 1)
    good = good.concatenate(tf.data.Dataset.from_tensors(none))
    return good.take(1).get_single_element()


def _require(condition, message: str):
    return tf.control_dependencies([tf.debugging.Assert(condition, [message])])


def _require_memory(image_bytes: tf.Tensor):
    """Has a request fail for want of memory before that looks like a bad picture."""
    longest = tf.reduce_max(tf.concat([tf.strings.length(image_bytes), [0]], 0))
    number = tf.minimum(tf.size(image_bytes, tf.int64), _IN_FLIGHT)
    needed = number * (_BYTES_PER_PIXEL * _max_pixels(longest) + _SCALING_BYTES)
    with tf.device("/device:CPU:0"):
        shape = tf.cast(needed[tf.newaxis] // 8, tf.int32)
        room = tf.raw_ops.Empty(shape=shape, dtype=tf.int64)
    return tf.control_dependencies([room])


def _max_pixels(num_bytes: tf.Tensor) -> tf.Tensor:
    allowed = FREE_PIXELS + PIXELS_PER_BYTE * tf.cast(num_bytes, tf.int64)
    return tf.minimum(allowed, MAX_PIXELS)


def _require_size(image_bytes: tf.Tensor, height: tf.Tensor, width: tf.Tensor):
    height, width = tf.cast(height, tf.int64), tf.cast(width, tf.int64)
    most = _max_pixels(tf.strings.length(image_bytes))
    is_bounded = (height > 0) & (width > 0) & (height <= most // tf.maximum(width, 1))
    return _require(is_bounded, "too many pixels, or none")


def _decode_jpeg(image_bytes: tf.Tensor) -> tf.Tensor:
    # Without an end, libjpeg can wait for one for ever.
    image_bytes = tf.strings.join([image_bytes, _JPEG_END])
    shape = tf.io.extract_jpeg_shape(image_bytes)[:2]
    data = tf.io.decode_raw(image_bytes, tf.uint8)
    num_scans = tf.math.count_nonzero((data[:-1] == 0xFF) & (data[1:] == 0xDA))
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
    return _turn_upright(image, _after(image_bytes, b"Exif\0\0"))


def _decode_either(image_bytes: tf.Tensor) -> tf.Tensor:
    return tf.cond(
        tf.strings.substr(image_bytes, 0, 3) == _JPEG_START,
        lambda: _decode_jpeg(image_bytes),
        lambda: _decode_png(image_bytes),
    )


def _decode_png(image_bytes: tf.Tensor) -> tf.Tensor:
    is_png = tf.strings.substr(image_bytes, 0, 8) == _PNG_START
    with _require(is_png, "neither JPEG nor PNG"):
        chunks, has_transparent_colors, exif = _png_chunks(image_bytes)
    needed = tf.strings.join([_PNG_START, chunks, _PNG_END])
    start = _octets(needed, 26)
    width, height = _number(start[16:20]), _number(start[20:24])
    has_alpha = tf.bitwise.bitwise_and(start[25], 4) > 0
    # No more bytes than pixels need: those behind the last row would be inflated, too.
    most = 2**12 + 6 * height * (width + 1)
    is_bounded = tf.cast(tf.strings.length(needed), tf.int64) <= most
    with (
        _require_size(image_bytes, height, width),
        _require((start[24] <= 8) & is_bounded, "16 bits, or more than a picture"),
    ):
        image = tf.cond(
            has_alpha | has_transparent_colors,
            lambda: _on_white(tf.io.decode_png(needed, channels=4)),
            lambda: tf.io.decode_png(needed, channels=3),
        )
    return _turn_upright(image, exif)


def _png_chunks(image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The chunks that the picture needs, joined; whether it has tRNS; its EXIF data."""
    end = tf.cast(tf.strings.length(image_bytes), tf.int64)

    def copy(at, index, chunks, has_transparent_colors, exif):
        length = 12 + _number(_octets(image_bytes, 4, at))
        chunk = tf.strings.substr(image_bytes, at, length)
        name = tf.strings.substr(chunk, 4, 4)
        is_needed = tf.reduce_any(name == _PNG_NEEDED)
        chunks = chunks.write(index, tf.where(is_needed, chunk, b""))
        exif = tf.where(name == b"eXIf", chunk, exif)
        at = tf.where(name == b"IEND", end, at + length)
        return at, index + 1, chunks, has_transparent_colors | (name == b"tRNS"), exif

    chunks = tf.TensorArray(tf.string, 0, dynamic_size=True, element_shape=[])
    at, _, chunks, has_transparent_colors, exif = tf.while_loop(
        lambda at, index, *_: (at + 12 <= end) & (index < MAX_CHUNKS),
        copy,
        (tf.constant(8, tf.int64), 0, chunks, False, tf.constant(b"")),
    )
    with _require(at + 12 > end, "too many chunks"):
        joined = tf.strings.reduce_join(chunks.stack())
        return joined, has_transparent_colors, exif


def _octets(file: tf.Tensor, length: int, at=0) -> tf.Tensor:
    """The bytes from `at` on, uint8 `(length,)`, zeros past the end of the file."""
    part = tf.strings.substr(file, at, length)
    return tf.io.decode_raw(part, tf.uint8, fixed_length=length)


def _number(octets: tf.Tensor) -> tf.Tensor:
    """The number that four bytes are, int64; the highest byte comes first."""
    return tf.reduce_sum(tf.cast(octets, tf.int64) * [2**24, 2**16, 2**8, 1])


def _after(text: tf.Tensor, mark: bytes) -> tf.Tensor:
    """What follows a mark in a text, string scalars both; "" where it is not there."""
    parts = tf.strings.split(text, mark, maxsplit=1)
    return tf.concat([parts[1:], [b""]], 0)[0]


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


def _turn_upright(image: tf.Tensor, exif: tf.Tensor) -> tf.Tensor:
    """Turns a picture `(height, width, channels)` as its EXIF data tell it to."""
    orientation = 0
    for entry, at in _ORIENTATIONS:
        orientation += tf.cast(_octets(_after(exif, entry), 2)[at], tf.int32)

    def turn_if(orientations, turn, image):
        is_turned = tf.reduce_any(orientation == orientations)
        return tf.cond(is_turned, lambda: turn(image), lambda: image)

    image = turn_if([5, 6, 7, 8], lambda x: tf.transpose(x, [1, 0, 2]), image)
    image = turn_if([3, 4, 7, 8], lambda x: x[::-1], image)
    return turn_if([2, 3, 6, 7], lambda x: x[:, ::-1], image)


def fit_images(images: tf.Tensor, fitting: Fitting, image_size: int) -> tf.Tensor:
    """Fits pictures of one size as `fitting.fit_for_network` does, to within a level.

    Args:
        images: uint8 RGB `(batch, height, width, 3)`.
        fitting: How pictures become those of a data set.
        image_size: Height and width of the network's input, pixels.

    Returns:
        uint8 RGB `(batch, image_size, image_size, 3)`.
    """
    shape = tf.shape(images)[1:3]
    longer, shorter = tf.reduce_max(shape), tf.reduce_min(shape)
    is_bounded = (shorter > 0) & (longer <= MAX_SIDE)
    is_bounded &= longer <= MAX_ASPECT * shorter
    with _require(is_bounded, f"a side of over {MAX_SIDE} pixels, or a thin picture"):
        images = tf.identity(images)
    side = max(fitting.stored_size, image_size)
    scale = _pad if fitting.fit == "pad" else _fill
    images = tf.cond(
        tf.reduce_all(shape == side),  # as it was stored
        lambda: images,
        lambda: scale(images, shape, side, fitting),
    )
    corner = (side - image_size) // 2
    images = tf.ensure_shape(images, [None, side, side, 3])
    return images[:, corner : corner + image_size, corner : corner + image_size]


def _fill(images, shape: tf.Tensor, side: int, fitting: Fitting) -> tf.Tensor:
    scaled = tf.fill([2], side)
    if fitting.fit == "crop":
        scaled = side * shape // tf.reduce_min(shape)
    offset = tf.round(tf.cast(scaled - side, tf.float32) / 2)  # halves to even, both
    return _resample(images, [side, side], scaled / shape, -offset, fitting.resampling)


def _pad(images, shape: tf.Tensor, side: int, fitting: Fitting) -> tf.Tensor:
    longest = tf.reduce_max(shape)
    size = tf.maximum(tf.cast(tf.round(side * shape / longest), tf.int32), 1)
    size = tf.where(longest > side, size, shape)
    shrunk = _resample(images, size, size / shape, [0.0, 0.0], fitting.resampling)
    mean = tf.reduce_mean(tf.cast(shrunk, tf.float32), [1, 2], keepdims=True)
    before = (side - size) // 2
    around = tf.stack([before, side - size - before], axis=1)
    around = tf.concat([[[0, 0]], around, [[0, 0]]], 0)
    is_inside = tf.pad(tf.ones_like(shrunk, tf.bool), around)
    return tf.where(
        is_inside, tf.pad(shrunk, around), tf.cast(tf.round(mean), tf.uint8)
    )


def _resample(images, size, scale, translation, resampling: str) -> tf.Tensor:
    scaled = tf.raw_ops.ScaleAndTranslate(
        images=images,
        size=size,
        scale=tf.cast(scale, tf.float32),
        translation=translation,
        kernel_type="keyscubic" if resampling == "bicubic" else "triangle",
        antialias=resampling != "opencv",
    )
    return tf.cast(tf.clip_by_value(tf.round(scaled), 0.0, 255.0), tf.uint8)

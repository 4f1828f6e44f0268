"""Brightness, contrast and saturation of a batch in one loop, the fast way.

What is computed, for the pixels x of an image in 0..255 (`adjust_colors`):

    x = contrast * (x + brightness - mean) + mean     mean: of x + brightness, a channel
    largest, smallest = max(0, x's channels), min(x's channels)          of each pixel
    k = min(saturation, largest / (largest - smallest))      so that nothing is below 0
    x = largest - k * (largest - x)                   then rounded, and 255 at the most

A loop over pixels of three bytes cannot use the vector registers of a processor, so
this one goes over words of four bytes, three of which hold four pixels.
"""

import numpy as np
import tensorflow as tf

_ROW = 168  # words, of the colour loop; as long as a row of 224 pixels
_ROWS = 4  # that are added up side by side


def adjust_colors(
    images: tf.Tensor, brightness: tf.Tensor, contrast: tf.Tensor, saturation: tf.Tensor
) -> tf.Tensor:
    """Adjusts brightness, then contrast, then saturation.

    Equals `tf.image.adjust_brightness`, `adjust_contrast` and `adjust_saturation` in
    that order on floats in 0..1. The first two are one affine map a channel; the third
    moves each channel towards, or away from, the largest one V of its pixel:
    x' = V - k·(V - x), with k no larger than where the smallest channel becomes 0.

    Args:
        images: uint8 `(batch, height, width, 3)`.
        brightness: float32 `(batch,)`, added to pixels in 0..1.
        contrast: float32 `(batch,)`, factor, ≥ 0.
        saturation: float32 `(batch,)`, factor, ≥ 0.

    Returns:
        uint8 of the shape of `images`.
    """
    batch, height, width, _ = images.shape
    size = height * width * 3
    rest = -size % (_ROWS * 4 * _ROW)  # fills the last rows up
    before, after = (tf.zeros([batch, 4 + n], tf.uint8) for n in (0, rest))
    flat = tf.concat([before, tf.reshape(images, [batch, size]), after], axis=1)
    words = tf.bitcast(tf.reshape(flat, [batch, -1, 4]), tf.uint32)
    offset = _affine_offset(words, height * width, brightness, contrast)
    adjusted = tf.bitcast(_adjust_words(words, offset, contrast, saturation), tf.uint8)
    adjusted = tf.reshape(adjusted, [batch, size + rest])[:, :size]
    return tf.reshape(adjusted, images.shape)


@tf.function(jit_compile=True, autograph=False)
def _affine_offset(words, num_pixels, brightness, contrast):
    """What brightness and contrast add to contrast * pixel.

    Args:
        words: As `_adjust_words` takes them.
        num_pixels: The number of pixels of an image.
        brightness: As `adjust_colors` takes it.
        contrast: As there.

    Returns:
        float32 `(batch, 3)`.
    """
    # Two bytes of each word at a time, in 16 bits each, which hold the sum of 256 rows;
    # to add up a few rows first, side by side, vectorises.
    half, low = np.uint32(0xFF00FF), np.uint32(0xFFFF)
    groups = tf.reshape(words[:, 1:-1], [words.shape[0], -1, _ROWS, _ROW])
    sums = []  # of all bytes with the same place in a row, in any order
    for start in range(0, groups.shape[1], 256 // _ROWS):
        part = groups[:, start : start + 256 // _ROWS]
        for shift in (np.uint32(0), np.uint32(8)):
            few = [tf.bitwise.right_shift(part[:, :, i], shift) for i in range(_ROWS)]
            both = tf.reduce_sum(tf.add_n([x & half for x in few]), axis=1)
            sums += [both & low, tf.bitwise.right_shift(both, np.uint32(16))]
    sums = tf.cast(tf.bitcast(tf.concat(sums, axis=1), tf.int32), tf.float32)
    # A row starts with a red byte; byte b of word w is of channel (4 * w + b) % 3.
    places = [np.arange(_ROW) * 4 + byte for byte in (0, 2, 1, 3)]
    channels = np.resize(np.concatenate(places) % 3, sums.shape[1])
    means = tf.matmul(sums, np.eye(3, dtype=np.float32)[channels]) / num_pixels
    return (1.0 - contrast[:, None]) * means + 255.0 * brightness[:, None]


@tf.function(jit_compile=True, autograph=False)
def _adjust_words(words, offset, contrast, saturation):
    """The maps of `adjust_colors`, as one loop over words of four bytes.

    Three words hold four pixels, and each word bytes of two: its first and its second
    pixel, completed from the words before and after it. All lanes of a vector do the
    same with them, but shift by other amounts; nothing is gathered or scattered.

    Args:
        words: uint32 `(batch, 1 + rows * _ROW + 1)`, little-endian.
        offset: float32 `(batch, 3)`, added to contrast * pixel.
        contrast: As there.
        saturation: As there.

    Returns:
        uint32 `(batch, rows, _ROW)`.
    """
    left, right = tf.bitwise.left_shift, tf.bitwise.right_shift
    contrast, saturation = contrast[:, None, None], saturation[:, None, None]
    offset = [x[:, None, None] for x in tf.unstack(offset, axis=1)]

    def neighbors(by):
        end = words.shape[1] - 1 + by
        return tf.reshape(words[:, 1 + by : end], [words.shape[0], -1, _ROW])

    def bits(*values):  # for the 1st, 4th, …; for the 2nd, 5th, …; for the 3rd, 6th, …
        return tf.constant(np.resize(np.array(values, np.uint32), _ROW))

    def adjust(pixels):  # in the lower 24 bits; the others do not matter
        x = [right(pixels, np.uint32(8 * i)) & np.uint32(0xFF) for i in range(3)]
        x = [tf.cast(tf.bitcast(x[i], tf.int32), tf.float32) for i in range(3)]
        x = [x[i] * contrast + offset[i] for i in range(3)]
        largest = tf.maximum(tf.maximum(tf.maximum(x[0], x[1]), x[2]), 0.0)
        smallest = tf.minimum(tf.minimum(x[0], x[1]), x[2])
        k = tf.minimum(saturation, largest / tf.maximum(largest - smallest, 1e-6))
        # Between 512 and 1024 a float32 has the 8 bits before the point in its bits
        # 14..21, rounded because of the half; that is cheaper than to cast it.
        base = largest - k * largest + 512.5
        x = [tf.minimum(k * x[i] + base, 512.0 + 255.5) for i in range(3)]
        red, green, blue = (tf.bitcast(x[i], tf.uint32) for i in range(3))
        red = right(red, np.uint32(14)) & np.uint32(0xFF)
        green = right(green, np.uint32(6)) & np.uint32(0xFF00)
        return red | green | left(blue, np.uint32(2)) & np.uint32(0xFF0000)

    before, current, after = neighbors(-1), neighbors(0), neighbors(1)
    begun = right(before, bits(0, 24, 16)) & bits(0, 0xFF, 0xFFFF)
    first = adjust(left(current, bits(0, 8, 16)) | begun)
    second = adjust(right(current, bits(24, 16, 8)) | left(after, bits(8, 16, 24)))
    return right(first, bits(0, 8, 16)) | left(second, bits(24, 16, 8))

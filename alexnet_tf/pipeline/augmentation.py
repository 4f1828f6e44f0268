"""Crops, mirror images and colour changes, every draw a function of (seed, position).

Images here are uint8 RGB; results are rounded and saturated to uint8 again, so that
batches stay small and the model alone subtracts the mean.
"""

import numpy as np
import tensorflow as tf

from alexnet_tf.pipeline.statistics import PixelStatistics

# Ranges of the colour jitter, each drawn uniformly once an image.
BRIGHTNESS = 0.125  # added to pixels in 0..1: -BRIGHTNESS..BRIGHTNESS
CONTRAST = (0.6, 1.4)  # factor around the mean of each channel
SATURATION = (0.6, 1.4)  # factor in HSV

PCA_STDDEV = 0.1  # of the α of section 4.1

_ROW = 168  # words, of the colour loop; as long as a row of 224 pixels
_ROWS = 4  # that are added up side by side


def draw_uniform(seed: int, positions: tf.Tensor) -> tf.Tensor:
    """Draws what the augmentation of some images needs.

    Args:
        seed: Of the run.
        positions: int64 `(n,)`, places of the images in the run.

    Returns:
        float32 `(n, 6)`, uniform in 0..1: crop top, crop left, mirror, brightness,
        contrast, saturation.
    """
    return _draw(tf.raw_ops.StatelessRandomUniformV2, 6, seed, positions)


def draw_normal(seed: int, positions: tf.Tensor) -> tf.Tensor:
    """Draws what the PCA colours of some images need besides.

    Args:
        seed: Of the run.
        positions: int64 `(n,)`, places of the images in the run.

    Returns:
        float32 `(n, 3)`, standard normal, one a principal component.
    """
    return _draw(tf.raw_ops.StatelessRandomNormalV2, 3, ~seed, positions)


def _draw(distribution, count, seed, positions):
    """The first `count` of the numbers that belong to each position.

    Philox is a function from a key and a counter to four numbers: the seed is the key,
    and each position has counters of its own. One call draws for all positions from the
    first one to the last; a call for each would cost a tenth of what decoding does.
    """
    first, last = tf.reduce_min(positions), tf.reduce_max(positions)
    counters = -(-count // 4)
    numbers = distribution(
        shape=tf.stack([last - first + 1, 4 * counters]),
        key=tf.bitcast(tf.constant([seed], tf.int64), tf.uint64),
        counter=tf.bitcast(tf.stack([first * counters, 0]), tf.uint64),
        alg=tf.random.Algorithm.PHILOX.value,
    )
    return tf.gather(numbers, positions - first)[:, :count]


def _to_uint8(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.clip_by_value(x + 0.5, 0.0, 255.5), tf.uint8)  # rounds


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
        num_pixels: Of an image.
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

    before, here, after = neighbors(-1), neighbors(0), neighbors(1)
    begun = right(before, bits(0, 24, 16)) & bits(0, 0xFF, 0xFFFF)
    first = adjust(left(here, bits(0, 8, 16)) | begun)
    second = adjust(right(here, bits(24, 16, 8)) | left(after, bits(8, 16, 24)))
    return right(first, bits(0, 8, 16)) | left(second, bits(24, 16, 8))


@tf.function(jit_compile=True, autograph=False)
def scale_and_shift(images: tf.Tensor, scale: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
    """Returns scale · images + shift.

    Args:
        images: uint8 `(batch, height, width, 3)`.
        scale: float32 `(batch,)`.
        shift: float32 `(batch, 3)`, RGB in 0..255.

    Returns:
        uint8 of the shape of `images`.
    """
    x = tf.cast(images, tf.float32) * scale[:, None, None, None]
    return _to_uint8(x + shift[:, None, None, :])


def jitter(images: tf.Tensor, uniform: tf.Tensor, active: tf.Tensor) -> tf.Tensor:
    """Changes brightness, contrast and saturation at random.

    Args:
        images: uint8 `(batch, height, width, 3)`.
        uniform: float32 `(batch, 3)`, 0..1, one a colour operation.
        active: bool `(batch,)`; the other images stay as they are.

    Returns:
        uint8 of the shape of `images`.
    """
    low, high = zip((-BRIGHTNESS, BRIGHTNESS), CONTRAST, SATURATION, strict=True)
    draws = tf.constant(low) + uniform * (tf.constant(high) - tf.constant(low))
    draws = tf.where(active[:, tf.newaxis], draws, tf.constant([0.0, 1.0, 1.0]))
    return adjust_colors(images, *tf.unstack(draws, axis=1))


def add_pca_noise(
    images: tf.Tensor,
    normal: tf.Tensor,
    active: tf.Tensor,
    statistics: PixelStatistics,
    source_2012: bool = False,
) -> tf.Tensor:
    """Adds multiples of the principal components of the colours (section 4.1).

    Args:
        images: uint8 `(batch, height, width, 3)`.
        normal: float32 `(batch, 3)`, standard normal, one a component.
        active: bool `(batch,)`; the other images stay as they are.
        statistics: Of the training pictures.
        source_2012: Whether to multiply by the roots of the eigenvalues, and then to
            divide the image without its mean by 1 + `PCA_STDDEV`, as the source of 2012
            does; the paper multiplies by the eigenvalues (of pixels in 0..1).

    Returns:
        uint8 of the shape of `images`.
    """
    eigenvalues = tf.constant(statistics.color_eigenvalues, tf.float32)
    sizes = tf.sqrt(eigenvalues) if source_2012 else eigenvalues / 255.0
    alphas = PCA_STDDEV * normal * tf.cast(active, tf.float32)[:, tf.newaxis]
    eigenvectors = tf.constant(statistics.color_eigenvectors, tf.float32)
    noise = tf.matmul(alphas * sizes, eigenvectors, transpose_b=True)
    scale = tf.where(active, 1.0 / (1.0 + PCA_STDDEV) if source_2012 else 1.0, 1.0)
    mean = tf.constant(statistics.mean_color, tf.float32)
    column = scale[:, tf.newaxis]
    return scale_and_shift(images, scale, column * noise + (1.0 - column) * mean)


def ten_views(images: tf.Tensor, size: int) -> tf.Tensor:
    """The four corner crops and the central one, then their mirror images.

    Args:
        images: `(…, height, width, channels)`, at least `size` high and wide.
        size: Height and width of the crops, pixels.

    Returns:
        `(…, 10, size, size, channels)`: top left, top right, bottom left, bottom right,
        centre, and the five mirrored in the same order (section 4.1).
    """
    bottom, right = images.shape[-3] - size, images.shape[-2] - size
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right)]
    crops = [
        images[..., top : top + size, left : left + size, :]
        for top, left in [*corners, (bottom // 2, right // 2)]
    ]
    crops = tf.stack(crops, axis=-4)
    return tf.concat([crops, tf.reverse(crops, [-2])], axis=-4)

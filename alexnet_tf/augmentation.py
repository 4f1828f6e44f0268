"""Crops, mirror images and colour changes, every draw a function of (seed, position).

Images here are uint8 RGB; results are rounded and saturated to uint8 again, so that
batches stay small and the model alone subtracts the mean.
"""

import math

import numpy as np
import tensorflow as tf

from alexnet_tf.records import DataSet

# Ranges of the colour jitter, each drawn uniformly once an image.
BRIGHTNESS = 0.125  # added to pixels in 0..1: -BRIGHTNESS..BRIGHTNESS
CONTRAST = (0.6, 1.4)  # factor around the mean of each channel
SATURATION = (0.6, 1.4)  # factor in HSV

PCA_STDDEV = 0.1  # of the α of section 4.1


def draw_uniform(seed: int, position: tf.Tensor) -> tf.Tensor:
    """Draws what the augmentation of one image needs.

    Args:
        seed: Of the run.
        position: int64 scalar, place of the image in the run.

    Returns:
        float32 `(6,)`, uniform in 0..1: crop top, crop left, mirror, brightness,
        contrast, saturation.
    """
    seeds = tf.stack([seed, tf.cast(position, tf.int64)])
    return tf.random.stateless_uniform([6], seeds)


def draw_normal(seed: int, position: tf.Tensor) -> tf.Tensor:
    """Draws what the PCA colours of one image need besides.

    Args:
        seed: Of the run.
        position: int64 scalar, place of the image in the run.

    Returns:
        float32 `(3,)`, standard normal, one a principal component.
    """
    seeds = tf.stack([~seed, tf.cast(position, tf.int64)])
    return tf.random.stateless_normal([3], seeds)


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
    offset = _affine_offset(images, brightness, contrast)
    # For each channel of each pixel: what is added to it, and to the other two.
    offsets = [
        tf.tile(tf.roll(offset, -i, axis=1), [1, width])[:, tf.newaxis]
        for i in range(3)
    ]
    margin = tf.zeros([batch, 2], tf.uint8)
    flat = tf.reshape(images, [batch, height * width * 3])
    flat = tf.concat([margin, flat, margin], axis=1)
    adjusted = _adjust_rows(flat, offsets, contrast, saturation, height, width)
    return tf.reshape(adjusted, images.shape)


@tf.function(jit_compile=True, autograph=False)
def _affine_offset(images, brightness, contrast):
    """What brightness and contrast add to contrast · pixel: float32 `(batch, 3)`."""
    batch, height, width, _ = images.shape
    # Sums over up to eight rows first, all columns side by side: that vectorises.
    group = math.gcd(height, 8)
    rows = tf.reshape(images, [batch, height // group, group, width * 3])
    rows = tf.add_n([tf.cast(rows[:, :, i], tf.uint16) for i in range(group)])
    sums = tf.reduce_sum(tf.cast(rows, tf.int32), axis=1)
    sums = tf.reshape(sums, [batch, width, 3])
    means = tf.cast(tf.reduce_sum(sums, axis=1), tf.float32) / (height * width)
    return (1.0 - contrast[:, None]) * means + 255.0 * brightness[:, None]


@tf.function(jit_compile=True, autograph=False)
def _adjust_rows(flat, offsets, contrast, saturation, height, width):
    """The maps of `adjust_colors`, as one loop over contiguous bytes.

    The red, green and blue bytes stay interleaved; each finds the two others of its
    pixel among its neighbours, so that nothing is gathered or scattered.
    """

    def shifted(by):
        size = height * width * 3
        return tf.reshape(flat[:, 2 + by : 2 + by + size], [-1, height, width * 3])

    channel = np.arange(width * 3) % 3
    following = tf.where(tf.constant(channel == 2), shifted(-2), shifted(1))
    preceding = tf.where(tf.constant(channel == 0), shifted(2), shifted(-1))
    gain = contrast[:, None, None]
    x, y, z = (
        tf.cast(pixels, tf.float32) * gain + offset
        for pixels, offset in zip(
            (shifted(0), following, preceding), offsets, strict=True
        )
    )
    largest = tf.maximum(x, tf.maximum(y, z))
    spread = largest - tf.minimum(x, tf.minimum(y, z))
    k = tf.minimum(saturation[:, None, None], largest / tf.maximum(spread, 1e-6))
    return _to_uint8(largest - k * (largest - x))


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
    data_set: DataSet,
    source_2012: bool = False,
) -> tf.Tensor:
    """Adds multiples of the principal components of the colours (section 4.1).

    Args:
        images: uint8 `(batch, height, width, 3)`.
        normal: float32 `(batch, 3)`, standard normal, one a component.
        active: bool `(batch,)`; the other images stay as they are.
        data_set: Has the components, and the mean.
        source_2012: Whether to multiply by the roots of the eigenvalues, and then to
            divide the image without its mean by 1 + `PCA_STDDEV`, as the source of 2012
            does; the paper multiplies by the eigenvalues (of pixels in 0..1).

    Returns:
        uint8 of the shape of `images`.
    """
    eigenvalues = tf.constant(data_set.color_eigenvalues, tf.float32)
    sizes = tf.sqrt(eigenvalues) if source_2012 else eigenvalues / 255.0
    alphas = PCA_STDDEV * normal * tf.cast(active, tf.float32)[:, tf.newaxis]
    eigenvectors = tf.constant(data_set.color_eigenvectors, tf.float32)
    noise = tf.matmul(alphas * sizes, eigenvectors, transpose_b=True)
    scale = tf.where(active, 1.0 / (1.0 + PCA_STDDEV) if source_2012 else 1.0, 1.0)
    mean = tf.constant(data_set.image_mean, tf.float32)
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

"""Crops, mirror images and colour changes, every draw a function of (seed, position).

Images here are uint8 RGB; results are rounded and saturated to uint8 again, so that
batches stay small and the model alone subtracts the mean.
"""

import tensorflow as tf

from alexnet_tf.pipeline.color_loop import adjust_colors
from alexnet_tf.pipeline.data_set import PixelStatistics

# Ranges of the colour jitter, each drawn uniformly once an image.
BRIGHTNESS = 0.125  # added to pixels in 0..1: -BRIGHTNESS..BRIGHTNESS
CONTRAST = (0.6, 1.4)  # factor around the mean of each channel
SATURATION = (0.6, 1.4)  # factor in HSV

PCA_STDDEV = 0.1  # of the α of section 4.1


def draw_uniform(seed: int, positions: tf.Tensor) -> tf.Tensor:
    """Draws what the augmentation of some images needs.

    Args:
        seed: The run's seed.
        positions: int64 `(n,)`, places of the images in the run.

    Returns:
        float32 `(n, 6)`, uniform in 0..1: crop top, crop left, mirror, brightness,
        contrast, saturation.
    """
    return _draw(tf.raw_ops.StatelessRandomUniformV2, 6, seed, positions)


def draw_normal(seed: int, positions: tf.Tensor) -> tf.Tensor:
    """Draws what the PCA colours of some images need besides.

    Args:
        seed: The run's seed.
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


@tf.function(jit_compile=True, autograph=False)
def scale_around(
    images: tf.Tensor, center: tf.Tensor, scale: tf.Tensor, shift: tf.Tensor
) -> tf.Tensor:
    """Returns scale · (images - center + shift) + center.

    Args:
        images: uint8 `(batch, height, width, 3)`.
        center: float32 `(height, width, 3)`, in 0..255.
        scale: float32 `(batch,)`.
        shift: float32 `(batch, 3)`, RGB in 0..255.

    Returns:
        uint8 of the shape of `images`.
    """
    scale, shift = scale[:, None, None, None], shift[:, None, None, :]
    x = tf.cast(images, tf.float32)
    return _to_uint8(scale * (x + shift) + (1.0 - scale) * center)


def jitter(images: tf.Tensor, uniform: tf.Tensor, active: tf.Tensor) -> tf.Tensor:
    """Changes brightness, contrast and saturation at random.

    Args:
        images: uint8 `(batch, height, width, 3)`.
        uniform: float32 `(batch, 3)`, 0..1, one a colour operation.
        active: bool `(batch,)`; the other images stay as they are.

    Returns:
        uint8 of the shape of `images`.
    """
    # Uniform numbers become draws from the three ranges; 0, 1 and 1 change nothing.
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
        statistics: Those of the training pictures.
        source_2012: Whether to multiply by the roots of the eigenvalues, and then to
            divide what the network sees, the image without the mean image, by 1 +
            `PCA_STDDEV`, as the source of 2012 does (`convdata_jpeg.py`); the paper
            multiplies by the eigenvalues (of pixels in 0..1).

    Returns:
        uint8 of the shape of `images`.
    """
    # Section 4.1: [p1, p2, p3] · [α1 λ1, α2 λ2, α3 λ3], one draw of α for an image.
    eigenvalues = tf.constant(statistics.color_eigenvalues, tf.float32)
    sizes = tf.sqrt(eigenvalues) if source_2012 else eigenvalues / 255.0
    alphas = PCA_STDDEV * normal * tf.cast(active, tf.float32)[:, tf.newaxis]
    eigenvectors = tf.constant(statistics.color_eigenvectors, tf.float32)
    noise = tf.matmul(alphas * sizes, eigenvectors, transpose_b=True)
    scale = tf.where(active, 1.0 / (1.0 + PCA_STDDEV) if source_2012 else 1.0, 1.0)
    # The central window of the mean image, wherever a crop was: the model, too,
    # subtracts that one from every crop.
    center = tf.constant(statistics.mean_image, tf.float32)
    top, left = ((center.shape[i] - images.shape[i + 1]) // 2 for i in (0, 1))
    center = center[top:, left:][: images.shape[1], : images.shape[2]]
    return scale_around(images, center, scale, noise)


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

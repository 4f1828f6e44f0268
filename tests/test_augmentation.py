"""Tests of augmentation.py."""

import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf.pipeline import augmentation
from alexnet_tf.pipeline.data_set import PixelStatistics


def adjust_with_tf_image(image, brightness, contrast, saturation):
    x = tf.image.convert_image_dtype(image, tf.float32)
    x = tf.image.adjust_brightness(x, brightness)
    x = tf.image.adjust_contrast(x, contrast)
    x = tf.image.adjust_saturation(x, saturation)
    return np.round(np.clip(x.numpy(), 0, 1) * 255).astype(int)


def pictures(size):
    rng = np.random.default_rng(0)
    shape = (size, size, 3)
    smooth = np.add.outer(np.arange(size), np.arange(size))[..., None] * [1, 2, 3]
    saturated = rng.integers(0, 2, shape) * 255
    grey = np.repeat(rng.integers(0, 256, (size, size, 1)), 3, axis=2)
    return np.stack(
        [
            rng.integers(0, 256, shape),
            rng.integers(0, 40, shape),
            rng.integers(215, 256, shape),
            np.zeros(shape),
            np.full(shape, 255),
            grey,
            saturated,
            smooth % 256,
        ]
    ).astype(np.uint8)


@pytest.mark.parametrize("size", [32, 33])
def test_adjust_colors_equals_tf_image(size):
    images = pictures(size)
    rng = np.random.default_rng(1)
    for trial in range(12):
        draws = rng.uniform([-0.3, 0, 0], [0.3, 2.5, 4], (len(images), 3))
        if trial == 0:
            draws[:] = [-0.5, 0.0, 0.0]  # all grey
        if trial == 1:
            draws[:] = [0.125, 1.4, 100.0]  # as colourful as it gets
        draws = draws.astype(np.float32)
        adjusted = augmentation.adjust_colors(tf.constant(images), *draws.T).numpy()
        for image, draw, ours in zip(images, draws, adjusted, strict=True):
            expected = adjust_with_tf_image(image, *draw)
            assert np.abs(expected - ours).max() <= 1


def test_adjust_colors_matches_values_worked_out_by_hand():
    # Every channel equals its own mean, so contrast changes nothing; brightness adds
    # 25.5; saturation halves the way to the largest channel.
    image = np.tile(np.array([200, 100, 0], np.uint8), (1, 2, 2, 1))
    arguments = [tf.constant([x]) for x in (0.1, 2.0, 0.5)]
    adjusted = augmentation.adjust_colors(tf.constant(image), *arguments).numpy()
    assert adjusted[0, 0, 0].tolist() == [226, 176, 126]


def test_adjust_colors_with_neutral_factors_changes_nothing():
    images = tf.constant(pictures(16))
    n = len(images)
    same = augmentation.adjust_colors(images, tf.zeros(n), tf.ones(n), tf.ones(n))
    assert (same == images).numpy().all()


def test_jitter_draws_its_ranges_and_spares_inactive_images():
    images = tf.constant(pictures(16))
    n = len(images)
    for uniform, arguments in [
        (0.0, (-0.125, 0.6, 0.6)),
        (0.5, (0.0, 1.0, 1.0)),
        (1.0, (0.125, 1.4, 1.4)),
    ]:
        active = tf.constant([True] * (n - 1) + [False])
        jittered = augmentation.jitter(images, tf.fill([n, 3], uniform), active)
        arguments = [tf.fill([n], np.float32(x)) for x in arguments]
        expected = augmentation.adjust_colors(images, *arguments)
        difference = tf.cast(jittered, tf.int32) - tf.cast(expected, tf.int32)
        assert tf.reduce_max(tf.abs(difference[:-1])) <= 1
        assert (jittered[-1] == images[-1]).numpy().all()


@pytest.mark.parametrize("source_2012", [False, True])
def test_pca_noise_equals_numpy(source_2012):
    rng = np.random.default_rng(0)
    sample = rng.normal(size=(1000, 3)) @ rng.normal(size=(3, 3)) * 40
    values, vectors = np.linalg.eigh(np.cov(sample.T))
    images = pictures(16)
    height, width = images.shape[1:3]
    mean_image = rng.uniform(50, 200, (height + 6, width + 4, 3)).astype(np.float32)
    mean = mean_image[3:-3, 2:-2].astype(np.float64)
    statistics = PixelStatistics(mean_image, np.zeros(3), values, vectors, 1000)
    normal = rng.normal(size=(len(images), 3)).astype(np.float32)
    active = np.arange(len(images)) % 4 != 3
    noisy = augmentation.add_pca_noise(
        tf.constant(images),
        tf.constant(normal),
        tf.constant(active),
        statistics,
        source_2012,
    )
    for image, alpha, is_active, ours in zip(
        images, normal, active, noisy, strict=True
    ):
        x = image.astype(np.float64)
        if is_active and source_2012:
            noise = sum(
                0.1 * alpha[i] * np.sqrt(values[i]) * vectors[:, i] for i in range(3)
            )
            x = (x - mean + noise) / 1.1 + mean
        elif is_active:  # pixels in 0..1 have a covariance 255² times smaller
            noise = sum(
                0.1 * alpha[i] * values[i] / 255**2 * vectors[:, i] for i in range(3)
            )
            x = (x / 255 + noise) * 255
        assert np.abs(np.clip(x, 0, 255) - ours.numpy()).max() <= 0.51


def test_colors_of_the_source_of_2012_by_hand():
    """(x - mean image + noise) / 1.1, as lines 210, 177 and 179 of convdata_jpeg.py.

    A picture of 150 everywhere; the mean image has 100 and, in one pixel of its central
    window, 30. The standard deviations of the components, red, green and blue, are 40,
    20 and 10; the draws are 1, -2 and 0, so the noise is 0.1 times (40, -40, 0).
    """
    mean_image = np.full((6, 6, 3), 100, np.float32)
    mean_image[2, 3] = 30  # in the window that begins at (1, 1): row 1, column 2
    statistics = PixelStatistics(
        mean_image, np.full(3, 7.0), np.array([1600.0, 400.0, 100.0]), np.eye(3), 1
    )
    images = tf.fill([2, 4, 4, 3], tf.constant(150, tf.uint8))
    normal = tf.constant([[1.0, -2.0, 0.0]] * 2)
    noisy = augmentation.add_pca_noise(
        images, normal, tf.constant([True, False]), statistics, source_2012=True
    ).numpy()
    # (150 - 100 + 4) / 1.1 + 100 = 149.09, with -4 141.8, with 0 145.5 (145.4545)
    assert noisy[0, 0, 0].tolist() == [149, 142, 145]
    # (150 - 30 + 4) / 1.1 + 30 = 142.73, with -4 135.45, with 0 139.09
    assert noisy[0, 1, 2].tolist() == [143, 135, 139]
    assert (noisy[1] == 150).all()


def test_ten_views_are_the_corners_the_centre_and_their_mirror_images():
    image = np.random.default_rng(0).integers(0, 256, (9, 11, 3)).astype(np.uint8)
    five = [
        image[:4, :4], image[:4, -4:], image[-4:, :4], image[-4:, -4:], image[2:6, 3:7]
    ]  # fmt: skip
    expected = np.stack(five + [view[:, ::-1] for view in five])
    np.testing.assert_array_equal(augmentation.ten_views(image, 4), expected)
    batch = augmentation.ten_views(np.stack([image, image[::-1]]), 4)
    assert batch.shape == (2, 10, 4, 4, 3)
    np.testing.assert_array_equal(batch[0], expected)


def test_draws_are_functions_of_seed_and_position():
    def draws(seed, count=400):
        functions = augmentation.draw_uniform, augmentation.draw_normal
        return [
            draw(seed, tf.range(count, dtype=tf.int64)).numpy() for draw in functions
        ]

    uniform, normal = draws(5)
    tf.random.set_seed(1)
    again = draws(5)
    np.testing.assert_array_equal(uniform, again[0])
    np.testing.assert_array_equal(normal, again[1])
    assert (draws(6, 10)[0] != uniform[:10]).all()
    some = tf.constant([390, 7, 8, 250], tf.int64)
    np.testing.assert_array_equal(augmentation.draw_uniform(5, some), uniform[some])
    np.testing.assert_array_equal(augmentation.draw_normal(5, some), normal[some])
    assert len(np.unique(uniform)) > 0.99 * uniform.size
    assert 0 <= uniform.min() < 0.02
    assert 0.98 < uniform.max() < 1
    np.testing.assert_allclose(uniform.mean(0), 0.5, atol=0.06)
    np.testing.assert_allclose(normal.mean(0), 0, atol=0.2)
    np.testing.assert_allclose(normal.std(0), 1, atol=0.15)
    assert np.abs(np.corrcoef(np.hstack([uniform, normal]).T) - np.eye(9)).max() < 0.2

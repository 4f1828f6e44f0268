"""What the preparation measures of the pixels, against NumPy in float64."""

import io

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from test_batches import example, write

from alexnet_tf.errors import UserError
from alexnet_tf.pipeline.data_set import open_data_set
from alexnet_tf.pipeline.reading import parse_record
from data import pixels
from data.pixels import measure_pixels

SIDE = 24
LENGTHS = (4, 0, 7)
N = sum(LENGTHS)


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    shades = rng.normal([90, 120, 150], [60, 40, 20], (N, 1, 1, 3))
    noise = rng.normal(0, 25, (N, SIDE, SIDE, 3))
    return (shades + noise).clip(0, 255).astype(np.uint8)


def write_raw(folder, pictures, lengths=LENGTHS):
    records = [example(picture.tobytes(), 0) for picture in pictures]
    return write(folder, records, lengths, encoding="raw", image_size=SIDE)


def check(measured, pictures):
    """Compares with the same formulas in NumPy."""
    pictures = np.asarray(pictures, np.float64)
    pixels = pictures.reshape(-1, 3)
    assert measured.num_images == len(pictures)
    assert measured.mean_image.dtype == np.float32
    np.testing.assert_allclose(measured.mean_image, pictures.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(measured.mean_color, pixels.mean(axis=0), rtol=1e-12)
    values, vectors = measured.color_eigenvalues, measured.color_eigenvectors
    covariance = np.cov(pixels.T, bias=True)
    np.testing.assert_allclose(vectors * values @ vectors.T, covariance, rtol=1e-8)
    assert values.tolist() == sorted(values, reverse=True)
    assert (vectors[np.abs(vectors).argmax(axis=0), range(3)] > 0).all()


def test_raw_records(tmp_path, pictures):
    check(measure_pixels(write_raw(tmp_path, pictures)), pictures)


def test_a_prepared_directory_of_jpegs(data_dir):
    data_set = open_data_set(data_dir)
    records = tf.data.TFRecordDataset(data_set.splits["train"].filenames)
    files = [parse_record(record)[0].numpy() for record in records]
    pictures = [np.asarray(PIL.Image.open(io.BytesIO(file))) for file in files]
    measured = measure_pixels(data_set)
    assert measured.num_images == len(pictures) == 150
    # Pillow and TensorFlow decode by different versions of one library.
    expected = np.mean(pictures, axis=0, dtype=np.float64)
    np.testing.assert_allclose(measured.mean_image, expected, atol=0.1)
    pixels = np.reshape(pictures, (-1, 3))
    covariance = np.cov(pixels.T.astype(np.float64), bias=True)
    vectors = measured.color_eigenvectors
    found = vectors * measured.color_eigenvalues @ vectors.T
    np.testing.assert_allclose(found, covariance, rtol=1e-3)


def test_a_bad_record_weighs_nothing(tmp_path, pictures):
    records = [example(picture.tobytes(), 0) for picture in pictures]
    records[5] = b"not an example"
    data_set = write(tmp_path, records, LENGTHS, encoding="raw", image_size=SIDE)
    check(measure_pixels(data_set), np.delete(pictures, 5, axis=0))


def test_of_many_pictures_as_large_a_part_of_every_shard(
    tmp_path, pictures, monkeypatch
):
    data_set = write_raw(tmp_path, pictures)
    monkeypatch.setattr(pixels, "MAX_IMAGES", 6)
    measured = measure_pixels(data_set)
    sample = pictures[[0, 1, 4, 5, 6, 7]].astype(np.float64)  # 4 and 7 of 11, of 6
    check(measured, sample)


def test_data_without_a_picture_to_measure(tmp_path, pictures):
    with pytest.raises(UserError, match="no training picture in "):
        measure_pixels(write(tmp_path, [b"bad"] * 3, (3,)))

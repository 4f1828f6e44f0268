"""Tests of statistics.py and measurements.py, against NumPy in float64."""

import dataclasses
import io
import pathlib
import resource

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from test_batches import encode, example, write

from alexnet_tf.errors import UserError
from alexnet_tf.pipeline import statistics
from alexnet_tf.pipeline.data_set import open_data_set, parse_record
from alexnet_tf.pipeline.measurements import measured_once
from alexnet_tf.pipeline.statistics import pixel_statistics

SIDE, CROP = 24, 16
LENGTHS = (4, 0, 7)
N = sum(LENGTHS)


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))
    return tmp_path / "user_cache"


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    shades = rng.normal([90, 120, 150], [60, 40, 20], (N, 1, 1, 3))
    noise = rng.normal(0, 25, (N, SIDE, SIDE, 3))
    return (shades + noise).clip(0, 255).astype(np.uint8)


def write_raw(folder, pictures, lengths=LENGTHS):
    records = [example(picture.tobytes(), 0) for picture in pictures]
    shape = (SIDE, SIDE, 3)
    return write(folder, records, lengths, encoding="raw", image_shape=shape)


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
    check(pixel_statistics(write_raw(tmp_path, pictures), CROP), pictures)


def test_a_prepared_directory_of_jpegs(data_dir):
    data_set = open_data_set(data_dir)
    records = tf.data.TFRecordDataset(data_set.splits["train"].filenames)
    files = [parse_record(record, data_set)[0].numpy() for record in records]
    pictures = [np.asarray(PIL.Image.open(io.BytesIO(file))) for file in files]
    measured = pixel_statistics(data_set)
    assert measured.num_images == len(pictures) == 150
    # Pillow and TensorFlow decode by different versions of one library.
    expected = np.mean(pictures, axis=0, dtype=np.float64)
    np.testing.assert_allclose(measured.mean_image, expected, atol=0.1)
    pixels = np.reshape(pictures, (-1, 3))
    covariance = np.cov(pixels.T.astype(np.float64), bias=True)
    vectors = measured.color_eigenvectors
    found = vectors * measured.color_eigenvalues @ vectors.T
    np.testing.assert_allclose(found, covariance, rtol=1e-3)


def test_pictures_of_all_sizes_are_measured_as_the_frame_shows_them(tmp_path):
    rng = np.random.default_rng(0)
    pictures, expected = [], []
    for height, width in [(256, 256), (256, 300), (290, 256), (512, 700)]:
        small = rng.integers(0, 256, (9, 9, 3)).astype(np.uint8)
        image = PIL.Image.fromarray(small).resize((width, height), 3)
        pictures.append(encode(np.asarray(image), "PNG"))
        scale = 256 / min(height, width)
        left, top = ((side - 256 / scale) / 2 for side in (width, height))
        box = (left, top, left + 256 / scale, top + 256 / scale)
        expected.append(np.asarray(image.resize((256, 256), 2, box=box), np.float64))
    records = [example(file, i) for i, file in enumerate(pictures)]
    data_set = write(tmp_path, records, (4,), image_shape=None)
    measured = pixel_statistics(data_set)
    difference = np.abs(measured.mean_image - np.mean(expected, axis=0))
    assert measured.mean_image.shape == (256, 256, 3)
    assert difference.max() < 1
    assert difference.mean() < 0.1
    # What was kept of pictures that are cropped holds for no others.
    warped = pixel_statistics(dataclasses.replace(data_set, fit="warp")).mean_image
    decoded = [PIL.Image.open(io.BytesIO(file)) for file in pictures]
    images = [np.asarray(i.resize((256, 256), 2), np.float64) for i in decoded]
    assert np.abs(warped - np.mean(images, axis=0)).mean() < 0.1
    assert np.abs(warped - measured.mean_image).mean() > 1


def test_older_shards(tmp_path, pictures):
    from test_data_set import write_imagenet

    pictures = pictures[:6].repeat(11, axis=1).repeat(11, axis=2)[:, :256, :256]
    write_imagenet(tmp_path, pictures, range(1, 7))
    check(pixel_statistics(open_data_set(str(tmp_path))), pictures[:5])


def test_a_bad_record_weighs_nothing(tmp_path, pictures):
    records = [example(picture.tobytes(), 0) for picture in pictures]
    records[5] = b"not an example"
    shape = (SIDE, SIDE, 3)
    data_set = write(tmp_path, records, LENGTHS, encoding="raw", image_shape=shape)
    check(pixel_statistics(data_set, CROP), np.delete(pictures, 5, axis=0))


def test_of_many_pictures_as_large_a_part_of_every_shard(
    tmp_path, pictures, monkeypatch, caplog
):
    data_set = write_raw(tmp_path, pictures)
    monkeypatch.setattr(statistics, "MAX_IMAGES", 6)
    with caplog.at_level("INFO", logger="absl"):
        measured = pixel_statistics(data_set, CROP)
    sample = pictures[[0, 1, 4, 5, 6, 7]].astype(np.float64)  # 4 and 7 of 11, of 6
    check(measured, sample)
    deviation = np.sqrt(sample.var(axis=0).mean() / 6)
    assert f"of 6 of 11 pictures; a pixel's standard error is {deviation:.2f}" in (
        caplog.text
    )


def test_they_are_measured_once(tmp_path, pictures, monkeypatch, user_cache):
    data_set = write_raw(tmp_path, pictures)
    first = pixel_statistics(data_set, CROP)
    (kept,) = tmp_path.glob(".alexnet_tf-*")
    assert not user_cache.exists()

    def never(*args):
        raise AssertionError

    measure = statistics._measure
    monkeypatch.setattr(statistics, "_measure", never)
    again = pixel_statistics(data_set, CROP)
    for one, other in zip(
        dataclasses.astuple(first), dataclasses.astuple(again), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    # A file that is damaged, or of other pictures, is measured anew.
    monkeypatch.setattr(statistics, "_measure", measure)
    content = kept.read_bytes()
    for spoilt in (b"", b"?", content[: len(content) // 2], content[:-1]):
        kept.write_bytes(spoilt)
        check(pixel_statistics(data_set, CROP), pictures)
        assert kept.read_bytes() != spoilt
    fewer = write_raw(tmp_path, pictures[:4], (4,))
    check(pixel_statistics(fewer, CROP), pictures[:4])


def test_they_are_kept_for_the_user_where_the_data_cannot_be_written(
    tmp_path, pictures, user_cache, monkeypatch
):
    data_set = write_raw(tmp_path, pictures)
    pixel_statistics(data_set, CROP)
    (kept,) = tmp_path.glob(".alexnet_tf-*")
    kept.unlink()
    kept.mkdir()  # now no file can take this name
    pixel_statistics(data_set, CROP)
    (kept,) = (user_cache / "alexnet_tf").iterdir()
    assert kept.suffix == ".npz"
    monkeypatch.setattr(statistics, "_measure", None)
    check(pixel_statistics(data_set, CROP), pictures)


def test_an_empty_cache_variable_is_as_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    measured_once("/proc/x", "name", {}, lambda: {"one": np.array(1)})
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert list((tmp_path / "home" / ".cache" / "alexnet_tf").glob("name-*.npz"))


def test_data_without_a_picture_to_measure(tmp_path, pictures):
    with pytest.raises(UserError, match="no training picture in "):
        pixel_statistics(write(tmp_path, [b"bad"] * 3, (3,)), CROP)
    data_set = write_raw(pathlib.Path(tmp_path), pictures)
    splits = {"validation": data_set.splits["train"]}
    with pytest.raises(UserError, match="no split train, but validation"):
        pixel_statistics(dataclasses.replace(data_set, splits=splits), CROP)


def test_a_full_disk_leaves_nothing_beside_the_data(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    large = {"numbers": np.arange(10_000.0)}
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
    try:
        facts = measured_once(str(tmp_path / "data"), "x", {}, lambda: large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert facts == large
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []
    assert list((tmp_path / "data").iterdir()) == []

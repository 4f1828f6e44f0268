"""Tests of alexnet_tf/pictures/in_graph.py: serving sees what evaluation sees."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from alexnet_tf.pictures.decoding import load_rgb
from alexnet_tf.pictures.fitting import FITS, RESAMPLINGS, Fitting, fit_for_network
from alexnet_tf.pictures.in_graph import decode_pictures, fit_images
from benchmarks import hostile
from benchmarks.hostile import encode, noise, png, scans

TAKEN = ("JPEG", "PNG")  # the beginnings of their names
KINDS = hostile.kinds()


@pytest.fixture(scope="module")
def decode():
    """From files to pixels and whether they are pictures, NumPy arrays."""
    graph = tf.function(lambda files: decode_pictures(files, Fitting(), 224))
    spec = tf.TensorSpec((None,), tf.string)
    graph = graph.get_concrete_function(spec)

    def call(*files):
        images, is_picture = graph(tf.constant(list(files)))
        return images.numpy(), is_picture.numpy().tolist()

    return call


def as_evaluated(content):
    """What evaluation sees of a picture file that preparation has stored."""
    return fit_for_network(load_rgb(content)[0], Fitting(), 224)


@pytest.fixture(scope="module")
def photograph():
    """A picture that is another one when it is turned or mirrored; its sides differ."""
    return noise(200, 300)


def exif_of(orientation, endian="<"):
    exif = Image.Exif()
    exif.endian = endian
    exif[0x010F], exif[0x0112], exif[0x0132] = "a camera", orientation, "2012:09:30"
    return exif.tobytes()


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("endian", ["<", ">"])
def test_pictures_are_turned_as_preparation_turns_them(
    form, endian, decode, photograph
):
    """Each of the eight orientations, and numbers that are none."""
    orientations = range(12)
    options = {"quality": 95, "icc_profile": b"x" * 70_000} if form != "PNG" else {}
    files = [
        encode(photograph, form, exif=exif_of(orientation, endian), **options)
        for orientation in orientations
    ]
    images, is_picture = decode(*files)
    assert all(is_picture)
    for file, image in zip(files, images, strict=True):
        assert mean_difference(image, as_evaluated(file)) < 1
    lying = images[1].astype(np.float64)  # as it is stored
    differing = [i for i in orientations if mean_difference(images[i], lying) > 10]
    assert differing == [2, 3, 4, 5, 6, 7, 8]


def test_broken_exif_data_turn_nothing_and_cost_no_picture(decode, photograph):
    whole = exif_of(6)
    (start,) = (i for i in range(len(whole)) if whole[i : i + 2] == b"\x12\x01")
    broken = [
        whole[: start + 4],  # cut
        whole[: start + 8],  # before the value
        whole[: start + 2] + b"\2\0" + whole[start + 4 :],  # a text
        whole[: start + 8] + b"\xff\xff" + whole[start + 10 :],  # no orientation
        b"Exif\0\0",
    ]
    files = [
        encode(photograph, form, exif=exif)
        for exif in broken
        for form in ("JPEG", "PNG")
    ]
    upright, _ = decode(encode(photograph, "PNG"))
    images, is_picture = decode(*files)
    assert all(is_picture)
    assert max(mean_difference(image, upright[0]) for image in images) < 3


def mean_difference(first, second):
    return np.abs(first.astype(np.float64) - second).mean()


def test_every_kind_of_picture_is_what_preparation_makes_of_it(decode):
    images, is_picture = decode(*KINDS.values())
    for (kind, content), image, taken in zip(
        KINDS.items(), images, is_picture, strict=True
    ):
        expected = as_evaluated(content)
        assert np.ptp(expected) > 50, kind
        assert taken == (kind.startswith(TAKEN) and "16 bits" not in kind), kind
        if taken:
            assert mean_difference(image, expected) < 1, kind
        else:
            assert not image.any()


@pytest.mark.parametrize("color", [(0, 0, 0), (200, 30, 90)])
def test_what_is_transparent_is_white(color, decode):
    image = Image.new("RGBA", (300, 300), (*color, 0))
    image.paste((*color, 255), (100, 100, 200, 200))
    (decoded,), _ = decode(encode(image, "PNG"))
    assert decoded[5, 5].tolist() == [255, 255, 255]
    assert decoded[112, 112].tolist() == [*color]


@pytest.mark.parametrize("resampling", RESAMPLINGS)
@pytest.mark.parametrize("fit", FITS)
def test_pictures_are_fitted_as_preparation_and_evaluation_do(fit, resampling):
    """The paper's sizes, a smaller square, one smaller than the network's input."""
    for stored_size, image_size in ((256, 224), (64, 64), (64, 96)):
        fitting = Fitting(fit, stored_size, resampling)
        for size in ((256, 256), (101, 300), (700, 200), (40, 33)):
            image = noise(*size)
            pixels = np.asarray(image)[np.newaxis].repeat(2, 0)
            fitted = fit_images(tf.constant(pixels), fitting, image_size).numpy()
            assert fitted.shape == (2, image_size, image_size, 3)
            expected = fit_for_network(image, fitting, image_size)
            for found in fitted:
                assert mean_difference(found, expected) < 1


@pytest.mark.parametrize("shape", [(1, 16_385, 164, 3), (2, 101, 1, 3), (1, 0, 0, 3)])
def test_sides_that_scaling_has_no_memory_for_are_refused(shape):
    with pytest.raises(tf.errors.InvalidArgumentError, match="16384 pixels, or a thin"):
        fit_images(tf.zeros(shape, tf.uint8), Fitting(), 224)


def test_a_stored_picture_is_the_same_to_the_last_bit(decode):
    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    files = [encode(Image.fromarray(image), form) for form in ("PNG", "JPEG")]
    decoded, _ = decode(*files)
    np.testing.assert_array_equal(decoded[0], image[16:240, 16:240])
    whole = tf.io.decode_jpeg(files[1], dct_method="INTEGER_ACCURATE")
    np.testing.assert_array_equal(decoded[1], whole[16:240, 16:240])


def test_no_file_costs_a_neighbour(decode):
    bombs, good = hostile.quick_bombs(), encode(noise(256, 256), "JPEG")
    other = encode(noise(256, 256), "PNG")
    rng = np.random.default_rng(1)
    damaged = []
    for content in KINDS.values():
        damaged += [content[: len(content) // 2], content[:30]]
        mutant = bytearray(content)
        mutant[rng.integers(len(mutant) // 3)] ^= 255
        damaged.append(bytes(mutant))
    (first, second), _ = decode(good, other)
    for files in (list(bombs.values()), damaged):
        images, is_picture = decode(good, *files, other)
        assert is_picture[0]
        assert is_picture[-1]
        np.testing.assert_array_equal(images[0], first)
        np.testing.assert_array_equal(images[-1], second)
    taken = decode(*bombs.values())[1]
    names = [name for name, is_one in zip(bombs, taken, strict=True) if is_one]
    assert names == ["PNG 164×16,384", "PNG 16,384×1,500"]


ALONE = """
import resource
import tensorflow as tf
from alexnet_tf.pictures.fitting import Fitting
from alexnet_tf.pictures.in_graph import decode_pictures
from benchmarks.hostile import encode, noise, png
graph = tf.function(lambda files: decode_pictures(files, Fitting(), 224)[1])
graph = graph.get_concrete_function(tf.TensorSpec((None,), tf.string))
whole = encode(noise(16, 16), "JPEG", progressive=True)
cuts = [whole[: i + 1] for i in range(len(whole)) if whole[i] == 255]
answered = graph(tf.constant(cuts)).numpy().sum()
print("ended" if 5 < answered < len(cuts) else "answered otherwise")
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**25, used + 2**25))
try:
    print(graph(tf.constant([png(3000, 3000) + bytes(2**18)] * 4)).numpy())
except tf.errors.ResourceExhaustedError:
    print("no memory")
"""


def test_a_jpeg_ends_wherever_it_is_cut_and_want_of_memory_fails_the_request():
    """In a process of its own: it could wait for ever.

    That there is no memory says nothing of a picture: it is not answered as none.
    """
    command = [sys.executable, "-c", ALONE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stdout.split("\n")[:2] == ["ended", "no memory"], done.stderr


def test_of_a_jpeg_that_is_cut_short_the_rest_is_grey(decode):
    whole = encode(noise(256, 256), "JPEG")
    images, _ = decode(whole, whole[: int(0.6 * len(whole))])
    np.testing.assert_array_equal(images[1][:80], images[0][:80])
    np.testing.assert_array_equal(images[1][190:], 128)


def test_how_many_pixels_a_file_may_have(decode):
    pixel = (2**20 + 32 * 9000) // 1000  # rows of 1,000 pixels that 9,000 bytes allow
    files = [png(height, 1000, 1, 0) for height in (1048, 1350, 1350, 1300)]
    files[2] += bytes(9000 - len(files[2]))
    files[3] += bytes(9000 - len(files[3]))
    assert 1300 < pixel < 1350
    assert decode(*files)[1] == [True, False, False, True]


def test_what_each_kind_may_have(decode):
    files = {
        "32 scans": (scans(16, 16, 31), True),
        "33 scans": (scans(16, 16, 32), False),
        "4000 chunks": (png(9, 9, between=hostile.chunk(b"tEXt", b"") * 4000), True),
        "5000 chunks": (png(9, 9, between=hostile.chunk(b"tEXt", b"") * 5000), False),
        "little behind its pixels": (hostile.inflating(9, 9, 2**20), True),
        "much behind its pixels": (hostile.inflating(9, 9, 2**23), False),
    }
    contents, expected = zip(*files.values(), strict=True)
    assert dict(zip(files, decode(*contents)[1], strict=True)) == dict(
        zip(files, expected, strict=True)
    )


def test_metadata_costs_no_picture(decode):
    text = hostile.chunk(b"zTXt", b"Comment\0\0not compressed")
    profile = hostile.chunk(b"iCCP", b"x\0\0broken")
    plain = png(9, 9)
    with_both = png(9, 9, between=text + profile)
    wrong_sum = with_both.replace(b"not compressed", b"not Compressed")
    images, is_picture = decode(plain, with_both, wrong_sum)
    assert is_picture == [True] * 3
    np.testing.assert_array_equal(images[0], images[2])


def test_no_pictures_at_all(decode):
    images, is_picture = decode(b"", b"text")
    assert images.shape == (2, 224, 224, 3)
    assert is_picture == [False, False]
    empty, _ = decode_pictures(tf.constant([], tf.string), Fitting(), 224)
    assert empty.shape == (0, 224, 224, 3)

"""Tests of alexnet_tf/pictures/in_graph.py: serving sees what evaluation sees."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from alexnet_tf.pictures import in_graph
from alexnet_tf.pictures.decoding import load_rgb
from alexnet_tf.pictures.fitting import fit_crop, fit_pad
from alexnet_tf.pictures.in_graph import Fitting, decode_pictures
from benchmarks import hostile
from benchmarks.hostile import encode, gif, noise, png, scans

NOT_TAKEN = {"BMP 1 bit", "WebP animated", "TIFF", "PPM"}
KINDS = hostile.kinds()


@pytest.fixture(scope="module")
def decode():
    """From files to pixels and whether they are pictures, NumPy arrays."""
    graph = tf.function(lambda files: decode_pictures(files, Fitting()))
    spec = tf.TensorSpec((None,), tf.string)
    graph = graph.get_concrete_function(spec)

    def call(*files):
        images, is_picture = graph(tf.constant(list(files)))
        return images.numpy(), is_picture.numpy().tolist()

    return call


def fit_as_prepared(image, fitting):
    """What evaluation sees of a picture that preparation has stored, by Pillow."""
    fit, stored_size, size = fitting
    warp = {"warp": lambda image, side: image.resize((side, side), Image.BICUBIC)}
    stored = (warp | {"crop": fit_crop, "pad": fit_pad})[fit](image, stored_size)
    if stored_size < size:  # evaluation scales it to 256 pixels
        stored = stored.resize((256, 256), Image.BILINEAR)
    corner = (stored.width - size) // 2
    return np.asarray(stored)[corner : corner + size, corner : corner + size]


@pytest.fixture(scope="module")
def photograph():
    """A picture that is another one when it is turned or mirrored; its sides differ."""
    return noise(200, 300)


def exif_of(orientation, endian="<"):
    exif = Image.Exif()
    exif.endian = endian
    exif[0x010F], exif[0x0112], exif[0x0132] = "a camera", orientation, "2012:09:30"
    return exif.tobytes()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
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
        prepared, _ = load_rgb(file, "picture", 256)
        assert mean_difference(image, fit_as_prepared(prepared, Fitting())) < 3
    lying = images[1].astype(np.float64)  # as it is stored
    differing = [i for i in orientations if mean_difference(images[i], lying) > 10]
    assert differing == [2, 3, 4, 5, 6, 7, 8]


def test_broken_exif_data_turn_nothing_and_cost_no_picture(decode, photograph):
    whole = exif_of(6)
    (start,) = (i for i in range(len(whole)) if whole[i : i + 2] == b"\x12\x01")
    broken = {
        "far": whole[:10] + b"\xff\xff\xff\xff" + whole[14:],
        "many": whole[:14] + b"\xff\xff" + whole[16:],
        "cut": whole[: start + 4],
        "a text": whole[: start + 2] + b"\2\0" + whole[start + 4 :],
        "no TIFF": b"Exif\0\0" + b"no" + whole[8:],
        "nothing": b"Exif\0\0",
    }
    files = [
        encode(photograph, form, exif=exif)
        for exif in broken.values()
        for form in ("JPEG", "PNG", "WEBP")
    ]
    for form in ("JPEG", "WEBP"):  # and broken lengths of what holds them
        file = encode(photograph, form, exif=whole)
        at = file.index(b"\xff\xe1" if form == "JPEG" else b"EXIF")
        files.append(file[: at + (2 if form == "JPEG" else 4)] + b"\xff" * 4)
    upright, _ = decode(encode(photograph, "PNG"))
    images, is_picture = decode(*files)
    turned = [int(mean_difference(image, upright[0]) > 10) for image in images]
    number = 3 * len(broken)
    assert all(is_picture[:number])
    assert turned[:number] == [0] * 3 + [1] * 3 + [0] * 12  # "many": those there are


def mean_difference(first, second):
    return np.abs(first.astype(np.float64) - second).mean()


def test_every_kind_of_picture_is_what_preparation_makes_of_it(decode):
    images, is_picture = decode(*KINDS.values())
    for (kind, content), image, taken in zip(
        KINDS.items(), images, is_picture, strict=True
    ):
        prepared, _ = load_rgb(content, "picture", 256)
        expected = fit_as_prepared(prepared, Fitting())
        assert np.ptp(expected) > 50, kind
        assert taken == (kind not in NOT_TAKEN), kind
        if taken:
            assert mean_difference(image, expected) < 3, kind
        else:
            assert not image.any()


@pytest.mark.parametrize("color", [(0, 0, 0), (200, 30, 90)])
@pytest.mark.parametrize("form", ["PNG", "GIF", "WEBP"])
def test_what_is_transparent_is_white(form, color, decode):
    image = Image.new("RGBA", (300, 300), (*color, 0))
    image.paste((*color, 255), (100, 100, 200, 200))
    lossless = {"lossless": True} if form == "WEBP" else {}
    (decoded,), _ = decode(encode(image, form, **lossless))
    assert decoded[5, 5].tolist() == [255, 255, 255]
    assert decoded[112, 112].tolist() == [*color]


@pytest.mark.parametrize("largest", [255, 1000, 4095, 16383, 65535])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_are_scaled_as_preparation_scales_them(largest, channels, decode):
    samples = np.random.default_rng(0).uniform(0, 1, (8, 8, channels))
    samples = samples.repeat(32, 0).repeat(32, 1) * largest
    samples[:32, :32] = largest
    file = tf.io.encode_png(np.uint16(samples)).numpy()
    (decoded,), _ = decode(file)
    prepared, _ = load_rgb(file, "picture", 256)
    expected = fit_as_prepared(prepared, Fitting())
    assert np.ptp(expected) > 100
    assert mean_difference(decoded, expected) < 1


@pytest.mark.parametrize("shape", [(256, 256), (100, 300), (700, 200), (40, 30)])
@pytest.mark.parametrize(
    "fitting",
    [
        Fitting("crop", 256, 224),
        Fitting("pad", 256, 224),
        Fitting("warp", 256, 224),
        Fitting("crop", 64, 224),
        Fitting("pad", 64, 64),
        Fitting("crop", 300, 224),
    ],
)
def test_pictures_are_fitted_as_preparation_and_evaluation_do(fitting, shape):
    image = noise(*shape)
    pixels = tf.constant(np.asarray(image)[np.newaxis].repeat(2, 0))
    fitted = in_graph.fit_images(pixels, fitting).numpy()
    assert fitted.shape == (2, fitting.image_size, fitting.image_size, 3)
    expected = fit_as_prepared(image, fitting)
    for one in fitted:
        assert mean_difference(one, expected) < 1


@pytest.mark.parametrize(
    ("fit", "box"),
    [  # 224 / 256 of 300 pixels, of 300 and 512
        ("crop", (128 - 131.25 + 128, 18.75, 128 + 131.25 + 128, 281.25)),
        ("warp", (256 - 224, 18.75, 256 + 224, 281.25)),
    ],
)
def test_pictures_that_were_not_stored_anew_are_scaled_in_one_step(fit, box):
    image = noise(300, 512)
    fitting = Fitting(fit, None, 224)
    pixels = tf.constant(np.asarray(image)[np.newaxis])
    (fitted,) = in_graph.fit_images(pixels, fitting).numpy()
    expected = np.asarray(image.resize((224, 224), Image.BILINEAR, box=box))
    assert mean_difference(fitted, expected) < 1


def test_a_stored_picture_is_the_same_to_the_last_bit(decode):
    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    files = [encode(Image.fromarray(image), form) for form in ("PNG", "BMP", "JPEG")]
    decoded, _ = decode(*files)
    np.testing.assert_array_equal(decoded[0], image[16:240, 16:240])
    np.testing.assert_array_equal(decoded[1], image[16:240, 16:240])
    whole = tf.io.decode_jpeg(files[2], dct_method="INTEGER_ACCURATE")
    np.testing.assert_array_equal(decoded[2], whole[16:240, 16:240])


QUICK_BOMBS = {
    name: content
    for name, content in hostile.bombs().items()
    if len(content) < 200 or "JPEG 1,000" in name or "two IHDR" in name
}


def test_no_file_costs_a_neighbour(decode):
    good = encode(noise(256, 256), "JPEG")
    other = encode(noise(256, 256), "PNG")
    rng = np.random.default_rng(1)
    damaged = []
    for content in KINDS.values():
        damaged += [content[: len(content) // 2], content[:30]]
        mutant = bytearray(content)
        mutant[rng.integers(len(mutant) // 3)] ^= 255
        damaged.append(bytes(mutant))
    (first, second), _ = decode(good, other)
    for files in (list(QUICK_BOMBS.values()), damaged):
        images, is_picture = decode(good, *files, other)
        assert is_picture[0]
        assert is_picture[-1]
        np.testing.assert_array_equal(images[0], first)
        np.testing.assert_array_equal(images[-1], second)
    assert not any(decode(*QUICK_BOMBS.values())[1])


def test_a_jpeg_ends_wherever_it_is_cut():
    code = """
import tensorflow as tf
from alexnet_tf.pictures.in_graph import Fitting, decode_pictures
from benchmarks.hostile import encode, noise
whole = encode(noise(16, 16), "JPEG", progressive=True)
cuts = [whole[: i + 1] for i in range(len(whole)) if whole[i] == 255]
print(decode_pictures(tf.constant(cuts), Fitting())[1].numpy().sum(), len(cuts))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    answered, cuts = map(int, done.stdout.split())
    assert 5 < answered < cuts


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
    flat = encode(Image.new("P", (9, 9)), "GIF")
    table_and_pixels = flat[flat.index(b",", 13) :]
    smaller = flat[:6] + b"\x0a\0\x0a\0" + flat[10:]
    comment = b"!\xfe\x01a\0"
    files = {
        "32 scans": (scans(16, 16, 31), True),
        "33 scans": (scans(16, 16, 32), False),
        "4000 chunks": (png(9, 9, between=hostile.chunk(b"tEXt", b"") * 4000), True),
        "5000 chunks": (png(9, 9, between=hostile.chunk(b"tEXt", b"") * 5000), False),
        "gif": (flat, True),
        "gif, frame smaller than its screen": (smaller, False),
        "gif with comments": (
            flat.replace(table_and_pixels, comment * 99 + table_and_pixels),
            True,
        ),
        "gif without end": (gif((9, 9), (9, 9), b"\x02\x4c\x01"), False),
        "gif cut in its screen": (flat[:9], False),
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
    empty, _ = decode_pictures(tf.constant([], tf.string), Fitting())
    assert empty.shape == (0, 224, 224, 3)

"""Tests of alexnet_tf/pictures/decoding.py and fitting.py: a file's way to a square."""

import pathlib
import struct
import sys
import types
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageCms

from alexnet_tf.errors import UserError
from alexnet_tf.pictures import decoding
from alexnet_tf.pictures.decoding import load_rgb, open_picture
from alexnet_tf.pictures.fitting import Fitting, fit_for_network, fit_picture
from benchmarks.hostile import chunk, encode, noise, png, resized


def load(content, name="a.png", size=256):
    image, conversions = load_rgb(content, name, size)
    return np.array(image), conversions


def mean_difference(first, second):
    return np.abs(np.float64(first) - np.float64(second)).mean()


# How a picture is made square


@pytest.mark.parametrize("size", [(500, 375), (333, 501), (100, 257), (20, 30)])
def test_crop_is_that_of_torchvisions_transforms(size):
    """Resize(256) and CenterCrop(224), by their formulas."""
    image = noise(*size[::-1])
    width, height = size
    shorter = min(size)
    scaled = int(256 * width / shorter), int(256 * height / shorter)
    resized = image.resize(scaled, Image.Resampling.BILINEAR)
    top = round((scaled[1] - 224) / 2.0)
    left = round((scaled[0] - 224) / 2.0)
    expected = resized.crop((left, top, left + 224, top + 224))
    found = fit_for_network(image, Fitting("crop", 256, "bilinear"), 224)
    np.testing.assert_allclose(found, np.asarray(expected), atol=1)
    assert mean_difference(found, expected) < 0.1


def test_opencv_looks_at_four_pixels():
    """What cv2.resize computes, by its formula: no mean over what a pixel covers."""
    image = noise(375, 500, cells=200)
    pixels = np.asarray(image, np.float64)
    y, x = (
        np.clip((np.arange(256) + 0.5) * side / 256 - 0.5, 0, side - 1)
        for side in (375, 500)
    )
    top, left = np.int64(y), np.int64(x)
    bottom, right = np.minimum(top + 1, 374), np.minimum(left + 1, 499)
    across, down = (x - left)[None, :, None], (y - top)[:, None, None]
    upper = pixels[top][:, left] * (1 - across) + pixels[top][:, right] * across
    lower = pixels[bottom][:, left] * (1 - across) + pixels[bottom][:, right] * across
    expected = upper * (1 - down) + lower * down
    found = fit_picture(image, Fitting("warp", 256, "opencv"))
    assert mean_difference(found, expected) < 1
    bilinear = fit_picture(image, Fitting("warp", 256, "bilinear"))
    assert mean_difference(bilinear, expected) > 2


def test_pad_keeps_a_small_picture_and_shrinks_a_large_one():
    def pad(image):
        return np.array(fit_picture(image, Fitting("pad", 32)))

    image = noise(10, 20)
    padded = pad(image)
    np.testing.assert_array_equal(padded[11:21, 6:26], np.array(image))
    mean = np.array(image).mean(axis=(0, 1))
    np.testing.assert_allclose(padded[0, 0], mean, atol=0.5)
    expected = noise(32, 64).resize((32, 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(pad(noise(32, 64))[8:24], np.array(expected))
    thin = noise(8, 800)  # a third of a row
    row = thin.resize((32, 1), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(pad(thin)[15:16], np.array(row))


# What people have


def line_drawing(mode="L", height=3000, width=4000):
    image = Image.new("L", (width, height), 255)
    for i in range(100, width, 300):
        image.paste(0, (i, 100, i + 9, height - 100))
    return image.convert(mode)


def smooth_photograph(height=3000, width=4000):
    ramp = Image.linear_gradient("L").resize((width, height), Image.Resampling.BILINEAR)
    return Image.merge("RGB", [ramp, ramp.transpose(3), ramp.transpose(0)])


LARGE = {
    "line drawing.png": encode(line_drawing(), "PNG"),
    "line drawing.tif": encode(line_drawing("1"), "TIFF", compression="group4"),
    "A4 scan of 1 bit.png": encode(line_drawing("1", 7016, 4960), "PNG"),
    "smooth photograph.jpg": encode(smooth_photograph(), "JPEG", quality=60),
}


@pytest.mark.parametrize("name", LARGE)
def test_large_pictures_of_few_bytes_are_taken(name):
    image, _ = load_rgb(LARGE[name])
    assert len(LARGE[name]) < 250_000
    fitted = np.asarray(fit_picture(image, Fitting()))
    assert fitted.shape == (256, 256, 3)
    assert np.ptp(fitted) > 100


def test_a_jpeg_is_decoded_at_a_fraction_of_its_size():
    """What a camera of 199 megapixels writes costs no more than a small picture."""
    image, _ = load_rgb(encode(smooth_photograph(), "JPEG"))
    assert image.size == (1000, 750)
    huge = encode(Image.new("L", (16_320, 12_240), 99), "JPEG", quality=30)
    image, conversions = load_rgb(huge)
    assert image.size == (2040, 1530)
    assert conversions == ["grey"]
    progressive = resized(
        encode(noise(16, 16), "JPEG", progressive=True), 12_240, 16_320
    )
    with pytest.raises(ValueError, match="too large: its header declares 16320×12240"):
        load_rgb(progressive)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png(9, 16_385, 1, 0), "too large: 16385×9 pixels, and a side may have 16,384"),
        (png(999_999, 1, 1, 0), "too large: 1×999999 pixels"),
        (png(9, 1000, 1, 0), "too thin: 1000×9 pixels"),
        (png(7, 60, 1, 0), "too small: 60×7 pixels"),
        (png(12_000, 12_000, 1, 0), "too large: its header declares 12000×12000"),
        (b"", "empty file"),
        (b"text", "not a picture in a known format"),
        (b"\0\0\0\x18ftypheic" + bytes(99), "pip install pillow-heif"),
    ],
)
def test_what_is_refused_is_refused_in_words(content, message):
    with pytest.raises(ValueError, match=message):
        load_rgb(content)


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("RGB", []),
        ("1", ["grey"]),
        ("P", ["palette", "alpha"]),
        ("RGBA", ["alpha"]),
        ("CMYK", ["CMYK"]),
        ("I;16", ["16-bit", "grey"]),
    ],
)
def test_a_very_large_picture_is_shrunk_band_by_band(mode, said, monkeypatch):
    """It looks as if it had been converted as a whole, and needs little memory."""
    if mode == "I;16":
        image = Image.fromarray(np.uint16(np.asarray(noise(900, 1100, "L"))) * 257)
    else:
        wide = {"RGBA": "RGBA"}.get(mode, "RGB")
        image = noise(900, 1100, wide).convert(mode)
    form = "TIFF" if mode == "CMYK" else "PNG"
    options = {"transparency": 0} if mode == "P" else {}
    content = encode(image, form, **options)
    whole, conversions = load_rgb(content, image_size=64)
    assert (whole.size, conversions) == ((1100, 900), said)
    monkeypatch.setattr(decoding, "_LARGE_PIXELS", 900_000)
    monkeypatch.setattr(decoding, "_BAND_PIXELS", 100_000)
    small, conversions = load_rgb(content, image_size=64)
    assert conversions == said
    np.testing.assert_allclose(np.array(small), np.array(whole.reduce(7)), atol=1)


def test_decoders_that_need_much_memory_decode_fewer_pixels():
    content = encode(Image.new("RGB", (5800, 5800)), "WEBP", lossless=True, method=0)
    with pytest.raises(ValueError, match="too large: its header declares 5800×5800"):
        load_rgb(content)


def test_pixels_are_bounded_as_the_caller_wants():
    content = png(2000, 2000, 1, 0)
    assert load_rgb(content)[0].size == (2000, 2000)
    with pytest.raises(ValueError, match="too large"):
        load_rgb(content, max_pixels=2**20)


def test_pixels_that_inflate_without_end_cost_nothing():
    bomb = zlib.compress(bytes(2**26), 9) + bytes(9)
    content = png(9, 9)
    content = content[:33] + chunk(b"IDAT", bomb) + chunk(b"IEND", b"")
    assert load(content)[0].shape == (9, 9, 3)


def test_want_of_memory_is_no_fault_of_a_picture(monkeypatch):
    def load(_):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "getexif", load)
    monkeypatch.setattr(decoding, "_to_rgb", lambda *_: load(None))
    with pytest.raises(MemoryError):
        load_rgb(png(9, 9))


def test_what_a_person_calls_a_picture(tmp_path):
    image = noise(30, 40)
    image.save(tmp_path / "a.png")
    pixels = np.asarray(image)
    path = tmp_path / "a.png"
    for picture in (path, str(path), path.read_bytes(), image, pixels):
        np.testing.assert_array_equal(open_picture(picture), pixels)
    grey = pixels[..., :1]
    for picture in (grey, grey[..., 0], Image.fromarray(grey[..., 0])):
        np.testing.assert_array_equal(open_picture(picture), grey.repeat(3, 2))
    exif = Image.Exif()
    exif[0x0112] = 3
    image.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as turned:
        np.testing.assert_array_equal(open_picture(turned), pixels[::-1, ::-1])
        assert turned.size == image.size  # it stays open
    for picture in (pixels / 255, pixels[..., :2], pixels[np.newaxis], 3):
        with pytest.raises(ValueError, match="uint8 array"):
            open_picture(picture)
    for name, message in (("no.png", "No such file"), ("", "not a regular file")):
        with pytest.raises(UserError, match=message):
            open_picture(tmp_path / name)


# Formats


@pytest.mark.parametrize(
    ("form", "options"), [("AVIF", {"quality": 90}), ("JPEG2000", {})]
)
def test_formats_that_pillow_decodes(form, options):
    image = noise(60, 80)
    loaded, conversions = load(encode(image, form, **options), "a")
    assert mean_difference(loaded, image) < 5
    assert conversions == []


def test_heic_is_taken_where_its_decoder_is_installed(monkeypatch):
    registered = []
    opener = types.SimpleNamespace(register_heif_opener=lambda: registered.append(1))
    monkeypatch.setitem(sys.modules, "pillow_heif", opener)
    source = pathlib.Path(decoding.__file__).read_text(encoding="utf-8")
    module = types.ModuleType("again")
    exec(compile(source, decoding.__file__, "exec"), module.__dict__)
    assert registered == [1]
    assert "HEIF" in module.FORMATS


def test_cmyk_is_what_its_file_says():
    """Adobe's JPEGs hold light, those of others ink."""
    image = Image.new("CMYK", (16, 16), (255, 0, 0, 0))  # all of the cyan ink
    adobe = encode(image, "JPEG", quality=100)
    loaded, conversions = load(adobe, "a")
    np.testing.assert_allclose(loaded[8, 8], (0, 255, 255), atol=3)
    assert conversions == ["CMYK"]
    at = adobe.index(b"\xff\xee")
    (length,) = struct.unpack(">H", adobe[at + 2 : at + 4])
    plain = adobe[:at] + adobe[at + 2 + length :]  # the same numbers mean ink
    np.testing.assert_allclose(load(plain, "a")[0][8, 8], (0, 0, 0), atol=3)
    served = tf.io.decode_jpeg(plain, channels=3).numpy()
    np.testing.assert_allclose(served[8, 8], (0, 0, 0), atol=3)


RAMP = np.arange(64 * 64).reshape(64, 64)  # 0..4095


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_samples_of_sixteen_bits_are_divided_by_256(file_format, channels):
    """Whatever they hold: the day and the night of a camera stay apart."""
    values = np.stack([RAMP, RAMP[::-1], RAMP.T, RAMP * 0 + 4095], -1)[..., :channels]
    for factor, said in ((16, "16-bit"), (1, "16-bit, none above 4095")):
        values = np.uint16(values * factor)
        if channels == 4:
            values[..., 3] = 65535
        is_png = file_format == "PNG"
        content = tf.io.encode_png(values).numpy() if is_png else tiff(values)
        loaded, conversions = load(content, "a")
        np.testing.assert_array_equal(loaded[..., 0], values[..., 0] >> 8)
        assert conversions[0] == said
        values = values.astype(np.int64) // factor


def test_grey_and_alpha_of_sixteen_bits():
    values = np.uint16(np.stack([RAMP, 4095 - RAMP], -1) * 16)
    loaded, conversions = load(tf.io.encode_png(values).numpy())
    opacity = (values[..., 1] >> 8) / 255
    expected = (values[..., 0] >> 8) * opacity + 255 * (1 - opacity)
    np.testing.assert_allclose(loaded[..., 0], expected, atol=1)
    assert conversions == ["16-bit", "alpha"]


def tiff(values, tags=()):
    """Writes an uncompressed little-endian TIFF, one strip, by the format's rules."""
    height, width, channels = values.shape
    strip = values.astype(values.dtype.newbyteorder("<")).tobytes()
    bits = 8 * values.dtype.itemsize
    entries = {
        256: width,
        257: height,
        258: bits,
        259: 1,
        262: 2 if channels >= 3 else 1,
        273: 8,
        277: channels,
        278: height,
        279: len(strip),
        **({338: 2} if channels == 4 else {}),
        **dict(tags),
    }
    more = 8 + len(strip)
    directory = struct.pack("<H", len(entries))
    for tag, value in sorted(entries.items()):
        if tag == 258 and channels >= 3:
            directory += struct.pack("<HHII", tag, 3, channels, more)
        else:
            directory += struct.pack("<HHII", tag, 4, 1, value)
    extra = struct.pack(f"<{channels}H", *[bits] * channels) if channels >= 3 else b""
    start = struct.pack("<2sHI", b"II", 42, more + len(extra))
    return start + strip + extra + directory + bytes(4)


def test_range_that_a_file_declares():
    dark = RAMP // 4  # 0..1023, of a possible 4095
    content = tiff(dark.astype(np.uint16)[..., None], tags={281: 4095})
    image, conversions = load(content, "a.tif")
    np.testing.assert_array_equal(image[..., 0], dark >> 4)
    assert conversions == ["12 of 16 bits", "grey"]
    packed = "".join(f"{sample:03x}" for sample in dark.ravel())  # of 12 bits
    content = tiff(np.frombuffer(bytes.fromhex(packed), np.uint8).reshape(64, 96, 1))
    for tag, old, new in ((256, 96, 64), (258, 8, 12)):
        entry = struct.pack("<HHI", tag, 4, 1)
        old, new = (entry + struct.pack("<I", value) for value in (old, new))
        assert content.count(old) == 1
        content = content.replace(old, new)
    image, conversions = load(content, "a.tif")
    np.testing.assert_array_equal(image[..., 0], dark >> 4)
    assert conversions == ["12 of 16 bits", "grey"]
    samples = dark.astype(">u2").tobytes()
    image, conversions = load(b"P5 64 64 4095\n" + samples, "a.pgm")
    np.testing.assert_allclose(image[..., 0], dark * 255 / 4095, atol=1)
    assert conversions == ["16-bit", "grey"]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_of_32_bits_are_refused(dtype):
    content = encode(Image.fromarray(RAMP.astype(dtype)), "TIFF")
    with pytest.raises(ValueError, match=r"32 bits|floating-point"):
        load_rgb(content)


# Colours


def profile(name="a wide one", kind="sRGB"):
    """An ICC profile: sRGB's, or one whose red and green are swapped."""
    content = bytearray(
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    )
    if kind == "swapped":
        for i in range(128, 128 + 4 + 12 * content[131], 1):
            if content[i : i + 4] == b"rXYZ":
                content[i : i + 4] = b"?XYZ"
            elif content[i : i + 4] == b"gXYZ":
                content[i : i + 4] = b"rXYZ"
        at = content.index(b"?XYZ", 128)
        content[at : at + 4] = b"gXYZ"
        content = content.replace(
            "sRGB".encode("utf-16-be"), "RGRB".encode("utf-16-be")
        )
    return bytes(content)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_colors_are_those_of_their_profile(form):
    image = Image.new("RGB", (16, 16), (200, 30, 40))
    options = {"quality": 100, "lossless": True, "subsampling": 0}
    content = encode(image, form, icc_profile=profile(kind="swapped"), **options)
    loaded, conversions = load(content, "a")
    assert loaded[8, 8, 1] > 180 > 100 > loaded[8, 8, 0]
    assert conversions == ["colour profile"]
    content = encode(image, form, icc_profile=profile(), **options)
    loaded, conversions = load(content, "a")
    np.testing.assert_allclose(loaded[8, 8], (200, 30, 40), atol=2)
    assert conversions == []


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_a_profile_that_is_none_costs_no_picture(mode):
    image = noise(16, 16, "L").convert(mode)
    plain = encode(image, "JPEG", quality=95)
    for bad in (b"broken", profile(kind="swapped")[:300], profile()[:-400]):
        content = encode(image, "JPEG", quality=95, icc_profile=bad)
        loaded, conversions = load(content, "a")
        np.testing.assert_array_equal(loaded, load(plain, "a")[0])
        assert conversions[-1] == "colour profile ignored"


def test_alpha_on_white():
    image = noise(40, 60, "RGBA")
    pixels = np.array(image).astype(float)
    opacity = pixels[..., 3:] / 255
    expected = pixels[..., :3] * opacity + 255 * (1 - opacity)
    loaded, conversions = load(encode(image, "PNG"))
    np.testing.assert_allclose(loaded, expected, atol=1)
    assert conversions == ["alpha"]


# What stands beside the pixels


def test_metadata_never_costs_a_picture():
    image = noise(40, 60)
    content = encode(image, "PNG")
    bomb = zlib.compress(bytes(80 << 20))
    for extra, conversions in (
        (chunk(b"zTXt", b"Comment\0\0" + bomb), []),
        (chunk(b"iTXt", b"Comment\0\1\0\0\0" + bomb), []),
        (chunk(b"iCCP", b"profile\0\0" + bomb), []),
        (chunk(b"iCCP", b"broken"), []),
        (chunk(b"tEXt", bytes(3 << 20)), []),
        (chunk(b"eXIf", b"no EXIF data"), []),
        (chunk(b"eXIf", b"II*\0" + b"\xff" * 40), []),
        (chunk(b"tIME", b"late")[:-1] + b"?", []),  # a wrong checksum
    ):
        loaded, found = load(content[:33] + extra + content[33:])
        np.testing.assert_array_equal(loaded, np.array(image))
        assert found == conversions
    for file_format in ("WEBP", "JPEG"):
        for exif in (b"Exif\0\0no", b"Exif\0\0II*\0" + b"\xff" * 40):
            content = encode(image, file_format, quality=95, exif=exif)
            loaded, conversions = load(content, "a")
            assert mean_difference(loaded, image) < 5
            assert conversions == []


@pytest.mark.parametrize("orientation", range(12))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(orientation, file_format):
    image = noise(40, 60, cells=3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    loaded, conversions = load(encode(image, file_format, quality=95, exif=exif), "a")
    pixels = np.array(image, int)
    turned = {  # as the EXIF standard says where the first row and column are
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: np.rot90(pixels, -1),
        7: np.rot90(pixels, 2).swapaxes(0, 1),
        8: np.rot90(pixels),
    }
    assert np.abs(loaded - turned.get(orientation, pixels)).mean() < 4
    assert conversions == ["EXIF-rotated"] * (orientation in turned)


def test_names_that_belie_the_content_are_told():
    content = encode(noise(40, 60), "PNG")
    for name, said in {
        "a.png": [],
        "a.apng": [],
        "a": [],
        "a.txt": [],
        "a.JFIF": ["PNG named .JFIF"],
        "a.tif": ["PNG named .tif"],
    }.items():
        assert load(content, name)[1] == said

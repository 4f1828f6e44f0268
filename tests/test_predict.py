"""Tests of predict.py, through its command line."""

import base64
import csv
import dataclasses
import html
import html.parser
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import types
import warnings

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from helpers import make_config

import alexnet_tf
import predict as script
from alexnet_tf import predictions
from alexnet_tf.classifier import Classifier
from alexnet_tf.errors import UserError
from alexnet_tf.extracting import pictures_of_folder
from alexnet_tf.pictures.fitting import FITTING_FILE, Fitting, fit_for_network
from alexnet_tf.run import Run, build_model
from data.source import Item
from data.transcode import Options, transcode

SCRIPT = pathlib.Path(__file__).parents[1] / "predict.py"
NAMES = ["red <b>", "grün", "blue, deep"]


def picture(color, form="JPEG"):
    file = io.BytesIO()
    PIL.Image.new("RGB", (40, 30), color).save(file, form)
    return file.getvalue()


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    """A SavedModel whose probabilities are mean colors, with export's signature.

    Of the upper half: pictures may stand on their heads.
    """

    def images(images):
        upper = images[:, : tf.shape(images)[1] // 2]
        means = tf.reduce_mean(tf.cast(upper, tf.float32), [1, 2])
        probabilities, ids = tf.math.top_k(means / 255.0, 3)
        return {
            "classes": tf.gather(tf.constant(NAMES), ids),
            "class_ids": ids,
            "probabilities": probabilities,
        }

    output = str(tmp_path_factory.mktemp("export"))
    pixels = tf.TensorSpec((None, None, None, 3), tf.uint8, name="images")
    signatures = {"images": tf.function(images, input_signature=[pixels])}
    module = tf.Module()
    tf.saved_model.save(module, output, signatures)
    path = pathlib.Path(output, FITTING_FILE)
    path.parent.mkdir()
    path.write_text('{"fit": "warp", "stored_size": 32, "resampling": "bicubic"}')
    return output


@pytest.fixture
def pictures(tmp_path):
    """A folder: blue, green and red, and what is none."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    (folder / "b.JPG").write_bytes(picture((0, 0, 204)))
    (folder / "below" / "g.png").write_bytes(picture((0, 255, 0), "PNG"))
    (folder / "r <i>.gif").write_bytes(picture((255, 51, 0), "GIF"))
    (folder / "notes.txt").write_text("not looked at")
    return folder


@dataclasses.dataclass
class Done:
    """What a run of the script ended with, as `subprocess.run` tells it."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def predict(saved_model, capsys, monkeypatch):
    """Runs the script inside this process, which has TensorFlow already."""

    def run(*arguments, stdin=b""):
        given = {
            "saved_model": saved_model,
            "format": "text",
            "top_k": 5,
            "output_html": None,
            "explain": None,
            "batch_size": 32,
        }
        names = []
        for argument in map(str, arguments):
            name, _, value = argument.removeprefix("--").partition("=")
            if argument.startswith("--"):
                alone = "occlusion" if name == "explain" else "1"
                given[name] = type(given[name] or "")(value or alone)
            else:
                names.append(argument)
        values = types.SimpleNamespace(**given)
        stream = types.SimpleNamespace(buffer=io.BytesIO(stdin))
        monkeypatch.setattr(sys, "stdin", stream)
        capsys.readouterr()
        try:
            code = script.main(values, script.check(values, names))
        except UserError as error:
            code = 1
            print(f"error: {error}", file=sys.stderr)
        return Done(code, *capsys.readouterr())

    with warnings.catch_warnings():
        yield run


def check_usage_error(done, text):
    assert done.returncode == 2
    assert text in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_text_has_names_bars_and_percentages(predict, pictures):
    done = predict("--top_k=2", pictures)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{pictures}/b.JPG",
        "  blue, deep  ████████████████       80.0%",
        "  red <b>                             0.0%",
        f"{pictures}/r <i>.gif",
        "  red <b>  ████████████████████  100.0%",
        "  grün     ████                   20.0%",
        f"{pictures}/below/g.png",
        "  grün     ████████████████████  100.0%",
        "  red <b>                          0.0%",
    ]


def test_json_goes_on_past_what_cannot_be_read(predict, pictures):
    (pictures / "c.jpg").write_bytes(b"short")
    (pictures / "d.png").write_bytes(picture((0, 0, 0), "PNG")[:60])
    done = predict(
        "--format=json",
        "--batch_size=3",
        pictures,
        "missing.jpg",
    )
    assert done.returncode == 1
    results = json.loads(done.stdout)
    names = ["b.JPG", "c.jpg", "d.png", "below/g.png", "r <i>.gif"]
    expected = [*(str(pictures / name) for name in names), "missing.jpg"]
    assert sorted(result["picture"] for result in results) == sorted(expected)
    by_name = {pathlib.Path(result["picture"]).name: result for result in results}
    best = by_name["b.JPG"]["predictions"][0]
    assert (best["class"], best["class_id"]) == ("blue, deep", 2)
    np.testing.assert_allclose(best["probability"], 0.8, atol=0.01)
    assert by_name["g.png"]["predictions"][0]["class"] == "grün"
    assert by_name["r <i>.gif"]["predictions"][0]["class"] == "red <b>"
    failed = {name for name, result in by_name.items() if "error" in result}
    assert failed == {"c.jpg", "d.png", "missing.jpg"}
    assert "truncated" in by_name["d.png"]["error"]
    lines = done.stderr.strip().splitlines()
    left_out = "left out: files without a picture: 1, the first "
    assert lines.pop(0).startswith(left_out)
    assert lines[0] == "3 pictures: blue, deep 1, red <b> 1, grün 1"
    assert lines[1] == "least sure:"
    assert lines[2] == f"   80.0% blue, deep: {pictures}/b.JPG"
    assert lines[5] == "error: 3 of 6 not read:"
    lines = lines[6:]
    assert {re.search(r"(\w+\.\w+):", line)[1] for line in lines} == failed


def test_a_row_for_each_picture(predict, pictures):
    (pictures / "c.jpg").write_bytes(b"short")
    done = predict("--format=wide", "--top_k=2", "--batch_size=1", pictures)
    first, *rows = csv.reader(io.StringIO(done.stdout))
    assert first == [
        "picture",
        "error",
        *("class_1", "probability_1", "class_2", "probability_2"),
    ]
    rows = {pathlib.Path(row[0]).name: row[1:] for row in rows}
    assert rows["b.JPG"][:2] == ["", "blue, deep"]
    assert float(rows["b.JPG"][2]) == pytest.approx(0.8, abs=0.01)
    assert rows["c.jpg"] == ["not a picture in a known format", *[""] * 4]
    assert len(rows) == 4


def test_csv_from_the_standard_input(predict):
    done = predict(
        "--format=csv",
        "-",
        stdin=picture((0, 51, 255), "PNG"),
    )
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["class"] for row in rows] == ["blue, deep", "grün", "red <b>"]
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert [row["class_id"] for row in rows] == ["2", "1", "0"]
    values = [float(row["probability"]) for row in rows]
    np.testing.assert_allclose(values, [1, 0.2, 0], atol=1e-6)


def test_html_shows_pictures_and_escapes_names(predict, pictures, tmp_path):
    page = tmp_path / "page.html"
    page.write_text('<meta name="generator" content="alexnet_tf predict">earlier')
    done = predict(f"--output_html={page}", pictures)
    assert done.returncode == 0, done.stderr
    images, tags = [], []

    class Parser(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            tags.append(tag)
            if tag == "img":
                images.append(dict(attributes)["src"])

    parser = Parser()
    parser.feed(page.read_text(encoding="utf-8"))
    assert "b" not in tags
    assert "i" not in tags
    assert "grün" in page.read_text(encoding="utf-8")
    (blue, red, green) = [
        PIL.Image.open(io.BytesIO(tf.io.decode_base64(as_url_safe(image)).numpy()))
        for image in images
    ]
    assert [np.argmax(np.mean(x, (0, 1))) for x in (blue, green, red)] == [2, 1, 0]


def as_url_safe(data_uri):
    encoded = data_uri.removeprefix("data:image/jpeg;base64,")
    return encoded.replace("+", "-").replace("/", "_").rstrip("=")


def test_arguments_are_checked_before_tensorflow_is_imported(saved_model, tmp_path):
    code = f"""
import runpy, sys
sys.modules["tensorflow"] = None  # cannot be imported
sys.argv = ["predict.py", *sys.argv[1:]]
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""

    def run(*arguments):
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(
            command, capture_output=True, cwd=SCRIPT.parent, env={"PYTHONPATH": "."}
        )

    assert b"--explain[=occlusion|gradcam]\n" in run("--help").stdout
    there = f"--saved_model={saved_model}"
    check_usage_error(run(there), "name pictures or folders")
    check_usage_error(run(there, "--format=xml", "x.jpg"), "--format")
    check_usage_error(run("x.jpg"), "--saved_model")
    check_usage_error(run("--model_dir=x", "x.jpg"), "did you mean --saved_model")
    for arguments, message in (
        ((f"--saved_model={tmp_path}", "x.jpg"), "is no SavedModel"),
        ((there, str(tmp_path)), "no pictures in"),
        ((there, f"--output_html={tmp_path}", "x.jpg"), "is a directory"),
    ):
        done = run(*arguments)
        assert (done.returncode, message in done.stderr.decode()) == (1, True)


def pixels_of(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def best_classes(done):
    assert done.returncode == 0, done.stderr
    rows = csv.DictReader(io.StringIO(done.stdout))
    return {row["picture"]: row["class_id"] for row in rows if row["rank"] == "1"}


def test_pictures_are_turned_and_of_any_kind(predict, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    upright = PIL.Image.new("RGB", (80, 60), (255, 0, 0))
    upright.paste((0, 0, 255), (0, 30, 80, 60))  # red above blue
    files = {"upright": pixels_of(upright, "JPEG")}
    flips = PIL.Image.Transpose
    for orientation, flip in {  # that undoes what the camera did
        2: flips.FLIP_LEFT_RIGHT,
        3: flips.ROTATE_180,
        4: flips.FLIP_TOP_BOTTOM,
        5: flips.TRANSPOSE,
        6: flips.ROTATE_90,
        7: flips.TRANSVERSE,
        8: flips.ROTATE_270,
    }.items():
        exif = PIL.Image.Exif()
        exif[0x0112] = orientation
        lying = pixels_of(upright.transpose(flip), "JPEG", exif=exif)
        files[f"{orientation}.jpg"] = lying
    files |= {
        "scan.tif": pixels_of(upright, "TIFF"),
        "plain.ppm": pixels_of(upright, "PPM"),
        "deep.bmp": pixels_of(upright.quantize(2).convert("1"), "BMP"),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "notes.txt").write_text("no picture")
    (folder / "no_picture").write_text("no picture")
    done = predict("--format=csv", folder)
    best = {pathlib.Path(p).name: i for p, i in best_classes(done).items()}
    assert best.keys() == files.keys()
    assert {best[name] for name in files if name != "deep.bmp"} == {"0"}
    assert "files without a picture: 2, the first" in done.stderr


def test_only_files_that_end_are_read(predict, tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with open(tmp_path / "huge.jpg", "wb") as file:
        file.truncate(2**29 + 1)
    names = [str(tmp_path / "pipe.jpg"), "/dev/zero", str(tmp_path / "huge.jpg")]
    done = predict("--format=json", *names)
    assert done.returncode == 1
    errors = [result["error"] for result in json.loads(done.stdout)]
    assert errors == ["not a regular file"] * 2 + ["larger than 512 MiB"]


def test_a_run_is_enough_and_its_name_no_pattern(predict, saved_model, tmp_path):
    run = tmp_path / "lr[0.1]"
    shutil.copytree(saved_model, run / "saved_model")
    (tmp_path / "a.jpg").write_bytes(picture((0, 0, 255)))
    done = predict(f"--saved_model={run}", "--format=csv", tmp_path / "a.jpg")
    assert best_classes(done) == {str(tmp_path / "a.jpg"): "2"}


def test_an_export_of_another_program_is_said(predict, tmp_path):
    tf.saved_model.save(tf.Module(), str(tmp_path / "other"))
    done = predict(f"--saved_model={tmp_path}/other", "x.jpg")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith(
        "/other is an export of another program or version: give a directory that "
        "export.py of this version wrote"
    )


def test_a_page_takes_the_place_of_no_picture(predict, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(picture((0, 0, 255)))
    for given in (path, tmp_path):
        done = predict(f"--output_html={path}", given)
        assert done.returncode == 1
        assert "overlaps the input" in done.stderr
    other = tmp_path / "b.jpg"
    other.write_bytes(picture((0, 0, 255)))
    done = predict(f"--output_html={path}", other)
    assert done.returncode == 1
    assert "a.jpg is a file of another program" in done.stderr
    assert path.read_bytes() == picture((0, 0, 255))


def test_names_give_no_orders(capsys):
    for name, shown in (
        ("=1+1", "'=1+1"),
        ("@a", "'@a"),
        ("\x1b[31mred\n", r"\x1b[31mred\n"),
    ):
        picture = predictions.Prediction(name, [(name, 0.5)], class_ids=[0])
        predictions.print_csv([picture], 1)
        rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
        assert rows[1] == [shown, "1", shown, "0", "0.5"]
        predictions.print_text([picture], 1)
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == shown.removeprefix("'")
        assert lines[1].split()[0] == shown.removeprefix("'")


def test_the_page_explains(predict, tmp_path, monkeypatch):
    """Also where nobody has named a page."""
    monkeypatch.chdir(tmp_path)
    pathlib.Path("a.jpg").write_bytes(picture((0, 0, 255)))
    done = predict("--explain", "a.jpg")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "page: predictions.html\n"
    text = pathlib.Path("predictions.html").read_text(encoding="utf-8")
    assert text.count("<img") == 2
    assert "what blue, deep depends on" in text


def test_the_page_explains_by_gradcam(predict, saved_model, data_dir, tmp_path):
    run = Run(str(tmp_path / "run"))
    run.start(make_config(data_dir, "small", width=0.05))
    model = build_model(run.read_config(), "float32")
    checkpoint = tf.train.Checkpoint(model=model)
    tf.train.CheckpointManager(checkpoint, run.checkpoint_dir, 1).save(1)
    shutil.copytree(saved_model, run.saved_model_dir)
    image = PIL.Image.linear_gradient("L").convert("RGB")
    image.save(tmp_path / "a.png")
    given = "--explain=gradcam", f"--output_html={tmp_path}/a.html", tmp_path / "a.png"
    done = predict(f"--saved_model={run.model_dir}", *given)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    (name,) = re.findall("what raises (.*?) in the run's latest", html.unescape(text))
    _, drawn = re.findall(r"base64,([^\"]+)", text)
    found = np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(drawn))))
    square = fit_for_network(image, Fitting("warp", 32), 224)[np.newaxis]
    expected = alexnet_tf.explain(model, square, NAMES.index(name))[0]
    assert np.abs(np.int16(found) - expected).mean() < 4  # as JPEG has it
    done = predict(*given)
    assert done.returncode == 1
    assert "an export, which has no gradients: give the directory" in done.stderr


LARGE = {
    "line.png": PIL.Image.linear_gradient("L")
    .resize((4000, 3000))
    .point(lambda v: v & 128),
    "line.tif": PIL.Image.linear_gradient("L")
    .resize((4000, 3000))
    .point(lambda v: v & 128),
    "scan.png": PIL.Image.linear_gradient("L")
    .resize((4960, 7016))
    .convert("1", dither=0),
    "smooth.jpg": PIL.Image.linear_gradient("L").resize((4000, 3000)).convert("RGB"),
}


def test_what_preparation_takes_is_taken(predict, tmp_path):
    """Large pictures of few bytes, whose decoding a server would not dare."""
    for name, image in LARGE.items():
        options = {"compression": "tiff_lzw"} if name.endswith(".tif") else {}
        image.save(tmp_path / name, **options)
        assert (tmp_path / name).stat().st_size < 1_000_000
    done = predict("--format=csv", tmp_path)
    assert best_classes(done).keys() == {str(tmp_path / name) for name in LARGE}
    predictions = Classifier(
        keras.Sequential(
            [keras.Input((32, 32, 3)), keras.layers.GlobalAveragePooling2D()]
        ),
        NAMES,
        Fitting("warp", 32),
    ).predict_pictures(tmp_path)
    assert [one.error for one in predictions] == [None] * len(LARGE)
    pictures = pictures_of_folder(
        str(tmp_path), [str(tmp_path / name) for name in LARGE], Fitting(), 224
    )
    ((_, _, errors),) = pictures.batches(0)
    assert errors == [None] * len(LARGE)
    items = [Item(name, 0, str(tmp_path / name)) for name in LARGE]
    records = transcode(items, Options(), {})
    assert [record.rejected for record in records] == [""] * len(LARGE)


def test_an_unreachable_picture_is_one_error(predict, tmp_path):
    (tmp_path / "a.jpg").write_bytes(picture((0, 0, 255)))
    names = ["no-such-scheme://bucket/a.jpg", "ram://none/a.jpg", tmp_path / "a.jpg"]
    done = predict("--format=json", *names)
    first, second, third = json.loads(done.stdout)
    assert done.returncode == 1
    assert "scheme" in first["error"]
    assert second["error"]
    assert third["predictions"][0]["class"] == "blue, deep"

"""Tests of predict.py, through its command line."""

import csv
import html.parser
import io
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

SCRIPT = pathlib.Path(__file__).parents[1] / "predict.py"
NAMES = ["red <b>", "grün", "blue, deep"]


def picture(color, form="JPEG"):
    file = io.BytesIO()
    PIL.Image.new("RGB", (40, 30), color).save(file, form)
    return file.getvalue()


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    """A SavedModel whose probabilities are the mean colour, with export's signature."""

    def classify(image_bytes):
        def mean(one):
            image = tf.io.decode_image(one, 3, expand_animations=False)
            return tf.reduce_mean(tf.cast(image, tf.float32), [0, 1])

        is_picture = tf.strings.length(image_bytes) > 20
        means = tf.map_fn(
            lambda x: tf.cond(x[0], lambda: mean(x[1]), lambda: tf.zeros(3)),
            (is_picture, image_bytes),
            fn_output_signature=tf.float32,
        )
        probabilities, ids = tf.math.top_k(means / 255.0, 3)
        return {
            "classes": tf.gather(tf.constant(NAMES), ids),
            "class_ids": tf.where(is_picture[:, tf.newaxis], ids, -1),
            "probabilities": probabilities,
        }

    output = str(tmp_path_factory.mktemp("export"))
    spec = tf.TensorSpec((None,), tf.string, name="image_bytes")
    signature = tf.function(classify, input_signature=[spec])
    module = tf.Module()
    tf.saved_model.save(module, output, {"serving_default": signature})
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


def predict(*arguments, stdin=b""):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, input=stdin)


def check_usage_error(done, text):
    assert done.returncode == 2
    assert text in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_text_has_names_bars_and_percentages(saved_model, pictures):
    done = predict(f"--saved_model={saved_model}", "--top_k=2", pictures)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().splitlines() == [
        f"{pictures}/b.JPG",
        "  blue, deep  ████████████████       80.0%",
        "  red <b>                             0.0%",
        f"{pictures}/below/g.png",
        "  grün     ████████████████████  100.0%",
        "  red <b>                          0.0%",
        f"{pictures}/r <i>.gif",
        "  red <b>  ████████████████████  100.0%",
        "  grün     ████                   20.0%",
    ]


def test_json_goes_on_past_what_cannot_be_read(saved_model, pictures):
    (pictures / "c.jpg").write_bytes(b"short")
    (pictures / "d.png").write_bytes(picture((0, 0, 0), "PNG")[:60])
    done = predict(
        f"--saved_model={saved_model}",
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
    assert "PNG" in by_name["d.png"]["error"]
    lines = done.stderr.decode().strip().splitlines()
    assert lines[0] == "error: 3 of 6 not read:"
    assert {re.search(r"(\w+\.\w+):", line)[1] for line in lines[1:]} == failed


def test_csv_from_the_standard_input(saved_model):
    done = predict(
        f"--saved_model={saved_model}",
        "--format=csv",
        "-",
        stdin=picture((0, 51, 255), "PNG"),
    )
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout.decode())))
    assert [row["class"] for row in rows] == ["blue, deep", "grün", "red <b>"]
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert [row["class_id"] for row in rows] == ["2", "1", "0"]
    values = [float(row["probability"]) for row in rows]
    np.testing.assert_allclose(values, [1, 0.2, 0], atol=1e-6)


def test_html_shows_pictures_and_escapes_names(saved_model, pictures, tmp_path):
    page = tmp_path / "page.html"
    done = predict(f"--saved_model={saved_model}", f"--output_html={page}", pictures)
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
    (blue, green, red) = [
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

    there = f"--saved_model={saved_model}"
    check_usage_error(run(there), "name pictures or folders")
    check_usage_error(run(there, "--format=xml", "x.jpg"), "--format")
    check_usage_error(run("x.jpg"), "--saved_model")
    for arguments, message in (
        ((f"--saved_model={tmp_path}", "x.jpg"), "is no SavedModel"),
        ((there, str(tmp_path)), "no pictures in"),
        ((there, "--output_html=/no/page.html", "x.jpg"), "no folder /no"),
    ):
        done = run(*arguments)
        assert (done.returncode, message in done.stderr.decode()) == (1, True)

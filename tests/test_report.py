"""Tests of report.py, in a real browser where there is one."""

import html.parser
import io
import json
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from helpers import make_config

from alexnet_tf.devices import make_strategy
from alexnet_tf.evaluation import report
from alexnet_tf.evaluation.evaluation import evaluate_run
from alexnet_tf.evaluation.metrics import wilson_interval
from alexnet_tf.pipeline.batches import read_pictures
from alexnet_tf.pipeline.data_set import open_data_set
from alexnet_tf.run import Run, build_model

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def written(tmp_path_factory, data_dir):
    """A page about a network that answers differently to different pictures."""
    root = tmp_path_factory.mktemp("report")
    config = make_config(data_dir, "small", width=0.05, learning_rate=0.02)
    run = Run(str(root / "run"))
    run.start(config)
    model = build_model(config, "float32")
    for variable in model.trainable_variables:
        variable.assign(variable * 2)
    checkpoint = tf.train.Checkpoint(model=model)
    tf.train.CheckpointManager(checkpoint, run.checkpoint_dir, 1).save(1)
    record = {"step": 1, "epoch": 1.0, "cross_entropy": 1.0, "top_1_error": 0.5}
    record |= {"learning_rate": 0.1, "images_per_second": 9.0}
    lines = [json.dumps(record | {"split": split}) for split in ("train", "validation")]
    pathlib.Path(run.metrics_file).write_text("\n".join([*lines, ""]))
    page = root / "page"
    result = evaluate_run(run.model_dir, report_dir=str(page))
    return page, model, result


class Reader(html.parser.HTMLParser):
    """Collects the tags that a page opens and closes."""

    def __init__(self, text):
        super().__init__()
        self.opened, self.closed = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Keeps it."""
        self.opened.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        """Keeps it."""
        self.closed.append(tag)


def test_the_page_is_whole_and_needs_no_network(written):
    page, *_ = written
    text = (page / "index.html").read_text()
    reader = Reader(text)
    images = [attrs for tag, attrs in reader.opened if tag == "img"]
    assert all(image["src"].startswith("data:image/png;base64,") for image in images)
    assert all(image["alt"] for image in images)
    assert not re.search(r"https?://|<script|<link|url\(", text)
    paired = {"h2", "figure", "figcaption", "table", "tr", "th", "td", "div", "body"}
    for tag in paired:
        assert [t for t, _ in reader.opened].count(tag) == reader.closed.count(tag)
    assert len(images) == len(list(page.glob("*.png")))


def test_every_figure_is_a_png_too(written):
    page, *_ = written
    names = {path.stem for path in page.glob("*.png")}
    assert names >= {"confusion_matrix", "reliability", "kernels", "kernel_changes"}
    assert names >= {"learning_curves", "neighbours_1", "places_wrong"}
    assert "answers_wrong" in names
    assert any(name.startswith("confused_") for name in names)
    for path in page.glob("*.png"):
        assert np.asarray(PIL.Image.open(path).convert("RGB")).std() > 1, path


def test_the_page_says_the_numbers(written):
    page, _, result = written
    text = (page / "index.html").read_text()
    assert f"{result.top_1_error:.2%}" in text
    assert "25 of 25" in text
    low, high = wilson_interval(1 - result.top_1_error, 25)
    assert f"{1 - result.top_1_error:.1%} right" in text
    assert f"95 % interval {low:.1%} to {high:.1%}" in text
    assert f"{12 / 25:.1%}" in text  # the largest class
    assert re.search(r"Recipe small, seed 0, 20.*learning_rate 0.02.*</p>", text)
    assert "top-5" not in text  # of three classes
    # The weights are twice those of the start: the change is as long as the start.
    assert "changed by 100.0% of" in text


def test_the_page_has_precision_recall_and_f1_of_every_class(written):
    page, _, result = written
    text = (page / "index.html").read_text()
    confusion = result.predictions.confusion(3)
    for label, name in enumerate(("blue", "green", "red")):
        right, examples = confusion[label, label], confusion[label].sum()
        answers = confusion[:, label].sum()
        precision = f"{right / answers:.0%}" if answers else "–"
        f1 = f"{2 * right / (answers + examples):.0%}"
        cells = (examples, precision, f"{right / examples:.0%}", f1)
        row = f"<th>{name}</th>" + "".join(f"<td>{cell}</td>" for cell in cells)
        assert row in text


def test_two_replicas_and_a_network_twice_change_no_report(written, tmp_path):
    page, _, _ = written
    given = {"strategy": make_strategy(simulate_gpus=2), "global_batch_size": 8}
    run, again = str(page.parent / "run"), tmp_path / "page"
    evaluate_run(run, checkpoints=["latest"] * 2, report_dir=str(again), **given)
    for directory, is_of_several in ((page, False), (again, True)):
        text = (directory / "index.html").read_text()
        assert ("features: of the first network" in text) == is_of_several
    names = {path.name for path in page.glob("*.png")}
    assert {path.name for path in again.glob("*.png")} == names
    for name in ("places_wrong.png", "neighbours_1.png"):
        one, two = (np.asarray(PIL.Image.open(p / name)) for p in (page, again))
        np.testing.assert_allclose(np.int16(one), two, atol=1)


def test_neighbours_are_called_right_where_they_are_of_the_class(written):
    page, _, result = written
    text = (page / "index.html").read_text()
    found = re.findall(r">(\d) of the 5 nearest are (\w+) too", text)
    right, wrong = report._choose(result.predictions)
    labels = result.predictions.labels[np.concatenate([right, wrong])]
    assert [name for _, name in found] == [("blue", "green", "red")[i] for i in labels]


def test_the_report_shows_a_bar_while_it_works(
    written, data_dir, tmp_path, monkeypatch
):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    page, model, result = written
    facts = json.loads((page / "eval.json").read_text())
    monkeypatch.setattr(sys, "stderr", terminal)
    run = Run(str(page.parent / "run"))
    report.write_report(
        str(tmp_path), result, facts, open_data_set(data_dir), model, run
    )
    shown = [int(n) for n in re.findall(r"report\s+(\d+)%", terminal.getvalue())]
    assert shown[0] == 0
    assert max(shown) <= 100
    assert max(shown) > 50


def test_the_numbers_stand_beside_the_page(written):
    page, *_ = written
    assert (page / "eval.json").exists()
    assert (page / "per_class.csv").exists()


def test_text_from_outside_is_escaped(tmp_path):
    page = report._Page(str(tmp_path))
    page.table([("<b>", "a & b")])
    page.figure("x", np.zeros((2, 2, 3), np.uint8), '"<script>')
    page.write("<title>")
    text = (tmp_path / "index.html").read_text()
    assert "<script>" not in text
    assert "&lt;b&gt;" in text
    assert "a &amp; b" in text


def test_nearest_pictures_against_numpy(written, data_dir, monkeypatch):
    _, model, _ = written
    monkeypatch.setattr(report, "_BATCH", 64)  # 150 pictures: three batches
    data_set = open_data_set(data_dir)
    train = read_pictures(data_set, "train", np.arange(150), 224)
    queries = read_pictures(data_set, "validation", np.array([0, 12, 24]), 224)
    pool, found, labels = report.nearest_pictures(model, data_set, queries, k=4)
    assert pool == 150
    features = tf.keras.Model(model.inputs, model.get_layer("fc7").output)
    a = features.predict(queries, verbose=0).astype(np.float64)
    b = features.predict(train, verbose=0).astype(np.float64)
    distances = np.sqrt(((a[:, np.newaxis] - b) ** 2).sum(axis=2))
    places = np.argsort(distances, axis=1)[:, :4]
    assert len(np.unique(distances)) > 400
    np.testing.assert_array_equal(found, train[places])
    # The noise of each class has one colour as its mean: red, green, blue are 2, 1, 0.
    colors = found.mean(axis=(2, 3)).argmax(axis=2)
    np.testing.assert_array_equal(labels, 2 - colors)


@pytest.mark.skipif(not BROWSER, reason="no chromium here to look at the page with")
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_all_of_it_without_sideways_scrolling(written, tmp_path, width):
    page, *_ = written
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"""<iframe id="f" width="{width}" height="800" style="border:0"
        src="{(page / "index.html").as_uri()}"></iframe><p id="said"></p><script>
        onload = () => {{
          const page = document.getElementById("f").contentDocument;
          const images = [...page.images];
          const shown = images.filter(i => i.naturalWidth && i.clientWidth > 100);
          document.getElementById("said").textContent = [
            "width", page.documentElement.scrollWidth,
            "shown", shown.length, "of", images.length].join(" ");
        }};</script>"""
    )
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    more = ["--allow-file-access-from-files", "--dump-dom"]
    done = subprocess.run(
        [BROWSER, *options, *more, frame.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    images = len(list(pathlib.Path(page).glob("*.png")))
    said = re.search(r"width \d+ shown .*?(?=<)", done.stdout)[0]
    assert said == f"width {width} shown {images} of {images}"


def test_published_weights_have_no_first_kernels_to_compare_with(written):
    figures = []

    class Page:
        def heading(self, text):
            """Nothing to see."""

        def figure(self, name, *_):
            """Keeps the name."""
            figures.append(name)

    _, model, _ = written
    report._add_kernels(Page(), model, None)
    assert figures == ["kernels"]

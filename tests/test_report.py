"""Tests of report.py, in a real browser where there is one."""

import base64
import html.parser
import io
import json
import pathlib
import re
import shutil
import subprocess
import sys
import types

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from helpers import evaluate_run, make_config

from alexnet_tf import files
from alexnet_tf.devices import make_strategy
from alexnet_tf.errors import UserError
from alexnet_tf.evaluation import report, stuck
from alexnet_tf.evaluation.evaluation import (
    Outputs,
    evaluate_networks,
    load_networks,
)
from alexnet_tf.evaluation.explaining import explain
from alexnet_tf.evaluation.metrics import wilson_interval
from alexnet_tf.evaluation.results import read_names
from alexnet_tf.file_names import REPORT_FILES
from alexnet_tf.pipeline.batches import read_pictures
from alexnet_tf.pipeline.data_set import open_data_set
from alexnet_tf.run import Run, build_model
from alexnet_tf.weights.loading import Loaded

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


class Terminal(io.StringIO):
    """A standard error that says that somebody looks at it."""

    def isatty(self):
        """It does."""
        return True


@pytest.fixture(scope="module")
def terminal():
    """What the first page shows while it is made."""
    return Terminal()


@pytest.fixture(scope="module", autouse=True)
def two_examples():
    """Pages show one right answer and one wrong one, which costs a quarter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "_EXAMPLES", 1)
        yield


@pytest.fixture(scope="module")
def written(tmp_path_factory, data_dir, terminal):
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
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
    for image in images:
        assert re.match("data:image/(png|jpeg);base64,", image["src"])
    assert all(image["alt"] for image in images)
    assert not re.search(r"https?://|<script|<link|url\(", text)
    paired = {"h2", "figure", "figcaption", "table", "tr", "th", "td", "div", "body"}
    for tag in paired:
        assert [t for t, _ in reader.opened].count(tag) == reader.closed.count(tag)
    figures = [attrs["alt"] for attrs in images if "png" in attrs["src"][:20]]
    assert len(figures) == len(list(page.glob("*.png")))


def test_every_figure_is_a_png_too(written):
    page, *_ = written
    names = {path.stem for path in page.glob("*.png")}
    assert names == {"confusion_matrix", "reliability", "kernels", "learning_curves"}
    files.check_ours(str(page), REPORT_FILES)
    for path in page.glob("*.png"):
        assert np.asarray(PIL.Image.open(path).convert("RGB")).std() > 1, path


def test_the_page_says_the_numbers(written):
    page, _, result = written
    text = (page / "index.html").read_text()
    assert f"<th>top 1 error</th><td>{result.top_1_error:.4f}</td>" in text
    assert "<th>settings</th><td>width 0.05, " in text
    assert "25 of 25" in text
    low, high = wilson_interval(1 - result.top_1_error, 25)
    assert f"{1 - result.top_1_error:.1%} right" in text
    assert f"95 % interval {low:.1%} to {high:.1%}" in text
    assert f"{12 / 25:.1%}" in text  # the largest class
    assert not re.search("top.5", text, re.IGNORECASE)  # of three classes
    assert stuck.is_stuck(result.predictions)  # it never learned
    assert "The network is stuck: its cross-entropy of" in text


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
    assert f"{result.balanced_accuracy:.1%} balanced</p>" in text
    assert f"macro-F1 {result.macro_f1:.1%}" in text


def test_two_replicas_and_a_network_twice_change_no_report(written, tmp_path):
    page, _, _ = written
    given = {"strategy": make_strategy(simulate_gpus=2), "global_batch_size": 8}
    run, again = str(page.parent / "run"), tmp_path / "page"
    with given["strategy"].scope():
        networks = load_networks(["latest"] * 2, run)
    evaluate_networks(networks, outputs=Outputs(str(again), report=True), **given)
    for directory, is_of_several in ((page, False), (again, True)):
        text = (directory / "index.html").read_text()
        assert ("features are of the first network" in text) == is_of_several
    names = {path.name for path in page.glob("*.png")}
    assert {path.name for path in again.glob("*.png")} == names
    of_pages = [pictures_of(directory) for directory in (page, again)]
    for one, two in zip(*of_pages, strict=True):
        np.testing.assert_allclose(np.int16(one), two, atol=8)  # as JPEG has it


def rows_of(page):
    """The pictures of each row: the classes of its frame, its text, its pixels."""
    text = (page / "index.html").read_text()
    rows = re.findall(r'<div class="row">(.*?)</div>', text, re.DOTALL)
    form = (
        r'<figure class="(.*?)"><img src=".*?,(.*?)".*?<figcaption>(.*?)</figcaption>'
    )
    return [
        [
            (
                style,
                text,
                np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(data)))),
            )
            for style, data, text in re.findall(form, row)
        ]
        for row in rows
    ]


def pictures_of(page):
    return [pixels for row in rows_of(page) for _, _, pixels in row]


def test_answers_have_a_frame_their_bars_and_where_the_network_looks(written):
    page, model, result = written
    predictions, names = result.predictions, ("blue", "green", "red")
    scale, *rows = rows_of(page)
    assert [text for _, text, _ in scale] == ["0", "3", "12", "28", "50+"]
    right, wrong = rows[:2]
    assert [row[0][0] for row in (right, wrong)] == ["large right", "large wrong"]
    for (_, text, pixels), (_, points, _), (_, answer, relative) in (right, wrong):
        answer = answer.removeprefix("as ")
        assert re.match("at most [0-9]+ points|no single part matters", points)
        bars = re.findall(r'style="--share:(\d+)%">(.*?)</span>', text)
        assert bars[0][1].removeprefix("<b>").startswith(f"{bars[0][0]}% {answer}")
        assert text.startswith(re.search(r"<b>\d+% (\w+)</b>", text)[1])  # its own
        shares = [int(share) for share, _ in bars]
        assert shares == sorted(shares, reverse=True)
        assert abs(sum(shares) - 100) <= 2
        expected = explain(model, pixels[np.newaxis], names.index(answer))[0]
        assert np.abs(np.int16(expected) - relative).mean() < 8
    row = int(np.flatnonzero(predictions.ranks == 0)[0])
    assert names[predictions.labels[row]] in right[0][1] + wrong[0][1] + text


def test_neighbours_are_framed_as_right_where_they_are_of_the_class(written):
    rows = rows_of(written[0])[3:]
    assert len(rows) == 2
    for (style, name, _), *others in rows:
        assert style == "large"
        assert len(others) == 5
        for frame, other, _ in others:
            assert frame == ("right" if other == name else "wrong")


def test_frames_of_right_and_wrong_differ_in_form_and_in_blue(written):
    """Red and green would look alike to every twelfth man; blue does not."""
    text = (written[0] / "index.html").read_text()
    right = re.search(r"\.right img { border: 4px solid #....(..); }", text)[1]
    wrong = re.search(r"\.wrong img { border: 4px dashed #....(..); }", text)[1]
    assert int(right, 16) - int(wrong, 16) > 100


def test_the_report_shows_a_bar_while_it_works(written, terminal):
    shown = [int(n) for n in re.findall(r"report:\s+(\d+)%", terminal.getvalue())]
    assert shown[0] == 0
    assert max(shown) <= 100
    assert max(shown) > 50


def test_the_page_has_a_table_of_contents(written):
    page, *_ = written
    text = (page / "index.html").read_text()
    targets = re.findall(r'<a href="#(s\d+)">', text)
    assert targets == re.findall(r'<section id="(s\d+)"', text)
    assert len(targets) > 8


def test_copies_across_splits_are_named(data_dir, tmp_path):
    """Of pictures of noise one is in both splits, saved again by another quality."""
    from data.prepare import prepare

    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (24, 16, 16, 3), np.uint8)
    for split, numbers in (("train", range(12)), ("validation", (12, 13, 5))):
        folder = tmp_path / "in" / split / "noise"
        folder.mkdir(parents=True)
        for i in numbers:
            picture = PIL.Image.fromarray(small[i]).resize((300, 300))
            picture.save(folder / f"{i}.jpg", quality=95 if split == "train" else 60)
    other = tmp_path / "in" / "train" / "other"
    other.mkdir()
    PIL.Image.new("RGB", (300, 300), "red").save(other / "flat.png")
    prepare(source="folder", input=str(tmp_path / "in"), output=str(tmp_path / "out"))
    data_set = open_data_set(str(tmp_path / "out"))
    number, copies = report.find_copies(data_set, "validation", 224)
    ours, theirs = (read_names(data_set.splits[s]) for s in ("validation", "train"))
    assert number == 3
    pairs = [(ours[i], theirs[j]) for i, j in copies]
    assert pairs == [("validation/noise/5.jpg", "train/noise/5.jpg")]
    page = report.Page(str(tmp_path))
    model = types.SimpleNamespace(input_shape=(None, 224, 224, 3))
    evaluation = types.SimpleNamespace(split="validation")
    network = Loaded(model, None, "")
    subject = report.Subject(evaluation, {}, data_set, network)
    report._add_copies(page, subject)
    page.write("copies")
    text = (tmp_path / "index.html").read_text()
    assert "1 of the 3 pictures of validation" in text
    assert "<th>validation/noise/5.jpg</th><td>train/noise/5.jpg</td>" in text


def test_a_picture_of_a_person_is_not_one_of_the_report(written, tmp_path):
    page = shutil.copytree(written[0], tmp_path / "page")
    (page / "holiday.png").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"holds holiday\.png"):
        files.check_ours(str(page), REPORT_FILES)


def test_the_numbers_stand_beside_the_page(written):
    page, *_ = written
    assert (page / "eval.json").exists()
    assert (page / "per_class.csv").exists()


def test_text_from_outside_is_escaped(tmp_path):
    page = report.Page(str(tmp_path))
    page.table([("<b>", "a & b")])
    page.figure("x", np.zeros((2, 2, 3), np.uint8), '"<script>')
    page.write("<title>")
    text = (tmp_path / "index.html").read_text()
    assert "<script>" not in text
    assert "&lt;b&gt;" in text
    assert "a &amp; b" in text


def test_neighbours_against_numpy(written, data_dir, monkeypatch):
    _, model, _ = written
    monkeypatch.setattr(report, "_BATCH", 64)  # 150 pictures: three batches
    data_set = open_data_set(data_dir)
    train = read_pictures(data_set, "train", np.arange(150), 224)
    queries = read_pictures(data_set, "validation", np.array([0, 12, 24]), 224)
    pool, found, labels = report.find_neighbours(model, data_set, queries, k=4)
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
          const shown = images.filter(i => i.naturalWidth && i.clientWidth > 50);
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
    images = (page / "index.html").read_text().count("<img")
    said = re.search(r"width \d+ shown .*?(?=<)", done.stdout)[0]
    assert said == f"width {width} shown {images} of {images}"

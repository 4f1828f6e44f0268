"""Tests of alexnet_tf/summaries.py and monitor.py, read back by TensorBoard itself."""

import io
import json
import re
import subprocess
import sys
import urllib.parse
import urllib.request

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from absl import logging
from tensorboard.backend.event_processing import event_accumulator

from alexnet_tf.evaluation.evaluator import Evaluator
from alexnet_tf.monitoring import metrics_log
from alexnet_tf.monitoring.metrics_log import MetricsLog, Progress
from alexnet_tf.monitoring.tensorboard import Monitor, Profiler, sample
from alexnet_tf.pipeline.data_set import open_data_set
from alexnet_tf.run import build_model, resolve


def read_steps(directory, tag):
    accumulator = event_accumulator.EventAccumulator(
        str(directory), size_guidance={"tensors": 0}
    )
    accumulator.Reload()
    return [event.step for event in accumulator.Tensors(tag)]


def open_log(folder, step):
    return MetricsLog(str(folder), str(folder / "metrics.jsonl"), step)


def lines_of(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def test_a_resume_neither_doubles_nor_loses_a_point(tmp_path):
    log = open_log(tmp_path, 0)
    for step in (10, 20, 30):
        log.write("train", step, step / 10, cross_entropy=1.0)
        log.write("validation", step, step / 10, cross_entropy=2.0)
    # A kill in the middle of writing leaves half a line and half an event.
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "ep')
    (events,) = (tmp_path / "train").iterdir()
    whole = events.read_bytes()
    events.write_bytes(whole + whole[-40:-7])
    again = open_log(tmp_path, 20)
    assert lines_of(tmp_path) == [10, 10, 20, 20]
    for split in ("train", "validation"):  # before anything new is written
        assert read_steps(tmp_path / split, "cross_entropy") == [10, 20]
    for step in (30, 40):
        again.write("train", step, step / 10, cross_entropy=1.0)
        again.write("validation", step, step / 10, cross_entropy=2.0)
    for split in ("train", "validation"):
        assert read_steps(tmp_path / split, "cross_entropy") == [10, 20, 30, 40]
    assert lines_of(tmp_path) == [10, 10, 20, 20, 30, 30, 40, 40]


def test_unknown_scalars_go_to_tensorboard_only(tmp_path):
    open_log(tmp_path, 0).write("train", 1, 0.1, l2=0.5, gradient_norm=3.0)
    record = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert record == {"step": 1, "epoch": 0.1, "split": "train", "l2": 0.5}
    assert read_steps(tmp_path / "train", "gradient_norm") == [1]


def test_sample_takes_evenly_spaced_values():
    small, large = np.arange(5.0), np.arange(20_000.0)
    values = sample([tf.constant(small), tf.constant(large.reshape(100, 200))])
    # 20,000 / 4,096 is 4.9: every fifth value.
    np.testing.assert_array_equal(values, [*small, *large[::5]])
    assert len(sample([tf.zeros((4096, 9216))])) <= 4096


class Board:
    """The real TensorBoard over its HTTP interface, on loopback."""

    def __init__(self, logdir):
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir)]
        options = ["--host=127.0.0.1", "--port=0", "--load_fast=false"]
        self.process = subprocess.Popen(
            [*command, *options], stderr=subprocess.PIPE, text=True
        )
        for line in self.process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
                self.address = found[0]
                return
        raise RuntimeError("tensorboard did not start")

    def get(self, path, **query):
        """What TensorBoard answers, bytes."""
        query = "?" + urllib.parse.urlencode(query) if query else ""
        url = f"{self.address}data/plugin/{path}{query}"
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.read()

    def json(self, path, **query):
        """What TensorBoard answers, parsed."""
        return json.loads(self.get(path, **query))

    def post(self, path, **body):
        """What TensorBoard answers to a JSON object, parsed."""
        url = f"{self.address}data/plugin/{path}"
        data, head = json.dumps(body).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(url, data, head)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read())


@pytest.fixture(scope="module")
def monitored(tmp_path_factory, data_dir):
    """What a run of two epochs writes, and its network."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    folder.mkdir()
    data_set = open_data_set(data_dir)
    given = {"width": 0.05, "recipe": "small"}
    config, _ = resolve(given, data_set, {"precision": "float32", "num_gpus": 0})
    model = build_model(config, "float32")
    # A unit that nothing brings to life, a weight that is zero.
    conv3 = model.get_layer("conv3")
    kernel, bias = conv3.get_weights()
    kernel[..., :5], bias[:5] = 0, -1
    conv3.set_weights([kernel, bias])
    log = open_log(folder, 0)
    watch = Monitor(log, model, data_set, config)
    watch.write_start()
    evaluator = Evaluator(model, tf.distribute.get_strategy())
    result = evaluator.evaluate(data_set, "validation", 25)
    gradients = sample([v.value for v in model.trainable_variables]).numpy()
    for step in (2, 4):
        log.write("train", step, step / 2, cross_entropy=3.0 / step)
        log.write("validation", step, step / 2, top_1_error=1.0 / step)
        watch.trained(step, gradients)
        watch.validated(step, result, gradients)
    return folder, model, result, config


@pytest.fixture(scope="module")
def board(monitored):
    board = Board(monitored[0].parent)
    try:
        yield board
    finally:
        board.process.terminate()
        board.process.wait(timeout=20)
        board.process.stderr.close()


def test_tensorboard_shows_the_scalars(board):
    points = board.json("scalars/scalars", run="first/train", tag="cross_entropy")
    assert [(step, value) for _, step, value in points] == [(2, 1.5), (4, 0.75)]
    points = board.json("scalars/scalars", run="first/validation", tag="top_1_error")
    assert [(step, value) for _, step, value in points] == [(2, 0.5), (4, 0.25)]


def test_tensorboard_shows_dead_units_and_zeros(board, monitored):
    _, model, *_ = monitored
    filters = model.get_layer("conv3").kernel.shape[-1]
    points = board.json("scalars/scalars", run="first/train", tag="dead_units/conv3")
    assert points[-1][2] >= 5 / filters - 1e-6
    path = model.get_layer("conv3").kernel.path
    points = board.json(
        "scalars/scalars", run="first/train", tag=f"zero_weights/{path}"
    )
    assert abs(points[-1][2] - 5 / filters) < 0.05


@pytest.mark.parametrize(
    ("run", "tag"),
    [
        ("first", "augmentation"),
        ("first/train", "kernels"),
        ("first/validation", "confusion_matrix"),
        ("first/validation", "confident_mistakes"),
    ],
)
def test_tensorboard_shows_the_pictures(board, run, tag):
    listed = board.json("images/images", run=run, tag=tag, sample=0)
    assert [image["step"] for image in listed] == ([0] if run == "first" else [2, 4])
    png = board.get("images/individualImage?" + listed[-1]["query"])
    pixels = np.asarray(PIL.Image.open(io.BytesIO(png)))
    assert pixels.ndim == 3
    assert pixels.std() > 5


def test_the_augmented_picture_stands_beside_different_versions(monitored):
    folder, *_ = monitored
    accumulator = event_accumulator.EventAccumulator(str(folder))
    accumulator.Reload()
    png = accumulator.Tensors("augmentation")[0].tensor_proto.string_val[2]
    pixels = np.asarray(PIL.Image.open(io.BytesIO(png)).convert("RGB"))
    assert pixels.shape[1] == 8 * 228
    tiles = np.split(pixels, 8, axis=1)
    assert len({tile.tobytes() for tile in tiles}) == 8


@pytest.mark.parametrize("kind", ["weights", "gradients"])
def test_tensorboard_shows_the_histograms(board, monitored, kind):
    _, model, *_ = monitored
    bias = model.get_layer("conv4").bias
    (_, step, buckets), *_ = board.json(
        "histograms/histograms", run="first/train", tag=f"{kind}/{bias.path}"
    )
    assert step == 2
    assert sum(count for *_, count in buckets) == bias.shape[0]
    assert buckets[0][0] <= float(np.min(bias)) <= buckets[-1][1]


def test_tensorboard_shows_settings_and_command(board, monitored):
    *_, config = monitored
    (text,) = board.json("text/text", run="first", tag="configuration")
    assert "learning_rate" in text["text"]
    (command,) = board.json("text/text", run="first", tag="command")
    assert sys.argv[0] in command["text"]
    groups = board.post(
        "hparams/session_groups",
        experimentName="",
        allowedStatuses=["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_RUNNING"],
        colParams=[{"metric": {"tag": "top_1_error", "group": "validation"}}],
        startIndex=0,
        sliceSize=10,
        includeMetrics=True,
    )
    (group,) = groups["sessionGroups"]
    assert group["hparams"]["learning_rate"] == config.learning_rate
    assert group["hparams"]["recipe"] == "small"
    values = [value["value"] for value in group["metricValues"]]
    assert 0.25 in values


def test_a_restart_replaces_the_settings(monitored, data_dir, tmp_path):
    *_, config = monitored
    for _ in range(2):
        log = open_log(tmp_path, 0)
        model = build_model(config, "float32")
        watch = Monitor(log, model, open_data_set(data_dir), config)
        watch.write_start()
    assert len(list(tmp_path.glob("events.*"))) == 1


def test_histograms_every(monitored, data_dir, tmp_path):
    _, model, result, config = monitored
    gradients = sample([v.value for v in model.trainable_variables]).numpy()
    tag = f"weights/{model.get_layer('fc8').bias.path}"
    for every, expected in ((3, [3, 6]), (0, [])):
        folder = tmp_path / str(every)
        folder.mkdir()
        log = open_log(folder, 0)
        watch = Monitor(log, model, open_data_set(data_dir), config, every)
        for step in range(1, 7):
            watch.trained(step, gradients)
        watch.validated(7, result, gradients)
        accumulator = event_accumulator.EventAccumulator(str(folder / "train"))
        accumulator.Reload()
        found = tag in accumulator.Tags()["tensors"]
        assert found == bool(every)
        if found:
            assert read_steps(folder / "train", tag) == expected


def test_the_profiler_records_the_steps_asked_for(tmp_path, monkeypatch):
    calls = []
    fake = tf.profiler.experimental
    monkeypatch.setattr(fake, "start", lambda logdir: calls.append(("start", logdir)))
    monkeypatch.setattr(fake, "stop", lambda: calls.append("stop"))
    profiler, step = Profiler(str(tmp_path), 10, 20), 0
    stops = []
    while step < 30:
        profiler.update(step)
        step = min(30, profiler.next_stop(step))
        stops.append(step)
    profiler.close()
    assert stops == [9, 20, 30]
    assert calls == [("start", str(tmp_path)), "stop"]


def test_lines_at_intervals_where_the_output_is_no_terminal(monkeypatch):
    lines, now = [], [0.0]
    monkeypatch.setattr(logging, "info", lambda form, *args: lines.append(form % args))
    monkeypatch.setattr(metrics_log.time, "monotonic", lambda: now[0])
    progress = Progress(100, 0, seconds=30)
    for step in range(1, 9):
        now[0] = 10.0 * step
        progress.update(step, "1/2", loss=f"{step}")
    assert lines == ["epoch 1/2  step 3/100  loss 3", "epoch 1/2  step 6/100  loss 6"]
    lines.clear()
    progress.row(step="12", loss="1.5", is_best=True)
    progress.row(step="24", loss="1.25")
    assert lines == [
        "     step       loss",
        "       12        1.5",
        "       24       1.25",
    ]


def test_a_terminal_gets_a_bar_and_colour(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(logging, "level_info", lambda: True)
    progress = Progress(100, 10)
    progress.update(50, "1/2", loss="0.5")
    progress.row(step="50", loss="1.5", is_best=True)
    progress.close()
    shown = terminal.getvalue()
    assert "step 50/100" in shown
    assert "\033[1m       50        1.5\033[0m" in shown

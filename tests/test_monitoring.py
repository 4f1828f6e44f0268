"""Tests of the room monitoring, what it writes read back by TensorBoard itself."""

import contextlib
import dataclasses
import io
import json
import os
import pty
import re
import resource
import subprocess
import sys
import termios
import urllib.parse
import urllib.request

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from absl import logging
from helpers import make_config
from tensorboard.backend.event_processing import plugin_event_accumulator

from alexnet_tf.errors import UserError
from alexnet_tf.evaluation.evaluator import Evaluator
from alexnet_tf.evaluation.mosaics import draw_layer
from alexnet_tf.metrics_file import read_records
from alexnet_tf.monitoring import progress as progress_module
from alexnet_tf.monitoring.metrics_log import MetricsLog
from alexnet_tf.monitoring.progress import Progress
from alexnet_tf.monitoring.tensorboard import Monitor
from alexnet_tf.pipeline.batches import read_pictures
from alexnet_tf.pipeline.data_set import open_data_set
from alexnet_tf.run import Run, build_model
from alexnet_tf.training.step import sample


def read_steps(directory, tag):
    accumulator = plugin_event_accumulator.EventAccumulator(
        str(directory), tensor_size_guidance={"scalars": 0}
    )
    accumulator.Reload()
    return [event.step for event in accumulator.Tensors(tag)]


def open_log(folder, step):
    return MetricsLog(Run(str(folder)), step)


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
    assert events.read_bytes() == whole + whole[-40:-7]  # nobody reads or cuts it
    for step in (30, 40):
        again.write("train", step, step / 10, cross_entropy=1.0)
        again.write("validation", step, step / 10, cross_entropy=2.0)
    for split in ("train", "validation"):  # TensorBoard itself leaves out the old 30
        assert len(list((tmp_path / split).iterdir())) == 2
        assert read_steps(tmp_path / split, "cross_entropy") == [10, 20, 30, 40]
    assert lines_of(tmp_path) == [10, 10, 20, 20, 30, 30, 40, 40]


@contextlib.contextmanager
def disk_that_takes(num_bytes):
    """No file may grow beyond so many bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_refuses_is_a_warning_and_nothing_is_lost(tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr(logging, "warning", lambda form, *a: warnings.append(form % a))
    log = open_log(tmp_path, 0)
    log.write("train", 1, 0.1, cross_entropy=1.0)
    sizes = {
        path: path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()
    }
    with disk_that_takes(max(sizes.values()) + 20):
        for step in (2, 3, 4):
            log.write("train", step, step / 10, cross_entropy=1.0)
            log.write_file("batch.png", bytes(1000))
        with pytest.raises(UserError, match="free some space") as raised:
            log.check()
        assert "\n" not in str(raised.value)
        # Half a line would hide what comes after it.
        assert read_records(f"{tmp_path}/metrics.jsonl")[0] == log.records[0]
    ours = [w for w in warnings if not w.startswith(f"{tmp_path}/train")]
    assert len(ours) == 2  # one for each file, not one for each attempt
    assert any(w.startswith(f"{tmp_path}/metrics.jsonl is not") for w in ours)
    assert all("File too large); training goes on" in text for text in warnings)
    log.write("train", 5, 0.5, cross_entropy=1.0)
    log.check()
    assert lines_of(tmp_path) == [1, 2, 3, 4, 5]
    steps = read_steps(tmp_path / "train", "cross_entropy")
    assert (steps[0], steps[-1]) == (1, 5)  # a new file: half an event hides nothing


def test_metrics_are_kept_in_a_remote_directory():
    folder = "ram://test_monitoring/run"
    for last_step in (0, 1):
        log = MetricsLog(Run(folder), last_step)
        for step in (last_step + 1, last_step + 2):
            log.write("train", step, step / 10, cross_entropy=1.0)
        # An object store rewrites a file that grows: not at every record.
        assert read_records(f"{folder}/metrics.jsonl") == log.records[:last_step]
        log.write("validation", step, step / 10, cross_entropy=2.0)
        assert read_records(f"{folder}/metrics.jsonl") == log.records
        log.check()
    steps = [record["step"] for record in log.records if record["split"] == "train"]
    assert steps == [1, 2, 3]


def test_unknown_scalars_go_to_tensorboard_only(tmp_path):
    open_log(tmp_path, 0).write("train", 1, 0.1, l2=0.5, gradient_norm=3.0)
    record = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert record == {"step": 1, "epoch": 0.1, "split": "train", "l2": 0.5}
    assert read_steps(tmp_path / "train", "training/gradient_norm") == [1]


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
    config = make_config(data_set, "small", width=0.05)
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
    samples = {
        f"{kind}/{variable.path}": sample([variable.value]).numpy()
        for kind in ("weights", "gradients")
        for variable in model.trainable_variables
    }
    for step in (2, 4):
        scalars = {"learning_rate": 0.01, "images_per_second": 99.0}
        for split in ("train", "validation"):
            scalars |= {"cross_entropy": 3.0 / step, "top_1_error": 1.0 / step}
            log.write(split, step, step / 2, **scalars)
        watch.write_histograms(step, samples)
        watch.validated(step, result)
    log.check()
    (folder.parent / "second").mkdir()
    recipe = dataclasses.replace(config.recipe, momentum=0.5)
    other = dataclasses.replace(config, recipe=recipe)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Monitor, "_draw_training_batch", lambda _: b"")
        for _ in range(2):  # it is started again
            second = open_log(folder.parent / "second", 0)
            Monitor(second, model, data_set, other).write_start()
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


def test_tensorboard_opens_with_losses_and_errors(board):
    """It sorts by name, and what has no group comes as if it were its own."""
    for run in ("first/train", "first/validation"):
        tags = sorted(board.json("scalars/tags")[run])
        assert tags[:2] == ["cross_entropy", "top_1_error"]
        assert not any("bad_record" in tag for tag in tags)


def test_tensorboard_shows_dead_units_and_zeros(board, monitored):
    _, model, *_ = monitored
    filters = model.get_layer("conv3").kernel.shape[-1]
    points = board.json("scalars/scalars", run="first/train", tag="units_dead/conv3")
    assert points[-1][2] >= 5 / filters - 1e-6
    path = model.get_layer("conv3").kernel.path
    points = board.json(
        "scalars/scalars", run="first/train", tag=f"zero_weights/{path}"
    )
    assert abs(points[-1][2] - 5 / filters) < 0.05


@pytest.mark.parametrize(
    ("run", "tag"),
    [
        *(("first/train", f"kernels/conv{i}") for i in range(1, 6)),
        *(("first/train", f"maps/conv{i}") for i in range(1, 6)),
        ("first/validation", "confusion_matrix"),
    ],
)
def test_tensorboard_shows_the_pictures(board, run, tag):
    listed = board.json("images/images", run=run, tag=tag, sample=0)
    assert [image["step"] for image in listed] == [2, 4]
    png = board.get("images/individualImage?" + listed[-1]["query"])
    pixels = np.asarray(PIL.Image.open(io.BytesIO(png)))
    assert pixels.ndim == 3
    assert pixels.std() > 5


def read_start(folder):
    accumulator = plugin_event_accumulator.EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def test_the_graph_shows_the_network(monitored):
    folder, *_ = monitored
    nodes = [node.name for node in read_start(folder).Graph().node]
    names = [*(f"conv{i}" for i in range(1, 6)), "lrn1", "lrn2", "fc6", "fc7", "fc8"]
    for name in names:
        # The layers lie on the top level, where the tab shows them first.
        assert any(re.match(rf"{name}(_\d+)?/", node) for node in nodes), name


def test_the_run_holds_pictures_of_its_data_and_curves(monitored):
    folder, *_ = monitored
    for name in ("batch.png", "learning_curves.png"):
        assert np.asarray(PIL.Image.open(folder / name).convert("RGB")).std() > 5


def test_maps_are_those_of_the_first_validation_picture(monitored, data_dir):
    folder, model, *_ = monitored
    data_set = open_data_set(data_dir)
    (picture,) = read_pictures(data_set, "validation", np.array([0]), 224)
    events = read_start(folder / "train")
    for layer in ("conv1", "conv5"):
        for tag, image in ((f"kernels/{layer}", None), (f"maps/{layer}", picture)):
            png = events.Tensors(tag)[-1].tensor_proto.string_val[2]
            expected = draw_layer(model, layer, image)
            found = np.asarray(PIL.Image.open(io.BytesIO(png)))
            np.testing.assert_array_equal(found, expected)


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
        colParams=[{"metric": {"tag": "top_1_error", "group": ""}}],
        startIndex=0,
        sliceSize=10,
        includeMetrics=True,
    )
    group, other = groups["sessionGroups"]
    assert group["hparams"]["learning_rate"] == config.recipe.learning_rate
    assert group["hparams"]["recipe"] == "small"
    names = group["name"], other["name"]
    assert names == ("first", "second")  # the runs' own, no numbers
    experiment = board.post("hparams/experiment", experimentName="")
    columns = [info["name"] for info in experiment["hparamInfos"]]
    assert columns[0] == "momentum"  # in which the two differ
    assert "activation" in columns[1:]
    values = {x["name"]["tag"]: x["value"] for x in group["metricValues"]}
    assert values["top_1_error"] == 0.25  # that of the validation, which it compares


def test_a_restart_replaces_the_settings(monitored):
    second = monitored[0].parent / "second"
    assert len(list(second.glob("events.*"))) == 1
    assert len(list(second.glob("validation/events.*"))) == 1


def test_lines_at_intervals_where_the_output_is_no_terminal(monkeypatch):
    lines, now = [], [0.0]
    monkeypatch.setattr(logging, "info", lambda form, *args: lines.append(form % args))
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    progress = Progress(100, 0, seconds=30)
    for step in range(1, 9):
        now[0] = 10.0 * step
        progress.update(step, f"step {step}/100")
    assert lines == ["step 3/100", "step 6/100"]
    lines.clear()
    progress.row(step="12", loss="1.5", is_best=True)
    progress.row(step="24", loss="1.25")
    assert lines == [
        " step   loss",
        "   12    1.5",
        "   24   1.25",
    ]


SHOW_PROGRESS = """
from absl import flags, logging
from alexnet_tf.monitoring.progress import Progress

flags.FLAGS.mark_as_parsed()
logging.use_absl_handler()
logging.get_absl_handler().setFormatter(None)
logging.set_verbosity(logging.INFO)
progress = Progress(262, 0)
progress._bar.refresh()
for step in (10, 130, 262):
    progress.update(
        step, f"epoch 16/16 step {step}/262 loss 1.3208 top1 39.1% 1,505/s wait 3%")
    progress._bar.refresh()
logging.warning("bad record 3")
progress.row(
    True, epoch="16", step="900810", loss="1.3208", top1="39.1%",
    validation_loss="1.3030", validation_top1="41.9%", validation_top5="100.0%")
progress.close()
"""


def show_on_terminal(columns):
    """What a program writes to a real terminal, line by line as a person sees it."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24 if columns else 0, columns))
    without_tensorflow = os.environ | {"ALEXNET_TF_PROGRAM": "1"}
    command = [sys.executable, "-c", SHOW_PROGRESS]
    process = subprocess.Popen(command, stderr=theirs, env=without_tensorflow)
    os.close(theirs)
    chunks = []
    with contextlib.suppress(OSError):  # which is how a terminal ends
        while chunk := os.read(ours, 65536):
            chunks.append(chunk)
    os.close(ours)
    assert process.wait(timeout=60) == 0
    return re.split(r"[\r\n]+", b"".join(chunks).decode())


@pytest.mark.parametrize("columns", [80, 120])
def test_a_terminal_is_filled_and_nothing_is_cut(columns):
    lines = show_on_terminal(columns)
    plain = [re.sub(r"\x1b\[\w+", "", line).rstrip() for line in lines]
    assert max(map(len, plain)) <= columns
    assert any("compiling" in line for line in plain)
    (bar,) = {line for line in plain if "130/262" in line}
    text = "epoch 16/16 step 130/262 loss 1.3208 top1 39.1% 1,505/s wait 3% |"
    assert bar.startswith(text)
    assert bar.endswith("| 00:00 left")
    assert re.search("[█▉]", bar)  # it takes what the text leaves
    assert len(bar) >= columns - 1
    (first,) = {line for line in plain if " 10/262" in line}
    assert first.endswith("? left")  # the first steps compile
    assert "bad record 3" in plain  # a line of its own
    (row,) = (line for line in lines if "900810" in line)
    assert "\033[1m   16" in row


def test_logging_is_given_back_at_the_end(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    handler = logging.get_absl_handler().python_handler
    before = handler.stream
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(logging, "level_info", lambda: True)
    progress = Progress(100, 10)
    assert handler.stream is not before
    progress.close()
    assert handler.stream is before

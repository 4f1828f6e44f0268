"""Tests of comparison.py."""
# ruff: noqa: E501

import json
import pathlib
import shutil

import numpy as np
import PIL.Image
import pytest
from helpers import make_config

from alexnet_tf.errors import UserError
from alexnet_tf.evaluation import figures
from alexnet_tf.evaluation.comparison import compare_runs
from alexnet_tf.run import Run

RECORDS = [
    {
        "step": step,
        "epoch": step / 10,
        "split": split,
        "cross_entropy": 1.0,
        "top_1_error": 0.75,
        "learning_rate": 0.1,
        "images_per_second": speed,
    }
    for step, speed in ((10, 50.0), (20, 300.0), (30, 310.0))
    for split in ("train", "validation")
]
EVALUATION = {
    "split": "validation",
    "views": 10,
    "top_1_error": 0.25,
    "top_1_error_interval": [0.2, 0.31],
    "cross_entropy": 0.625,
    "largest_class": 0.4,
    "parameters": 1234567,
}
TABLE = """\
run     accuracy     interval  largest    loss  parameters  images/s                    of
first      75.0%  69.0..80.0%    40.0%  0.6250   1,234,567       300  validation, 10 views
second     25.0%            –        –  1.0000           –       300       last validation
(interval: 95 %; largest: always the largest class)

They differ in
run     learning_rate  seed
first            0.25     0
second          0.005     7
"""


@pytest.fixture
def runs(tmp_path, data_dir):
    """Two runs, the first of which was evaluated, and a directory that is none."""
    given = {"second": {"seed": 7}, "first": {"learning_rate": 0.25}}
    for name, settings in given.items():
        run = Run(str(tmp_path / name))
        run.start(make_config(data_dir, "small", **settings))
        lines = [json.dumps(record) + "\n" for record in RECORDS]
        pathlib.Path(run.metrics_file).write_text("".join(lines))
    (tmp_path / "first" / "eval.json").write_text(json.dumps(EVALUATION))
    (tmp_path / "models").mkdir()
    return [str(tmp_path / name) for name in (*given, "models")]


def test_the_best_run_is_first_and_settings_that_differ_are_told(runs, capsys):
    compare_runs(runs)
    said, table = capsys.readouterr().out.split("\n", 1)
    assert said.startswith("left out: no run in")
    assert "models" in said
    rate = make_config_rate(runs[0])
    assert table == TABLE.replace("0.005", f"{rate}".rjust(5))


def make_config_rate(model_dir):
    return Run(model_dir).read_config().recipe.learning_rate


def test_curves_are_written(runs, tmp_path, capsys):
    output = tmp_path / "new" / "curves.png"
    compare_runs(runs[:2], str(output))
    pixels = np.asarray(PIL.Image.open(output).convert("RGB"))
    assert pixels.std() > 5
    assert f"The curves are in {output}" in capsys.readouterr().out


def test_runs_that_are_called_alike_are_told_apart(runs, tmp_path, capsys, monkeypatch):
    (tmp_path / "other").mkdir()
    moved = shutil.copytree(runs[1], tmp_path / "other" / "first")
    drawn = []
    run_curves = figures.draw_run_curves
    monkeypatch.setattr(
        figures, "draw_run_curves", lambda r: drawn.append(r) or run_curves(r)
    )
    compare_runs([*runs[:2], f"{moved}/"], str(tmp_path / "curves.png"))
    names = [line.split(" ")[0] for line in capsys.readouterr().out.splitlines()[1:4]]
    assert names == [runs[1], str(moved), "second"]
    assert sorted(drawn[0]) == sorted(names)


def test_one_run_has_nothing_to_differ_from(runs, capsys):
    compare_runs(runs[:1])
    assert "differ" not in capsys.readouterr().out


def test_no_run_at_all_is_said(runs):
    with pytest.raises(UserError, match="no run to compare"):
        compare_runs(runs[2:])

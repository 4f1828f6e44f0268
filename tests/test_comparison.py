"""Tests of comparison.py."""
# ruff: noqa: E501

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import PIL.Image
import pytest
from helpers import make_config

from alexnet_tf.errors import UserError
from alexnet_tf.evaluation import figures
from alexnet_tf.evaluation.comparison import ComparedRun, compare_runs, group_curves
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
    "balanced_accuracy": 0.715,
    "largest_class": 0.4,
    "parameters": 1234567,
}
TABLE = """\
Data: out
run     accuracy     interval  balanced  largest    loss  parameters  images/s           measured on
first      75.0%  69.0..80.0%     71.5%    40.0%  0.6250   1,234,567       300  validation, 10 views
second     25.0%            –         –        –  1.0000           –       300       last validation

They differ in
run     learning_rate  seed
first            0.25     0
second          0.005     7

(interval: 95 %; balanced: mean of the classes; largest: always that class)
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
    rate = make_config_rate(runs[0])
    assert capsys.readouterr().out == TABLE.replace("0.005", f"{rate}".rjust(5))


def test_a_run_that_cannot_be_read_is_left_out_with_a_line(runs, capsys):
    pathlib.Path(runs[0], "config.json").write_text("{")
    compare_runs(runs)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"left out: {runs[0]}")
    assert lines[3].startswith("first ")


def test_runs_on_other_data_have_a_table_of_their_own(runs, capsys, tmp_path):
    config = Run(runs[1]).read_config()
    other = Run(str(tmp_path / "third"))
    other.write_config(dataclasses.replace(config, data_dir="/data/photos"))
    compare_runs([*runs, other.model_dir])
    parts = capsys.readouterr().out.split("Data: ")[1:]
    assert [part.split("\n")[0] for part in parts] == ["out", "photos"]
    assert "third" not in parts[0]
    assert "third" in parts[1]


def test_curves_share_colours_by_recipe_and_dashes_by_setting(runs):
    records = [RECORDS] * 5
    settings = [
        {"recipe": recipe, "seed": seed, "learning_rate": rate}
        for recipe, seed, rate in (
            ("small", 0, 0.1),
            ("small", 1, 0.1),
            ("paper", 0, 0.1),
            ("small", 0, 0.5),
            ("paper", 0, 0.5),
        )
    ]
    curves = group_curves(
        [
            ComparedRun(name, "data", settings[i], records[i], {})
            for i, name in enumerate("abcde")
        ]
    )
    labels = ["a and 1 like it", "a and 1 like it", "c", "d", "e"]
    assert [curve.label for curve in curves] == labels
    assert [curve.color for curve in curves] == [0, 0, 1, 0, 1]
    assert [curve.dash for curve in curves] == [0, 0, 0, 1, 1]


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
        figures, "draw_run_curves", lambda c: drawn.append(c) or run_curves(c)
    )
    compare_runs([*runs[:2], f"{moved}/"], str(tmp_path / "curves.png"))
    names = [line.split(" ")[0] for line in capsys.readouterr().out.splitlines()[2:5]]
    assert names == [runs[1], str(moved), "second"]
    labels = [curve.label for curve in drawn[0]["out"]]
    assert labels == ["second", *[f"{runs[1]} and 1 like it"] * 2]


def test_one_run_has_nothing_to_differ_from(runs, capsys):
    compare_runs(runs[:1])
    assert "differ" not in capsys.readouterr().out


def test_no_run_at_all_is_said(runs):
    with pytest.raises(UserError, match="no run to compare"):
        compare_runs(runs[2:])

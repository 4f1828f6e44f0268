"""Tests of comparison.py."""
# ruff: noqa: E501

import dataclasses
import json
import os
import pathlib
import re
import shutil

import numpy as np
import PIL.Image
import pytest
from helpers import make_config

from alexnet_tf.errors import UserError
from alexnet_tf.evaluation.comparison import ComparedRun, compare_runs, make_curves
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
    "macro_f1": 0.625,
    "largest_class": 0.4,
    "parameters": 1234567,
}
TABLE = """\
Data: out
run     accuracy     interval  balanced  macro-F1  largest    loss  parameters  images/s           measured on
first      75.0%  69.0..80.0%     71.5%     62.5%    40.0%  0.6250   1,234,567       300  validation, 10 views
second     25.0%            –         –         –        –  1.0000           –       300       last validation

They differ in
run     learning_rate  seed
first            0.25     0
second          0.005     7

(interval: 95 %; balanced: mean of the classes; largest: always that class)
"""


@pytest.fixture
def runs(tmp_path, data_dir, monkeypatch):
    """Two runs, the first of which was evaluated, and a directory that is none."""
    monkeypatch.chdir(tmp_path)
    given = {"second": {"seed": 7}, "first": {"learning_rate": 0.25}}
    for name, settings in given.items():
        run = Run(str(tmp_path / name))
        run.start(make_config(data_dir, "small", **settings))
        lines = [json.dumps(record) + "\n" for record in RECORDS]
        pathlib.Path(run.metrics_file).write_text("".join(lines))
    (tmp_path / "first" / "eval.json").write_text(json.dumps(EVALUATION))
    (tmp_path / "models").mkdir()
    return [*given, "models"]


def test_the_best_run_is_first_and_settings_that_differ_are_told(runs, capsys):
    compare_runs(runs)
    rate = make_config_rate(runs[0])
    assert capsys.readouterr().out == TABLE.replace("0.005", f"{rate}".rjust(5))


DAMAGED = {
    "config.json": ["{", "[]"],
    "eval.json": [
        "{",
        "[]",
        "{}",
        "\xff",
        '{"views": 1, "top_1_error": "x"}',
        "[" * 9999,
    ],
    "metrics.jsonl": [
        "{\n",
        "[]\n",
        '{"split": 1, "step": 1, "epoch": 1}\n',
        '{"split": "train"}\n',
        '{"split": "train", "step": "1", "epoch": 1}\n',
        '{"split": "train", "step": 1, "epoch": 1}\n',
    ],
}


@pytest.mark.parametrize(
    ("name", "content"), [(n, text) for n, texts in DAMAGED.items() for text in texts]
)
def test_a_damaged_run_is_left_out_with_a_line(runs, capsys, name, content):
    pathlib.Path("second", name).write_text(content, encoding="latin-1")
    compare_runs(runs, "curves.png")
    lines = capsys.readouterr().out.splitlines()
    assert re.match(rf"left out: .*(second.*{name}|{name}.*second)", lines[0])
    assert [line.split()[0] for line in lines[2:4]] == ["run", "first"]


def test_a_run_whose_files_are_pipes_is_left_out(runs, capsys):
    for name in ("eval.json", "metrics.jsonl", "config.json"):
        path = pathlib.Path("second", name)
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        compare_runs(runs)
        text = capsys.readouterr().out
        assert re.search(rf"left out: second/{name} .*not a regular file", text)
        path.unlink()


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
    settings = [
        {"recipe": recipe, "seed": seed, "learning_rate": rate, "loss_weights": (rate,)}
        for recipe, seed, rate in (
            ("small", 0, 0.1),
            ("small", 1, 0.1),
            ("paper", 0, 0.1),
            ("small", 0, 0.5),
            ("paper", 0, 0.5),
        )
    ]
    runs = [ComparedRun("data", each, RECORDS, 0.5, ("name",)) for each in settings]
    curves = make_curves(runs)
    rates = [f"learning_rate {rate}" for rate in (0.1, 0.1, 0.1, 0.5, 0.5)]
    assert [curve.settings for curve in curves] == rates
    recipes = ["small", "small", "paper", "small", "paper"]
    assert [curve.recipe for curve in curves] == recipes


def make_config_rate(model_dir):
    return Run(model_dir).read_config().recipe.learning_rate


def test_curves_are_written(runs, tmp_path, capsys):
    output = tmp_path / "new" / "curves.png"
    compare_runs(runs[:2], str(output))
    pixels = np.asarray(PIL.Image.open(output).convert("RGB"))
    assert pixels.std() > 5
    assert f"The curves are in {output}" in capsys.readouterr().out


def test_runs_have_the_names_that_were_given(runs, tmp_path, capsys):
    moved = shutil.copytree(runs[1], tmp_path / "other" / "first")
    compare_runs([*runs[:2], f"{moved}/", "first/"])
    names = [line.split(" ")[0] for line in capsys.readouterr().out.splitlines()[2:6]]
    assert names == ["first", str(moved), "second", ""]


def test_one_run_has_nothing_to_differ_from(runs, capsys):
    compare_runs(runs[:1])
    assert "differ" not in capsys.readouterr().out


def test_no_run_at_all_is_said(runs):
    with pytest.raises(UserError, match="no run to compare"):
        compare_runs(runs[2:])

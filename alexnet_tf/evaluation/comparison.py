"""Several runs beside each other: what came out, and in which settings they differ."""

import collections
import dataclasses
import json
import os
import statistics
from collections.abc import Sequence

import tensorflow as tf

from alexnet_tf.config import flat
from alexnet_tf.errors import UserError
from alexnet_tf.evaluation import figures, mosaics
from alexnet_tf.evaluation.results import printable, read_records
from alexnet_tf.files import writing
from alexnet_tf.paths import expand
from alexnet_tf.run import Run

# What two runs may differ in without being other experiments.
_NO_SETTINGS = ("given", "class_names", "num_train_examples", "data_dir")


@dataclasses.dataclass(frozen=True)
class Row:
    """What is known of a run.

    Attributes:
        name: The last part of its directory, or all of it where others end alike.
        settings: All of them by name.
        records: Those of `metrics.jsonl`.
        evaluation: What `eval.json` holds; empty where it was not evaluated.
    """

    name: str
    settings: dict[str, object]
    records: list[dict]
    evaluation: dict


def compare_runs(model_dirs: Sequence[str], output: str | None = None) -> None:
    """Prints a table of runs; directories that hold no run are left out, with a line.

    Args:
        model_dirs: Directories of runs.
        output: PNG of their learning curves to write; None for none.

    Raises:
        UserError: If none of them holds a run.
    """
    runs = {}
    for model_dir in model_dirs:
        try:
            runs[model_dir.rstrip("/")] = _read(Run(expand(model_dir)))
        except UserError as error:  # runs/* names other directories too
            print(f"left out: {printable(str(error))}")
    if not runs:
        raise UserError("no run to compare: give the directories of runs, as in runs/*")
    names = collections.Counter(row.name for row in runs.values())
    rows = [
        row if names[row.name] == 1 else dataclasses.replace(row, name=model_dir)
        for model_dir, row in runs.items()
    ]
    print(format_comparison(rows))
    if output:
        curves = figures.draw_run_curves({row.name: row.records for row in rows})
        with writing(output, "wb") as file:
            file.write(mosaics.encode_png(curves, "alexnet_tf compare"))
        print(f"The curves are in {printable(output)}")


def _read(run: Run) -> Row:
    config, evaluation = run.read_config(), {}
    if tf.io.gfile.exists(run.eval_file):
        with tf.io.gfile.GFile(run.eval_file) as file:
            evaluation = json.load(file)
    settings = flat(config)
    names = settings["class_names"]
    settings["classes"] = len(names)
    settings["data"] = os.path.basename(os.path.abspath(config.data_dir))
    name = os.path.basename(os.path.abspath(run.model_dir))
    return Row(name, settings, read_records(run.metrics_file), evaluation)


def format_comparison(rows: Sequence[Row]) -> str:
    """A table of what came out, the best first, and one of the settings that differ."""
    rows = sorted(rows, key=_error)
    names = [printable(row.name) for row in rows]
    head = ("run", "accuracy", "interval", "largest", "loss")
    head = (*head, "parameters", "images/s", "of")
    lines = [head, *((n, *_cells(row)) for n, row in zip(names, rows, strict=True))]
    text = _align(lines) + "\n(interval: 95 %; largest: always the largest class)"
    differing = [
        key
        for key in rows[0].settings
        if key not in _NO_SETTINGS
        and len({str(row.settings.get(key)) for row in rows}) > 1
    ]
    if differing:
        table = [("run", *differing)]
        for name, row in zip(names, rows, strict=True):
            values = (row.settings.get(key, "–") for key in differing)
            table.append((name, *(printable(str(value)) for value in values)))
        text += "\n\nThey differ in\n" + _align(table)
    elif len(rows) > 1:
        text += "\n\nThey do not differ in any setting."
    return text


def _error(row: Row) -> float:
    last = _last_validation(row)
    return row.evaluation.get("top_1_error", last.get("top_1_error", 1.0))


def _last_validation(row: Row) -> dict:
    validations = [r for r in row.records if r["split"] == "validation"]
    return validations[-1] if validations else {}


def _cells(row: Row) -> tuple[str, ...]:
    """Of `eval.json`, or of the last validation while there is none."""
    known = row.evaluation or _last_validation(row)
    if not known:
        return ("–",) * 7
    interval = "–"
    if row.evaluation:
        low, high = known["top_1_error_interval"]
        interval = f"{100 - 100 * high:.1f}..{1 - low:.1%}"
    largest, parameters = known.get("largest_class"), known.get("parameters")
    speeds = [r["images_per_second"] for r in row.records if r["split"] == "train"]
    return (
        f"{1 - known['top_1_error']:.1%}",
        interval,
        "–" if largest is None else f"{largest:.1%}",
        f"{known['cross_entropy']:.4f}",
        "–" if parameters is None else f"{parameters:,}",
        f"{statistics.median(speeds):,.0f}" if speeds else "–",
        _what_of(row.evaluation),
    )


def _what_of(evaluation: dict) -> str:
    if not evaluation:
        return "last validation"
    views = evaluation["views"]
    return f"{evaluation['split']}, {views} view" + "s" * (views > 1)


def _align(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *cells in rows:
        right = (c.rjust(w) for c, w in zip(cells, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *right]).rstrip())
    return "\n".join(lines)

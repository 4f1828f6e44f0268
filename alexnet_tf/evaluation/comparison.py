"""Several runs beside each other: what came out, and in which settings they differ.

Runs on different data cannot be compared, so each data set has a table of its own.
"""

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
from alexnet_tf.files import shown, writing
from alexnet_tf.metrics_file import read_records
from alexnet_tf.paths import expand
from alexnet_tf.run import Run

# What two runs may differ in without being other experiments.
_NO_SETTINGS = ("given", "class_names", "num_train_examples", "data_dir", "data")
_HEAD = (
    *("run", "accuracy", "interval", "balanced", "largest", "loss"),
    *("parameters", "images/s", "measured on"),
)


@dataclasses.dataclass(frozen=True)
class ComparedRun:
    """What is known of a run.

    Attributes:
        name: The last part of its directory, or all of it where others end alike.
        data: Name of its data set's directory.
        settings: All of them by name.
        records: Those of `metrics.jsonl`.
        evaluation: What `eval.json` holds; empty where it was not evaluated.
    """

    name: str
    data: str
    settings: dict[str, object]
    records: list[dict]
    evaluation: dict

    @property
    def measured(self) -> dict:
        """`eval.json`, or the last validation while there is none."""
        validations = [r for r in self.records if r["split"] == "validation"]
        return self.evaluation or (validations[-1] if validations else {})


def compare_runs(model_dirs: Sequence[str], output: str | None = None) -> None:
    """Prints a table of runs for each data set; other directories are passed over.

    Args:
        model_dirs: Directories of runs.
        output: PNG of their learning curves to write; None for none.

    Raises:
        UserError: If none of them holds a run.
    """
    runs = {}
    for model_dir in model_dirs:
        run = Run(expand(model_dir))
        if not run.exists():  # runs/* names other directories too
            continue
        try:
            runs[model_dir.rstrip("/")] = _read(run)
        except UserError as error:
            print(f"left out: {shown(str(error))}")
    if not runs:
        raise UserError("no run to compare: give the directories of runs, as in runs/*")
    names = collections.Counter(run.name for run in runs.values())
    by_data = collections.defaultdict(list)
    for model_dir, run in runs.items():
        if names[run.name] > 1:
            run = dataclasses.replace(run, name=model_dir)
        by_data[run.data].append(run)
    for data, of_data in by_data.items():
        print(f"Data: {shown(data)}\n{format_comparison(of_data)}\n")
    print("(interval: 95 %; balanced: mean of the classes; largest: always that class)")
    if output:
        curves = {data: group_curves(of_data) for data, of_data in by_data.items()}
        drawn = figures.draw_run_curves(curves)
        with writing(output, "wb") as file:
            file.write(mosaics.encode_png(drawn, "alexnet_tf compare"))
        print(f"The curves are in {shown(output)}")


def _read(run: Run) -> ComparedRun:
    config, evaluation = run.read_config(), {}
    if tf.io.gfile.exists(run.eval_file):
        with tf.io.gfile.GFile(run.eval_file) as file:
            evaluation = json.load(file)
    return ComparedRun(
        name=os.path.basename(os.path.abspath(run.model_dir)),
        data=os.path.basename(os.path.abspath(config.data_dir)),
        settings=flat(config) | {"classes": len(config.class_names)},
        records=read_records(run.metrics_file),
        evaluation=evaluation,
    )


def format_comparison(runs: Sequence[ComparedRun]) -> str:
    """A table of what came out, the best first, and one of the settings that differ."""
    runs = sorted(runs, key=lambda run: run.measured.get("top_1_error", 1.0))
    names = [shown(run.name) for run in runs]
    cells = zip(names, map(_format_cells, runs), strict=True)
    text = _align([_HEAD, *((name, *of_run) for name, of_run in cells)])
    if differing := _find_differing(runs):
        table = [("run", *differing)]
        for name, run in zip(names, runs, strict=True):
            values = (str(run.settings.get(key, "–")) for key in differing)
            table.append((name, *map(shown, values)))
        text += "\n\nThey differ in\n" + _align(table)
    elif len(runs) > 1:
        text += "\n\nThey do not differ in any setting."
    return text


def _find_differing(runs: Sequence[ComparedRun]) -> list[str]:
    return [
        key
        for key in runs[0].settings
        if key not in _NO_SETTINGS
        and len({str(run.settings.get(key)) for run in runs}) > 1
    ]


def group_curves(runs: Sequence[ComparedRun]) -> list[figures.Curve]:
    """The curves of runs: a colour for each recipe, a dash for each other setting.

    Runs that differ in their seeds alone look alike and share a line of the legend.
    """
    keys = [key for key in _find_differing(runs) if key not in ("seed", "recipe")]
    recipes = [str(run.settings["recipe"]) for run in runs]
    settings = [tuple(str(run.settings.get(key)) for key in keys) for run in runs]
    groups = list(zip(recipes, settings, strict=True))
    colors, dashes = list(dict.fromkeys(recipes)), list(dict.fromkeys(settings))
    curves = []
    for run, (recipe, setting) in zip(runs, groups, strict=True):
        number = groups.count((recipe, setting))
        label = run.name
        if number > 1:
            label += f" and {number - 1} like it"
        first = groups.index((recipe, setting))
        label = curves[first].label if first < len(curves) else label
        color, dash = colors.index(recipe), dashes.index(setting)
        curves.append(figures.Curve(label, color, dash, run.records))
    return curves


def _format_cells(run: ComparedRun) -> tuple[str, ...]:
    """The cells of a run's row, but its name."""
    measured = run.measured
    if not measured:
        return ("–",) * (len(_HEAD) - 1)
    interval, source = "–", "last validation"
    if run.evaluation:
        low, high = measured["top_1_error_interval"]
        interval = f"{100 - 100 * high:.1f}..{1 - low:.1%}"
        views = measured["views"]
        source = f"{measured['split']}, {views} view" + "s" * (views > 1)
    speeds = [r["images_per_second"] for r in run.records if r["split"] == "train"]
    return (
        f"{1 - measured['top_1_error']:.1%}",
        interval,
        _format(measured.get("balanced_accuracy"), ".1%"),
        _format(measured.get("largest_class"), ".1%"),
        f"{measured['cross_entropy']:.4f}",
        _format(measured.get("parameters"), ","),
        _format(statistics.median(speeds) if speeds else None, ",.0f"),
        source,
    )


def _format(value: float | None, how: str) -> str:
    return "–" if value is None else format(value, how)


def _align(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *cells in rows:
        right = (c.rjust(w) for c, w in zip(cells, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *right]).rstrip())
    return "\n".join(lines)

"""Several runs beside each other: what came out, and in which settings they differ.

Runs on different data cannot be compared, so each data set has a table of its own.
"""

import collections
import dataclasses
import os
import statistics
from collections.abc import Sequence

import tensorflow as tf

from alexnet_tf.config import flat
from alexnet_tf.errors import UserError, escape
from alexnet_tf.evaluation import figures, mosaics
from alexnet_tf.files import read_json, writing
from alexnet_tf.metrics_file import read_records
from alexnet_tf.paths import expand
from alexnet_tf.run import Run

# What two runs may differ in without being other experiments.
_NO_SETTINGS = ("given", "class_names", "num_train_examples", "data_dir", "data")
_NO_SETTINGS += ("loss_weights",)  # which follow from class_weights
_HEAD = (
    *("run", "accuracy", "interval", "balanced", "macro-F1", "largest", "loss"),
    *("parameters", "images/s", "measured on"),
)
# What comes of a file that is no JSON, or has other values than ours.
_DAMAGED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@dataclasses.dataclass(frozen=True)
class ComparedRun:
    """What is known of a run.

    Attributes:
        data: Name of its data set's directory.
        settings: All of them by name.
        records: Those of `metrics.jsonl`.
        top_1_error: By which runs are sorted; 1 where nothing was measured.
        cells: Its row of the table.
    """

    data: str
    settings: dict[str, object]
    records: list[dict]
    top_1_error: float
    cells: tuple[str, ...]


def compare_runs(model_dirs: Sequence[str], output: str | None = None) -> None:
    """Prints a table of runs for each data set; other directories are passed over.

    Args:
        model_dirs: Directories of runs.
        output: PNG of their learning curves to write; None for none.

    Raises:
        UserError: If none of them holds a run.
    """
    by_data = collections.defaultdict(list)
    for model_dir in dict.fromkeys(name.rstrip("/") for name in model_dirs):
        if Run(expand(model_dir)).exists():  # runs/* names other directories too
            try:
                run = _read(model_dir)
                by_data[run.data].append(run)
            except UserError as error:  # the others can be compared all the same
                print(f"left out: {error}")
    if not by_data:
        raise UserError("no run to compare: give the directories of runs, as in runs/*")
    for data, runs in by_data.items():
        print(f"Data: {data}\n{format_comparison(runs)}\n")
    print("(interval: 95 %; balanced: mean of the classes; largest: always that class)")
    if output:
        curves = {data: make_curves(runs) for data, runs in by_data.items()}
        drawn = figures.draw_curves(curves)
        with writing(output, "wb") as file:
            file.write(mosaics.encode_png(drawn, "alexnet_tf compare"))
        print(f"The curves are in {output}")


def _read(model_dir: str) -> ComparedRun:
    """Reads a run; raises `UserError` if a file of it is damaged."""
    run = Run(expand(model_dir))
    config, records = run.read_config(), read_records(run.metrics_file)
    validations = [r for r in records if r["split"] == "validation"]
    measured = validations[-1] if validations else None
    try:
        speeds = [r["images_per_second"] for r in records if r["split"] == "train"]
        if tf.io.gfile.exists(run.eval_file):
            measured = read_json(run.eval_file)
        cells = _format_cells(measured, speeds)
        return ComparedRun(
            data=os.path.basename(os.path.abspath(config.data_dir)),
            settings=flat(config) | {"classes": len(config.class_names)},
            records=records,
            top_1_error=1.0 if measured is None else measured["top_1_error"],
            cells=(model_dir, *cells),
        )
    except UserError as error:
        raise UserError(f"{run.eval_file} cannot be read: {error}") from None
    except _DAMAGED:
        raise UserError(
            f"eval.json or metrics.jsonl of {model_dir} is damaged: evaluate it again"
        ) from None


def format_comparison(runs: Sequence[ComparedRun]) -> str:
    """A table of what came out, the best first, and one of the settings that differ."""
    runs = sorted(runs, key=lambda run: run.top_1_error)
    text = _align([_HEAD, *(run.cells for run in runs)])
    if differing := _find_differing(runs):
        table = [("run", *differing)]
        for run in runs:
            values = (str(run.settings.get(key, "–")) for key in differing)
            table.append((run.cells[0], *values))
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


def make_curves(runs: Sequence[ComparedRun]) -> list[figures.Curve]:
    """The curves of runs, named by what they differ in; seeds look alike."""
    keys = [key for key in _find_differing(runs) if key not in ("seed", "recipe")]
    curves = []
    for run in runs:
        settings = ", ".join(f"{key} {run.settings.get(key)}" for key in keys)
        curves.append(figures.Curve(run.settings["recipe"], settings, run.records))
    return curves


def _format_cells(measured: dict | None, speeds: Sequence[float]) -> tuple[str, ...]:
    """The cells of a run's row, but its name."""
    if measured is None:
        return ("–",) * (len(_HEAD) - 1)
    interval, source = "–", "last validation"
    if "views" in measured:  # else it is a record of metrics.jsonl
        low, high = measured["top_1_error_interval"]
        interval = f"{100 - 100 * high:.1f}..{1 - low:.1%}"
        views = measured["views"]
        source = f"{measured['split']}, {views} view" + "s" * (views > 1)
    return (
        f"{1 - measured['top_1_error']:.1%}",
        interval,
        _format(measured.get("balanced_accuracy"), ".1%"),
        _format(measured.get("macro_f1"), ".1%"),
        _format(measured.get("largest_class"), ".1%"),
        f"{measured['cross_entropy']:.4f}",
        _format(measured.get("parameters"), ","),
        _format(statistics.median(speeds) if speeds else None, ",.0f"),
        source,
    )


def _format(value: float | None, how: str) -> str:
    return "–" if value is None else format(value, how)


def _align(rows: Sequence[Sequence[str]]) -> str:
    rows = [[escape(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *cells in rows:
        right = (c.rjust(w) for c, w in zip(cells, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *right]).rstrip())
    return "\n".join(lines)

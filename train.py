"""Trains AlexNet, evaluates it and exports it.

Without flags: the demo, on photographs of solar cells that a Python package brings.

    python train.py
    python train.py --data_dir=PICTURES
    python train.py --data_dir=DATA_SET --num_gpus=2
"""

from alexnet_tf import signals
from alexnet_tf.paths import list_names

if __name__ == "__main__":  # from here on a signal ends it in one line
    signals.handle(signals.EXIT_INTERRUPTED)

import dataclasses
import os

from alexnet_tf import command_line
from alexnet_tf.command_line import flags
from alexnet_tf.config import Config
from alexnet_tf.recipes import FINE_TUNING, LARGE_DATA_SET, RECIPES, Recipe, fit_small
from alexnet_tf.settings import settings_of
from data.source import Reading

_DEMO_DATA_DIR = os.path.join("runs", "demo_data")
_DEMO_MODEL_DIR = os.path.join("runs", "demo")
_PREPARED_DIR = os.path.join("runs", "data")


def define_flags() -> None:
    """Defines the flags; those of the recipe and the run are made from their fields."""
    command_line.define_path(
        "data_dir",
        None,
        "What to train on: a data set made by data.prepare, or anything that it reads, "
        "such as a folder with a folder of pictures for each class. Of that a data set "
        f"is made in {_PREPARED_DIR}/, once. Default: the data set of the run in "
        "--model_dir, or else the demo's.",
        exists=True,
    )
    command_line.define_path(
        "model_dir",
        None,
        "Where to write; by default the newest unfinished run of the same settings in "
        "runs/, else runs/<date-time>-<recipe>.",
    )
    flags.DEFINE_enum(
        "recipe",
        "auto",
        ["auto", *RECIPES],
        f"auto: paper from {LARGE_DATA_SET:,} training images on, else small.",
    )
    command_line.define_flags_from(Recipe, _describe_default)
    command_line.define_flags_from(Config)
    command_line.define_flags_from(Reading, leave_out=["name"])
    command_line.mark_expert(*(field.name for field in settings_of(Reading)))
    flags.DEFINE_bool("overwrite", False, "Start anew in a used model_dir.")
    flags.DEFINE_bool("export", True, "Export a SavedModel at the end.")


def _describe_default(field: dataclasses.Field) -> str:
    """The defaults of the recipes that are trained from nothing, where they differ."""
    by_recipe = {
        name: command_line.describe_value(getattr(RECIPES[name], field.name))
        for name in ("paper", "original", "small")
    }
    if field.name in fit_small(1):
        by_recipe["small"] = "by the number of images"
    described = ", ".join(f"{name} {value}" for name, value in by_recipe.items())
    if len(set(by_recipe.values())) == 1:
        described = by_recipe["paper"]
    tuned = command_line.describe_value(FINE_TUNING.get(field.name))
    if described == "none":
        described = ""
    if tuned not in ("none", described):
        described += f"; with --init_weights {tuned}"
    return described


def check(values: flags.FlagValues, arguments: list[str]):
    """Returns what a data set is to be made of, None where `--data_dir` is one."""
    if arguments:
        hint = f"; give --data_dir={arguments[0]}" * os.path.exists(arguments[0])
        raise flags.Error(f"unexpected argument {arguments[0]!r}{hint}")
    from data.own_data import find_own_data

    given = command_line.given_flags(values, Reading)
    if values.data_dir:
        reading, model_dir = Reading(**given), values.model_dir
        return find_own_data(values.data_dir, _PREPARED_DIR, reading, model_dir)
    if given:
        raise flags.Error(f"--{min(given)} belongs to a --data_dir")
    return None


def main(values: flags.FlagValues, own_data=None) -> int:
    """Trains as the flags say; returns the exit code."""
    from alexnet_tf.run import Run
    from alexnet_tf.training.training import tell_next, train_run

    data_dir, model_dir = values.data_dir, values.model_dir
    goes_on = data_dir is None and model_dir and Run(model_dir).exists()
    is_demo = data_dir is None and not goes_on
    if goes_on:
        data_dir = Run(model_dir).read_config().data_dir
    elif is_demo:
        from data.prepare import prepare

        data_dir, model_dir = _DEMO_DATA_DIR, model_dir or _DEMO_MODEL_DIR
        if not list_names(data_dir):  # not yet, or its preparation was killed
            prepare(source="elpv", output=data_dir)
    elif own_data:
        data_dir = own_data.prepare()
    outcome = train_run(
        data_dir,
        model_dir,
        values.recipe,
        command_line.given_flags(values, Recipe, Config),
        overwrite=values.overwrite,
        export=values.export,
    )
    tell_next(outcome, values.export)
    if outcome.is_finished and is_demo:
        words = command_line.command("python", "train.py", "--data_dir=PICTURES")
        print(f"  {words}   (your own pictures, a folder for each class)")
    return 0 if outcome.is_finished else signals.EXIT_INTERRUPTED


if __name__ == "__main__":
    command_line.run(main, define_flags, check)

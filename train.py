"""Trains AlexNet, evaluates it and exports it.

Without flags: the demo, on photographs of solar cells that a Python package brings.

    python train.py
    python train.py --data_dir=DIR --num_gpus=2
"""

import os
import time

from absl import flags

from alexnet_tf import command_line
from alexnet_tf.recipes import RECIPES

_DEMO_DATA_DIR = os.path.join("runs", "demo_data")
_DEMO_MODEL_DIR = os.path.join("runs", "demo")


def define_flags() -> None:
    """Defines the flags; one not given takes the recipe's value."""
    text, number, whole = flags.DEFINE_string, flags.DEFINE_float, flags.DEFINE_integer
    choice, switch = flags.DEFINE_enum, flags.DEFINE_bool
    schedules = ["plateau", "steps", "cosine", "poly", "constant"]
    text("data_dir", None, "Data set made by data.prepare; none for the demo.")
    text("model_dir", None, "Where to write. Default: runs/<date-time>-<recipe>.")
    choice("recipe", "auto", ["auto", *RECIPES], "auto: by the number of images.")
    choice("groups", None, ["1", "2"], "Towers.")
    number("width", None, "Multiplies the channels of every layer.", lower_bound=1e-3)
    whole("num_gpus", None, "Default: all there are; 0 for the CPU.", lower_bound=0)
    whole("simulate_gpus", None, "Replicas on the CPU instead.", lower_bound=0)
    choice(
        "precision",
        "auto",
        ["auto", "float32", "mixed_bfloat16"],
        "auto: bfloat16 where the hardware is fast at it.",
    )
    whole("global_batch_size", None, "Over all replicas.", lower_bound=1)
    number("num_epochs", None, "Epochs to train.", lower_bound=1e-9)
    whole("train_steps", None, "Steps to train, whatever the epochs.", lower_bound=1)
    number("learning_rate", None, "Initial rate.", lower_bound=0)
    switch("scale_lr", False, "Multiply the rate by global_batch_size / 128.")
    choice("lr_schedule", None, schedules, "What becomes of the rate.")
    number("warmup_epochs", None, "Epochs until the full rate.", lower_bound=0)
    choice("optimizer", None, ["momentum", "lars"], "lars: for large batches.")
    number("momentum", None, "Of the update rule.", lower_bound=0, upper_bound=1)
    number("weight_decay", None, "Of the update rule.", lower_bound=0)
    number("dropout_rate", None, "In fc6 and fc7.", lower_bound=0, upper_bound=0.99)
    choice("color", None, ["jitter", "pca", "none"], "Colour augmentation.")
    whole("steps_per_loop", None, "Steps between returns to Python.", lower_bound=1)
    whole("checkpoint_every", None, "Steps. Default: an epoch.", lower_bound=1)
    whole("keep_checkpoints", None, "How many of the latest to keep.", lower_bound=1)
    choice("on_nan", None, ["stop", "rollback"], "rollback: with half the rate.")
    switch("cache", None, "Keep the training images in memory, decoded.")
    switch("cache_validation", None, "Keep the validation images in memory.")
    text("data_service", None, "tf.data service to read through: grpc://host:port.")
    whole("histograms_every", None, "Steps; 0: never; default: epoch.", lower_bound=0)
    whole("max_bad_records", None, "More of them stop the run.", lower_bound=0)
    switch("reduce_in_bfloat16", None, "Halve what travels between replicas.")
    switch("deterministic", None, "Bit-identical reruns on GPUs too; slower.")
    whole("seed", None, "Of everything drawn at random.", lower_bound=0)
    switch("overwrite", False, "Start anew in a used model_dir.")
    switch("export", True, "Export a SavedModel at the end.")


# Flags that are no fields of a run's configuration, or are worked out first.
_OTHER_FLAGS = (
    "data_dir",
    "model_dir",
    "precision",
    "scale_lr",
    "overwrite",
    "export",
    "help",
)


def main(values: flags.FlagValues) -> int:
    """Trains as the flags say; returns the exit code."""
    from alexnet_tf.training import loop

    names = [f.name for f in values.get_flags_for_module("__main__")]
    given = {
        name: getattr(values, name)
        for name in names
        if name not in _OTHER_FLAGS and getattr(values, name) is not None
    }
    if "groups" in given:
        given["groups"] = int(given["groups"])
    data_dir, model_dir = values.data_dir, values.model_dir
    if data_dir is None:
        from data.prepare import prepare

        data_dir, model_dir = _DEMO_DATA_DIR, model_dir or _DEMO_MODEL_DIR
        if not os.path.exists(data_dir):
            prepare(source="elpv", output=data_dir)
    if model_dir is None:
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{values.recipe}"
        model_dir = os.path.join("runs", name)
    finished = loop.train(
        data_dir,
        model_dir,
        precision=values.precision,
        scale_lr=values.scale_lr,
        overwrite=values.overwrite,
        export=values.export,
        **given,
    )
    return 0 if finished else command_line.EXIT_INTERRUPTED


if __name__ == "__main__":
    command_line.run(main, define_flags)

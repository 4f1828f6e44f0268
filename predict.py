"""Classifies pictures with an exported model.

python predict.py --saved_model=runs/demo PICTURE… FOLDER…

Prints the most probable classes of every picture: of files, of those in folders and
below, and, for "-", of a picture on the standard input. Goes on past what cannot be
read; then the exit code is 1.
"""

from alexnet_tf import signals

if __name__ == "__main__":  # from here on a signal ends it in one line
    signals.handle()

import os

from alexnet_tf import command_line, files, predictions
from alexnet_tf.command_line import flags
from alexnet_tf.errors import UserError
from alexnet_tf.paths import list_names
from alexnet_tf.pictures.fitting import find_saved_model
from alexnet_tf.pictures.listing import pictures_below
from alexnet_tf.settings import CONFIG_FILE

_PAGE_FILE = "predictions.html"


def define_flags() -> None:
    """Defines the flags."""
    command_line.define_path(
        "saved_model",
        None,
        "Directory of the export, or of a run that has one.",
        exists=True,
        required=True,
    )
    flags.DEFINE_enum(
        "format",
        "text",
        list(predictions.FORMATS),
        "What to print: csv has a row for each picture and class, wide a row for each "
        "picture.",
    )
    flags.DEFINE_integer(
        "top_k", 5, "Classes to print, at most what the export has.", lower_bound=1
    )
    command_line.define_path(
        "output_html", None, "Writes a page of pictures and classes."
    )
    command_line.define_choice(
        "explain",
        ["occlusion", "gradcam"],
        "Show in the page where the network looks. --explain hides one part of a "
        "picture after another, which is slow; --explain=gradcam needs a run as "
        f"--saved_model. The page is {_PAGE_FILE} unless --output_html names it.",
    )
    flags.DEFINE_integer(
        "batch_size", 32, "Pictures at a time.", lower_bound=1, upper_bound=64
    )


def check(values: flags.FlagValues, arguments: list[str]) -> list[str]:
    """Finds the model and the pictures; "-" stands for the standard input."""
    if not arguments:
        raise flags.Error("name pictures or folders, or - for the standard input")
    find_saved_model(values.saved_model)
    is_run = CONFIG_FILE in list_names(values.saved_model)
    if values.explain == "gradcam" and not is_run:
        raise UserError(
            f"--saved_model={values.saved_model} is an export, which has no gradients: "
            "give the directory of its run, or --explain=occlusion"
        )
    names = []
    for argument in map(os.path.expanduser, arguments):
        names += pictures_below(argument) if os.path.isdir(argument) else [argument]
    if page := _name_page(values):
        mark = predictions.PAGE_MARK.encode()
        files.check_output_file(page, names, what="--output_html", mark=mark)
    return names


def main(values: flags.FlagValues, names: list[str]) -> int:
    """Predicts as the flags say."""
    from alexnet_tf.predicting import predict_files

    is_done = predict_files(
        values.saved_model,
        names,
        format=values.format,
        top_k=values.top_k,
        batch_size=values.batch_size,
        page=_name_page(values),
        explain=values.explain,
    )
    return 0 if is_done else 1


def _name_page(values: flags.FlagValues) -> str | None:
    return values.output_html or (_PAGE_FILE if values.explain else None)


if __name__ == "__main__":
    command_line.run(main, define_flags, check)

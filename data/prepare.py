"""Turns pictures into a data set to train on.

python -m data.prepare --input=PICTURES --output=DIR
python -m data.prepare --input=LABELS.csv --output=DIR
python -m data.prepare --source=tfds --name=cifar100 --output=DIR
python -m data.prepare --source=elpv --output=DIR
"""

from alexnet_tf import signals
from alexnet_tf.paths import expand, is_remote, list_names, local_only

if __name__ == "__main__":  # from here on a signal ends it in one line
    signals.handle()

import collections
import contextlib
import functools
import os
import shutil
from collections.abc import Sequence

from alexnet_tf import command_line, files
from alexnet_tf.command_line import flags
from alexnet_tf.errors import UserError
from alexnet_tf.recipes import RECIPES
from data import sources
from data.held_out import find_thresholds, group_by_name
from data.source import Reading, Source
from data.transcode import Options, transcode
from data.workers import in_workers

_WRITTEN = (  # in the output, as `files.check_ours` takes it
    "metadata.json",
    "statistics.npz",
    "*.tfrecord-#-of-#",
    "dataset_info.json",
    "features.json",
    "label.labels.txt",
    "rejected.tsv",
    "duplicates.tsv",
    "made_of.json",
    ".alexnet_tf-*.npz",  # what earlier versions measured of it
)
# `--help` and mistakes in flags need no TensorFlow: it is imported inside functions.


def prepare(
    *,
    output: str,
    source: str = "auto",
    input: str | None = None,
    reading: Reading | None = None,
    options: Options | None = None,
    num_workers: int | None = None,
    overwrite: bool = False,
    beam_options: Sequence[str] | None = None,
) -> None:
    """Prepares a data set and prints a summary.

    Args:
        output: Directory to make.
        source: One of `data.sources.NAMES`, or "auto" for what the input looks like.
        input: What the source reads: a directory, a list or an archive.
        reading: How it is read.
        options: What decides the data set that is made of the pictures.
        num_workers: Processes that decode and encode; by default one for each core; 0
            for none but this one.
        overwrite: Whether to replace a data set in `output`.
        beam_options: Options of the Beam pipeline that does it; None for none.

    Raises:
        UserError: The input or the output cannot be used.
    """
    from tensorflow.io import gfile

    options, reading = options or Options(), reading or Reading()
    input, output = _check_paths(source, input, output, reading)
    with (
        files.disk_errors(),
        _open_output(output, beam_options is not None) as directory,
    ):
        if list_names(output) and not overwrite:
            raise UserError(f"{output} has a data set; to replace it give --overwrite")
        gfile.makedirs(directory)
        unpacked = os.path.join(directory, "unpacked")  # what is in archives
        pictures = sources.open_unpacked(source, input, reading, unpacked)
        if reading.group_by:
            pictures = group_by_name(pictures, reading.group_by)
        print(*pictures.notes, sep="\n", end="\n" if pictures.notes else "")
        report = _write(directory, pictures, options, num_workers, beam_options)
        shutil.rmtree(unpacked, ignore_errors=True)
    print(f"{output}: {report.summary()}")


def _write(
    directory: str,
    pictures: Source,
    options: Options,
    num_workers: int | None,
    beam_options: Sequence[str] | None,
):
    """Writes the data set into a directory, and returns the `Report` of it."""
    from data.counting import progress_bar
    from data.summary import Report
    from data.writer import DataSetWriter

    report = Report(pictures.class_names, options.max_errors)
    writer = DataSetWriter(directory, pictures, options)
    work = functools.partial(
        transcode,
        options=options,
        thresholds=_find_thresholds(pictures, options),
        num_classes=len(pictures.class_names),
    )
    if beam_options is None:
        records = in_workers(work, pictures.all_items(), num_workers)
        bar = progress_bar(records, pictures.num_items, "images")
        with contextlib.closing(records), bar:
            writer.write(report.count(bar))
    else:
        records = writer.write_with_beam(beam_options, work)
        collections.deque(report.count(records), 0)
    report.write(directory)
    writer.finish()
    return report


def _open_output(output: str, with_beam: bool):
    """The directory to write to, as a context; it becomes the output at its end."""
    if with_beam and is_remote(output):
        # The machines of a cluster share no disk: they write to the output itself,
        # which is no data set until its card is there.
        if list_names(output):
            raise UserError(f"{output} is in use: with --runner=beam give an empty one")
        return contextlib.nullcontext(output)
    return files.replacing(output, _WRITTEN)


def _check_paths(source: str, input: str | None, output: str, reading) -> tuple:
    """Expands the paths, and raises `UserError` for those that cannot be used."""
    if source == "elpv" and input:
        raise UserError("--source=elpv brings its own pictures; leave --input out")
    if not input and source not in ("elpv", "tfds") and not reading.name:
        raise UserError("give --input, or --source=elpv for the demo's pictures")
    input, output = input and expand(input), expand(output)
    if input and source in ("folder", "csv", "imagenet", "parquet", "cifar"):
        local_only(input, f"the input of --source={source}")
    files.check_output(output, [input] if input else [], what="--output")
    return input, output


def _find_thresholds(pictures: Source, options: Options) -> dict[int, int]:
    """Reads the pictures that come without a split, if there are any."""
    from data.counting import progress_bar

    if not pictures.holds_out:
        return {}
    items = pictures.all_items()
    with progress_bar(items, pictures.num_items, "images to choose from") as bar:
        return find_thresholds(bar, options.validation_fraction)


def define_flags() -> None:
    """Defines the flags of this script."""
    flags.DEFINE_enum(
        "source",
        "auto",
        ["auto", *sources.NAMES],
        "What the input is. By default it is recognised.",
    )
    command_line.define_path(
        "input",
        None,
        "What to read: a folder with a folder of pictures for each class, a list of "
        "pictures (CSV, JSON lines, text), TFRecord or Parquet files, a directory of "
        "TFDS, the files of ImageNet or CIFAR; or a zip or tar archive of any of them.",
        exists=True,
    )
    command_line.define_path("output", None, "Directory to make.", required=True)
    command_line.define_flags_from(Reading)
    command_line.define_flags_from(Options)
    flags.DEFINE_enum(
        "recipe",
        None,
        [*RECIPES],
        "Make pictures square as this recipe's published network wants them: --fit and "
        "--resampling.",
    )
    flags.DEFINE_bool("overwrite", False, "Replace a data set in --output.")
    flags.DEFINE_integer(
        "num_workers",
        None,
        "Processes that decode pictures; 0 for none but the program's own. By default "
        "there is one for each core.",
        lower_bound=0,
    )
    flags.DEFINE_enum(
        "runner",
        "local",
        ["local", "beam"],
        "Where the work is done: local is this machine, beam a cluster.",
    )
    flags.DEFINE_multi_string(
        "beam_option", [], "An option for Beam, such as --runner=DataflowRunner."
    )


def main(values: flags.FlagValues) -> None:
    """Runs the preparation that the flags describe."""
    prepare(
        source=values.source,
        input=values.input,
        output=values.output,
        reading=Reading(**command_line.given_flags(values, Reading)),
        options=_options(values),
        num_workers=values.num_workers,
        overwrite=values.overwrite,
        beam_options=values.beam_option if values.runner == "beam" else None,
    )
    print(_next_steps(values.output))


def _options(values: flags.FlagValues) -> Options:
    """How pictures are stored: as given, else as the recipe's network wants them."""
    given = command_line.given_flags(values, Options)
    if values.recipe:
        recipe = RECIPES[values.recipe]
        given = {"fit": recipe.fit, "resampling": recipe.resampling} | given
    return Options(**given)


def _next_steps(output: str) -> str:
    """Returns commands that can be typed as they are."""
    from alexnet_tf.pipeline.data_set import open_data_set

    splits = open_data_set(output).splits
    if "train" in splits and "validation" in splits:
        words = ("train.py", f"--data_dir={output}")
    elif "train" in splits:
        return "next: prepare it again, with pictures for validation"
    else:
        split = f"--split={min(splits)}"
        words = ("eval.py", "--model_dir=RUN", f"--data_dir={output}", split)
    return f"next: {command_line.command('python', *words)}"


if __name__ == "__main__":
    command_line.run(main, define_flags)

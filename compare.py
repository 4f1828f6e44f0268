"""Compares runs: a table of what came out, and of the settings that differ.

python compare.py runs/*
python compare.py runs/a runs/b --output=runs/curves.png
"""

from alexnet_tf import signals

if __name__ == "__main__":  # from here on a signal ends it in one line
    signals.handle()

from alexnet_tf import command_line, files
from alexnet_tf.command_line import flags


def define_flags() -> None:
    """Defines the flags."""
    command_line.define_path("output", None, "PNG of the learning curves to write.")


def check(values: flags.FlagValues, model_dirs: list[str]) -> list[str]:
    """Returns the directories of the runs; they are all that is no flag."""
    if not model_dirs:
        raise flags.Error("give the directories of runs, as in runs/*")
    if values.output:
        mark = b"Software\0alexnet_tf compare"
        files.check_output_file(values.output, what="--output", mark=mark)
    return model_dirs


def main(values: flags.FlagValues, model_dirs: list[str]) -> None:
    """Compares."""
    from alexnet_tf.evaluation.comparison import compare_runs

    compare_runs(model_dirs, values.output)


if __name__ == "__main__":
    command_line.run(main, define_flags, check)

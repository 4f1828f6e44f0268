"""Writes what layers of a network put out for pictures, as NumPy arrays.

python features.py --input=PICTURES --model_dir=runs/demo --output=FEATURES
python features.py --data_dir=DIR --split=train --model_dir=runs/demo --output=FEATURES
python features.py --input=PICTURES --init_weights=FILE --layer=conv5 --output=CONV5

The directory has a file for each layer, such as fc7.npy, that NumPy maps into memory.
Rows are written while the program runs, and the same command again goes on.
"""

from alexnet_tf import signals
from alexnet_tf.paths import local_only

if __name__ == "__main__":  # from here on a signal ends it in one line
    signals.handle(signals.EXIT_INTERRUPTED)

import sys

from alexnet_tf import command_line, files
from alexnet_tf.command_line import flags
from alexnet_tf.file_names import FEATURES_FILES
from alexnet_tf.pictures.listing import pictures_below

_NAMED = 20  # pictures that could not be used, by name


def define_flags() -> None:
    """Defines the flags."""
    define_path = command_line.define_path
    define_path("input", None, "A folder of pictures, at any depth.", exists=True)
    define_path("data_dir", None, "A data set, instead of --input.", exists=True)
    flags.DEFINE_string("split", "validation", "The split of the data set.")
    define_path("model_dir", None, "The directory of a run.", exists=True)
    command_line.define_weights_flags()
    define_path("checkpoint", "latest", "latest or best of the run, or a path.")
    flags.DEFINE_list(
        "layer",
        ["fc7"],
        "Layers, with commas, such as conv5,fc7; a wrong one lists all.",
    )
    flags.DEFINE_bool("before_relu", False, "Take what comes before the ReLU.")
    flags.DEFINE_enum(
        "dtype", "float32", ["float32", "float16"], "The type of the numbers."
    )
    define_path("output", None, "The directory to write.", required=True)


def check(values: flags.FlagValues, arguments: list[str]) -> list[str]:
    """Checks what goes together; returns the pictures of a folder."""
    if arguments:
        raise flags.Error(f"unexpected argument {arguments[0]!r}")
    if (values.input is None) == (values.data_dir is None):
        raise flags.Error("give --input or --data_dir")
    command_line.check_source(values)
    network = values.model_dir or values.init_weights
    if not network:
        raise flags.Error("give --model_dir or --init_weights")
    local_only(values.output, "--output")
    inputs = [values.input or values.data_dir, network]
    files.check_output(values.output, inputs, what="--output")
    files.check_ours(values.output, FEATURES_FILES)
    return pictures_below(values.input) if values.input else []


def main(values: flags.FlagValues, paths: list[str]) -> int:
    """Writes the features as the flags say."""
    from alexnet_tf import extracting
    from alexnet_tf.pipeline.data_set import open_data_set
    from alexnet_tf.run import checkpoint_sha256
    from alexnet_tf.weights.loading import load_network

    network = values.model_dir or values.init_weights
    model, config, path = load_network(
        network,
        checkpoint=values.checkpoint,
        recipe=values.recipe,
        class_names=values.class_names,
    )
    size = model.input_shape[1]
    if values.input:
        folder, fitting = values.input, config.fitting
        pictures = extracting.pictures_of_folder(folder, paths, fitting, size)
    else:
        data_set = open_data_set(values.data_dir)
        pictures = extracting.pictures_of_split(data_set, values.split, size)
    layers = list(dict.fromkeys(values.layer))
    left_out = extracting.write_features(
        extracting.take_layers(model, layers, values.before_relu),
        pictures,
        values.output,
        {"weights": checkpoint_sha256(path), "before_relu": values.before_relu},
        values.dtype,
    )
    number = len(pictures.names)
    print(f"{', '.join(layers)} of {number:,} pictures: {values.output}")
    return report(left_out, number)


def report(left_out: list[tuple[str, str]], number: int) -> int:
    """Says which pictures could not be used; returns the exit code."""
    if not left_out:
        return 0
    print(f"error: {len(left_out)} of {number} not read:", file=sys.stderr)
    for name, error in left_out[:_NAMED]:
        print(f"  {name}: {error}", file=sys.stderr)
    if len(left_out) > _NAMED:
        print(f"  and {len(left_out) - _NAMED:,} more", file=sys.stderr)
    return 1


if __name__ == "__main__":
    command_line.run(main, define_flags, check)

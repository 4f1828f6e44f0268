"""Exports a training run: a SavedModel for serving, or a LiteRT or ONNX file.

python export.py --model_dir=runs/demo --output=/tmp/alexnet
python export.py --init_weights=bvlc_alexnet.caffemodel --output=/tmp/alexnet
"""

from alexnet_tf import signals

if __name__ == "__main__":  # from here on a signal ends it in one line
    signals.handle()

from alexnet_tf import command_line
from alexnet_tf.command_line import flags


def define_flags() -> None:
    """Defines the flags."""
    define_path = command_line.define_path
    define_path("model_dir", None, "Directory of the run.", exists=True)
    command_line.define_weights_flags()
    define_path(
        "output", None, "Directory. Default: one in the model_dir, named as the format."
    )
    flags.DEFINE_enum(
        "format",
        "saved_model",
        ["saved_model", "litert", "onnx"],
        "What to write: pictures to classes for a server, or the network alone.",
    )
    define_path("checkpoint", "latest", "latest, best, or a path.")
    flags.DEFINE_integer(
        "top_k", 5, "How many classes a SavedModel answers.", lower_bound=1
    )


def check(values: flags.FlagValues, arguments: list[str]) -> None:
    """Checks what goes together."""
    if arguments:
        raise flags.Error(f"unexpected argument {arguments[0]!r}")
    command_line.check_source(values)
    if not (values.model_dir or values.init_weights):
        raise flags.Error("give --model_dir or --init_weights")
    if values.init_weights and not values.output:
        raise flags.Error("--init_weights needs --output, a directory")


def main(values: flags.FlagValues, _) -> None:
    """Exports as the flags say."""
    from alexnet_tf.export.export import export_run

    output = export_run(
        values.model_dir,
        values.output,
        init_weights=values.init_weights,
        recipe=values.recipe,
        class_names=values.class_names,
        checkpoint=values.checkpoint,
        top_k=values.top_k,
        format=values.format,
    )
    print(f"exported to {output}")


if __name__ == "__main__":
    command_line.run(main, define_flags, check)

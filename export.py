"""Exports a network: a SavedModel for serving, or a file for other frameworks.

python export.py --model_dir=runs/demo --output=/tmp/alexnet
python export.py --model_dir=runs/demo --format=safetensors
python export.py --init_weights=bvlc_alexnet.caffemodel --output=/tmp/alexnet
"""

from alexnet_tf import signals

if __name__ == "__main__":  # from here on a signal ends it in one line
    signals.handle()

from alexnet_tf import command_line
from alexnet_tf.command_line import flags
from alexnet_tf.file_names import EXPORT_FILES


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
        [*EXPORT_FILES],
        "What to write: pictures to classes for a server (saved_model), the network "
        "alone (litert, onnx), or the weights alone: in torchvision's names "
        "(safetensors, torch) or as bvlc_alexnet.npy has them (npy).",
    )
    flags.DEFINE_enum(
        "precision",
        "float32",
        ["float32", "bfloat16"],
        "What a SavedModel stores and computes with. bfloat16 halves its size, and is "
        "faster where the processor computes in it.",
    )
    flags.DEFINE_bool(
        "xla",
        False,
        "Has XLA compile a SavedModel's response normalisation, which is faster where "
        "the server has XLA.",
    )
    flags.DEFINE_enum(
        "quantize",
        None,
        ["weights", "int8"],
        "Stores a LiteRT file's weights as int8, or computes in int8, too.",
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
    formats = {"precision": "saved_model", "xla": "saved_model", "quantize": "litert"}
    for name, format in formats.items():
        if values[name].present and values.format != format:
            raise flags.Error(f"--{name} is for --format={format}")


def main(values: flags.FlagValues, _) -> None:
    """Exports as the flags say."""
    from alexnet_tf.export.exporting import Form, export_run

    output = export_run(
        values.model_dir or values.init_weights,
        values.output,
        Form(
            values.format,
            values.top_k,
            values.precision,
            values.xla,
            values.quantize,
        ),
        checkpoint=values.checkpoint,
        recipe=values.recipe,
        class_names=values.class_names,
    )
    print(f"exported to {output}")


if __name__ == "__main__":
    command_line.run(main, define_flags, check)

"""Exports a network: what is written is loaded and compared before it is put in place.

Each format is written by a function of its own. What keeps every number is compared
with the checkpoint on a few pictures; what gives numbers up (`Form.is_approximate`) is
measured on all pictures of the validation split.
"""

import dataclasses
import os

from absl import logging

from alexnet_tf import files
from alexnet_tf.errors import UserError
from alexnet_tf.export.checking import Measured, measure, open_validation
from alexnet_tf.export.framework_files import WEIGHT_FILES, write_weights
from alexnet_tf.export.model_card import describe_size, write_card
from alexnet_tf.export.network_files import (
    check_network,
    compare_speed,
    load_network_file,
    require_library,
    write_network,
)
from alexnet_tf.export.saved_model import (
    check_export,
    export_model,
    load_saved_model,
    write_labels,
)
from alexnet_tf.file_names import EXPORT_FILES, RUN_FILES
from alexnet_tf.paths import local_only
from alexnet_tf.run import Run
from alexnet_tf.weights.loading import Loaded, load_network

LIBRARIES = {
    "onnx": ("onnx", "tf2onnx", "onnxruntime"),
    "safetensors": ("safetensors",),
    "torch": ("torch",),
}
LEAST_AGREEMENT = 0.99  # of the answers in bfloat16
_MOST_LOST = 0.005  # of top-1 accuracy, before somebody is warned


@dataclasses.dataclass(frozen=True)
class Form:
    """What to write.

    Attributes:
        format: A key of `EXPORT_FILES`.
        top_k: How many classes a SavedModel answers.
        precision: What a SavedModel stores and computes with, "float32" or "bfloat16".
        xla: Whether XLA compiles a SavedModel's response normalisation.
        quantize: "weights" or "int8", for a LiteRT file of a quarter of the size; None
            for float32.
    """

    format: str = "saved_model"
    top_k: int = 5
    precision: str = "float32"
    xla: bool = False
    quantize: str | None = None

    @property
    def is_approximate(self) -> bool:
        """Whether it answers a little otherwise than the checkpoint."""
        return self.precision != "float32" or self.quantize is not None


def export_run(
    network: str,
    output: str | None = None,
    form: Form = Form(),
    *,
    checkpoint: str = "latest",
    recipe: str | None = None,
    class_names: str | None = None,
) -> str:
    """Exports a checkpoint of a run, or published weights.

    Args:
        network: A run, or another path that `load_network` takes.
        output: Directory to write; None for one called as the format in the run.
        form: What to write.
        checkpoint: See `load_network`.
        recipe: See `load_network`.
        class_names: See `load_network`.

    Returns:
        The directory written; an earlier export there is replaced.

    Raises:
        UserError: If there is no such network, `output` holds something else than an
            export, a library is missing, or the export does not answer as the
            checkpoint does.
    """
    run, names = Run(network), EXPORT_FILES[form.format]
    if output is None:
        output = os.path.join(network, form.format)
        files.check_no_links(network, RUN_FILES)
    output = output.rstrip("/") or "/"
    source = run.checkpoint_dir if run.exists() else network
    files.check_output(output, [source], what="--output")
    files.check_ours(output, names)
    if form.format != "saved_model":
        local_only(output, f"the output of --format={form.format}")
    for library in LIBRARIES.get(form.format, ()):  # before the work begins
        require_library(library, form.format)
    loaded = load_network(
        network, checkpoint=checkpoint, recipe=recipe, class_names=class_names
    )
    if form.is_approximate:
        open_validation(loaded.config)
    with files.replacing(output, names) as unfinished:
        os.makedirs(unfinished)
        measured = _write(loaded, unfinished, form)
        size = describe_size(loaded, unfinished)
        write_card(loaded, form.format, measured, unfinished)
    logging.info("%s: %s", form.format, size)
    return output


def _write(network: Loaded, directory: str, form: Form) -> Measured | None:
    """Writes what was asked for, and compares it."""
    model, config, _ = network
    if form.format == "saved_model":
        export_model(
            *(model, config.class_names, directory, config.fitting),
            *(form.top_k, form.precision, form.xla),
        )
        if not form.is_approximate:
            return check_export(model, directory, config.fitting)
        return _judge(form, measure(network, load_saved_model(directory)))
    write_labels(config.class_names, directory)
    if form.format in WEIGHT_FILES:
        return write_weights(network, directory, form.format)
    path = write_network(network, directory, form.format, form.quantize)
    if not form.is_approximate:
        return check_network(model, path)
    measured = measure(network, load_network_file(path, network))
    speed = compare_speed(network, path)
    return _judge(form, dataclasses.replace(measured, speed=speed))


def _judge(form: Form, measured: Measured) -> Measured:
    """Says what an approximation costs; refuses one in bfloat16 that costs much."""
    logging.info("%s", measured)
    # `not >=` holds where there was no picture to compare, too.
    if form.precision == "bfloat16" and not measured.agreement >= LEAST_AGREEMENT:
        raise UserError(
            f"in bfloat16 the network answers {measured.agreement:.1%} of the pictures "
            f"as before, less than {LEAST_AGREEMENT:.0%}: export it in float32"
        )
    if measured.before - measured.after > _MOST_LOST:
        logging.warning(
            "--quantize=%s loses %.1f points of top-1 accuracy",
            *(form.quantize, 100 * (measured.before - measured.after)),
        )
    return measured

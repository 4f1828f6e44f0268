"""Exports a run: what is written is loaded and compared before it is put in place."""

import json
import os

import tensorflow as tf

from alexnet_tf import files
from alexnet_tf.export.model_card import describe_export
from alexnet_tf.export.network_files import (
    check_network,
    export_network,
    require_library,
)
from alexnet_tf.export.saved_model import check_export, export_model
from alexnet_tf.file_names import EXPORT_FILES, RUN_FILES
from alexnet_tf.paths import local_only
from alexnet_tf.run import (
    Run,
)
from alexnet_tf.weights.loading import load_network

CARD_FILE = "model_card.json"


def export_run(
    model_dir: str | None,
    output: str | None = None,
    *,
    init_weights: str | None = None,
    recipe: str = "auto",
    class_names: str | None = None,
    checkpoint: str = "latest",
    top_k: int = 5,
    format: str = "saved_model",
) -> str:
    """Exports a checkpoint of a run; what was written is loaded and compared first.

    Args:
        model_dir: Directory of the run; None with `init_weights`.
        output: Directory to write; None for one called as the format in `model_dir`.
        init_weights: Published weights to export instead; see `load_network`.
        recipe: Which network they are for.
        class_names: A file with the names of their classes; see `load_network`.
        checkpoint: "latest", "best" or a path.
        top_k: How many classes a SavedModel answers.
        format: "saved_model" (see `export_model`), "litert" or "onnx" (see
            `export_network`).

    Returns:
        The directory written; an earlier export there is replaced.

    Raises:
        UserError: If there is no such run or checkpoint, `output` holds something else
            than an export, a library is missing, or the export does not answer as the
            checkpoint does.
    """
    run, is_given = model_dir and Run(model_dir), output is not None
    output = (output or os.path.join(model_dir, format)).rstrip("/") or "/"
    source = run.checkpoint_dir if run else init_weights
    files.check_output(output, [source], what="--output")
    files.check_ours(output, EXPORT_FILES[format])
    if not is_given:
        files.check_no_links(model_dir, RUN_FILES)
    if format != "saved_model":
        local_only(output, f"the output of --format={format}")
    if format == "onnx":  # before the work begins
        require_library("tf2onnx")
        require_library("onnxruntime")
    if run:
        model, config, path = run.load_model(checkpoint)
    else:
        model, config, path = load_network(
            init_weights, recipe=recipe, class_names=class_names
        )
    fitting = config.fitting
    card = describe_export(run, config, path, fitting)
    with files.replacing(output, EXPORT_FILES[format]) as unfinished:
        if format == "saved_model":
            export_model(model, config.class_names, unfinished, fitting, top_k)
            check_export(model, unfinished, fitting)
        else:
            export_network(model, config.class_names, unfinished, format)
            check_network(model, unfinished, format)
        with tf.io.gfile.GFile(os.path.join(unfinished, CARD_FILE), "w") as file:
            json.dump(card, file, indent=1)
    return output

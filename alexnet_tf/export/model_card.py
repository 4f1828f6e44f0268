"""What one needs to know of an export, in the form in which people publish networks."""

import dataclasses
import json
import math
import os
import pathlib
import textwrap

import tensorflow as tf

import alexnet_tf
from alexnet_tf.errors import UserError
from alexnet_tf.export.checking import Measured
from alexnet_tf.files import read_json
from alexnet_tf.run import checkpoint_sha256, library_versions, run_of
from alexnet_tf.weights.loading import Loaded

CARD_FILE = "README.md"
_TEXT = pathlib.Path(__file__).with_name("model_card.md").read_text(encoding="utf-8")
# By format the library that reads it, as model hubs call it.
_LIBRARIES = {
    **{"saved_model": "tensorflow", "litert": "litert", "onnx": "onnx"},
    **{"safetensors": "pytorch", "torch": "pytorch", "npy": "numpy"},
}
_NETWORK_INPUT = "It takes RGB pixels 0..255, and subtracts the mean itself."
_WEIGHTS_INPUT = (
    "It takes `(pixels - mean) / stddev` of RGB pixels 0..255, with the channels in "
    "the order {}. Of the files with weights alone `alexnet.safetensors` holds the "
    "mean: in its metadata under `alexnet_tf`, beside the recipe, which says what else "
    "the network does."
)
# What of eval.json is no path, and no account of the machine.
_FIGURES = (
    *("data_set", "split", "views", "num_examples", "num_evaluated", "cross_entropy"),
    *("top_1_error", "top_1_error_interval", "top_5_error", "top_5_error_interval"),
    *("balanced_accuracy", "macro_f1", "largest_class", "date"),
)
# YAML, of which JSON's values are a part.
_MODEL_INDEX = """
model-index:
- name: alexnet-{recipe}
  results:
  - task: {{type: image-classification}}
    dataset: {{type: {data}, name: {data}, split: {split}}}
    metrics:
    - {{type: accuracy, name: top-1 accuracy, value: {accuracy}}}"""


def describe_input(network: Loaded) -> dict[str, object]:
    """How pictures become those that a network sees, for JSON."""
    config = network.config
    return dataclasses.asdict(config.fitting) | {"image_size": config.image_size}


def write_card(
    network: Loaded, format: str, measured: Measured | None, directory: str
) -> None:
    """Writes `README.md` beside an export, with the front matter of a model hub.

    Args:
        network: What was exported.
        format: How.
        measured: What an approximation costs; None for none.
        directory: The export.
    """
    config, evaluation = network.config, _read_evaluation(network)
    library, recipe = _LIBRARIES[format], config.recipe
    figures, model_index = [], ""
    if evaluation:
        accuracy, split = 1 - evaluation["top_1_error"], evaluation["split"]
        figures = [f"Top-1 accuracy {accuracy:.2%} on {split}, before the export."]
        model_index = _MODEL_INDEX.format(
            recipe=recipe.name,
            data=json.dumps(evaluation["data_set"]),
            split=json.dumps(split),
            accuracy=accuracy,
        )
    if measured:
        figures.append(f"As exported: {measured}.")
    is_network = library not in ("pytorch", "numpy")
    order = "BGR" if recipe.bgr else "RGB"
    text = _TEXT.format(
        library=library,
        model_index=model_index,
        recipe=recipe.name,
        num_classes=len(config.class_names),
        format=format,
        size=describe_size(network, directory),
        version=alexnet_tf.__version__,
        **describe_input(network),
        input=_NETWORK_INPUT if is_network else _WEIGHTS_INPUT.format(order),
        data=_describe_data(network),
        measured=" ".join(figures) or "Nothing yet: run eval.py, then export again.",
        facts=_describe_facts(network, evaluation),
    )
    path = os.path.join(directory, CARD_FILE)
    with open(path, "w", encoding="utf-8", errors="replace") as file:
        file.write(text)


def describe_size(network: Loaded, directory: str) -> str:
    """The size of an export, beside that of the weights in float32."""
    files = filter(pathlib.Path.is_file, pathlib.Path(directory).rglob("*"))
    mib = sum(file.stat().st_size for file in files) / 2**20
    weights = network.model.trainable_variables
    number = sum(math.prod(weight.shape) for weight in weights)
    in_float32 = f"{number:,} parameters, {number * 4 / 2**20:.1f} MiB in float32"
    return f"{mib:.1f} MiB ({in_float32})"


def _read_evaluation(network: Loaded) -> dict | None:
    """The figures of `eval.json`, where they are those of these weights."""
    run = run_of(network.path)
    if not run or not tf.io.gfile.exists(run[0].eval_file):
        return None
    path = run[0].eval_file
    try:
        report = read_json(path)
        if report["sha256"] != [checkpoint_sha256(network.path)]:
            return None
        return {name: report[name] for name in _FIGURES}
    except (ValueError, KeyError):
        raise UserError(f"{path} is damaged: run eval.py again") from None


def _describe_data(network: Loaded) -> str:
    config = network.config
    weights = os.path.basename(config.init_weights or "")
    if not config.data_dir:
        return f"what the publishers of `{weights}` say"
    start = f", from the weights of `{weights}` on" * bool(weights)
    name = os.path.basename(config.data_dir)
    return f"{config.num_train_examples:,} images of `{name}`{start}"


def _describe_facts(network: Loaded, evaluation: dict | None) -> str:
    """All that is needed to repeat the export, without a path of this machine."""
    settings = dataclasses.asdict(network.config)
    del settings["data_dir"], settings["class_names"]
    settings["init_weights"] = os.path.basename(settings["init_weights"] or "")
    facts = {
        "settings": settings,
        "evaluation": evaluation,
        "weights": os.path.basename(network.path),
        "sha256": checkpoint_sha256(network.path),
        "versions": library_versions(),
    }
    return textwrap.indent(json.dumps(facts, indent=1), "    ")

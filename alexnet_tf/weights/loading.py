"""One way to load a network, whatever it is in."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import keras
from absl import logging

from alexnet_tf import imagenet_classes
from alexnet_tf.class_names import read_class_names
from alexnet_tf.config import Config
from alexnet_tf.errors import UserError
from alexnet_tf.paths import expand
from alexnet_tf.pictures.fitting import Fitting
from alexnet_tf.recipes import LAYERS
from alexnet_tf.run import build_model, run_of
from alexnet_tf.weights.downloads import find_file
from alexnet_tf.weights.published import PublishedWeights, assign
from alexnet_tf.weights.weight_files import read_weights
from alexnet_tf.weights.weight_layout import HEAD


class Loaded(NamedTuple):
    """A network with its weights.

    Attributes:
        model: The network, as `build_alexnet` makes it.
        config: What its training was; of published weights what is known of it: the
            recipe and the names of the classes.
        path: The checkpoint or the file that the weights are from.
    """

    model: keras.Model
    config: Config
    path: str


def load_network(
    path: str | os.PathLike,
    *,
    checkpoint: str = "latest",
    recipe: str | None = None,
    class_names: str | Sequence[str] | None = None,
    dtype: str = "float32",
) -> Loaded:
    """Loads a network: eval, export, features, predict and the library all do it here.

    Args:
        path: The directory of a run, a checkpoint in one without its `.index`, or any
            file that `read_weights` reads.
        checkpoint: "latest", "best" or a path, where `path` is a run.
        recipe: A name in `RECIPES` for weights that may be of several; None or "auto"
            for what the file tells.
        class_names: Names of the classes of published weights, or a file with one a
            line; by default 1000 classes are ImageNet's, others have numbers.
        dtype: Keras dtype policy to compute with.

    Returns:
        The network.

    Raises:
        UserError: If it is not there, or cannot be read, or is another network, or its
            outputs are not as many as the names.
    """
    path = find_file(expand(os.fspath(path)))
    if run := run_of(path):
        if class_names is not None or recipe not in (None, "auto"):
            raise UserError(
                f"{path} is a run, which has its own recipe and names of classes: "
                "leave those out"
            )
        run, latest = run
        checkpoint = checkpoint if latest == "latest" else latest
        return Loaded(*run.load_model(checkpoint, dtype))
    weights = read_weights(path)
    config = _configure(weights, path, recipe, class_names)
    model = build_model(config, dtype)
    logging.info("%s", weights.source)
    for layer, state in assign(model, weights).items():
        logging.info("  %s: %s", layer, state)
    return Loaded(model, config, path)


def _configure(weights: PublishedWeights, path: str, recipe, class_names) -> Config:
    """What is known of the training of published weights."""
    chosen = weights.recipe_for(None if recipe == "auto" else recipe)
    if weights.num_classes is None:
        last = max(weights.layers.keys() & LAYERS, key=LAYERS.index)
        missing = weights.left or f"nothing after {last}"
        raise UserError(
            f"{weights.source} is no whole network: instead of {HEAD} it has "
            f"{missing}; train.py --init_weights takes the rest of it"
        )
    weights.require_mean(chosen, "give a .keras or .safetensors file instead")
    return Config(
        chosen,
        data_dir="",
        class_names=_name_outputs(weights, class_names),
        num_train_examples=0,
        fitting=Fitting(chosen.fit, resampling=chosen.resampling),
        init_weights=path,
    )


def _name_outputs(weights: PublishedWeights, given) -> tuple[str, ...]:
    """The names of a network's classes: given, its own, ImageNet's, or numbers."""
    number = weights.num_classes
    names = weights.class_names or name_classes(number)
    if given is not None:
        is_path = isinstance(given, str)
        names = read_class_names(expand(given)) if is_path else tuple(given)
    if len(names) != number:
        raise UserError(
            f"there are {len(names)} class names, and {weights.source} has {number} "
            "outputs: give a name for each"
        )
    return names


def name_classes(number: int) -> tuple[str, ...]:
    """ImageNet's names for 1000 classes; numbers for those of which nothing tells."""
    if number == 1000:
        return imagenet_classes.class_names()
    return tuple(f"class {i}" for i in range(number))

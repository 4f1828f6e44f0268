"""Our own networks as Keras saves them: `.keras`, and the weights alone."""

import dataclasses
import json
import os
import re
import tempfile
from collections.abc import Mapping

import h5py
import keras
import numpy as np

from alexnet_tf.errors import UserError
from alexnet_tf.network.alexnet import build_alexnet
from alexnet_tf.network.layers import InputNormalization
from alexnet_tf.recipes import LAYERS, RECIPES, Recipe
from alexnet_tf.settings import from_json
from alexnet_tf.weights.weight_layout import HEAD, Found

# What a layer's configuration says that does not decide what it computes.
_WITHOUT_EFFECT = re.compile(
    r"(kernel|bias)_(initializer|regularizer|constraint)|activity_regularizer|"
    r"jit_compile|mean|recipe|seed|trainable"
)
_KERNEL_AND_BIAS = ("kernel", "bias")


def read_keras(path: str) -> Found:
    """Reads a `.keras` file: a network of ours, alone or as the base of another one.

    What the file describes is compared, layer by layer, with what its recipe builds.

    Raises:
        UserError: If it holds no network of ours, or one that was changed.
    """
    model, left = _find_network(_load(path))
    found = _describe(model)
    recipe, names = _compare(model, found)
    left += [name for name in found if name not in names]
    if left:
        names -= {HEAD}
    layers = {
        name: {v.name: v.numpy() for v in model.get_layer(name).weights}
        for name in ("input_normalization", *LAYERS)
        if name in names
    }
    return Found("Keras model", layers, (recipe,), left=", ".join(left))


def _load(path: str) -> keras.Model:
    with tempfile.TemporaryDirectory() as folder:  # Keras goes by a file's name
        link = os.path.join(folder, "model.keras")
        os.symlink(os.path.abspath(path), link)
        try:
            return keras.saving.load_model(link, compile=False)
        except (TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"Keras cannot load it ({reason})") from None


def _find_network(model: keras.Model) -> tuple[keras.Model, list[str]]:
    """The network of ours in a model, and the names of the layers that follow it.

    Raises:
        UserError: If there is none, or something changes the pixels before it.
    """
    for place, layer in enumerate(model.layers):
        if isinstance(layer, InputNormalization):
            return model, []
        if _is_random(layer):
            continue
        if not isinstance(layer, keras.Model):
            raise UserError(
                f"{layer.name} ({type(layer).__name__}) stands first, where a network "
                "of ours reads RGB pixels 0..255"
            )
        network, after = _find_network(layer)
        return network, after + [x.name for x in model.layers[place + 1 :]]
    raise UserError("it is a Keras model without layers")


def _is_random(layer: keras.layers.Layer) -> bool:
    """Whether a layer is an input, or changes pixels in training alone."""
    if isinstance(layer, keras.Model):
        return all(map(_is_random, layer.layers))
    is_input = isinstance(layer, keras.layers.InputLayer)
    return is_input or type(layer).__name__.startswith("Random")


def _compare(model: keras.Model, found: Mapping) -> tuple[Recipe, set[str]]:
    """The recipe of a network, and the names of its layers that are as it builds them.

    Raises:
        UserError: If a layer up to fc7 is not, or there are not even convolutions.
    """
    problems = {}
    num_classes = found.get(HEAD, {}).get("units", 1)
    dtype = model.get_layer("conv1").dtype_policy.name
    dtype = dtype if dtype == "mixed_bfloat16" else "float32"
    for recipe in _candidates(model):
        wanted = _describe(build_alexnet(num_classes, recipe, dtype=dtype))
        same = []
        for name, values in wanted.items():
            if found.get(name) != values:
                break
            same.append(name)
        changed = set(wanted) & set(found) - {*same, HEAD, "logits"}
        if "conv5" in same and not changed:
            return recipe, set(same)
        problems[len(same)] = _name_difference(found, wanted, recipe)
    raise UserError(f"it is a network that was changed: {problems[max(problems)]}")


def _candidates(model: keras.Model) -> list[Recipe]:
    """The recipe that a network holds; all, if it is of an earlier version."""
    stored = model.get_layer("input_normalization").get_config()["recipe"]
    if stored:
        usual = RECIPES.get(stored["name"], RECIPES["paper"])
        return [from_json(Recipe, dataclasses.asdict(usual) | stored)]
    parts = {layer.name: layer for layer in model.layers}
    changes = {"image_size": model.input_shape[1]}
    if "fc7" in parts:
        changes["width"] = parts["fc7"].units / 4096
    return [dataclasses.replace(recipe, **changes) for recipe in RECIPES.values()]


def _describe(model: keras.Model) -> dict[str, dict]:
    """What each layer computes, and of what, by its name.

    Left out are inputs, augmentation, and a softmax of the logits.
    """
    described = {}
    for layer in json.loads(json.dumps(model.get_config()))["layers"]:
        name, values = layer["name"], {"class": layer["class_name"]}
        for key, value in layer["config"].items():
            if not _WITHOUT_EFFECT.fullmatch(key):
                values[key] = value
        nodes = json.dumps(layer["inbound_nodes"])
        values["input"] = re.findall(r'"keras_history": \["([^"]*)"', nodes)
        if name == "input_normalization":
            values["input"] = []
        activation = values.get("activation", values["class"].lower())
        is_softmax = activation == "softmax" and values["input"] == ["logits"]
        if not (is_softmax or _is_random(model.get_layer(name))):
            described[name] = values
    return described


def _name_difference(found, wanted, recipe: Recipe) -> str:
    """The first layer that is not as the recipe has it."""
    for name, values in wanted.items():
        if name not in found:
            return f"it has no {name}, which the recipe {recipe.name} has"
        for key, value in values.items():
            if found[name].get(key) != value:
                return (
                    f"{name}'s {key} is {found[name].get(key)}, in the recipe "
                    f"{recipe.name} {value}"
                )
    return "its last layers"


def read_weights_h5(path: str) -> Found:
    """Reads `.weights.h5` of a network of ours, alone or as the base of another one.

    Raises:
        UserError: If it holds layers that no network of ours has.
    """
    layers, left = {}, []

    def visit(_, group):
        name = group.attrs.get("name") if isinstance(group, h5py.Group) else None
        arrays = [np.asarray(group[key]) for key in sorted(group)] if name else []
        if not arrays:
            return
        if name == "input_normalization":
            layers[name] = {"mean": arrays[0]}
        elif name in LAYERS and name not in layers and len(arrays) == 2:
            layers[name] = dict(zip(_KERNEL_AND_BIAS, arrays, strict=True))
        else:
            left.append(str(name))

    with h5py.File(path) as file:
        file.visititems(visit)
    if left and (HEAD in layers or len(left) > 1):
        raise UserError(f"it holds {', '.join(left)}, which no network of ours has")
    recipes = tuple(RECIPES.values())
    return Found("Keras weights", layers, recipes, is_exact=False, left=", ".join(left))

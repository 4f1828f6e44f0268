"""Our own networks as Keras saves them: `.keras`, and the weights alone.

Keras itself loads neither: what a stranger's file describes would be built before it is
known, whatever its size. The description is compared as it stands, and the arrays are
read by their names.
"""

import dataclasses
import io
import json
import re
import zipfile
from collections.abc import Mapping

import h5py
import numpy as np

from alexnet_tf.errors import UserError
from alexnet_tf.network.alexnet import build_alexnet
from alexnet_tf.recipes import RECIPES, Recipe
from alexnet_tf.settings import from_json
from alexnet_tf.weights.description import check_sides
from alexnet_tf.weights.published import PublishedWeights
from alexnet_tf.weights.weight_layout import HEAD, take_layers

_MAX_CONFIG = 2**22  # bytes; ours have 30,000
_FIRST = "input_normalization"
# What a layer's configuration says that does not decide what it computes, or that its
# arrays say, too.
_WITHOUT_EFFECT = re.compile(
    r"(kernel|bias)_(initializer|regularizer|constraint)|activity_regularizer|"
    r"filters|jit_compile|mean|recipe|seed|trainable|units"
)
_POLICIES = ("float32", "mixed_bfloat16")


def read_keras(archive: zipfile.ZipFile) -> PublishedWeights:
    """Reads a `.keras` file: a network of ours, alone or as the base of another one.

    What the file describes is compared, layer by layer, with what its recipe builds.

    Raises:
        UserError: If it holds no network of ours, or one that was changed.
    """
    if archive.getinfo("config.json").file_size > _MAX_CONFIG:
        raise UserError("its config.json is larger than that of any network of ours")
    config = json.loads(archive.read("config.json"))["config"]
    network, left = _find_network(config["layers"])
    recipe = _read_recipe(network)
    shapes = [layer["config"].get("batch_shape", ()) for layer in network]
    check_sides({side for shape in shapes for side in shape[1:3]}, recipe)
    found = _describe(network)
    names = _compare(found, recipe)
    left += [name for name in found if name not in names]
    if left:
        names -= {HEAD}
    arrays = _read_arrays(archive.read("model.weights.h5"))
    layers, _ = take_layers({x: arrays[x] for x in arrays if x in names})
    return PublishedWeights("Keras model", layers, (recipe,), left=", ".join(left[:8]))


def _find_network(layers: list[dict]) -> tuple[list[dict], list[str]]:
    """The layers of a network of ours in a model, and the names of those that follow.

    Raises:
        UserError: If there is none, or something changes the pixels before it.
    """
    for index, layer in enumerate(layers):
        name, kind = layer["config"]["name"], layer["class_name"]
        if kind == "InputNormalization":
            return layers, []
        if _is_random(layer):
            continue
        if "layers" not in layer["config"]:
            raise UserError(
                f"{name} ({kind}) stands first, where a network of ours reads RGB "
                "pixels 0..255"
            )
        network, after = _find_network(layer["config"]["layers"])
        return network, after + [x["config"]["name"] for x in layers[index + 1 :]]
    raise UserError("it is a Keras model without layers")


def _is_random(layer: Mapping) -> bool:
    """Whether a layer is an input, or changes pixels in training alone."""
    if layers := layer["config"].get("layers"):
        return all(map(_is_random, layers))
    kind = layer["class_name"]
    is_random = kind.startswith("Random") and kind != "RandomCrop"
    return (is_random or kind == "InputLayer") and not layer["registered_name"]


def _read_recipe(network: list[dict]) -> Recipe:
    configs = {layer["class_name"]: layer["config"] for layer in network}
    stored = configs["InputNormalization"].get("recipe")
    if not stored:
        raise UserError(
            "it does not tell its recipe, since an early version saved it: load it "
            "with Keras, save_weights('x.weights.h5'), and give that with its recipe"
        )
    usual = RECIPES.get(stored["name"], RECIPES["paper"])
    return from_json(Recipe, dataclasses.asdict(usual) | stored)


def _compare(found: Mapping[str, Mapping], recipe: Recipe) -> set[str]:
    """The names of the layers that are as the recipe builds them.

    Raises:
        UserError: If a layer up to fc7 is not, or there are not even convolutions.
    """
    small = dataclasses.replace(recipe, filters=(8,) * 5, width=0.01)
    model = build_alexnet(2, small)
    wanted = _describe(json.loads(json.dumps(model.get_config()))["layers"])
    same, difference = set(), ""
    for name, values in wanted.items():
        if found.get(name) != values:
            difference = _name_difference(name, found.get(name), values, recipe.name)
            break
        same.add(name)
    changed = set(wanted) & set(found) - same - {HEAD, "logits"}
    if "conv5" not in same or changed:
        raise UserError(f"it is a network that was changed: {difference}")
    return same


def _name_difference(layer: str, theirs: Mapping | None, ours: Mapping, recipe: str):
    if theirs is None:
        return f"it has no {layer}, which the recipe {recipe} has"
    key = next(key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key))
    return (
        f"{layer}'s {key} is {theirs.get(key)}, in the recipe {recipe} {ours.get(key)}"
    )


def _describe(layers: list[dict]) -> dict[str, dict]:
    """What each layer computes, and of what, by its name.

    Left out are inputs, augmentation, and a softmax of the logits.
    """
    described = {}
    for layer in layers:
        name, config = layer["config"]["name"], dict(layer["config"])
        policy, calls = config.pop("dtype", None), layer.get("inbound_nodes", [])
        if isinstance(policy, dict):  # that of a quantised layer has no name
            policy = policy["config"].get("name", json.dumps(policy["config"]))
        values = {
            "class": layer["class_name"],
            "registered": layer["registered_name"],  # None of Keras' own classes
            "dtype": "float32" if policy in _POLICIES else policy,
            "input": re.findall(r'"keras_history": \["([^"]*)"', json.dumps(calls)),
            "call": [{k: v for k, v in x["kwargs"].items() if v} for x in calls],
            **{k: v for k, v in config.items() if not _WITHOUT_EFFECT.fullmatch(k)},
        }
        if name == _FIRST:
            values["input"] = []
        kind = values.get("activation", values["class"].lower())
        own = (kind, values["registered"], values["input"])
        is_softmax = own == ("softmax", None, ["logits"])
        if not (is_softmax or _is_random(layer)):
            described[name] = {k: v for k, v in values.items() if v is not None}
    return described


def read_weights_h5(content: bytes) -> PublishedWeights:
    """Reads `.weights.h5` of a network of ours, alone or as the base of another one.

    Raises:
        UserError: If it holds layers that no network of ours has.
    """
    layers, left = take_layers(_read_arrays(content))
    recipes = tuple(RECIPES.values())
    return PublishedWeights("Keras weights", layers, recipes, False, left)


def _read_arrays(content: bytes) -> dict[str, dict[str, np.ndarray]]:
    """The arrays by the names of their layers, as Keras writes them.

    Raises:
        UserError: If two layers have one name, or an array is kept in another way than
            Keras does: not in this file, or larger than what of it is.
    """
    arrays = {}

    def visit(path, group):
        # What a compiled model's optimizer keeps is no part of the network.
        if not isinstance(group, h5py.Group) or path.startswith("optimizer/"):
            return
        found = {key: _read_array(group, key) for key in sorted(group)}
        held = {key: array for key, array in found.items() if array is not None}
        name = str(group.attrs.get("name", f"{group.name} ({', '.join(held)})"))
        if held and name in arrays:
            raise UserError(f"two of its layers are called {name}")
        if held and name == _FIRST:
            arrays[name] = {"mean": held.pop("0"), **held}
        elif held:
            names = {"0": "kernel", "1": "bias"}
            arrays[name] = {names.get(key, key): held[key] for key in held}

    with h5py.File(io.BytesIO(content)) as file:
        visit("", file)
        file.visititems(visit)
    return arrays


def _read_array(group: h5py.Group, key: str) -> np.ndarray | None:
    """An array in a group; None for another group in it."""
    is_own = isinstance(group.get(key, getlink=True), h5py.HardLink)
    array = group[key] if is_own else None
    if isinstance(array, h5py.Group):
        return None
    if not isinstance(array, h5py.Dataset) or array.external or array.is_virtual:
        raise UserError(f"its {group.name}/{key} is no array in this file")
    if array.nbytes > array.id.get_storage_size():
        raise UserError(f"its {group.name}/{key} has more numbers than the file holds")
    return np.asarray(array)

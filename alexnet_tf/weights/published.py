"""Weights that others published, and ours: read from any file, put into a network."""

import dataclasses
import os
import types
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from alexnet_tf.errors import UserError
from alexnet_tf.recipes import LAYERS, Recipe, network_fields
from alexnet_tf.run import Run, run_of
from alexnet_tf.weights.description import fits
from alexnet_tf.weights.downloads import find_file
from alexnet_tf.weights.weight_files import read_file
from alexnet_tf.weights.weight_layout import HEAD, Found, format_shape


@dataclasses.dataclass(frozen=True)
class PublishedWeights:
    """The weights of a network, as this package lays them out.

    Attributes:
        layers: By the names of the layers `{"kernel": …, "bias": …}`, float32: kernels
            of convolutions (height, width, in / groups, out), of dense layers (in,
            out), fc6's inputs in the order height, width, channel. Files of ours have
            the `mean` of `input_normalization`, too. The last layers may be missing.
        source: What they are and where they are from, in one line.
        recipes: The networks that they may be for.
        is_exact: Whether the file describes its network, which is then that of any of
            `recipes`; else arrays are all that it holds.
        left: What else the file holds, instead of fc8 or of all that is missing.
        class_names: What the outputs stand for; None if the file does not tell.
    """

    layers: Mapping[str, Mapping[str, np.ndarray]]
    source: str
    recipes: tuple[Recipe, ...]
    is_exact: bool = True
    left: str = ""
    class_names: tuple[str, ...] | None = None

    @property
    def num_classes(self) -> int | None:
        """Number of outputs; None where fc8 is missing."""
        return len(self.layers[HEAD]["bias"]) if HEAD in self.layers else None

    def has_classes(self, number: int, names: Sequence[str] | None = None) -> bool:
        """Whether they are for these classes, as far as names are known."""
        known = None not in (names, self.class_names)
        return number == self.num_classes and not (
            known and tuple(names) != tuple(self.class_names)
        )

    def recipe_for(
        self,
        name: str | None = None,
        changes: Mapping[str, object] = types.MappingProxyType({}),
    ) -> Recipe:
        """The recipe whose network they are for.

        Args:
            name: The recipe's name, where several may be meant; None for the only one.
            changes: Fields of the recipe that somebody wants to be otherwise.

        Returns:
            The recipe, with the changes.

        Raises:
            UserError: If they are for another network, or nothing tells for which.
        """
        fields = dict(changes)
        recipes = self.recipes
        if not self.is_exact:  # then what is wanted says what the network is
            recipes = [dataclasses.replace(recipe, **fields) for recipe in recipes]
            recipes = [recipe for recipe in recipes if fits(recipe, self.layers)]
        named = [recipe for recipe in recipes if name in (None, recipe.name)]
        names = " or ".join(recipe.name for recipe in recipes)
        if not recipes:
            raise UserError(
                f"{self.source} has the filters of no recipe: "
                + ", ".join(
                    f"{name} has {format_shape(self.layers[name]['kernel'].shape)}"
                    for name in ("conv1", "conv2")
                )
            )
        if not named:
            raise UserError(
                f"{self.source} is for the recipe {names}, not for {name}: leave the "
                "recipe out"
            )
        if len(named) > 1:
            raise UserError(
                f"{self.source} does not tell its recipe, which may be {names}: give "
                "--recipe, in Python recipe= (published as bvlc_alexnet: bvlc)"
            )
        fixed = network_fields(named[0])
        for field, value in fields.items():
            if field != "width" and fixed.get(field, value) != value:  # shapes tell it
                raise UserError(
                    f"{field} is {fixed[field]} in {self.source}, and {value} was "
                    "given: leave it out"
                )
        return dataclasses.replace(named[0], **fields)

    def tells_mean(self, recipe: Recipe) -> bool:
        """Whether the mean that a recipe's network subtracts is known."""
        return bool(recipe.mean_color) or "input_normalization" in self.layers

    def require_mean(self, recipe: Recipe, advice: str) -> None:
        """Raises a `UserError` where the mean is not known."""
        if not self.tells_mean(recipe):
            raise UserError(
                f"{self.source} does not hold the mean that {recipe.name} subtracts: "
                f"{advice}"
            )


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """What became of a layer.

    Attributes:
        name: The layer's name.
        state: "loaded"; "new" where the classes differ, so that the initial weights
            stay; "left" where only the network or only the file has it.
        shapes: The shapes of its variables, the kernel's first.
    """

    name: str
    state: str
    shapes: tuple[tuple[int, ...], ...]

    def __str__(self) -> str:
        shapes = ", ".join(map(format_shape, self.shapes))
        return f"{self.name}: {self.state}" + f" ({shapes})" * bool(shapes)


def read_weights(path: str) -> PublishedWeights:
    """Reads weights; what kind of file it is, its content tells.

    Args:
        path: A name in `DOWNLOADS`; the path of a pickled dict of `[kernel, bias]` by
            layer (`bvlc_alexnet.npy`), a `.caffemodel`, an ONNX file, PyTorch's `.pth`
            or `.safetensors` with torchvision's names; or, of ours, of a run, a
            checkpoint without its `.index`, a `.keras` or a `.weights.h5` file.

    Returns:
        The weights of the five convolutions at least.

    Raises:
        UserError: If the file is not there, is of no such kind, is damaged, or holds
            anything that is not understood.
    """
    path = find_file(path)
    run = run_of(path)
    found = _read_run(*run) if run else read_file(path)
    layers = {
        layer: {
            name: _as_float32(values, f"{path}: {layer}'s {name}")
            for name, values in variables.items()
        }
        for layer, variables in found.layers.items()
    }
    _check_layers(path, found.kind, layers)
    return PublishedWeights(
        layers,
        f"{path} ({found.kind})",
        tuple(_with_width(recipe, layers) for recipe in found.recipes),
        found.is_exact,
        found.left,
        found.class_names,
    )


def _with_width(recipe: Recipe, layers: Mapping) -> Recipe:
    """A recipe of another one's file at the width that the layers have."""
    if recipe.width != 1:  # ours, which says it
        return recipe
    units = ("fc7", 4096) if "fc7" in layers else ("conv5", recipe.filters[4])
    width = len(layers[units[0]]["bias"]) / units[1]
    return dataclasses.replace(recipe, width=width)


def _read_run(run: Run, checkpoint: str) -> Found:
    model, config, path = run.load_model(checkpoint)
    layers = {
        layer.name: {v.name: v.numpy() for v in layer.weights}
        for layer in model.layers
        if layer.weights
    }
    kind = f"checkpoint {os.path.basename(path)} of ours"
    return Found(kind, layers, (config.recipe,), class_names=config.class_names)


def _check_layers(path: str, kind: str, layers: Mapping) -> None:
    """Checks that layers are those of an AlexNet, from conv1 on without a gap."""
    number = max((i + 1 for i, x in enumerate(LAYERS) if x in layers), default=0)
    for layer in LAYERS[: max(number, 5)]:
        for name in ("kernel", "bias"):
            if name not in layers.get(layer, {}):
                raise UserError(
                    f"{path}: {layer}'s {name} is missing in {kind} that holds "
                    f"{', '.join(layers) or 'no layer that is known'}"
                )
        kernel, bias = (layers[layer][name].shape for name in ("kernel", "bias"))
        if bias != kernel[-1:] or len(bias) != 1 or 0 in kernel:
            raise UserError(
                f"{path}: {layer}'s kernel has the shape {kernel}, its bias {bias}: "
                "the file is damaged, or of another network; give another"
            )
    channels = layers["conv1"]["kernel"].shape[2]
    if channels != 3:
        raise UserError(
            f"{path}: conv1 reads {channels} channel(s), the network three (RGB): "
            "repeat a kernel for grey as np.repeat(kernel, 3, axis=2) / 3"
        )


def _as_float32(values: np.ndarray | list, what: str) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype.kind not in "fiu" and values.dtype != tf.bfloat16.as_numpy_dtype:
        raise UserError(
            f"{what} holds no numbers but {values.dtype}: give another file"
        )
    values = np.ascontiguousarray(values, np.float32)
    if not np.isfinite(values).all():
        raise UserError(
            f"{what} holds values that are not finite: its training had failed, or "
            "the file is damaged; give another"
        )
    return values


def assign(
    model: keras.Model,
    weights: PublishedWeights,
    class_names: Sequence[str] | None = None,
) -> list[LayerReport]:
    """Puts weights into a network.

    Args:
        model: One that `alexnet` made; its `fc8` keeps its initial weights where it has
            other classes than the file.
        weights: What to put in.
        class_names: What the model's outputs stand for; None if that is not known.

    Returns:
        What became of every layer that the network or the file has.

    Raises:
        UserError: If a layer but `fc8` has another shape in the file. The network is
            then as it was.
    """
    of_model = {layer.name: layer for layer in model.layers if layer.weights}
    reports, assignments = [], []
    for name in dict.fromkeys([*of_model, *weights.layers]):
        values = weights.layers.get(name)
        if name not in of_model:
            state, shapes = "left", [v.shape for v in values.values()]
        else:
            variables = {v.name: v for v in of_model[name].weights}
            shapes = [variable.shape for variable in variables.values()]
            state = "loaded"
            if values is None:
                state = "new" if name in LAYERS else "left"
            elif name == HEAD and not weights.has_classes(shapes[0][-1], class_names):
                state = "new"
            else:
                _check_shapes(name, variables, values, weights.source)
                assignments += [(variables[key], values[key]) for key in variables]
        reports.append(LayerReport(name, state, tuple(map(tuple, shapes))))
    if weights.left:
        reports.append(LayerReport(weights.left, "left", ()))
    for variable, value in assignments:
        variable.assign(value)
    return reports


def _check_shapes(layer: str, variables, values, source: str) -> None:
    for name, variable in variables.items():
        expected, found = tuple(variable.shape), tuple(values[name].shape)
        if expected != found:
            raise UserError(
                f"{source}: {layer}'s {name} is {format_shape(found)}, the network's "
                f"{format_shape(expected)}: give the recipe, the groups, the width and "
                "the image size that the weights are for"
            )

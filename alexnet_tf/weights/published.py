"""Weights that others published, and ours: read from any file, put into a network."""

import dataclasses
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from alexnet_tf.errors import UserError
from alexnet_tf.recipes import LAYERS, Recipe, network_fields
from alexnet_tf.weights.weight_files import read_file
from alexnet_tf.weights.weight_layout import HEAD, format_shape


@dataclasses.dataclass(frozen=True)
class PublishedWeights:
    """The weights of a network, as this package lays them out.

    Attributes:
        layers: By the names of the layers `{"kernel": …, "bias": …}`, float32: kernels
            of convolutions (height, width, in / groups, out), of dense layers (in,
            out), fc6's inputs in the order height, width, channel. Files of ours have
            the `mean` of `input_normalization`, too.
        source: What they are and where they are from, in one line.
        recipes: The networks that they may be for, the likeliest first; () if the file
            does not tell.
        class_names: What the outputs stand for; None if the file does not tell.
    """

    layers: Mapping[str, Mapping[str, np.ndarray]]
    source: str
    recipes: tuple[Recipe, ...] = ()
    class_names: tuple[str, ...] | None = None

    @property
    def num_classes(self) -> int:
        """Number of outputs."""
        return len(self.layers[HEAD]["bias"])

    def has_classes(self, number: int, names: Sequence[str] | None = None) -> bool:
        """Whether they are for these classes, as far as names are known."""
        known = None not in (names, self.class_names)
        return number == self.num_classes and not (
            known and tuple(names) != tuple(self.class_names)
        )

    def recipe_for(self, asked: Recipe | None = None) -> Recipe | None:
        """The recipe whose network they are for.

        Args:
            asked: The one that the user wants; None for the likeliest. Its width does
                not matter: it becomes that of the weights.

        Returns:
            `asked`, or what the file tells; None if neither is known.

        Raises:
            UserError: If they are for another network than that of `asked`.
        """
        if not asked or not self.recipes:
            return asked or next(iter(self.recipes), None)
        asked = dataclasses.replace(asked, width=self.recipes[0].width)
        wanted = network_fields(asked)
        if wanted not in map(network_fields, self.recipes):
            found = network_fields(self.recipes[0])
            field = next(name for name in wanted if wanted[name] != found[name])
            names = " or ".join(recipe.name for recipe in self.recipes)
            raise UserError(
                f"{self.source} is for the recipe {names}, where {field} is "
                f"{found[field]}; in {asked.name} it is {wanted[field]}: leave the "
                "recipe out"
            )
        return asked


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """What became of a layer.

    Attributes:
        name: Of the layer.
        state: "loaded"; "new" where the classes differ, so that the initial weights
            stay; "left" where only the network or only the file has it.
        shapes: Of its variables, the kernel's first.
    """

    name: str
    state: str
    shapes: tuple[tuple[int, ...], ...]

    def __str__(self) -> str:
        shapes = ", ".join(map(format_shape, self.shapes))
        return f"{self.name}: {self.state} ({shapes})"


def read_weights(path: str) -> PublishedWeights:
    """Reads weights; what kind of file it is, its content tells.

    Args:
        path: Of a pickled dict of `[kernel, bias]` by layer (`bvlc_alexnet.npy`), a
            `.caffemodel`, the ONNX zoo's `bvlcalexnet` or `caffenet`, torchvision's
            `.pth` (where PyTorch is installed) or `.safetensors`; or, of ours, a run, a
            checkpoint without its `.index` or a `.keras` file.

    Returns:
        The weights of all eight layers.

    Raises:
        UserError: If the file is not there, is of no such kind, is damaged, or has not
            all of them.
    """
    found = read_file(path)
    for layer in LAYERS:
        for name in ("kernel", "bias"):
            if name not in found.layers.get(layer, {}):
                raise UserError(
                    f"{path}: {layer}'s {name} is missing in {found.kind} that holds "
                    f"{_shorten([*found.names])}; give one of AlexNet's eight layers"
                )
    layers = {
        layer: {
            name: _as_float32(values, f"{path}: {layer}'s {name}")
            for name, values in variables.items()
        }
        for layer, variables in found.layers.items()
    }
    for layer in LAYERS:
        kernel, bias = (layers[layer][name].shape for name in ("kernel", "bias"))
        if bias != kernel[-1:] or len(bias) != 1 or 0 in kernel:
            raise UserError(
                f"{path}: {layer}'s kernel has the shape {kernel}, its bias {bias}: "
                "the file is damaged, or of another network; give another"
            )
    return PublishedWeights(
        layers,
        f"{path} ({found.kind})",
        _with_width(found.recipes, len(layers["fc7"]["bias"]) / 4096),
        found.class_names,
    )


def _with_width(recipes: Sequence[Recipe], width: float) -> tuple[Recipe, ...]:
    """Recipes by name at the width of a file's layers; what has one keeps it."""
    return tuple(
        dataclasses.replace(recipe, width=width) if recipe.width == 1 else recipe
        for recipe in recipes
    )


def _shorten(names: Sequence[str]) -> str:
    return ", ".join(map(str, names[:12])) + ", …" * (len(names) > 12) or "nothing"


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
        if values is None or name not in of_model:
            shapes = [v.shape for v in (values or {}).values()]
            shapes = shapes or [v.shape for v in of_model[name].weights]
            state = "left"
        else:
            variables = {v.name: v for v in of_model[name].weights}
            shapes = [variable.shape for variable in variables.values()]
            number = shapes[0][-1]
            is_new = name == HEAD and not weights.has_classes(number, class_names)
            state = "new" if is_new else "loaded"
            if not is_new:
                _check_shapes(name, variables, values, weights.source)
                assignments += [(variables[key], values[key]) for key in variables]
        reports.append(LayerReport(name, state, tuple(map(tuple, shapes))))
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

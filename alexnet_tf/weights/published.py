"""The weights of a network, whatever they were read from, and how they get into one."""

import dataclasses
import types
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from alexnet_tf.errors import UserError
from alexnet_tf.recipes import LAYERS, Recipe, network_fields
from alexnet_tf.weights.description import find_difference
from alexnet_tf.weights.weight_layout import HEAD, format_shape


@dataclasses.dataclass(frozen=True)
class PublishedWeights:
    """The weights of a network, as this package lays them out.

    Attributes:
        source: What they are and where they are from, in one line.
        layers: By the names of the layers `{"kernel": …, "bias": …}`, float32: kernels
            of convolutions (height, width, in / groups, out), of dense layers (in,
            out), fc6's inputs in the order height, width, channel. Files of ours have
            the `mean` of `input_normalization`, too. The last layers may be missing.
        recipes: The networks that they may be for.
        is_exact: Whether the file describes its network, which is then that of any of
            `recipes`; else arrays are all that it holds.
        left: What else the file holds, instead of fc8 or of all that is missing.
        class_names: What the outputs stand for; None if the file does not tell.
    """

    source: str
    layers: Mapping[str, Mapping[str, np.ndarray]]
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
        recipes = self.recipes
        if not self.is_exact:  # then what is wanted says what the network is
            recipes = [dataclasses.replace(recipe, **changes) for recipe in recipes]
            recipes = [r for r in recipes if not find_difference(r, self.layers)]
        named = [recipe for recipe in recipes if name in (None, recipe.name)]
        names = " or ".join(recipe.name for recipe in recipes)
        if not recipes:
            kernels = (
                f"{layer} {format_shape(variables['kernel'].shape)}"
                for layer, variables in self.layers.items()
                if layer in LAYERS
            )
            raise UserError(
                f"{self.source} has the kernels of no recipe: {', '.join(kernels)}"
            )
        if not named:
            raise UserError(
                f"{self.source} is for the recipe {names}, not for {name}: leave the "
                "recipe out"
            )
        if len(named) > 1:
            raise UserError(
                f"{self.source} does not tell its recipe, which may be {names}: give "
                "--recipe, or recipe= to alexnet() or load() (bvlc_alexnet: bvlc)"
            )
        self._check_changes(network_fields(named[0]), changes)
        recipe = dataclasses.replace(named[0], **changes)
        if difference := find_difference(recipe, self.layers):
            raise UserError(f"{self.source} is for another network: {difference}")
        return recipe

    def _check_changes(self, fixed: Mapping, changes: Mapping) -> None:
        for field, value in changes.items():
            if field != "width" and fixed.get(field, value) != value:  # kernels tell it
                raise UserError(
                    f"{field} is {fixed[field]} in {self.source}, and {value} was "
                    "given: leave it out"
                )

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


def assign(
    model: keras.Model,
    weights: PublishedWeights,
    class_names: Sequence[str] | None = None,
) -> dict[str, str]:
    """Puts weights into a network.

    Args:
        model: The network of `weights.recipe_for`; its `fc8` keeps its initial weights
            where it has other classes than the file.
        weights: What to put in.
        class_names: What the model's outputs stand for; None if that is not known.

    Returns:
        What became of every layer that the network or the file has, with the shapes of
        its arrays: "loaded (…)"; "new (…)" where the initial weights stay; "left (…)"
        where only the network or only the file has it.
    """
    of_model = {
        layer.name: {variable.name: variable for variable in layer.weights}
        for layer in model.layers
        if layer.weights
    }
    states = {}
    for name in dict.fromkeys([*of_model, *weights.layers]):
        variables, values = of_model.get(name), weights.layers.get(name)
        is_known = bool(variables and values)
        if is_known and name == HEAD:
            number = variables["bias"].shape[0]
            is_known = weights.has_classes(number, class_names)
        if is_known:
            state = "loaded"
            for key, variable in variables.items():
                variable.assign(values[key])
        else:
            state = "new" if variables and name in LAYERS else "left"
        shapes = [format_shape(x.shape) for x in (variables or values).values()]
        states[name] = f"{state} ({', '.join(shapes)})"
    if weights.left:
        states[weights.left] = "left"
    return states

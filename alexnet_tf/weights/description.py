"""What a network computes, step by step, as recipes and as files of others say it.

A reader of Caffe's or ONNX's files turns what a file describes into steps; the steps of
a recipe are read off the network that it builds. `match` is the only comparison: what a
file describes and no recipe builds is named and refused.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import keras

from alexnet_tf.errors import UserError
from alexnet_tf.network.alexnet import build_alexnet, scale_channels
from alexnet_tf.recipes import LAYERS, RECIPES, Recipe
from alexnet_tf.weights.weight_layout import HEAD, format_shape

_TINY = 0.02  # width of the networks that are built to be described


class Step(NamedTuple):
    """What is done to the activations at one point of a network.

    Attributes:
        operation: "convolution", "dense", "relu", "lrn", …; of a file also what its
            format calls another one.
        numbers: What the operation depends on, by name: `size`, `strides` and
            `padding` (before, after) in pixels, `groups`, `alpha` of the sum of
            squares.
        name: What the file calls it, which takes no part in comparisons.
    """

    operation: str
    numbers: Mapping[str, object]
    name: str

    def __str__(self) -> str:
        numbers = ", ".join(f"{key} {value}" for key, value in self.numbers.items())
        return self.operation + f" ({numbers})" * bool(numbers)


# Others scale what dropout keeps in training, not at test time.
FOREIGN = tuple(dataclasses.replace(r, dropout="inverted") for r in RECIPES.values())


@functools.cache
def steps_of(recipe: Recipe) -> tuple[Step, ...]:
    """The steps of a recipe's network, without those that do nothing at test time."""
    model = build_alexnet(2, dataclasses.replace(recipe, width=_TINY))
    padding = model.get_layer("pad1").padding[0]
    return tuple(s for layer in model.layers for s in _describe(layer, padding))


def _describe(layer: keras.layers.Layer, padding1: tuple[int, int]) -> list[Step]:
    name, steps = layer.name, []
    if isinstance(layer, keras.layers.Conv2D):
        size = layer.kernel_size[0]
        padding = padding1 if name == "conv1" else (size // 2, size // 2)
        numbers = {"size": size, "strides": layer.strides[0], "padding": padding}
        steps = [Step("convolution", numbers | {"groups": layer.groups}, name)]
    elif isinstance(layer, keras.layers.Dense):
        steps = [Step("dense", {}, name)]
    elif isinstance(layer, keras.layers.MaxPooling2D):
        numbers = {"size": layer.pool_size[0], "strides": layer.strides[0]}
        steps = [Step("max_pooling", numbers | {"padding": (0, 0)}, name)]
    elif name.startswith("lrn"):
        steps = [
            lrn_step(
                name, 2 * layer.depth_radius + 1, layer.alpha, layer.beta, layer.bias
            )
        ]
        if layer.groups > 1:
            steps[0].numbers["groups"] = layer.groups
    elif name == "spatial_norm2":
        steps = [Step("spatial_normalization", {}, name)]
    activation = getattr(layer, "activation", None)
    if activation and activation.__name__ != "linear":
        steps.append(Step(activation.__name__, {}, name))
    return steps


def lrn_step(name: str, size: int, alpha: float, beta: float, k: float) -> Step:
    """Response normalisation; `alpha` multiplies the sum of squares, not their mean."""
    numbers = {"alpha": alpha, "beta": beta, "k": k}
    numbers = {key: float(f"{value:.5g}") for key, value in numbers.items()}
    return Step("lrn", {"size": size, **numbers}, name)


def match(
    steps: Sequence[Step], sides: set[int]
) -> tuple[tuple[Recipe, ...], tuple[str, ...], str]:
    """Compares what a file describes with what the recipes build.

    Args:
        steps: Those of the file.
        sides: Heights and widths, pixels, of the pictures that it reads; 0 if any.

    Returns:
        The recipes that have the same body, up to fc7 or as far as the file goes, at
        least the convolutions; what the file calls their `LAYERS`; and what it has
        instead of fc8 or of all that follows, "" where it has all.

    Raises:
        UserError: If it is no recipe's; the first step that is not as in the recipe
            that comes nearest is named.
    """
    if steps and steps[-1].operation == "softmax":  # the networks end with logits
        steps = steps[:-1]
    lengths = {recipe: _count_equal(steps, steps_of(recipe)) for recipe in FOREIGN}
    length = max(lengths.values())
    recipes = tuple(recipe for recipe in FOREIGN if lengths[recipe] == length)
    expected = steps_of(recipes[0])
    names = tuple(s.name for s in steps[:length] if s.operation in _WEIGHTED)
    body = min(length, len(expected) - 1)
    is_body = body == len(expected) - 1 or (length == len(steps) and len(names) >= 5)
    if not is_body:
        after = [*steps, Step("its end", {}, "the next")][length]
        raise UserError(
            f"it is another network: {after.name} is {after}, where the recipe "
            f"{recipes[0].name} has {expected[length]}"
        )
    if len(names) > 5:  # convolutions alone read any size
        check_sides(sides, recipes[0])
    if length == len(steps) == len(expected):
        return recipes, names, ""
    rest = ", ".join(f"{step.name} ({step})" for step in steps[body : body + 8])
    return recipes, names[:7], rest or f"nothing after {names[-1]}"


def check_sides(sides: set[int | None], recipe: Recipe) -> None:
    """Compares the heights and widths that a file's network reads, 0 or None for any.

    Its arrays may fit another size, too, since poolings leave out what is over.
    """
    if others := sides - {0, None, recipe.image_size}:
        raise UserError(
            f"it is another network: it reads pictures of {max(others)} pixels, the "
            f"recipe {recipe.name} those of {recipe.image_size}"
        )


_WEIGHTED = ("convolution", "dense")


def _count_equal(first: Sequence[Step], second: Sequence[Step]) -> int:
    pairs = zip(first, second, strict=False)
    return next(
        (i for i, (a, b) in enumerate(pairs) if a[:2] != b[:2]),
        min(len(first), len(second)),
    )


def kernel_shapes(recipe: Recipe, num_classes: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a network's kernels by layer; the network itself is not built."""
    filters = [scale_channels(number, recipe) for number in recipe.filters]
    units = scale_channels(4096, recipe)
    inputs, sizes = [3, *filters[:4]], (11, 5, 3, 3, 3)
    groups = (1, recipe.groups, 1, recipe.groups, recipe.groups)
    convolutions = zip(LAYERS, sizes, inputs, groups, filters, strict=False)
    shapes = {
        layer: (size, size, channels // number, outputs)
        for layer, size, channels, number, outputs in convolutions
    }
    side = (recipe.image_size + sum(recipe.conv1_padding) - 11) // 4 + 1
    for _ in range(3):
        side = (side - recipe.pool_size) // 2 + 1
    fc6 = (side**2 * filters[4], units)
    return shapes | {"fc6": fc6, "fc7": (units, units), "fc8": (units, num_classes)}


def find_difference(recipe: Recipe, layers: Mapping[str, Mapping]) -> str | None:
    """Says which array is not of the shape that a recipe's network has.

    Where there is none, the network is no larger than the arrays, whatever the numbers
    of the recipe are.
    """
    num_classes = len(layers[HEAD]["bias"]) if HEAD in layers else 0
    kernels = kernel_shapes(recipe, num_classes)
    shapes = {layer: ("kernel", shape) for layer, shape in kernels.items()}
    size = recipe.image_size
    mean = (size, size, 3) if recipe.mean == "image" else (3,)
    shapes["input_normalization"] = ("mean", mean)
    for layer, (name, expected) in shapes.items():
        if layer in layers and layers[layer][name].shape != expected:
            return (
                f"{layer}'s {name} is {format_shape(layers[layer][name].shape)}, in "
                f"the recipe {recipe.name} {format_shape(expected)}"
            )
    return None

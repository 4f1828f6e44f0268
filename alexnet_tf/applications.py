"""AlexNet as a Keras user asks for it: by a recipe, with weights or without."""

import dataclasses
import numbers
import os

import alexnet_tf.network  # noqa: F401  # isort: skip  (refuses another backend first)
import keras
from absl import logging

from alexnet_tf.errors import UserError
from alexnet_tf.network.alexnet import IMAGENET_MEAN, build_alexnet
from alexnet_tf.paths import expand
from alexnet_tf.recipes import RECIPES, Recipe, check_fields
from alexnet_tf.weights.published import PublishedWeights, assign, read_weights


def alexnet(
    num_classes: int | None = None,
    recipe: str | Recipe | None = None,
    *,
    weights: str | os.PathLike | None = None,
    include_top: bool = True,
    image_mean=None,
    dtype: str = "float32",
    seed: int | None = None,
    **fields,
) -> keras.Model:
    """Builds AlexNet.

    Args:
        num_classes: Number of classes; None for those of the weights, or else 1000.
        recipe: A name in `RECIPES`, or a `Recipe`; None for that of the weights, or
            else "paper".
        weights: A file or a run to take the weights from, of the kinds that
            `read_weights` names. Where the number of classes is another, fc8 is new.
        include_top: False for the network up to fc7, without classes.
        image_mean: See `build_alexnet`.
        dtype: See `build_alexnet`.
        seed: See `build_alexnet`.
        **fields: Fields of `Recipe` to change in the recipe, such as `width=0.5`,
            `groups=1`, `dropout="inverted"` or `dropout_rate=0.2`.

    Returns:
        A model as `build_alexnet` makes it: from RGB pixels 0..255
        `(batch, size, size, 3)` to float32 logits `(batch, num_classes)`.

    Raises:
        ValueError: If an argument is out of its range, or the weights cannot be read
            (`UserError`) or are for another network.
    """
    check_fields(fields)
    published = read_weights(expand(os.fspath(weights))) if weights else None
    recipe = _choose_recipe(recipe, published, fields)
    if published and published.tells_mean(recipe) and image_mean is not None:
        raise UserError(
            f"image_mean: {published.source} has a mean of its own; leave it out"
        )
    if published and image_mean is None:
        published.require_mean(recipe, "give image_mean, RGB 0..255")
    model = build_alexnet(
        _choose_classes(num_classes, published),
        recipe,
        include_top=include_top,
        image_mean=IMAGENET_MEAN if image_mean is None else image_mean,
        dtype=dtype,
        seed=seed,
    )
    for report in assign(model, published) if published else ():
        is_new = report.state == "new"
        logging.log(logging.WARNING if is_new else logging.INFO, "%s", report)
    return model


def _choose_recipe(recipe, published: PublishedWeights | None, fields) -> Recipe:
    """A recipe by name or as a value, with fields changed; that of the weights."""
    if isinstance(recipe, Recipe):
        fields = dataclasses.asdict(recipe) | fields
        recipe = fields.pop("name")
    elif recipe not in (None, *RECIPES):
        raise ValueError(f"recipe must be one of {[*RECIPES]}, received {recipe!r}")
    if published:
        return published.recipe_for(recipe, fields)
    recipe = RECIPES.get(recipe or "paper") or Recipe(recipe)
    return dataclasses.replace(recipe, **fields)


def _choose_classes(given: int | None, published: PublishedWeights | None) -> int:
    if given is None:
        return published.num_classes or 1000 if published else 1000
    if isinstance(given, bool) or not isinstance(given, numbers.Integral):
        hint = f": for the recipe write recipe={given!r}" * (given in RECIPES)
        raise ValueError(f"num_classes must be a number, received {given!r}{hint}")
    if given < 1:
        raise ValueError(f"num_classes must be >= 1, received {given}")
    return given

"""AlexNet as a Keras user asks for it: by a recipe, with weights or without."""

import dataclasses
import numbers
import os

import alexnet_tf.network  # noqa: F401  # isort: skip  (refuses another backend first)
import keras
import numpy as np
from absl import logging

from alexnet_tf import imagenet_classes
from alexnet_tf.errors import UserError
from alexnet_tf.network.alexnet import IMAGENET_MEAN, build_alexnet
from alexnet_tf.paths import expand
from alexnet_tf.recipes import RECIPES, Recipe, check_fields
from alexnet_tf.weights.published import PublishedWeights, assign
from alexnet_tf.weights.weight_files import read_weights


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
    """Builds AlexNet, from RGB pixels 0..255 to logits.

    Example, for pictures as `keras.utils.image_dataset_from_directory` gives them:
    >>> model = alexnet_tf.alexnet(7, "small", image_mean=(124, 117, 104))
    >>> model.compile(
    ...     keras.optimizers.SGD(0.005, momentum=0.9),
    ...     keras.losses.SparseCategoricalCrossentropy(from_logits=True), ["accuracy"])
    >>> model.fit(pictures, epochs=30)

    Pixels are 0..255, and the network subtracts the mean itself. Training on pixels in
    0..1 is an `InvalidArgumentError`; where XLA compiles the step (`jit_compile=True`,
    Keras' default on one GPU), the loss is NaN instead. The outputs are logits: a loss
    needs `from_logits=True`. "paper" wants 100,000 pictures and more, and does not
    start with a few hundred; "small" is for those.

    Args:
        num_classes: Number of classes; None for those of the weights, or else 1000.
        recipe: A name in `RECIPES`, or a `Recipe`; None for that of the weights, or
            else "paper".
        weights: A name in `DOWNLOADS` ("bvlc", "caffenet", "torchvision"), or a file or
            a run, of the kinds that `read_weights` takes. Where the number of classes
            is another, fc8 is new.
        include_top: False for the network up to fc7, without classes.
        image_mean: RGB mean of the training images, 0..255, which the network
            subtracts: `(3,)`, or `(height, width, 3)` of which the central window is
            taken; None for that of the weights or of a recipe with a `mean_color`, or
            else ImageNet's.
        dtype: Keras dtype policy: "float32" or "mixed_bfloat16".
        seed: Seed of the initial weights and the dropout masks; drawn where None.
        **fields: Fields of `Recipe` to change in the recipe, such as `width=0.5`,
            `groups=1`, `dropout="inverted"` or `dropout_rate=0.2`.

    Returns:
        A model as `build_alexnet` makes it: from `(batch, size, size, 3)` to float32
        logits `(batch, num_classes)`.

    Raises:
        ValueError: If an argument is out of its range, or the weights cannot be read
            (`UserError`) or are for another network.
    """
    check_fields(fields)
    published = _read(weights)
    recipe = _choose_recipe(recipe, published, fields)
    mean = _choose_mean(image_mean, recipe, published)
    model = build_alexnet(
        _choose_classes(num_classes, published),
        recipe,
        last="logits" if include_top else "fc7",
        image_mean=mean,
        dtype=dtype,
        seed=seed,
    )
    if published:
        _put_in(model, published)
    return model


def AlexNet(  # noqa: N802  (as keras.applications has it)
    include_top: bool = True,
    weights: str | os.PathLike | None = "imagenet",
    input_tensor=None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation="softmax",
    name: str = "alexnet",
) -> keras.Model:
    """Instantiates AlexNet by the words of `keras.applications`.

    The network is Caffe's `bvlc`, which reads 227×227 pixels, or that of the weights.
    Pictures are RGB 0..255: `preprocess_input` changes nothing.

    Args:
        include_top: Whether to include the 3 fully connected layers at the top.
        weights: `None` (random initialization), `"imagenet"` or `"bvlc"` (Caffe's
            weights, which are fetched once), `"caffenet"`, `"torchvision"`, or the path
            of any file or run that `alexnet` takes.
        input_tensor: Optional Keras tensor (output of `keras.layers.Input()`) to use as
            image input, RGB 0..255.
        input_shape: Optional shape `(height, width, 3)`, to be specified if
            `include_top` is `False`, or without weights; else it is the network's own.
        pooling: Optional pooling when `include_top` is `False`: `None` for the 4D
            output of pool5, `"avg"` or `"max"` for its global average or maximum.
        classes: Number of classes; 1000 with the weights of ImageNet.
        classifier_activation: Activation of the top layer; `None` for the logits. With
            weights it can only be `None` or `"softmax"`.
        name: Name of the model.

    Returns:
        A `keras.Model`.

    Raises:
        ValueError: If an argument is not one of these, or the weights do not fit.
    """
    softmax = keras.activations.softmax
    activation = keras.activations.get(classifier_activation)
    if pooling not in (None, "avg", "max"):
        raise ValueError(f"pooling must be None, avg or max, received {pooling!r}")
    if weights is not None and activation not in (softmax, keras.activations.linear):
        raise ValueError(
            "with weights classifier_activation must be None or softmax, received "
            f"{classifier_activation!r}"
        )
    weights = "bvlc" if weights == "imagenet" else weights
    published = _read(weights)
    if include_top and published and classes != published.num_classes:
        raise ValueError(
            f"with weights={str(weights)!r} and include_top classes must be "
            f"{published.num_classes}, received {classes}"
        )
    recipe = published.recipe_for() if published else RECIPES["bvlc"]
    images = _make_input(input_tensor, input_shape, recipe, include_top, published)
    if include_top:
        recipe = dataclasses.replace(recipe, image_size=images.shape[1])
    last, mean = "logits" if include_top else "pool5", IMAGENET_MEAN
    model = build_alexnet(classes, recipe, last=last, images=images, image_mean=mean)
    if published:
        published.require_mean(recipe, "use alexnet_tf.alexnet with image_mean")
        _put_in(model, published)
    x = model.output
    if include_top and activation is not keras.activations.linear:
        x = keras.layers.Activation(activation, name="predictions")(x)
    elif pooling and not include_top:
        kind = {"avg": "GlobalAveragePooling2D", "max": "GlobalMaxPooling2D"}[pooling]
        x = getattr(keras.layers, kind)("channels_last", name=f"{pooling}_pool")(x)
    return keras.Model(model.inputs[0], x, name=name)


def _make_input(tensor, shape, recipe: Recipe, include_top: bool, published):
    """The image input of `AlexNet`."""
    size, least = recipe.image_size, recipe.least_image_size
    default = (size, size, 3)
    if not include_top and recipe.mean == "color":
        default = (None, None, 3)
    shape = tuple(shape or (default if tensor is None else tensor.shape[1:]))
    if len(shape) != 3 or shape[2] != 3:
        raise ValueError(
            f"input_shape must be (height, width, 3), RGB, received {shape}: repeat a "
            "grey picture's channel (keras.ops.repeat(x, 3, axis=-1)), leave a fourth "
            "one out"
        )
    if any(side is not None and side < least for side in shape[:2]):
        raise ValueError(
            f"input size must be at least {least}x{least}, received input_shape={shape}"
        )
    if include_top and (None in shape or shape[0] != shape[1]):
        raise ValueError(
            f"with include_top input_shape must be a square of a known size, received "
            f"{shape}"
        )
    is_fixed = include_top or recipe.mean == "image"
    if published and shape != default and is_fixed:
        raise ValueError(
            f"with these weights input_shape must be {default}, received {shape}"
        )
    if tensor is None:
        return keras.Input(shape, dtype="float32", name="images")
    return tensor


def preprocess_input(x, data_format: str | None = None):
    """Returns pictures as they are: RGB 0..255, as the network reads them.

    The network subtracts the mean, scales and turns the channels itself, so that there
    is nothing to do; what `keras.applications` has for other networks is not for it.

    Args:
        x: Pictures, `(batch, height, width, 3)`.
        data_format: "channels_last" or None.

    Returns:
        `x`.

    Raises:
        ValueError: If the channels come first.
    """
    if data_format not in (None, "channels_last"):
        raise ValueError(f"data_format must be channels_last, received {data_format!r}")
    if isinstance(x, np.ndarray) and x.size and x.max() <= 1:
        logging.warning("these pixels are 0..1, and the network reads RGB 0..255")
    return x


def decode_predictions(preds, top: int = 5) -> list[list[tuple[str, str, float]]]:
    """Decodes the probabilities of ImageNet's classes.

    Args:
        preds: `(batch, 1000)`, as `AlexNet` gives them.
        top: How many classes to return of each.

    Returns:
        For each picture tuples `(synset, name, probability)`, the most probable first.

    Raises:
        ValueError: If there are not 1000 of them.
    """
    preds = keras.ops.convert_to_numpy(preds)
    if preds.ndim != 2 or preds.shape[1] != imagenet_classes.NUM_CLASSES:
        raise ValueError(
            "decode_predictions expects an array of shape (samples, 1000), received "
            f"{preds.shape}"
        )
    synsets, names = imagenet_classes.synsets(), imagenet_classes.class_names()
    best = np.argsort(-preds, axis=1, kind="stable")[:, :top]
    return [
        [(synsets[i], names[i], float(row[i])) for i in indices]
        for row, indices in zip(preds, best, strict=True)
    ]


def _read(weights) -> PublishedWeights | None:
    if weights is None:
        return None
    if not weights or not isinstance(weights, str | os.PathLike):
        raise ValueError(
            f"weights must be None, a name or a path, received {weights!r}"
        )
    return read_weights(expand(os.fspath(weights)))


def _put_in(model: keras.Model, published: PublishedWeights) -> None:
    for layer, state in assign(model, published).items():
        level = logging.WARNING if state.startswith("new") else logging.INFO
        logging.log(level, "%s: %s", layer, state)


def _choose_mean(given, recipe: Recipe, published: PublishedWeights | None):
    """The mean to build the network with; that of weights is put in with them."""
    if given is None:
        if published:
            published.require_mean(recipe, "give image_mean, RGB 0..255")
        return IMAGENET_MEAN
    if recipe.mean_color or (published and published.tells_mean(recipe)):
        owner = published.source if published else f"the recipe {recipe.name}"
        raise UserError(f"image_mean: {owner} has a mean of its own; leave it out")
    return given


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

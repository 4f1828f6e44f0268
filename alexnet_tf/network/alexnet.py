"""The network, as a Keras functional model."""

from collections.abc import Sequence

import keras
import numpy as np

from alexnet_tf.network.layers import (
    Dropout,
    GroupedConv2D,
    LocalResponseNormalization,
    SpatialResponseNormalization,
)
from alexnet_tf.recipes import RECIPES, Recipe


class _Layers:
    """Makes AlexNet's layers: what they share, and the seeds that they must not."""

    def __init__(self, recipe: Recipe, width: float, groups: int, dtype: str, seed):
        self.recipe, self.groups, self.dtype = recipe, groups, dtype
        self.width = width
        self.rng = np.random.default_rng(seed)

    def _seed(self) -> int:
        return int(self.rng.integers(2**31))

    def _units(self, full_width: int) -> int:
        return max(1, round(full_width * self.width / self.groups)) * self.groups

    def _weights(self, stddev: float, bias: float) -> dict:
        return {
            "kernel_initializer": keras.initializers.RandomNormal(
                stddev=stddev, seed=self._seed()
            ),
            "bias_initializer": keras.initializers.Constant(bias),
            "dtype": self.dtype,
        }

    def conv(self, name, filters, size, stddev, bias, activation="relu", **kwargs):
        return GroupedConv2D(
            self._units(filters),
            size,
            activation=activation,
            name=name,
            **self._weights(stddev, bias),
            **kwargs,
        )

    def hidden(self, name):
        return keras.layers.Dense(
            self._units(4096),
            activation="relu",
            name=name,
            **self._weights(self.recipe.init_stddev, self.recipe.bias_init),
        )

    def output(self, name, num_classes):
        weights = self._weights(self.recipe.init_stddev, 0)
        return keras.layers.Dense(num_classes, name=name, **weights)

    def lrn(self, name):
        recipe = self.recipe
        return LocalResponseNormalization(
            recipe.lrn_depth_radius,
            recipe.lrn_bias,
            recipe.lrn_alpha,
            recipe.lrn_beta,
            groups=self.groups if recipe.lrn_within_towers else 1,
            name=name,
            dtype=self.dtype,
        )

    def pool(self, name):
        return keras.layers.MaxPooling2D(3, 2, name=name, dtype=self.dtype)

    def dropout(self, name, rate):
        return Dropout(rate, seed=self._seed(), name=name, dtype=self.dtype)


def alexnet(
    num_classes: int = 1000,
    recipe: str | Recipe = "paper",
    *,
    image_mean: Sequence[float] = (124.0, 117.0, 104.0),
    width: float = 1.0,
    groups: int | None = None,
    dropout_rate: float | None = None,
    dtype: str = "float32",
    seed: int | None = None,
) -> keras.Model:
    """Builds AlexNet.

    Five convolutions and three fully connected layers with ReLU (section 3.5 of the
    paper); at 1000 classes 60,965,224 parameters in two towers, 62,378,344 in one.

    Args:
        num_classes: Number of classes.
        recipe: A name in `RECIPES`, or a `Recipe`.
        image_mean: RGB mean of the training images, 0..255; the model subtracts it.
        width: Multiplies the channels of every layer, for experiments and tests.
        groups: Towers, 1 or 2; the recipe's where None.
        dropout_rate: In fc6 and fc7, 0..1; the recipe's where None.
        dtype: Keras dtype policy: "float32" or "mixed_bfloat16". Variables, response
            normalisation and logits are float32 in both.
        seed: Of the initial weights and the dropout masks; drawn where None.

    Returns:
        A model from RGB pixels 0..255, uint8 or float `(batch, 224, 224, 3)`, to
        float32 logits `(batch, num_classes)`.

    Raises:
        ValueError: If an argument is out of its range.
    """
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise ValueError(f"recipe must be one of {[*RECIPES]}, received {recipe!r}")
        recipe = RECIPES[recipe]
    groups = recipe.groups if groups is None else groups
    rate = recipe.dropout_rate if dropout_rate is None else dropout_rate
    if num_classes < 1 or width <= 0 or groups not in (1, 2) or not 0 <= rate < 1:
        raise ValueError(
            "num_classes must be >= 1, width > 0, groups 1 or 2 and "
            f"0 <= dropout_rate < 1; received {num_classes=}, {width=}, {groups=}, "
            f"dropout_rate={rate}"
        )
    std, std345, one = recipe.init_stddev, recipe.init_stddev_conv345, recipe.bias_init
    same = {"padding": "same"}
    towers = {"padding": "same", "groups": groups}
    make = _Layers(recipe, width, groups, dtype, seed)

    images = keras.Input((recipe.image_size, recipe.image_size, 3), name="images")
    x = keras.layers.Rescaling(
        1.0, [-float(m) for m in image_mean], dtype="float32", name="subtract_mean"
    )(images)
    # 224 → 55: in the source of 2012 the last windows hang over the edge.
    x = keras.layers.ZeroPadding2D(((0, 3), (0, 3)), dtype=dtype, name="pad1")(x)
    if recipe.lrn1_before_relu:
        x = make.conv("conv1", 96, 11, std, 0, strides=4, activation=None)(x)
        x = make.pool("pool1")(make.lrn("lrn1")(x))
        x = keras.layers.ReLU(dtype=dtype, name="relu1")(x)
    else:
        x = make.conv("conv1", 96, 11, std, 0, strides=4)(x)
        x = make.pool("pool1")(make.lrn("lrn1")(x))
    x = make.lrn("lrn2")(make.conv("conv2", 256, 5, std, one, **towers)(x))
    if recipe.spatial_normalization:
        x = SpatialResponseNormalization(dtype=dtype, name="spatial_norm2")(x)
    x = make.pool("pool2")(x)
    x = make.conv("conv3", 384, 3, std345, 0, **same)(x)
    x = make.conv("conv4", 384, 3, std345, one, **towers)(x)
    x = make.conv("conv5", 256, 3, std345, one, **towers)(x)
    x = keras.layers.Flatten(dtype=dtype, name="flatten")(make.pool("pool5")(x))
    x = make.dropout("dropout6", rate)(make.hidden("fc6")(x))
    x = make.dropout("dropout7", rate)(make.hidden("fc7")(x))
    x = make.output("fc8", num_classes)(x)
    logits = keras.layers.Activation("linear", dtype="float32", name="logits")(x)
    return keras.Model(images, logits, name=f"alexnet_{recipe.name}")

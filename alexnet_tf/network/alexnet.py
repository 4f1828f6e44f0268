"""The network, as a Keras functional model."""

import dataclasses
import math
import random

import keras
import numpy as np

from alexnet_tf.network.layers import (
    Dropout,
    GroupedConv2D,
    InputNormalization,
    LocalResponseNormalization,
    SpatialResponseNormalization,
)
from alexnet_tf.recipes import Recipe

# RGB mean of ImageNet's training images, 0..255.
IMAGENET_MEAN = (124.0, 117.0, 104.0)
_DATA_FORMAT = "channels_last"  # whatever ~/.keras/keras.json says


def build_alexnet(
    num_classes: int,
    recipe: Recipe,
    *,
    last: str = "logits",
    images: keras.KerasTensor | None = None,
    image_mean=IMAGENET_MEAN,
    dtype: str = "float32",
    seed: int | None = None,
) -> keras.Model:
    """Builds the network of a recipe, with new weights.

    Five convolutions and three fully connected layers (section 3.5 of the paper); with
    1000 classes the paper's has 60,965,224 trainable parameters in two towers,
    62,378,344 in one.

    Args:
        num_classes: Number of classes.
        recipe: The recipe; its settings of training do not matter.
        last: Name of the layer that ends the network: "logits", "fc7" or "pool5".
        images: The input, as `keras.Input` makes it; None for a new one of the recipe's
            `image_size`.
        image_mean: RGB mean of the training images, 0..255, which the network
            subtracts: a colour `(3,)`, or of each pixel `(height, width, 3)`, of which
            the central window is taken. A recipe with a `mean_color` has its own.
        dtype: Keras dtype policy: "float32" or "mixed_bfloat16". Variables, response
            normalisation and logits are float32 in both.
        seed: Seed of the initial weights and the dropout masks; drawn where None, after
            `keras.utils.set_random_seed` the same one each time.

    Returns:
        A model from RGB pixels 0..255, uint8 or float `(batch, size, size, 3)` with
        the recipe's `image_size`, to float32 logits `(batch, num_classes)`, to fc7's
        activations `(batch, 4096)` or to pool5's map `(batch, 6, 6, 256)`.
    """
    net = _Layers(recipe, dtype, seed)
    conv, lrn, pool = net.conv, net.lrn, net.pool
    groups, bias, filters = recipe.groups, recipe.bias_init, recipe.filters

    if images is None:
        shape = (recipe.image_size, recipe.image_size, 3)
        images = keras.Input(shape, dtype="float32", name="images")
    # The mean is inside the network, so that training, evaluation and serving cannot
    # disagree about it.
    x = net.normalize_input(images, image_mean)
    # 11×11 pixels at every fourth one: 55×55 maps, which pool1 makes 27×27. In the
    # source of 2012 the ReLU comes last here, and LRN sees negative values, too.
    window = {"strides": 4, "padding": "valid"}
    if recipe.lrn1_before_relu:
        x = conv(x, "conv1", filters[0], 11, activation="linear", **window)
        x = net.activation(pool(lrn(x, "lrn1"), "pool1"), "relu1")
    else:
        x = conv(x, "conv1", filters[0], 11, **window)
        x = net.lrn_and_pool(x, "lrn1", "pool1")
    # Each tower was on a GPU of its own: conv2, conv4 and conv5 see the maps of their
    # own tower alone. A bias of 1 lets the ReLUs begin where they have a gradient.
    x = conv(x, "conv2", filters[1], 5, bias=bias, groups=groups)
    x = net.lrn_and_pool(x, "lrn2", "pool2")
    # The towers meet in conv3, and again in the fully connected layers. From here to
    # pool5 nothing is pooled or normalised: the maps stay 13×13.
    x = conv(x, "conv3", filters[2], 3)
    x = conv(x, "conv4", filters[3], 3, bias=bias, groups=groups)
    x = conv(x, "conv5", filters[4], 3, bias=bias, groups=groups)
    x = pool(x, "pool5")
    # 96 % of the weights are in the next three layers, hence the dropout (section 4.2).
    if last != "pool5":
        x = net.flatten(x)
        x = net.hidden(x, "fc6", 4096, "dropout6")
        x = net.hidden(x, "fc7", 4096, "dropout7")
        x = net.logits(x, "fc8", num_classes)
    name, inputs = f"alexnet_{recipe.name}", keras.utils.get_source_inputs(images)[0]
    # Cut right behind the layer: without the dropout that follows fc7.
    last_layer = keras.Model(inputs, x).get_layer(last)
    return keras.Model(inputs, last_layer.output, name=name)


def scale_channels(channels: int, recipe: Recipe) -> int:
    """Channels at the recipe's width: at least one, and as many in each tower."""
    return max(1, round(channels * recipe.width / recipe.groups)) * recipe.groups


class _Layers:
    """Adds a recipe's layers to a tensor: what they share, and seeds that differ."""

    def __init__(self, recipe: Recipe, dtype: str, seed: int | None):
        self.recipe, self.dtype = recipe, dtype
        # As Keras draws the seeds that nobody gives: `set_random_seed` decides them.
        seed = random.randrange(2**31) if seed is None else seed
        self._rng = np.random.default_rng(seed)
        conv345, fc67 = recipe.init_stddev_conv345, recipe.init_stddev_fc67
        self._stddevs = {
            **dict.fromkeys(("conv3", "conv4", "conv5"), conv345),
            **dict.fromkeys(("fc6", "fc7"), fc67),
        }

    def normalize_input(self, images, mean):
        recipe = self.recipe
        x = InputNormalization(
            mean=recipe.mean_color or mean,
            per_pixel=recipe.mean == "image",
            stddev=recipe.input_stddev,
            reverse_channels=recipe.bgr,
            recipe=dataclasses.asdict(recipe),
            dtype="float32",
            name="input_normalization",
        )(images)
        # 224 → 55: in the source of 2012 the last windows hang over the edge.
        padding = (recipe.conv1_padding, recipe.conv1_padding)
        return keras.layers.ZeroPadding2D(
            padding, data_format=_DATA_FORMAT, dtype=self.dtype, name="pad1"
        )(x)

    def conv(self, x, name, filters, size, *, bias=0.0, groups=1, **options):
        options = {"padding": "same", "activation": self.recipe.activation} | options
        return GroupedConv2D(
            scale_channels(filters, self.recipe),
            size,
            data_format=_DATA_FORMAT,
            groups=groups,
            name=name,
            **self._initial(name, size**2 * x.shape[-1] // groups, bias),
            **options,
        )(x)

    def dense(self, x, name, units, *, bias=0.0, activation="linear"):
        initial = self._initial(name, x.shape[-1], bias)
        return keras.layers.Dense(units, activation, name=name, **initial)(x)

    def hidden(self, x, name, units, dropout_name):
        recipe = self.recipe
        dropout = Dropout(
            recipe.dropout_rate,
            scale_in_training=recipe.dropout == "inverted",
            seed=self._seed(),
            name=dropout_name,
            dtype=self.dtype,
        )
        x = dropout(x) if recipe.dropout_before else x
        x = self.dense(
            *(x, name, scale_channels(units, recipe)),
            bias=recipe.bias_init,
            activation=recipe.activation,
        )
        return x if recipe.dropout_before else dropout(x)

    def logits(self, x, name, num_classes):
        x = self.dense(x, name, num_classes)
        return keras.layers.Activation("linear", dtype="float32", name="logits")(x)

    def lrn_and_pool(self, x, lrn_name, pool_name):
        if self.recipe.lrn_after_pool:
            return self.lrn(self.pool(x, pool_name), lrn_name)
        return self.pool(self.lrn(x, lrn_name), pool_name)

    def lrn(self, x, name):
        recipe = self.recipe
        if recipe.lrn:
            x = LocalResponseNormalization(
                recipe.lrn_depth_radius,
                recipe.lrn_bias,
                recipe.lrn_alpha,
                recipe.lrn_beta,
                groups=recipe.groups if recipe.lrn_within_towers else 1,
                name=name,
                dtype=self.dtype,
            )(x)
        if recipe.spatial_normalization and name == "lrn2":
            layer = SpatialResponseNormalization(dtype=self.dtype, name="spatial_norm2")
            x = layer(x)
        return x

    def pool(self, x, name):
        return keras.layers.MaxPooling2D(
            self.recipe.pool_size,
            2,
            data_format=_DATA_FORMAT,
            name=name,
            dtype=self.dtype,
        )(x)

    def activation(self, x, name):
        kind = self.recipe.activation
        return keras.layers.Activation(kind, dtype=self.dtype, name=name)(x)

    def flatten(self, x):
        return keras.layers.Flatten(_DATA_FORMAT, dtype=self.dtype, name="flatten")(x)

    def _initial(self, name: str, fan_in: int, bias: float) -> dict:
        if self.recipe.init == "fan_in":
            limit, uniform = 1 / math.sqrt(fan_in), keras.initializers.RandomUniform
            kernel = uniform(-limit, limit, seed=self._seed())
            bias = uniform(-limit, limit, seed=self._seed())
        else:
            stddev = self._stddevs.get(name)
            stddev = self.recipe.init_stddev if stddev is None else stddev
            kernel = keras.initializers.RandomNormal(stddev=stddev, seed=self._seed())
            bias = keras.initializers.Constant(bias)
        return {
            "kernel_initializer": kernel,
            "bias_initializer": bias,
            "dtype": self.dtype,
        }

    def _seed(self) -> int:
        return int(self._rng.integers(2**31))

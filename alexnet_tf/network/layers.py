"""The layers of AlexNet that Keras does not have, or not fast enough."""

import functools
import json
import math
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf


def _window_sum(x: tf.Tensor, depth_radius: int) -> tf.Tensor:
    """Sums over the 2·depth_radius+1 neighbouring channels; zeros outside."""
    depth = x.shape[-1]
    radius = min(depth_radius, depth - 1)
    padded = tf.pad(x, [[0, 0]] * (x.shape.rank - 1) + [[radius, radius]])
    return tf.add_n([padded[..., i : i + depth] for i in range(2 * radius + 1)])


def _inverse_power(norm: tf.Tensor, beta: float) -> tf.Tensor:
    """norm^-beta; without a power where beta is the paper's."""
    if beta == 0.75:
        root = tf.math.rsqrt(norm)
        return tf.sqrt(root * root * root)  # XLA fuses this into the loop around it
    return tf.pow(norm, -beta)


def _lrn_forward(depth_radius: int, bias: float, alpha: float, beta: float, x):
    x32 = tf.cast(x, tf.float32)
    norm = bias + alpha * _window_sum(tf.square(x32), depth_radius)
    return tf.cast(x32 * _inverse_power(norm, beta), x.dtype)


# The derivative of y_i = x_i · N_i^-β by x_j is N_i^-β for i = j, and besides, for each
# i in whose window j is, -2αβ · x_i · x_j · N_i^(-β-1). Windows are symmetric, so that
# the sum over these i is a window sum again.
def _lrn_backward(depth_radius: int, bias: float, alpha: float, beta: float, x, dy):
    x32, dy32 = tf.cast(x, tf.float32), tf.cast(dy, tf.float32)
    norm = bias + alpha * _window_sum(tf.square(x32), depth_radius)
    scale = _inverse_power(norm, beta)
    inner = _window_sum(dy32 * x32 * scale / norm, depth_radius)
    return tf.cast(dy32 * scale - 2.0 * alpha * beta * x32 * inner, x.dtype)


@functools.cache
def _fused_lrn(spec: tf.TensorSpec, *args):
    """LRN with its gradient, each compiled by XLA into a few passes over memory.

    Both compute in float32 and take and give what the layer computes in: half the
    memory to read and write in bfloat16. XLA compiles for one shape, so each shape has
    functions of its own. Each is a `partial`, because TensorFlow would take those of
    one piece of code for one function, and warn that it is traced again and again.
    """

    def compile_by_xla(function, *specs):
        return tf.function(
            functools.partial(function, *args),
            input_signature=specs,
            jit_compile=True,
            autograph=False,
        )

    forward = compile_by_xla(_lrn_forward, spec)
    backward = compile_by_xla(_lrn_backward, spec, spec)

    @tf.custom_gradient
    def lrn(x):
        return forward(x), functools.partial(backward, x)

    return lrn


@keras.saving.register_keras_serializable("alexnet_tf")
class LocalResponseNormalization(keras.layers.Layer):
    """Normalises each activation by its neighbours in the channel dimension.

    `y = x / (bias + alpha * sum(x**2)) ** beta`, the sum over the
    `2 * depth_radius + 1` channels around each one (section 3.3 of the paper, whose
    k, n, α and β are `bias`, the window, `alpha` and `beta`). `alpha` is not divided by
    the window, as Caffe, PyTorch and ONNX do. Computed in float32, whatever the
    layer's dtype.

    Example:
    >>> layer = LocalResponseNormalization()
    >>> layer(tf.ones((1, 1, 1, 1)))  # 1 / (2 + 1e-4) ** 0.75

    Args:
        depth_radius: Channels on each side, ≥ 0.
        bias: Offset in the denominator, > 0.
        alpha: Multiplies the sum of squares.
        beta: Exponent.
        groups: Channels are normalised within each of so many equal groups.
        jit_compile: Whether to run as two functions compiled by XLA, several times
            faster in training. False gives plain TensorFlow operations, which an
            exported graph needs: not every server has XLA.
    """

    def __init__(
        self,
        depth_radius: int = 2,
        bias: float = 2.0,
        alpha: float = 1e-4,
        beta: float = 0.75,
        groups: int = 1,
        jit_compile: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if depth_radius < 0 or depth_radius != int(depth_radius):
            raise ValueError(
                f"depth_radius must be a whole number >= 0, received {depth_radius}"
            )
        if bias <= 0:
            raise ValueError(f"bias must be > 0, received {bias}")
        if groups < 1:
            raise ValueError(f"groups must be >= 1, received {groups}")
        self.depth_radius = int(depth_radius)
        self.bias = float(bias)
        self.alpha = float(alpha)
        self.beta = float(beta)
        self.groups = groups
        self.jit_compile = jit_compile

    def build(self, input_shape):
        """Checks that the channels are known and divide into the groups."""
        if input_shape[-1] is None or input_shape[-1] % self.groups:
            raise ValueError(
                "the number of channels must be known and divisible by "
                f"groups={self.groups}, received the input shape {input_shape}"
            )
        super().build(input_shape)

    def call(self, inputs):
        """Returns a tensor of the shape and dtype of `inputs`."""
        # The paper normalises across the towers (section 3.3), the source of 2012 in
        # each: the maps of the other one are on another GPU.
        if self.groups == 1:
            return self._normalize(inputs)
        towers = tf.split(inputs, self.groups, axis=-1)
        return tf.concat([self._normalize(tower) for tower in towers], axis=-1)

    def _normalize(self, x):
        args = (self.depth_radius, self.bias, self.alpha, self.beta)
        if self.jit_compile:
            return _fused_lrn(tf.TensorSpec(x.shape, x.dtype), *args)(x)
        x32 = tf.cast(x, tf.float32)
        if x.shape.rank == 4:
            y = tf.nn.local_response_normalization(x32, *args)
        else:
            squares = _window_sum(tf.square(x32), self.depth_radius)
            y = x32 * _inverse_power(self.bias + self.alpha * squares, self.beta)
        return tf.cast(y, x.dtype)

    def compute_output_shape(self, input_shape):
        """Returns `input_shape`."""
        return input_shape

    def get_config(self):
        """Returns what `from_config` needs to make the same layer."""
        names = ("depth_radius", "bias", "alpha", "beta", "groups", "jit_compile")
        return super().get_config() | {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable("alexnet_tf")
class SpatialResponseNormalization(keras.layers.Layer):
    """Normalises each activation by its neighbours in its own feature map.

    `y = x / (1 + .001 / 25 * sum(x**2)) ** .75`, the sum over the 5×5 window around
    each pixel, zeros outside, as the source of 2012 has it after the second LRN; the
    paper does not mention it. Computed in float32.
    """

    def call(self, inputs):
        """Returns a tensor of the shape and dtype of `inputs`, 4 dimensions."""
        x = tf.cast(inputs, tf.float32)
        squares = tf.pad(tf.square(x), [[0, 0], [2, 2], [2, 2], [0, 0]])
        means = tf.nn.avg_pool2d(squares, ksize=5, strides=1, padding="VALID")
        return tf.cast(x * _inverse_power(1.0 + 0.001 * means, 0.75), inputs.dtype)

    def compute_output_shape(self, input_shape):
        """Returns `input_shape`."""
        return input_shape


def kernel_gradient_by_space_to_depth(
    x: tf.Tensor, kernel_shape: Sequence[int], dy: tf.Tensor, stride: int
) -> tf.Tensor:
    """Computes the gradient of a convolution's kernel after space-to-depth.

    The three channels of conv1 leave most of a matrix unit idle. Space-to-depth makes
    each block of `stride` × `stride` pixels one pixel with all their channels, 48 for
    conv1. The same convolution then has a kernel of 3×3 instead of 11×11, and no
    stride.

    Args:
        x: What was convolved, `(batch, height, width, channels)`.
        kernel_shape: `(size, size, channels, filters)`.
        dy: The gradient of the result, `(batch, rows, columns, filters)`; there was no
            padding.
        stride: The stride of the convolution.

    Returns:
        A tensor of `kernel_shape`.
    """
    size, _, channels, filters = kernel_shape
    reach = -(-size // stride)  # blocks that the kernel covers, the last one in part
    rows, columns = (outputs - 1 + reach for outputs in dy.shape[1:3])
    x = x[:, : rows * stride, : columns * stride]
    missing = (rows * stride - x.shape[1], columns * stride - x.shape[2])
    x = tf.pad(x, [[0, 0], [0, missing[0]], [0, missing[1]], [0, 0]])
    # `tf.nn.space_to_depth` gives the same in five times as long.
    x = tf.reshape(x, [-1, rows, stride, columns, stride * channels])
    x = tf.transpose(x, [0, 1, 3, 2, 4])
    depth = stride * stride * channels
    gradient = tf.raw_ops.Conv2DBackpropFilter(
        input=tf.reshape(x, [-1, rows, columns, depth]),
        filter_sizes=[reach, reach, depth, filters],
        out_backprop=dy,
        strides=[1, 1, 1, 1],
        padding="VALID",
    )
    shape = [reach, reach, stride, stride, channels, filters]
    gradient = tf.transpose(tf.reshape(gradient, shape), [0, 2, 1, 3, 4, 5])
    whole = [reach * stride, reach * stride, channels, filters]
    return tf.reshape(gradient, whole)[:size, :size]


@functools.cache
def _convolution_by_space_to_depth(stride: int):
    @tf.custom_gradient
    def convolve(x, kernel):
        def backward(dy):
            dx = tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(x),
                filter=kernel,
                out_backprop=dy,
                strides=[1, stride, stride, 1],
                padding="VALID",
            )
            return dx, kernel_gradient_by_space_to_depth(x, kernel.shape, dy, stride)

        return tf.nn.conv2d(x, kernel, stride, "VALID"), backward

    return convolve


@keras.saving.register_keras_serializable("alexnet_tf")
class GroupedConv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` whose groups run as separate convolutions.

    The numbers, the weights and the arguments are those of `Conv2D(groups=…)`, with
    channels last. That one runs through XLA, ten times slower on a CPU, and leaves an
    XLA marker in an exported graph.

    Attributes:
        gradient_by_space_to_depth: Whether `kernel_gradient_by_space_to_depth` computes
            the gradient of the kernel. It is for one group, channels last, no padding.
    """

    gradient_by_space_to_depth = False

    def convolution_op(self, inputs, kernel):
        """Returns the convolution of `inputs` with `kernel`, without the bias."""
        if self.gradient_by_space_to_depth:
            convolve = _convolution_by_space_to_depth(self.strides[0])
            return convolve(inputs, tf.convert_to_tensor(kernel))
        if self.groups == 1 or self.data_format != "channels_last":
            return super().convolution_op(inputs, kernel)
        convolve = functools.partial(
            tf.nn.conv2d,
            strides=self.strides,
            padding=self.padding.upper(),
            dilations=self.dilation_rate,
        )
        # What "groups" means, in plain operations: each tower has its own channels.
        inputs = tf.split(inputs, self.groups, axis=-1)
        kernels = tf.split(tf.convert_to_tensor(kernel), self.groups, axis=-1)
        parts = [convolve(x, k) for x, k in zip(inputs, kernels, strict=True)]
        return tf.concat(parts, axis=-1)


@keras.saving.register_keras_serializable("alexnet_tf")
class Dropout(keras.layers.Dropout):
    """Dropout as section 4.2 of the paper has it, with a mask for every image.

    In training each unit is 0 with probability `rate`; at test time all of them are
    multiplied by `1 - rate` instead. `scale_in_training` is Keras' own form: those kept
    are divided by `1 - rate` in training, and nothing is done at test time. At test
    time the same weights then mean another function.

    A mask is a function of the layer's seed, the number of masks drawn before (a state
    of `seed_generator`) and the place of the image in the global batch, so that neither
    the number of replicas nor an interruption changes it.

    Args:
        rate: Share of units dropped, 0..1.
        scale_in_training: Whether to scale in training instead of at test time.
        seed: The seed of the masks; drawn where None.
    """

    def __init__(self, rate, scale_in_training=False, seed=None, **kwargs):
        super().__init__(rate, seed=seed, **kwargs)
        self.scale_in_training = scale_in_training

    def call(self, inputs, training=False):
        """Returns a tensor of the shape and dtype of `inputs`, `(batch, …)`."""
        if self.rate == 0:
            return inputs
        keep = 1.0 - self.rate
        # At test time all units are used; multiplied by `keep`, they answer about as
        # the mean of all the networks that masks make (section 4.2).
        if not training:
            return inputs if self.scale_in_training else inputs * keep
        kept = inputs * tf.cast(self._draw(inputs) < keep, inputs.dtype)
        return kept / keep if self.scale_in_training else kept

    def _draw(self, inputs: tf.Tensor) -> tf.Tensor:
        """Uniform numbers in 0..1 for the units of the images on this replica."""
        shape, units = tf.shape(inputs), inputs.shape[1:].num_elements()
        if units is None:  # maps of any size
            units = tf.reduce_prod(shape[1:])
        state = tf.cast(self.seed_generator.next(), tf.uint64)
        seed, masks = state[0], state[1]  # `unstack` of them would fall to the host
        # Philox makes four numbers of a counter, so that every image begins with one.
        counters = -(-units // 4)
        context = tf.distribute.get_replica_context()
        replica = context.replica_id_in_sync_group if context else 0
        first = tf.cast(replica * shape[0] * counters, tf.uint64)
        numbers = tf.raw_ops.StatelessRandomUniformV2(
            shape=tf.stack([shape[0], 4 * counters]),
            key=[seed],
            counter=tf.stack([first, masks]),
            alg=tf.random.Algorithm.PHILOX.value,
        )
        return tf.reshape(numbers[:, :units], shape)

    def get_config(self):
        """Returns what `from_config` needs to make the same layer."""
        return super().get_config() | {"scale_in_training": self.scale_in_training}


def _require_unscaled(images: tf.Tensor) -> tf.Tensor:
    """Returns 0 for pixels 0..255, and for a batch that is all black.

    Pixels in 0..1 are an `InvalidArgumentError` with a sentence. A step that XLA
    compiles cannot raise one: there the result is NaN, and with it the loss.
    """
    largest = tf.reduce_max(images)
    is_scaled = (largest > 0) & (largest <= 1)
    return tf.debugging.check_numerics(
        tf.where(is_scaled, math.nan, 0.0),
        "AlexNet reads RGB pixels 0..255 and scales them itself, but the pixels of "
        "this batch are 0..1: multiply them by 255, or leave out the `/ 255` or "
        "`Rescaling` before the network",
    )


@keras.saving.register_keras_serializable("alexnet_tf")
class InputNormalization(keras.layers.Layer):
    """Subtracts the training images' mean from RGB pixels: `(x - mean) / stddev`.

    The mean is a weight, `mean`, that is not trained, so that checkpoints and exports
    carry it. With `per_pixel` each pixel has its own (section 2 of the paper: "the mean
    activity over the training set from each pixel"), that of the central window of the
    mean image wherever a crop is from, as in the source of 2012. Computed in float32.

    Args:
        mean: The first value of the mean, 0..255: `(3,)` or, at least as large as the
            input, `(height, width, 3)`; zeros where None.
        per_pixel: Whether each pixel has its own mean, else each channel.
        stddev: What divides each channel, RGB.
        reverse_channels: Whether to turn RGB to BGR.
        recipe: The recipe of the network whose first layer this is, as plain values by
            the names of its fields. Nothing depends on it: what is made of the network
            (a copy on disk, a clone, a part) tells by it what it is.

    Attributes:
        refuses_scaled_pixels: Whether training ends in an error at a batch in 0..1.
    """

    refuses_scaled_pixels = True

    def __init__(
        self,
        mean=None,
        per_pixel: bool = True,
        stddev=(1.0, 1.0, 1.0),
        reverse_channels: bool = False,
        recipe: Mapping[str, object] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        # Not as an attribute of its own: Keras would track it and wrap its lists.
        self._recipe = json.dumps(recipe and dict(recipe))
        self.per_pixel, self.reverse_channels = per_pixel, reverse_channels
        self.stddev = tuple(map(float, stddev))
        mean = np.asarray(np.zeros(3) if mean is None else mean, np.float32)
        if mean.ndim not in (1, 3) or mean.shape[-1] != 3:
            raise ValueError(
                "image_mean must be of the shape (3,) or (height, width, 3), "
                f"received {mean.shape}"
            )
        self._first_mean = mean

    def build(self, input_shape):
        """Makes the mean, `(height, width, 3)` or `(3,)`."""
        shape = tuple(input_shape[1:]) if self.per_pixel else (3,)
        mean = self._first_mean
        if self.per_pixel and mean.ndim == 3:
            top, left = (np.array(mean.shape[:2]) - shape[:2]) // 2
            if min(top, left) < 0:
                raise ValueError(
                    f"image_mean must be a colour or at least {shape[0]}×{shape[1]} "
                    f"pixels, received {mean.shape}"
                )
            mean = mean[top : top + shape[0], left : left + shape[1]]
        elif mean.ndim == 3:
            mean = mean.mean(axis=(0, 1))
        self.mean = self.add_weight(
            name="mean",
            shape=shape,
            initializer=lambda shape, dtype: tf.cast(
                tf.broadcast_to(mean, shape), dtype
            ),
            trainable=False,
        )

    def call(self, inputs, training=False):
        """Returns float32 `(batch, height, width, 3)`."""
        x = tf.cast(inputs, tf.float32)
        mean = tf.convert_to_tensor(self.mean)
        if training and self.refuses_scaled_pixels:
            mean += _require_unscaled(x)
        x = x - mean
        if self.stddev != (1.0, 1.0, 1.0):
            x = x / tf.constant(self.stddev)
        return tf.reverse(x, [-1]) if self.reverse_channels else x

    def compute_output_shape(self, input_shape):
        """Returns `input_shape`."""
        return input_shape

    def get_config(self):
        """Returns what `from_config` needs to make a layer of the same shape.

        The mean of each pixel is a weight and travels with the weights; only its colour
        stands here, which a new layer begins with.
        """
        mean = self.mean.numpy() if self.built else self._first_mean
        return super().get_config() | {
            "mean": mean.reshape(-1, 3).mean(axis=0).tolist(),
            "per_pixel": self.per_pixel,
            "stddev": self.stddev,
            "reverse_channels": self.reverse_channels,
            "recipe": json.loads(self._recipe),
        }

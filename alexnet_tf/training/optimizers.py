"""The paper's update rule, and LARS for large batches, as Keras optimizers."""

import functools

import keras
import tensorflow as tf

from alexnet_tf.recipes import Recipe


@functools.cache
def _fused_update(rate_in_momentum: bool):
    """The update of one variable, compiled by XLA into one pass over memory.

    It takes handles of float32 variables. Where the rate stands makes no difference
    until it changes: the paper's velocity remembers steps at the old rate, PyTorch's
    remembers gradients, and takes them at the new one.
    """
    # Keras' momentum is the paper's: v ← momentum·v − rate·g; w ← w + v. TensorFlow's
    # own is PyTorch's: v ← momentum·v + g; w ← w − rate·v.
    apply = (
        tf.raw_ops.ResourceApplyKerasMomentum
        if rate_in_momentum
        else tf.raw_ops.ResourceApplyMomentum
    )

    @tf.function(jit_compile=True, autograph=False)
    def update(weights, velocity, gradient, learning_rate, momentum, decay):
        values = tf.raw_ops.ReadVariableOp(resource=weights, dtype=tf.float32)
        apply(
            var=weights,
            accum=velocity,
            lr=learning_rate,
            grad=gradient + decay * values,
            momentum=momentum,
        )

    return update


@keras.saving.register_keras_serializable("alexnet_tf")
class MomentumSGD(keras.optimizers.SGD):
    """Stochastic gradient descent as section 5 of the paper writes it.

    `v ← momentum·v − weight_decay·rate·w − rate·gradient; w ← w + v`: the decay goes
    through the momentum, about ten times stronger than the decoupled `weight_decay` of
    Keras' own optimizers. Each update is one pass over memory.

    Takes gradients that are already summed over the replicas (`sum_over_replicas`),
    so that what is looked at (their norm) is what is applied.

    `rate_factors`, float32 `(variables,)`, multiply the rate of each variable; the
    training loop assigns them before every step.

    Args:
        learning_rate: The rate.
        momentum: 0..1.
        weight_decay: The paper's 5e-4.
        decay_biases: Whether the decay holds for biases (variables of one dimension).
        rate_in_momentum: Whether the rate multiplies what enters the velocity, as the
            paper and Caffe have it, or the velocity itself, as PyTorch's SGD does.
        can_stop: Layers whose variables stay exactly as they are, their velocities
            too, where their rate is 0: as in the source of 2012, which leaves the
            whole update out then.
    """

    def __init__(
        self,
        learning_rate: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        decay_biases: bool = True,
        rate_in_momentum: bool = True,
        can_stop: tuple[str, ...] = (),
        **kwargs,
    ):
        floatx = keras.config.floatx()
        keras.config.set_floatx("float32")  # of the rate, whatever keras.json says
        try:
            super().__init__(learning_rate, momentum, **kwargs)
        finally:
            keras.config.set_floatx(floatx)
        # Not Keras' `weight_decay`, which is decoupled from the momentum.
        self.l2 = weight_decay
        self.decay_biases = decay_biases
        self.rate_in_momentum = rate_in_momentum
        self.can_stop = tuple(can_stop)

    def build(self, variables):
        """Makes a velocity for every variable, also where the momentum is 0."""
        keras.optimizers.Optimizer.build(self, variables)
        self.momentums = self.add_optimizer_variables(variables, "velocity")
        self.rate_factors = keras.Variable(
            tf.ones(len(variables)),
            dtype="float32",
            trainable=False,
            name="rate_factors",
        )

    def decays(self, variable) -> bool:
        """Whether weight decay holds for `variable`."""
        return self.l2 != 0 and (len(variable.shape) > 1 or self.decay_biases)

    def update_step(self, gradient, variable, learning_rate):
        """Moves one variable, on one device."""
        # One rate for the recipe, a factor for the variable, and LARS' own besides.
        index = self._get_variable_index(variable)
        rate = learning_rate * self.rate_factors[index]
        rate *= self.trust_ratio(gradient, variable)

        def update():
            _fused_update(self.rate_in_momentum)(
                variable.handle,
                self.momentums[index].value.handle,
                gradient,
                rate,
                tf.constant(self.momentum, tf.float32),
                tf.constant(self.l2 if self.decays(variable) else 0.0, tf.float32),
            )

        # At a rate of 0 the velocity would still move the weights for many steps.
        layer = self._trainable_variables[index].path.split("/")[0]
        if layer in self.can_stop:
            tf.cond(rate > 0, update, lambda: None)
        else:
            update()

    def trust_ratio(self, gradient, variable) -> tf.Tensor | float:
        """Another factor of the rate; 1 here."""
        del gradient, variable
        return 1.0

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return grads_and_vars

    def get_config(self):
        """Returns what `from_config` needs to make the same optimizer."""
        return super().get_config() | {
            "weight_decay": self.l2,
            "decay_biases": self.decay_biases,
            "rate_in_momentum": self.rate_in_momentum,
            "can_stop": self.can_stop,
        }


@keras.saving.register_keras_serializable("alexnet_tf")
class LARS(MomentumSGD):
    """Layer-wise adaptive rate scaling, for large batches.

    You, Gitman and Ginsburg, "Large Batch Training of Convolutional Networks", 2017,
    algorithm 1: the rate of each kernel is multiplied by
    `trust · ‖w‖ / (‖gradient‖ + weight_decay · ‖w‖)`, then as `MomentumSGD`. Biases
    keep the plain rate.

    Args:
        learning_rate: The global rate.
        trust: η of the paper, the trust coefficient. There it is .001, with rates of 2
            and more; .05 does the same with the rates of `MomentumSGD`, so that biases,
            which are not scaled, have a rate that suits them.
        **kwargs: See `MomentumSGD`.
    """

    def __init__(self, learning_rate: float = 0.01, *, trust: float = 0.05, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self.trust = trust

    def trust_ratio(self, gradient, variable):
        """The layer's own rate; 1 for biases and where a norm is 0."""
        if len(variable.shape) == 1:
            return 1.0
        decay = self.l2 if self.decays(variable) else 0.0
        weight_norm = tf.norm(variable)
        gradient_norm = tf.norm(gradient)
        ratio = self.trust * weight_norm / (gradient_norm + decay * weight_norm)
        usable = (weight_norm > 0) & (gradient_norm > 0)
        return tf.where(usable, ratio, 1.0)

    def get_config(self):
        """Returns what `from_config` needs to make the same optimizer."""
        return super().get_config() | {"trust": self.trust}


def make_optimizer(recipe: Recipe) -> MomentumSGD:
    """Returns the optimizer of a recipe."""
    kind = LARS if recipe.optimizer == "lars" else MomentumSGD
    return kind(
        recipe.initial_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        decay_biases=recipe.decay_biases,
        rate_in_momentum=recipe.rate_in_momentum,
        can_stop=() if recipe.conv1_stop_epoch is None else ("conv1",),
    )


# The backward pass makes the gradients of fc8, fc7 and fc6, each a pack, before those
# of the convolutions: 96 % of the bytes travel while most is still to be computed.
_PACKS = tf.distribute.experimental.CommunicationOptions(bytes_per_pack=2**22)


def sum_over_replicas(
    gradients: list[tf.Tensor], dtype: tf.DType = tf.float32
) -> list[tf.Tensor]:
    """Sums gradients over the replicas, in packs that travel as soon as they are there.

    Args:
        gradients: float32, of this replica.
        dtype: What travels between the replicas; bfloat16 halves the traffic.

    Returns:
        float32 sums, the same on every replica.
    """
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return gradients
    gradients = [tf.cast(gradient, dtype) for gradient in gradients]
    sums = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients, options=_PACKS)
    return [tf.cast(total, tf.float32) for total in sums]

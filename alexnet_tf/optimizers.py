"""The paper's update rule as a Keras optimizer."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("alexnet_tf")
class MomentumSGD(keras.optimizers.SGD):
    """Stochastic gradient descent as section 5 of the paper writes it.

    `v ← momentum·v − weight_decay·rate·w − rate·gradient; w ← w + v`: the decay goes
    through the momentum, about ten times stronger than the decoupled `weight_decay` of
    Keras' own optimizers. Each update is one fused operation.

    Args:
        learning_rate: The rate.
        momentum: 0..1.
        weight_decay: The paper's 5e-4.
        bias_learning_rate_factor: Multiplies the rate of biases.
        decay_biases: Whether the decay holds for biases (variables of one dimension).
    """

    def __init__(
        self,
        learning_rate: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        bias_learning_rate_factor: float = 1.0,
        decay_biases: bool = True,
        **kwargs,
    ):
        super().__init__(learning_rate, momentum, **kwargs)
        # Not Keras' `weight_decay`, which is decoupled from the momentum.
        self.l2 = weight_decay
        self.bias_learning_rate_factor = bias_learning_rate_factor
        self.decay_biases = decay_biases

    def build(self, variables):
        """Makes a velocity for every variable, also where the momentum is 0."""
        keras.optimizers.Optimizer.build(self, variables)
        self.momentums = self.add_optimizer_variables(variables, "velocity")

    def decays(self, variable) -> bool:
        """Whether weight decay holds for `variable`."""
        return self.l2 != 0 and (len(variable.shape) > 1 or self.decay_biases)

    def update_step(self, gradient, variable, learning_rate):
        """Moves one variable, on one device."""
        velocity = self.momentums[self._get_variable_index(variable)].value
        if self.decays(variable):
            gradient += self.l2 * variable
        if len(variable.shape) == 1:
            learning_rate *= self.bias_learning_rate_factor
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=velocity.handle,
            lr=learning_rate,
            grad=gradient,
            momentum=tf.cast(self.momentum, variable.dtype),
        )

    def get_config(self):
        """Returns what `from_config` needs to make the same optimizer."""
        return super().get_config() | {
            "weight_decay": self.l2,
            "bias_learning_rate_factor": self.bias_learning_rate_factor,
            "decay_biases": self.decay_biases,
        }

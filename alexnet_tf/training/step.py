"""A network in training: what lasts from step to step, and the step that changes it.

All that changes is in one `TrainState`. A step is a function of it and of the
configuration alone, so that a run goes on from a checkpoint as if it had never ended:
the images of a step follow from how many were seen before, its rate too, and its
dropout masks from how many were drawn.
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from alexnet_tf.config import Config
from alexnet_tf.devices import has_matrix_unit
from alexnet_tf.evaluation.evaluator import Evaluator
from alexnet_tf.evaluation.metrics import MetricSums, cross_entropy, sum_metrics
from alexnet_tf.network.layers import Dropout
from alexnet_tf.pipeline.batches import BadRecords, timed_next, training_batches
from alexnet_tf.pipeline.data_set import DataSet
from alexnet_tf.run import build_model
from alexnet_tf.training import schedules
from alexnet_tf.training.cluster import Workers
from alexnet_tf.training.optimizers import (
    MomentumSGD,
    make_optimizer,
    sum_over_replicas,
)
from alexnet_tf.training.timetable import Timetable

_SAMPLE = 4096  # values of a tensor that stand for all


@dataclasses.dataclass
class TrainState:
    """Everything that lasts from one step to the next.

    Attributes:
        model: Its weights.
        optimizer: The velocities; `iterations` counts the steps.
        num_masks: How many dropout masks each layer drew: Keras leaves it out of the
            weights.
        images: int64, how many training images were seen.
        sums: float64 `(4,)`, the `MetricSums` since the last training record.
        validations: float64 `(n, 2)`, a row for each validation: step, top-1 error.
        plateau_factor: float32, of the rate; it follows from the validations.
        gradient_norm: float32, in the last step.
        waited: float64, seconds that this process waited for input.
        computed: float64, seconds that it computed gradients.
    """

    model: keras.Model
    optimizer: MomentumSGD
    num_masks: list[tf.Variable]
    images: tf.Variable
    sums: tf.Variable
    validations: tf.Variable
    plateau_factor: tf.Variable
    gradient_norm: tf.Variable
    waited: tf.Variable
    computed: tf.Variable

    @classmethod
    def start(cls, model: keras.Model, optimizer: MomentumSGD) -> "TrainState":
        """The state before the first step."""
        dropouts = [x for x in model.layers if isinstance(x, Dropout) and x.rate > 0]
        return cls(
            model,
            optimizer,
            num_masks=[layer.seed_generator.state.value for layer in dropouts],
            images=_variable(tf.constant(0, tf.int64)),
            sums=_variable(tf.zeros(len(MetricSums._fields), tf.float64)),
            validations=_variable(tf.zeros((0, 2), tf.float64), shape=(None, 2)),
            plateau_factor=_variable(tf.constant(1.0)),
            gradient_norm=_variable(tf.constant(0.0)),
            waited=_variable(tf.constant(0.0, tf.float64)),
            computed=_variable(tf.constant(0.0, tf.float64)),
        )

    def checkpoint(self) -> tf.train.Checkpoint:
        """What a checkpoint holds; the rest follows from it, or from the last step."""
        return tf.train.Checkpoint(
            model=self.model,
            optimizer=self.optimizer,
            num_masks=self.num_masks,
            images=self.images,
            sums=self.sums,
            validations=self.validations,
        )


class Trainer:
    """A network in training.

    Args:
        config: What to train.
        data_set: The data.
        strategy: The devices.
    """

    def __init__(
        self, config: Config, data_set: DataSet, strategy: tf.distribute.Strategy
    ):
        self.config, self.data_set, self.strategy = config, data_set, strategy
        self.recipe = config.recipe
        self.bad_records, self.workers = BadRecords(), Workers(strategy)
        with strategy.scope():
            self._build()
        self.state = TrainState.start(self.model, self.optimizer)
        self.begin()

    def _build(self) -> None:
        config, recipe = self.config, self.recipe
        mean_image = self.data_set.statistics().mean_image
        self.model = build_model(config, config.precision, mean_image)
        # Half the time of this gradient on such a unit, longer without it:
        # benchmarks/conv1.py.
        self.model.get_layer("conv1").gradient_by_space_to_depth = has_matrix_unit()
        # The pipeline's pixels are 0..255, those of a night picture, too.
        self.model.get_layer("input_normalization").refuses_scaled_pixels = False
        self.optimizer = make_optimizer(recipe)
        self.optimizer.build(self.model.trainable_variables)
        self._paths = [v.path for v in self.model.trainable_variables]
        self._learning = [
            variable
            for variable in self.model.trainable_variables
            if variable.path.split("/")[0] not in (recipe.freeze or ())
        ]

    def begin(self) -> None:
        """Counts on from where the state is: at its beginning, or at a checkpoint."""
        self.timetable = Timetable(
            self.config, self.step, int(self.state.images.numpy())
        )
        self._schedule = schedules.make_schedule(
            self.recipe.lr_schedule,
            self.timetable.last_epoch,
            self.recipe.lr_drop_epochs,
            self.recipe.warmup_epochs,
            self.recipe.global_batch_size / self.config.num_train_examples,
        )

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.optimizer.iterations.numpy())

    @property
    def validations(self) -> np.ndarray:
        """float64 `(validations, 2)`: step and top-1 error of each."""
        return self.state.validations.numpy()

    @functools.cached_property
    def evaluator(self) -> Evaluator:
        """Evaluates the network as it is at the time."""
        return Evaluator(self.model, self.strategy)

    # The step.

    @tf.function(autograph=False)  # which would take longer than to trace it
    def run_steps(self, batches: Iterator, num_steps: tf.Tensor) -> None:
        """Trains `num_steps` steps (int32 scalar) without coming back to Python.

        Stops before the update of a step whose loss or gradient is not finite: then
        `step` is less than it should be, and the weights are as they were before.
        """
        tf.while_loop(
            lambda step, is_finite: (step < num_steps) & is_finite,
            lambda step, _: (step + 1, self._run_step(batches)),
            (tf.constant(0), tf.constant(True)),
        )

    # A graph of its own: oneDNN takes a pooling and its gradient over together, and in
    # a graph with a loop sometimes sees them in the wrong order and leaves out the
    # gradient, which then takes ten times as long and adds in another order.
    @tf.function(autograph=False, experimental_attributes={"_noinline": True})
    def _run_step(self, batches: Iterator) -> tf.Tensor:
        """Trains a step, unless it is not finite; returns whether it is."""
        state, replicas = self.state, self.strategy
        images, labels = self._take_batch(batches)
        # Every replica computes the gradient of its part of the batch. What it sums up
        # over the images is added, so that a mean is one of the whole batch.
        sums, norm, seconds, gradients = replicas.run(
            self._replica_gradients, args=(images, labels)
        )
        sums = replicas.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)
        norm = replicas.reduce(tf.distribute.ReduceOp.MEAN, norm, axis=None)
        # A NaN in one weight is in all of them a step later. So the host looks first:
        # a run then stops with the weights of before, and can say which layer it was.
        is_finite = tf.math.is_finite(tf.reduce_sum(sums) + norm)

        def update():
            self.optimizer.rate_factors.assign(self._rate_factors(state.images))
            replicas.run(self._replica_update, args=(gradients,))
            state.images.assign_add(self.recipe.global_batch_size)
            state.sums.assign_add(tf.cast(sums, tf.float64))
            state.gradient_norm.assign(norm)
            first = replicas.experimental_local_results(seconds)[0]
            state.computed.assign_add(first)

        tf.cond(is_finite, update, lambda: None)
        return is_finite

    def _replica_gradients(self, images: tf.Tensor, labels: tf.Tensor) -> tuple:
        start = self._clock([images])
        # What is not watched costs no backward pass, nor does what only it depends on:
        # frozen layers at the bottom are free.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([variable.value for variable in self._learning])
            logits = self.model(images, training=True)
            sums = sum_metrics(logits, labels)
            total = sums.cross_entropy
            if self.config.loss_weights:  # rare classes count for more: see `config`
                total = self._weighted_sum(cross_entropy(logits, labels), labels)
            # Of the global batch, whatever part of it this replica has: summed over
            # the replicas this is the mean over the batch.
            loss = total / self.recipe.global_batch_size
        gradients = tape.gradient(loss, self._learning)
        seconds = self._clock(gradients) - start  # without waiting for other workers
        # The weight decay is no part of the loss: the optimizer adds its gradient.
        dtype = tf.bfloat16 if self.config.reduce_in_bfloat16 else tf.float32
        gradients = sum_over_replicas(gradients, dtype)
        norm = tf.linalg.global_norm(gradients)
        return tf.stack(sums), norm, seconds, gradients

    def _replica_update(self, gradients: list[tf.Tensor]) -> None:
        self.optimizer.apply(gradients, self._learning)

    def _weighted_sum(self, losses: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Sums losses `(batch,)`, each times the weight of its class."""
        labels = tf.cast(labels, tf.int64)  # a GPU has few kernels for int32
        weights = tf.gather(self.config.loss_weights, tf.maximum(labels, 0))
        return tf.reduce_sum(tf.where(labels >= 0, weights * losses, 0.0))

    def _clock(self, after: Sequence[tf.Tensor]) -> tf.Tensor:
        """The time when some tensors are there; 0 where nobody asks for it."""
        if not self.workers.are_several or self.config.deterministic:
            return tf.constant(0.0, tf.float64)
        with tf.control_dependencies(after):
            return tf.timestamp()

    def _take_batch(self, batches: Iterator) -> tuple:
        if self.config.deterministic:  # TensorFlow then refuses to look at a clock
            return next(batches)
        return timed_next(batches, self.state.waited)

    def batches(self, cache: bool = False) -> Iterator:
        """The batches from the current step on, for every replica.

        Args:
            cache: Whether to decode all training images into memory first.
        """
        dataset = self.strategy.distribute_datasets_from_function(
            lambda context: training_batches(
                self.data_set,
                self.recipe,
                seed=self.config.seed,
                start=int(self.state.images.numpy()),
                cache=cache,
                data_service=self.config.data_service,
                input_context=context,
                bad_records=self.bad_records,
            )
        )
        return iter(dataset)

    def next_batch(self) -> tuple[tf.Tensor, tf.Tensor]:
        """The images and labels of the next step, those of this process."""
        local = map(self.strategy.experimental_local_results, next(self.batches()))
        images, labels = (tf.concat(parts, axis=0) for parts in local)
        return images, labels

    # The rate.

    def learning_rate(self, step: int) -> float:
        """The rate of weights in the step that follows `step` others."""
        images = tf.constant(self.timetable.images(step), tf.int64)
        return self.recipe.initial_rate * float(self._factor(self._epoch(images)))

    def _rate_factors(self, images: tf.Tensor) -> tf.Tensor:
        """What multiplies the initial rate of each variable now, float32."""
        epoch = self._epoch(images)
        factor = self._factor(epoch)
        return schedules.rate_factors(self.recipe, self._paths, epoch, factor)

    def _factor(self, epoch: tf.Tensor) -> tf.Tensor:
        return self.state.plateau_factor * self._schedule(epoch)

    def _epoch(self, images: tf.Tensor) -> tf.Tensor:
        epochs = tf.cast(images, tf.float64) / self.config.num_train_examples
        return tf.cast(epochs, tf.float32)

    def add_validation(self, top_1_error: float) -> None:
        """Takes the error of a validation after the current step."""
        row = [[self.step, top_1_error]]
        self.state.validations.assign(np.concatenate([self.validations, row]))

    def update_plateau(self) -> bool:
        """Sets the rate by the validations; returns whether training has ended."""
        errors, drops, ended = self.validations[:, 1], 0, False
        if self.recipe.lr_schedule == "plateau":
            drops, ended = schedules.plateau(errors)
        self.state.plateau_factor.assign(0.1**drops)
        return ended or schedules.is_out_of_patience(errors, self.config.patience)

    # What a record of training says.

    def metrics(self) -> dict[str, float]:
        """What training was like since `start_metrics`; waits for the last step.

        Returns:
            `cross_entropy` (nats), `top_1_error` and `top_5_error` (fractions), means
            over the images; `learning_rate` and `gradient_norm` of the last step.
        """
        sums = MetricSums(*self.state.sums.numpy())
        number = max(1, sums.num_examples)
        return {
            "cross_entropy": sums.cross_entropy / number,
            "top_1_error": sums.wrong_top_1 / number,
            "top_5_error": sums.wrong_top_5 / number,
            "learning_rate": self.learning_rate(self.step - 1),
            "gradient_norm": float(self.state.gradient_norm.numpy()),
        }

    def start_metrics(self) -> None:
        """Lets the metrics begin again."""
        self.state.sums.assign(tf.zeros_like(self.state.sums))

    def l2(self) -> float:
        """The L2 part of the loss whose gradient the weight decay is."""
        decayed = filter(self.optimizer.decays, self._learning)
        squares = [float(tf.nn.l2_loss(tf.convert_to_tensor(v))) for v in decayed]
        return self.recipe.weight_decay * math.fsum(squares)

    def digest(self) -> str:
        """A hash of some of the weights and velocities."""
        variables = [*self.model.weights, *self.optimizer.momentums]
        values = sample([variable.value for variable in variables]).numpy()
        return hashlib.sha256(values.tobytes()).hexdigest()

    def samples(self) -> dict[str, np.ndarray]:
        """Some values of the weights, by name."""
        variables = self.model.trainable_variables
        return {f"weights/{v.path}": sample([v.value]).numpy() for v in variables}


def sample(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Up to 4096 evenly spaced values of each tensor, one after another, float32.

    The stride is odd, so that it does not fall on the same channel again and again.
    """
    parts = []
    for tensor in tensors:
        values = tf.reshape(tensor, [-1])
        stride = -(-values.shape[0] // _SAMPLE) | 1
        parts.append(tf.cast(values[::stride], tf.float32))
    return tf.concat(parts, axis=0)


def _variable(value: tf.Tensor, shape=None) -> tf.Variable:
    return tf.Variable(value, trainable=False, shape=shape)

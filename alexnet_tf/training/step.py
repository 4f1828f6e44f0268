"""A network in training: its weights, what they depend on, the training step."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from alexnet_tf.config import Config
from alexnet_tf.evaluation.metrics import MetricSums, sum_metrics
from alexnet_tf.network.alexnet import IMAGENET_MEAN
from alexnet_tf.network.layers import Dropout
from alexnet_tf.pipeline.batches import BadRecords, timed_next, training_batches
from alexnet_tf.pipeline.data_set import DataSet
from alexnet_tf.run import build_model
from alexnet_tf.training import schedules
from alexnet_tf.training.optimizers import make_optimizer, sum_over_replicas

_SAMPLE = 4096  # values of a tensor that a histogram is made of
# They branch on Python values alone: nothing to convert, which would take seconds.
_as_it_stands = tf.autograph.experimental.do_not_convert


class Trainer:
    """A network in training.

    A step is a function of the configuration, the step's number and what the
    checkpoint holds, so that a run goes on from a checkpoint as if it had never ended.

    Args:
        config: What to train.
        data_set: The data.
        strategy: The devices.
    """

    def __init__(
        self, config: Config, data_set: DataSet, strategy: tf.distribute.Strategy
    ):
        self.config, self.data_set, self.strategy = config, data_set, strategy
        self.recipe = recipe = config.recipe
        self.bad_records = BadRecords()
        self._statistics = None
        if _needs_pixels(config):
            self._statistics = data_set.statistics()
        self._schedule = schedules.make_schedule(
            recipe.lr_schedule,
            config.epoch(config.last_step),
            recipe.lr_drop_epochs,
            recipe.warmup_epochs,
        )
        with strategy.scope():
            self._build()
        self._make_state()

    def _build(self) -> None:
        config, recipe = self.config, self.recipe
        mean = self._statistics.mean_image if self._statistics else IMAGENET_MEAN
        self.model = build_model(config, config.precision, mean)
        self.optimizer = make_optimizer(recipe)
        self.optimizer.build(self.model.trainable_variables)
        self._paths = [v.path for v in self.model.trainable_variables]
        self._learning = [
            variable
            for variable in self.model.trainable_variables
            if variable.path.split("/")[0] not in (recipe.freeze or ())
        ]

    def _make_state(self) -> None:
        # Since the last training record: the `MetricSums` of the batches, added up.
        self._totals = _state(tf.zeros(len(MetricSums._fields), tf.float64))
        # A row for each validation: step, top-1 error.
        self._validations = _state(tf.zeros((0, 2), tf.float64), shape=(None, 2))
        self.checkpoint = tf.train.Checkpoint(
            model=self.model,
            optimizer=self.optimizer,
            # How many dropout masks were drawn; Keras leaves it out of the weights.
            seeds=[
                layer.seed_generator.state.value
                for layer in self.model.layers
                if isinstance(layer, Dropout) and layer.rate > 0
            ],
            totals=self._totals,
            validations=self._validations,
        )
        # Follow from the validations, or from the last step.
        self._plateau_factor = _state(tf.constant(1.0))
        self._gradient_norm = _state(tf.constant(0.0))
        self._gradient_sample = _state(sample(self._learning))
        self._waited = _state(tf.constant(0.0, tf.float64))  # for input, seconds

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.optimizer.iterations.numpy())

    @property
    def validations(self) -> np.ndarray:
        """float64 `(validations, 2)`: step and top-1 error of each."""
        return self._validations.numpy()

    @property
    def waited(self) -> float:
        """Seconds spent waiting for input since the process started.

        0 with `deterministic`, which measures nothing.
        """
        return float(self._waited.numpy())

    def metrics(self) -> dict[str, float]:
        """What training was like since `start_metrics`; waits for the last step.

        Returns:
            `cross_entropy` (nats), `top_1_error` and `top_5_error` (fractions), means
            over the images; `learning_rate` and `gradient_norm` of the last step.
        """
        num_examples, *sums = self._totals.numpy()
        names = ("cross_entropy", "top_1_error", "top_5_error")
        means = (total / max(1, num_examples) for total in sums)
        return dict(zip(names, means, strict=True)) | {
            "learning_rate": float(self.learning_rate(self.step - 1)),
            "gradient_norm": float(self._gradient_norm.numpy()),
        }

    def start_metrics(self) -> None:
        """Lets the metrics begin again."""
        self._totals.assign(tf.zeros_like(self._totals))

    def l2(self) -> float:
        """The L2 part of the loss whose gradient the weight decay is."""
        decayed = filter(self.optimizer.decays, self._learning)
        squares = [float(tf.nn.l2_loss(tf.convert_to_tensor(v))) for v in decayed]
        return self.recipe.weight_decay * math.fsum(squares)

    def samples(self) -> dict[str, np.ndarray]:
        """Some values of the weights and of the last step's gradients, by name."""
        variables = self.model.trainable_variables
        weights = {v.path: sample([v.value]).numpy() for v in variables}
        paths = [variable.path for variable in self._learning]
        ends = np.cumsum([len(weights[path]) for path in paths])[:-1]
        samples = np.split(self._gradient_sample.numpy(), ends)
        gradients = dict(zip(paths, samples, strict=True))
        return {
            f"{kind}/{path}": values
            for kind, part in (("weights", weights), ("gradients", gradients))
            for path, values in part.items()
        }

    def add_validation(self, top_1_error: float) -> None:
        """Takes the error of a validation after the current step."""
        row = [[self.step, top_1_error]]
        self._validations.assign(np.concatenate([self.validations, row]))

    def update_plateau(self) -> bool:
        """Sets the rate by the validations; returns whether training has ended."""
        drops, ended = 0, False
        if self.recipe.lr_schedule == "plateau":
            drops, ended = schedules.plateau(self.validations[:, 1])
        self._plateau_factor.assign(0.1**drops)
        return ended

    def learning_rate(self, step: tf.Tensor | int) -> tf.Tensor:
        """The rate of weights in the step that follows `step` others, float32."""
        return self.recipe.initial_rate * self._factor(step)

    @_as_it_stands
    def rate_factors(self, step: tf.Tensor | int) -> tf.Tensor:
        """What multiplies the initial rate of each variable in that step, float32."""
        epoch = self._epoch(step)
        return schedules.rate_factors(
            self.recipe, self._paths, epoch, self._factor(step)
        )

    def _factor(self, step: tf.Tensor | int) -> tf.Tensor:
        return self._plateau_factor * self._schedule(self._epoch(step))

    def _epoch(self, step: tf.Tensor | int) -> tf.Tensor:
        images = tf.cast(step, tf.float64) * self.recipe.global_batch_size
        return tf.cast(images / self.config.num_train_examples, tf.float32)

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
                start_step=self.step,
                statistics=self._statistics,
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

    @tf.function
    def run_steps(self, batches: Iterator, num_steps: tf.Tensor) -> None:
        """Trains `num_steps` steps (int32 scalar) without coming back to Python.

        Stops before the update of a step whose loss or gradient is not finite: then
        `step` is less than it should be, and the weights are as they were before.
        """
        for _ in tf.range(num_steps):
            if not self._run_step(batches):
                break

    # A graph of its own: oneDNN takes a pooling and its gradient over together, and in
    # a graph with a loop sometimes sees them in the wrong order and leaves out the
    # gradient, which then takes ten times as long and adds in another order.
    @tf.function(experimental_attributes={"_noinline": True})
    def _run_step(self, batches: Iterator) -> tf.Tensor:
        """Trains a step, unless it is not finite; returns whether it is."""
        sum_, mean = tf.distribute.ReduceOp.SUM, tf.distribute.ReduceOp.MEAN
        images, labels = self._take_batch(batches)
        sums, norm, sampled, gradients = self.strategy.run(
            self._replica_gradients, args=(images, labels)
        )
        sums = self.strategy.reduce(sum_, sums, axis=None)
        norm = self.strategy.reduce(mean, norm, axis=None)
        is_finite = tf.math.is_finite(tf.reduce_sum(sums) + norm)
        if is_finite:
            factors = self.rate_factors(self.optimizer.iterations.value)
            self.optimizer.rate_factors.assign(factors)
            self.strategy.run(self._replica_update, args=(gradients,))
            self._totals.assign_add(tf.cast(sums, tf.float64))
            self._gradient_norm.assign(norm)
            sampled = self.strategy.experimental_local_results(sampled)[0]
            self._gradient_sample.assign(sampled)
        return is_finite

    @_as_it_stands
    def _take_batch(self, batches: Iterator) -> tuple:
        if self.config.deterministic:  # TensorFlow then refuses to look at a clock
            return next(batches)
        return timed_next(batches, self._waited)

    @_as_it_stands
    def _replica_gradients(self, images: tf.Tensor, labels: tf.Tensor) -> tuple:
        # What is not watched costs no backward pass, nor does what only it depends on.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([variable.value for variable in self._learning])
            sums = sum_metrics(self.model(images, training=True), labels)
            # Summed over replicas this is the mean over the global batch.
            loss = sums.cross_entropy / self.recipe.global_batch_size
        dtype = tf.bfloat16 if self.config.reduce_in_bfloat16 else tf.float32
        gradients = sum_over_replicas(tape.gradient(loss, self._learning), dtype)
        norm = tf.linalg.global_norm(gradients)
        return tf.stack(sums), norm, sample(gradients), gradients

    @_as_it_stands
    def _replica_update(self, gradients: list[tf.Tensor]) -> None:
        self.optimizer.apply(gradients, self._learning)

    @tf.function
    def any_worker(self, here: tf.Tensor) -> tf.Tensor:
        """Whether `here`, a float32 scalar, is above 0 on any worker."""
        per_replica = self.strategy.run(lambda: tf.identity(here))
        total = self.strategy.reduce(tf.distribute.ReduceOp.SUM, per_replica, axis=None)
        return total > 0


def sample(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Up to 4096 evenly spaced values of each tensor, one after another, float32.

    So few that a training step can keep those of its gradients at no cost. The stride
    is odd, so that it does not fall on the same channel again and again.
    """
    parts = []
    for tensor in tensors:
        values = tf.reshape(tensor, [-1])
        stride = -(-values.shape[0] // _SAMPLE) | 1
        parts.append(tf.cast(values[::stride], tf.float32))
    return tf.concat(parts, axis=0)


def _needs_pixels(config: Config) -> bool:
    """Whether training needs to know what the training images' pixels are."""
    recipe = config.recipe
    has_mean = config.init_weights is not None or recipe.mean_color is not None
    return not has_mean or recipe.color == "pca"


def _state(value: tf.Tensor, shape=None) -> tf.Variable:
    return tf.Variable(value, trainable=False, shape=shape)

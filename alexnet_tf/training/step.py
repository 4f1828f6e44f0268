"""A network in training: its weights, what they depend on, the training step."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from alexnet_tf.evaluation.metrics import count
from alexnet_tf.network.layers import Dropout
from alexnet_tf.pipeline.batches import BadRecords, timed_next, training_batches
from alexnet_tf.pipeline.data_set import DataSet
from alexnet_tf.recipes import RECIPES
from alexnet_tf.run import Config, build_model
from alexnet_tf.training import schedules
from alexnet_tf.training.optimizers import LARS, MomentumSGD, sum_over_replicas

MAX_ROLLBACKS = 3
_SAMPLE = 4096  # values of a tensor that a histogram is made of


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
        self.recipe = recipe = RECIPES[config.recipe]
        self.bad_records = BadRecords()
        with strategy.scope():
            self.model = build_model(config, config.precision)
            make_optimizer = LARS if config.optimizer == "lars" else MomentumSGD
            self.optimizer = make_optimizer(
                config.learning_rate,
                momentum=config.momentum,
                weight_decay=config.weight_decay,
                bias_learning_rate_factor=recipe.bias_learning_rate_factor,
                decay_biases=recipe.decay_biases,
            )
            self.optimizer.build(self.model.trainable_variables)
        self._schedule = schedules.make_schedule(
            config.lr_schedule,
            config.num_epochs,
            recipe.lr_drop_epochs,
            config.warmup_epochs,
        )
        # Since the last training record: what `count` returned, summed.
        self._totals = _state(tf.zeros(4, tf.float64))
        # Since the first step: how often each label was seen.
        self._class_counts = _state(tf.zeros(data_set.num_classes, tf.int64))
        # A row for each validation: step, top-1 error.
        self._validations = _state(tf.zeros((0, 2), tf.float64), shape=(None, 2))
        self._rollbacks = _state(tf.constant(0))
        self._rate_factor = _state(tf.constant(1.0))  # of plateau and rollbacks
        self._gradient_norm = _state(tf.constant(0.0))
        self._gradient_sample = _state(sample(self.model.trainable_variables))
        self._waited = _state(tf.constant(0.0, tf.float64))  # for input, seconds
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
            class_counts=self._class_counts,
            validations=self._validations,
            rollbacks=self._rollbacks,
            gradient_norm=self._gradient_norm,
            gradient_sample=self._gradient_sample,
        )

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.optimizer.iterations.numpy())

    @property
    def totals(self) -> np.ndarray:
        """What `count` returned, summed since `take_totals`, float64 `(4,)`."""
        return self._totals.numpy()

    @property
    def class_counts(self) -> np.ndarray:
        """How often each label was seen, int64 `(num_classes,)`."""
        return self._class_counts.numpy()

    @property
    def validations(self) -> np.ndarray:
        """float64 `(validations, 2)`: step and top-1 error of each."""
        return self._validations.numpy()

    @property
    def rollbacks(self) -> int:
        """How often training went back after a NaN."""
        return int(self._rollbacks.numpy())

    @property
    def gradient_norm(self) -> float:
        """Euclidean norm of the last step's gradient."""
        return float(self._gradient_norm.numpy())

    def samples(self) -> dict[str, np.ndarray]:
        """`sample` of each weight ("weights/…") and last gradient ("gradients/…")."""
        variables = self.model.trainable_variables
        weights = [sample([variable.value]).numpy() for variable in variables]
        ends = np.cumsum([len(values) for values in weights])[:-1]
        gradients = np.split(self._gradient_sample.numpy(), ends)
        samples = {}
        for variable, *values in zip(variables, weights, gradients, strict=True):
            samples[f"weights/{variable.path}"] = values[0]
            samples[f"gradients/{variable.path}"] = values[1]
        return samples

    @property
    def waited(self) -> float:
        """Seconds spent waiting for input since the process started."""
        return float(self._waited.numpy())

    def take_totals(self) -> np.ndarray:
        """Returns the totals and starts again at 0."""
        totals = self.totals
        self._totals.assign(tf.zeros_like(totals))
        return totals

    def add_validation(self, top_1_error: float) -> None:
        """Takes the error of a validation after the current step."""
        row = [[self.step, top_1_error]]
        self._validations.assign(np.concatenate([self.validations, row]))

    def count_rollback(self, rollbacks: int) -> None:
        """Takes how often training went back; each time halves the rate."""
        self._rollbacks.assign(rollbacks)

    def update_rate(self) -> bool:
        """Sets the rate by validations and rollbacks; whether training has ended."""
        drops, ended = 0, False
        if self.config.lr_schedule == "plateau":
            drops, ended = schedules.plateau(self.validations[:, 1])
        self._rate_factor.assign(0.1**drops * 0.5**self.rollbacks)
        return ended

    def learning_rate(self, step: tf.Tensor | int) -> tf.Tensor:
        """The rate of the step that follows `step` others, float32."""
        factor = self._rate_factor * self._schedule(self._epoch(step))
        return self.config.learning_rate * factor

    def _epoch(self, step: tf.Tensor | int) -> tf.Tensor:
        images = tf.cast(step, tf.float64) * self.config.global_batch_size
        return tf.cast(images / self.config.num_train_examples, tf.float32)

    def l2(self) -> float:
        """The L2 part of the loss whose gradient the weight decay is."""
        decayed = filter(self.optimizer.decays, self.model.trainable_variables)
        squares = [float(tf.nn.l2_loss(tf.convert_to_tensor(v))) for v in decayed]
        return self.config.weight_decay * math.fsum(squares)

    def batches(self) -> Iterator:
        """The batches from the current step on, for every replica."""
        dataset = self.strategy.distribute_datasets_from_function(
            lambda context: training_batches(
                self.data_set,
                global_batch_size=self.config.global_batch_size,
                seed=self.config.seed,
                start_step=self.step,
                image_size=self.recipe.image_size,
                color=self.config.color,
                pca_source_2012=self.recipe.pca_source_2012,
                color_until_epoch=self.recipe.color_until_epoch,
                cache=self.config.cache,
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
        sum_, mean = tf.distribute.ReduceOp.SUM, tf.distribute.ReduceOp.MEAN
        for _ in tf.range(num_steps):
            images, labels = timed_next(batches, self._waited)
            counts, of_class, norm, sampled, gradients = self.strategy.run(
                self._replica_gradients, args=(images, labels)
            )
            counts = self.strategy.reduce(sum_, counts, axis=None)
            norm = self.strategy.reduce(mean, norm, axis=None)
            if not tf.math.is_finite(tf.reduce_sum(counts) + norm):
                break
            step = self.optimizer.iterations.value
            self.optimizer.learning_rate.assign(self.learning_rate(step))
            if self.recipe.freeze_conv1_epoch is not None:
                frozen = self._epoch(step) >= self.recipe.freeze_conv1_epoch
                self.optimizer.conv1_rate_factor.assign(tf.cast(~frozen, tf.float32))
            self.strategy.run(self._replica_update, args=(gradients,))
            self._gradient_norm.assign(norm)
            sampled = self.strategy.experimental_local_results(sampled)[0]
            self._gradient_sample.assign(sampled)
            self._totals.assign_add(tf.cast(counts, tf.float64))
            of_class = self.strategy.reduce(sum_, of_class, axis=None)
            self._class_counts.assign_add(tf.cast(of_class, tf.int64))

    def _replica_gradients(self, images: tf.Tensor, labels: tf.Tensor) -> tuple:
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            counts = count(self.model(images, training=True), labels)
            # Summed over replicas this is the mean over the global batch.
            loss = counts[1] / self.config.global_batch_size
        dtype = tf.bfloat16 if self.config.reduce_in_bfloat16 else tf.float32
        gradients = sum_over_replicas(tape.gradient(loss, variables), dtype)
        examples = tf.boolean_mask(labels, labels >= 0)
        of_class = tf.math.bincount(examples, minlength=self.data_set.num_classes)
        norm = tf.linalg.global_norm(gradients)
        return counts, of_class, norm, sample(gradients), gradients

    def _replica_update(self, gradients: list[tf.Tensor]) -> None:
        self.optimizer.apply(gradients, self.model.trainable_variables)

    @tf.function
    def mean_over_workers(self, values: tf.Tensor) -> tf.Tensor:
        """The mean of each worker's `values`, float32 `(n,)`, the same on all."""
        per_replica = self.strategy.run(lambda: tf.identity(values))
        return self.strategy.reduce(tf.distribute.ReduceOp.MEAN, per_replica, axis=None)


def _state(value: tf.Tensor, shape=None) -> tf.Variable:
    return tf.Variable(value, trainable=False, shape=shape)


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

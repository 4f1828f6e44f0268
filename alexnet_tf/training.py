"""The training loop: the step, what happens between steps, resume."""

import contextlib
import dataclasses
import math
import os
import signal
import time
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from absl import logging

from alexnet_tf import schedules
from alexnet_tf.devices import choose_precision, describe, make_strategy
from alexnet_tf.errors import UserError
from alexnet_tf.evaluation import Evaluator, check_batch_size, count, evaluate_run
from alexnet_tf.export import export_run
from alexnet_tf.input_pipeline import training_batches
from alexnet_tf.optimizers import MomentumSGD
from alexnet_tf.recipes import RECIPES
from alexnet_tf.records import DataSet, open_data_set
from alexnet_tf.runs import Config, Run, build_model, resolve
from alexnet_tf.summaries import MetricsLog, Progress

LOG_EVERY = 100  # steps between two training records, and one at every epoch's end
_SECONDS_PER_LOOP = 0.5  # the time a call of several steps should take


class Trainer:
    """A network in training: its weights, everything that they depend on, the step.

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
        recipe = RECIPES[config.recipe]
        with strategy.scope():
            self.model = build_model(config, config.precision)
            self.optimizer = MomentumSGD(
                config.learning_rate,
                config.momentum,
                config.weight_decay,
                recipe.bias_learning_rate_factor,
                recipe.decay_biases,
            )
            self.optimizer.build(self.model.trainable_variables)
        self.evaluator = Evaluator(self.model, strategy)
        # What `count` returns, summed since the last training record.
        self._totals = tf.Variable(tf.zeros(4, tf.float64), trainable=False)
        # A row for each validation: step, top-1 error.
        self._validations = tf.Variable(
            tf.zeros((0, 2), tf.float64), trainable=False, shape=(None, 2)
        )
        self._plateau_factor = tf.Variable(1.0, trainable=False)
        self._schedule = (
            schedules.steps(recipe.lr_drop_epochs)
            if config.lr_schedule == "steps"
            else schedules.constant()
        )
        self.checkpoint = tf.train.Checkpoint(
            model=self.model,
            optimizer=self.optimizer,
            totals=self._totals,
            validations=self._validations,
        )

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.optimizer.iterations.numpy())

    @property
    def validations(self) -> np.ndarray:
        """float64 `(validations, 2)`: step and top-1 error of each."""
        return self._validations.numpy()

    def add_validation(self, top_1_error: float) -> bool:
        """Takes a validation error; whether the schedule says that training ends."""
        row = [[self.step, top_1_error]]
        self._validations.assign(np.concatenate([self.validations, row]))
        return self.apply_plateau()

    def apply_plateau(self) -> bool:
        """Sets the rate by the validations so far; whether training ends with them."""
        if self.config.lr_schedule != "plateau":
            return False
        drops, ended = schedules.plateau(self.validations[:, 1])
        self._plateau_factor.assign(0.1**drops)
        return ended

    def learning_rate(self, step: tf.Tensor | int) -> tf.Tensor:
        """The rate of the step that follows `step` others, float32."""
        images = tf.cast(step, tf.float32) * self.config.global_batch_size
        epoch = images / self.config.num_train_examples
        return self.config.learning_rate * self._plateau_factor * self._schedule(epoch)

    @property
    def totals(self) -> np.ndarray:
        """What `count` returned, summed since `take_totals`, float64 `(4,)`."""
        return self._totals.numpy()

    def take_totals(self) -> np.ndarray:
        """Returns the totals and starts again at 0."""
        totals = self.totals
        self._totals.assign(tf.zeros_like(totals))
        return totals

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
                image_size=RECIPES[self.config.recipe].image_size,
                color=self.config.color,
                input_context=context,
            )
        )
        return iter(dataset)

    @tf.function
    def run_steps(self, batches: Iterator, num_steps: tf.Tensor) -> None:
        """Trains `num_steps` steps (int32 scalar) without coming back to Python."""
        for _ in tf.range(num_steps):
            rate = self.learning_rate(self.optimizer.iterations.value)
            self.optimizer.learning_rate.assign(rate)
            counts = self.strategy.run(self._replica_step, args=next(batches))
            counts = self.strategy.reduce(tf.distribute.ReduceOp.SUM, counts, axis=None)
            self._totals.assign_add(tf.cast(counts, tf.float64))

    def _replica_step(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            counts = count(self.model(images, training=True), labels)
            # Summed over replicas this is the mean over the global batch.
            loss = counts[1] / self.config.global_batch_size
        variables = self.model.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return counts


class Loop:
    """Trains to the end: validates, writes records and checkpoints, can be stopped.

    Args:
        trainer: What to train; goes on from the run's latest checkpoint.
        run: Where to write.
    """

    def __init__(self, trainer: Trainer, run: Run):
        self._trainer, self._config = trainer, trainer.config
        self._checkpoints = tf.train.CheckpointManager(
            trainer.checkpoint, run.checkpoint_dir, self._config.keep_checkpoints
        )
        self._best = tf.train.CheckpointManager(
            tf.train.Checkpoint(model=trainer.model), run.best_dir, max_to_keep=1
        )
        if self._checkpoints.latest_checkpoint:
            trainer.checkpoint.restore(self._checkpoints.latest_checkpoint)
            logging.info("going on from step %d", trainer.step)
        self._ended = trainer.apply_plateau()
        self._log = MetricsLog(run.model_dir, run.metrics_file, trainer.step)
        self._progress = Progress(self._last_step, trainer.step)
        self._steps_per_loop = self._config.steps_per_loop or 1
        self._seconds, self._timed_steps = 0.0, 0  # since the last training record
        self._trained = ""  # the last training record, for people

    @property
    def _last_step(self) -> int:
        if self._config.train_steps is not None:
            return self._config.train_steps
        return self._epoch_end(self._config.num_epochs)

    def _epoch_end(self, epoch: float) -> int:
        """The first step after which `epoch` epochs are done."""
        images = epoch * self._config.num_train_examples
        return math.ceil(images / self._config.global_batch_size)

    def _epoch(self, step: int) -> float:
        images = step * self._config.global_batch_size
        return images / self._config.num_train_examples

    def run(self) -> bool:
        """Trains; False if a signal ended it early, with a checkpoint saved."""
        trainer = self._trainer
        batches = trainer.batches()
        with _stop_signals() as stopped, contextlib.closing(self._progress):
            while True:
                step = trainer.step
                if self._is_validation_due(step):
                    self._validate(step)
                if self._ended or step >= self._last_step:
                    return True
                if stopped:
                    self._save(step)
                    return False
                self._train(batches, step)

    def _is_validation_due(self, step: int) -> bool:
        validations = self._trainer.validations
        if step == 0 or (len(validations) and validations[-1, 0] == step):
            return False
        epoch_ended = math.floor(self._epoch(step)) > math.floor(self._epoch(step - 1))
        return epoch_ended or step == self._last_step

    def _train(self, batches: Iterator, step: int) -> None:
        """Trains up to the next step at which something is due."""
        every = self._config.checkpoint_every or self._last_step
        next_step = min(
            step + self._steps_per_loop,
            self._epoch_end(math.floor(self._epoch(step)) + 1),
            (step // LOG_EVERY + 1) * LOG_EVERY,
            (step // every + 1) * every,
            self._last_step,
        )
        num_steps = max(1, next_step - step)
        start = time.perf_counter()
        self._trainer.run_steps(batches, tf.constant(num_steps))
        totals = self._trainer.totals
        seconds = time.perf_counter() - start
        if not np.isfinite(totals).all():
            raise UserError(
                f"cross-entropy is {totals[1]} by step {step + num_steps}: try a lower "
                "--learning_rate; the last checkpoint is from before"
            )
        self._seconds += seconds
        self._timed_steps += num_steps
        step += num_steps
        if not self._config.steps_per_loop:
            wanted = _SECONDS_PER_LOOP * num_steps / seconds
            self._steps_per_loop = int(np.clip(wanted, 1, LOG_EVERY))
        self._show(step, totals, num_steps * self._config.global_batch_size / seconds)
        if step % LOG_EVERY == 0 or self._is_validation_due(step):
            self._record_training(step)
        if step % every == 0 and not self._is_validation_due(step):
            self._save(step)

    def _show(self, step: int, totals: np.ndarray, images_per_second: float) -> None:
        num_examples, cross_entropy, errors, _ = totals
        num_epochs = math.ceil(self._epoch(self._last_step))
        self._progress.update(
            step,
            f"{min(num_epochs, math.floor(self._epoch(step - 1)) + 1)}/{num_epochs}",
            loss=f"{cross_entropy / num_examples:.4f}",
            top1=f"{1 - errors / num_examples:6.1%}",
            images=f"{images_per_second:,.0f}/s",
        )

    def _record_training(self, step: int) -> None:
        num_examples, *sums = self._trainer.take_totals()
        cross_entropy, top_1_error, top_5_error = (s / num_examples for s in sums)
        images = self._timed_steps * self._config.global_batch_size
        self._log.write(
            "train",
            step,
            self._epoch(step),
            cross_entropy=cross_entropy,
            l2=self._trainer.l2(),
            top_1_error=top_1_error,
            top_5_error=top_5_error,
            learning_rate=float(self._trainer.learning_rate(step - 1)),
            images_per_second=images / self._seconds,
        )
        self._seconds, self._timed_steps = 0.0, 0
        self._trained = f"loss {cross_entropy:.4f} top-1 {1 - top_1_error:.1%}"

    def _validate(self, step: int) -> None:
        """Validates, takes the error into the schedule, saves."""
        trainer, start = self._trainer, time.perf_counter()
        result = trainer.evaluator.evaluate(
            trainer.data_set, "validation", self._config.global_batch_size
        )
        seconds = time.perf_counter() - start
        self._log.write(
            "validation",
            step,
            self._epoch(step),
            cross_entropy=result.cross_entropy,
            l2=trainer.l2(),
            top_1_error=result.top_1_error,
            top_5_error=result.top_5_error,
            learning_rate=float(trainer.learning_rate(step - 1)),
            images_per_second=result.num_evaluated / seconds,
        )
        self._progress.line(
            f"epoch {self._epoch(step):5.2f}  step {step:6d}  "
            f"{self._trained}  validation loss {result.cross_entropy:.4f} "
            f"top-1 {1 - result.top_1_error:.1%} top-5 {1 - result.top_5_error:.1%} "
            f"({result.num_evaluated} of {result.num_examples})"
        )
        errors = trainer.validations[:, 1]
        self._ended = trainer.add_validation(result.top_1_error)
        self._save(step)
        if result.top_1_error < min(errors, default=math.inf):
            self._best.save(step)

    def _save(self, step: int) -> None:
        self._checkpoints.save(step)
        logging.debug("checkpoint saved at step %d", step)


@contextlib.contextmanager
def _stop_signals() -> Iterator[list]:
    """Collects SIGINT and SIGTERM, so that training ends between two steps.

    A second one ends the process at once.
    """
    received = []

    def receive(signum, frame):
        del frame
        if received:
            os._exit(128 + signum)
        received.append(signum)
        logging.info("stopping after this step; once more to stop at once")

    old = {s: signal.signal(s, receive) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)


def train(
    data_dir: str,
    model_dir: str,
    *,
    precision: str = "auto",
    overwrite: bool = False,
    export: bool = True,
    **given,
) -> bool:
    """Trains a run to its end, evaluates it and exports it.

    Args:
        data_dir: Directory of the data set.
        model_dir: Directory of the run; one that was interrupted goes on.
        precision: "float32", "mixed_bfloat16" or "auto".
        overwrite: Whether to remove an earlier run in `model_dir`.
        export: Whether to export a SavedModel.
        **given: Fields of `Config` that are not to take the recipe's value.

    Returns:
        Whether training came to its end; False if a signal stopped it.

    Raises:
        UserError: If something that was asked for is not there, or does not fit.
    """
    data_set = open_data_set(data_dir)
    for split in ("train", "validation"):
        if not data_set.splits.get(split) or not data_set.splits[split].num_examples:
            raise UserError(
                f"no {split} images in {data_set.data_dir}: it has the splits "
                + (", ".join(data_set.splits) or "none")
            )
    strategy = make_strategy(given.get("num_gpus"), given.get("simulate_gpus", 0))
    found = {
        "precision": choose_precision(strategy),
        "num_gpus": len(tf.config.get_visible_devices("GPU")),
    }
    if precision != "auto":
        given["precision"] = precision
    config, origins = resolve(given, data_set, found)
    check_batch_size(config.global_batch_size, strategy)
    run = Run(model_dir)
    run.start(config, origins, overwrite)
    _log_configuration(config, origins, strategy)
    if not Loop(Trainer(config, data_set, strategy), run).run():
        logging.info("checkpoint saved; the same command goes on from there")
        return False
    _finish(run, config, export)
    return True


def _log_configuration(
    config: Config, origins: dict[str, str], strategy: tf.distribute.Strategy
) -> None:
    logging.info(
        "recipe %s for %s training images of %d classes, on %s",
        config.recipe,
        f"{config.num_train_examples:,}",
        len(config.class_names),
        describe(strategy, config.simulate_gpus),
    )
    for name, value in dataclasses.asdict(config).items():
        if name not in ("class_names", "recipe", "num_train_examples"):
            logging.info("  %-18s %s  (%s)", name, value, origins[name])


def _finish(run: Run, config: Config, export: bool) -> None:
    """Evaluates and exports a run that has ended, and says what to do next."""
    result = evaluate_run(
        run.model_dir,
        global_batch_size=config.global_batch_size,
        num_gpus=0 if not config.num_gpus else config.num_gpus,
    )
    lines = [
        "",
        f"Held-out top-1: {1 - result.top_1_error:.1%} of {result.num_evaluated:,} "
        f"images (always answering the largest class: {result.largest_class:.1%}).",
        f"The run is in {run.model_dir}",
    ]
    if export:
        export_run(run.model_dir)
        lines.append(f"The SavedModel is in {run.saved_model_dir}")
    lines += [
        "Next:",
        f"  tensorboard --logdir={run.model_dir}",
        f"  python eval.py --model_dir={run.model_dir}",
        "  python train.py --data_dir=DIR    (python -m data.prepare makes DIR of "
        "your own pictures)",
    ]
    print("\n".join(lines))

"""Training from end to end: the loop around the step, resume, what can go wrong."""

import contextlib
import dataclasses
import gc
import math
import os
import signal
import sys
import time
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from alexnet_tf.devices import (
    check_batch_size,
    choose_precision,
    describe,
    is_chief,
    make_training_strategy,
)
from alexnet_tf.errors import UserError
from alexnet_tf.evaluation.command import evaluate_run
from alexnet_tf.evaluation.evaluator import Evaluator
from alexnet_tf.export import export_run
from alexnet_tf.monitoring.metrics_log import MetricsLog
from alexnet_tf.monitoring.progress import Progress
from alexnet_tf.monitoring.tensorboard import Monitor
from alexnet_tf.pipeline.batches import label_errors
from alexnet_tf.pipeline.data_set import DataSet, open_data_set
from alexnet_tf.run import Config, Run, resolve
from alexnet_tf.training import diagnostics
from alexnet_tf.training.checkpoints import Checkpoints
from alexnet_tf.training.step import MAX_ROLLBACKS, Trainer

LOG_EVERY = 100  # steps between two training records, and one at every epoch's end
_SECONDS_PER_LOOP = 0.5  # that a call of several steps should take
_STARVED = 0.2  # share of the time spent waiting for input
_STARVED_ADVICE = (
    "Training waits for input {:.0%} of the time: more cores, raw records "
    "(data.prepare --encoding=raw), --cache or a tf.data service (--data_service) help."
)


class Loop:
    """Trains to the end: validates, writes records and checkpoints, can be stopped.

    Args:
        trainer: What to train; goes on from the run's latest checkpoint.
        run: Where to write.
    """

    def __init__(self, trainer: Trainer, run: Run):
        self._trainer, self._config, self._run = trainer, trainer.config, run
        self._chief = is_chief(trainer.strategy)
        self._evaluator = Evaluator(
            trainer.model, trainer.strategy, self._config.cache_validation
        )
        self._checkpoints = Checkpoints(
            trainer.checkpoint, run, self._config.keep_checkpoints, write=self._chief
        )
        if self._checkpoints.restore():
            logging.info("going on from step %d", trainer.step)
        elif self._config.on_nan == "rollback":
            self._checkpoints.save(0)
        self._ended = trainer.update_rate()
        self._open_log()
        self._progress = Progress(self._last_step, trainer.step)
        self._steps_per_loop = self._config.steps_per_loop or 1
        self._since_record = _Interval()
        self._trained = {}  # of the last training record, for the table
        self._has_advised = False
        self._stuck_from = diagnostics.stuck_from(
            self._config.num_train_examples, self._config.global_batch_size
        )

    def _open_log(self) -> None:
        if not self._chief:
            return
        trainer, run = self._trainer, self._run
        self._log = MetricsLog(run.model_dir, run.metrics_file, trainer.step)
        self._monitor = Monitor(
            self._log, trainer.model, trainer.data_set, self._config
        )
        self._has_started = False

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
        with (
            _stop_signals() as signals,
            contextlib.closing(self._progress),
        ):
            while True:
                step = trainer.step
                if self._is_validation_due(step):
                    self._validate(step)
                if self._ended or step >= self._last_step:
                    self._checkpoints.check()
                    self._check_log()
                    return True
                if self._stop_is_agreed(signals):
                    self._checkpoints.save(step)
                    self._checkpoints.check()
                    self._check_log()
                    return False
                if not self._train(batches, step):
                    self._roll_back()
                    batches = trainer.batches()

    def _check_log(self) -> None:
        if self._chief:
            self._log.check()

    def _is_validation_due(self, step: int) -> bool:
        validations = self._trainer.validations
        if step == 0 or (len(validations) and validations[-1, 0] == step):
            return False
        epoch_ended = math.floor(self._epoch(step)) > math.floor(self._epoch(step - 1))
        return epoch_ended or step == self._last_step

    def _stop_is_agreed(self, signals: list) -> bool:
        """Whether any worker got a signal; all workers must stop at the same step."""
        if self._trainer.strategy.extended._in_multi_worker_mode():
            received = tf.constant([float(len(signals))])
            return bool(self._trainer.mean_over_workers(received)[0] > 0)
        return bool(signals)

    def _train(self, batches: Iterator, step: int) -> bool:
        """Trains up to the next step at which something is due; False at a NaN."""
        every = self._config.checkpoint_every or self._last_step
        intervals = [LOG_EVERY, every, self._config.histograms_every or LOG_EVERY]
        wanted_step = min(
            step + self._steps_per_loop,
            self._epoch_end(math.floor(self._epoch(step)) + 1),
            *((step // interval + 1) * interval for interval in intervals),
            self._last_step,
        )
        wanted_step = max(step + 1, wanted_step)
        start, waited = time.perf_counter(), self._trainer.waited
        with label_errors(self._trainer.data_set, "train"):
            self._trainer.run_steps(batches, tf.constant(wanted_step - step))
            totals = self._trainer.totals  # waits for the last step
        seconds = time.perf_counter() - start
        self._check_bad_records()
        if self._trainer.step < wanted_step:
            return False
        chunk = _Interval(wanted_step - step, seconds, self._trainer.waited - waited)
        self._since_record += chunk
        self._choose_steps_per_loop(chunk)
        step = wanted_step
        self._show(step, totals, chunk)
        if self._chief:
            self._monitor_step(step)
        if step % LOG_EVERY == 0 or self._is_validation_due(step):
            self._record_training(step)
        if step % every == 0 and not self._is_validation_due(step):
            self._checkpoints.save(step)
        return True

    def _monitor_step(self, step: int) -> None:
        if not self._has_started:
            self._monitor.write_start()
            self._has_started = True
        every = self._config.histograms_every
        due = self._is_validation_due(step) if every is None else every
        if due and (every is None or step % every == 0):
            self._monitor.write_histograms(step, self._trainer.samples())

    def _check_bad_records(self) -> None:
        bad, limit = len(self._trainer.bad_records), self._config.max_bad_records
        if bad > limit:
            raise UserError(
                f"{bad} records cannot be decoded, more than "
                f"--max_bad_records={limit}: see them with python -m data.check, or "
                "raise the limit"
            )

    def _choose_steps_per_loop(self, chunk: "_Interval") -> None:
        if self._config.steps_per_loop:
            return
        seconds = chunk.seconds
        if self._trainer.strategy.extended._in_multi_worker_mode():
            values = tf.constant([seconds], tf.float32)
            seconds = float(self._trainer.mean_over_workers(values)[0])
        wanted = _SECONDS_PER_LOOP * chunk.steps / seconds
        self._steps_per_loop = int(np.clip(wanted, 1, LOG_EVERY))

    def _show(self, step: int, totals: np.ndarray, chunk: "_Interval") -> None:
        num_examples, cross_entropy, errors, _ = totals
        images = chunk.steps * self._config.global_batch_size
        num_epochs = max(1, round(self._epoch(self._last_step)))
        epoch = min(num_epochs, math.floor(self._epoch(step - 1)) + 1)
        self._progress.update(
            step,
            f"{epoch}/{num_epochs}",
            loss=f"{cross_entropy / max(1, num_examples):.4f}",
            top1=f"{1 - errors / max(1, num_examples):6.1%}",
            images=f"{images / chunk.seconds:,.0f}/s",
            waiting=f"{chunk.waited / chunk.seconds:.0%}",
            rate=f"{float(self._trainer.learning_rate(step - 1)):.2g}",
        )

    def _record_training(self, step: int) -> None:
        trainer = self._trainer
        num_examples, *sums = trainer.take_totals()
        means = [total / max(1, num_examples) for total in sums]
        interval, self._since_record = self._since_record, _Interval()
        input_wait = interval.waited / interval.seconds
        images = interval.steps * self._config.global_batch_size
        self._write(
            "train",
            step,
            means,
            images / interval.seconds,
            input_wait=input_wait,
            gradient_norm=trainer.gradient_norm,
            bad_record_share=len(trainer.bad_records) / self._config.num_train_examples,
        )
        self._trained = {"loss": f"{means[0]:.4f}", "top1": f"{1 - means[1]:.1%}"}
        if input_wait > _STARVED and not self._has_advised:
            self._has_advised = True
            self._progress.line(_STARVED_ADVICE.format(input_wait))
        if step >= self._stuck_from:
            self._stuck_from = math.inf
            if diagnostics.is_stuck(means[0], trainer.class_counts):
                images, _ = trainer.next_batch()
                text = diagnostics.describe_stuck(
                    trainer.model, images, means[0], self._config.recipe
                )
                self._progress.line(text)

    def _write(self, split, step, means, images_per_second, **scalars) -> None:
        if not self._chief:
            return
        cross_entropy, top_1_error, top_5_error = means
        self._log.write(
            split,
            step,
            self._epoch(step),
            cross_entropy=cross_entropy,
            l2=self._trainer.l2(),
            top_1_error=top_1_error,
            top_5_error=top_5_error,
            learning_rate=float(self._trainer.learning_rate(step - 1)),
            images_per_second=images_per_second,
            **scalars,
        )

    def _validate(self, step: int) -> None:
        """Validates, takes the error into the schedule, saves."""
        trainer, start = self._trainer, time.perf_counter()
        result = self._evaluator.evaluate(
            trainer.data_set, "validation", self._config.global_batch_size
        )
        seconds = time.perf_counter() - start
        means = result.cross_entropy, result.top_1_error, result.top_5_error
        self._write("validation", step, means, result.num_evaluated / seconds)
        if self._chief:
            self._monitor.validated(step, result)
        best_before = min(trainer.validations[:, 1], default=math.inf)
        is_best = result.top_1_error < best_before
        self._progress.row(
            is_best,
            epoch=f"{self._epoch(step):.2f}",
            step=str(step),
            **self._trained,
            validation_loss=f"{result.cross_entropy:.4f}",
            validation_top1=f"{1 - result.top_1_error:.1%}",
            validation_top5=f"{1 - result.top_5_error:.1%}",
            evaluated=f"{result.num_evaluated} of {result.num_examples}",
        )
        trainer.add_validation(result.top_1_error)
        self._ended = trainer.update_rate()
        self._checkpoints.save(step, best=is_best)

    def _roll_back(self) -> None:
        """After a NaN: goes back to the last good checkpoint, or says what happened.

        Raises:
            UserError: If training is to stop.
        """
        trainer = self._trainer
        step, rollbacks = trainer.step, trainer.rollbacks
        where = diagnostics.find_first_bad(trainer.model, *trainer.next_batch())
        happened = f"NaN or Inf in step {step + 1}, first in {where}"
        if self._config.on_nan == "stop" or rollbacks == MAX_ROLLBACKS:
            raise UserError(
                f"{happened}; the weights of before are safe, the last good checkpoint "
                f"is {self._checkpoints.latest}: try a lower --learning_rate, "
                "--precision=float32, or --on_nan=rollback"
            )
        self._checkpoints.restore()
        trainer.count_rollback(rollbacks + 1)
        self._ended = trainer.update_rate()
        self._open_log()
        self._progress.line(
            f"{happened}: back to step {trainer.step} with half the learning rate "
            f"({rollbacks + 1} of at most {MAX_ROLLBACKS} times)"
        )


@dataclasses.dataclass(frozen=True)
class _Interval:
    """Some steps, the seconds that they took, those of them waiting for input."""

    steps: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def __add__(self, other: "_Interval") -> "_Interval":
        return _Interval(
            self.steps + other.steps,
            self.seconds + other.seconds,
            self.waited + other.waited,
        )


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
    scale_lr: bool = False,
    overwrite: bool = False,
    export: bool = True,
    **given,
) -> bool:
    """Trains a run to its end, evaluates it and exports it.

    Args:
        data_dir: Directory of the data set.
        model_dir: Directory of the run; one that was interrupted goes on.
        precision: "float32", "mixed_bfloat16" or "auto".
        scale_lr: Whether to multiply the learning rate by global batch size / 128.
        overwrite: Whether to remove an earlier run in `model_dir`.
        export: Whether to export a SavedModel.
        **given: Fields of `Config` that are not to take the recipe's value.

    Returns:
        Whether training came to its end; False if a signal stopped it.

    Raises:
        UserError: If something that was asked for is not there, or does not fit.
    """
    # First of all: several workers must meet before TensorFlow does anything else.
    strategy = make_training_strategy(
        given.get("num_gpus"), given.get("simulate_gpus", 0)
    )
    data_set = open_data_set(data_dir)
    _check_splits(data_set)
    found = {
        "precision": choose_precision(strategy),
        "num_gpus": len(tf.config.get_visible_devices("GPU")),
    }
    if precision != "auto":
        given["precision"] = precision
    config, origins = resolve(given, data_set, found, scale_lr)
    check_batch_size(config.global_batch_size, strategy)
    run = Run(model_dir)
    run.start(config, origins, overwrite, write=is_chief(strategy))
    _log_configuration(config, origins, strategy)
    if config.deterministic:
        keras.utils.set_random_seed(config.seed)
        tf.config.experimental.enable_op_determinism()
    if not _run_loop(config, data_set, strategy, run):
        logging.info("checkpoint saved; the same command goes on from there")
        return False
    if is_chief(strategy):
        _finish(run, config, export)
    return True


def _run_loop(config, data_set, strategy, run) -> bool:
    try:
        return Loop(Trainer(config, data_set, strategy), run).run()
    except (tf.errors.UnavailableError, tf.errors.AbortedError):
        raise UserError(
            "another worker was lost: start the same command again on all workers; it "
            "goes on from the last checkpoint"
        ) from None
    finally:
        gc.collect()  # the weights and their velocities, before they are loaded again


def _check_splits(data_set: DataSet) -> None:
    for split in ("train", "validation"):
        if not data_set.splits.get(split) or not data_set.splits[split].num_examples:
            raise UserError(
                f"no {split} images in {data_set.data_dir}: it has the splits "
                + (", ".join(data_set.splits) or "none")
            )


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
    result = evaluate_run(run.model_dir, global_batch_size=config.global_batch_size)
    lines = [
        "",
        f"Held-out top-1: {1 - result.top_1_error:.1%} of {result.num_evaluated:,} "
        f"images (always answering the largest class: {result.largest_class:.1%}).",
        f"The run is in {run.model_dir}",
    ]
    if export:
        export_run(run.model_dir)
        lines.append(f"The SavedModel is in {run.saved_model_dir}")
    programs = os.path.relpath(os.path.dirname(sys.executable)) + os.sep
    if programs.startswith(".."):  # not this project's .venv
        programs = ""
    lines += [
        "Next:",
        f"  {programs}tensorboard --logdir={run.model_dir}",
        f"  {programs}python eval.py --model_dir={run.model_dir} --views=10",
        f"  {programs}python train.py --data_dir=DIR    ({programs}python -m "
        "data.prepare makes DIR of your own pictures)",
    ]
    print("\n".join(lines))

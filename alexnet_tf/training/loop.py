"""The loop around the training step: validation, records, checkpoints, signals."""

import collections
import contextlib
import math
import time
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from absl import logging

from alexnet_tf.devices import is_chief
from alexnet_tf.errors import UserError
from alexnet_tf.evaluation.evaluator import Evaluator
from alexnet_tf.monitoring.metrics_log import MetricsLog
from alexnet_tf.monitoring.progress import Progress
from alexnet_tf.monitoring.tensorboard import Monitor
from alexnet_tf.run import Run
from alexnet_tf.signals import stop_requests
from alexnet_tf.training import diagnostics
from alexnet_tf.training.checkpoints import Checkpoints
from alexnet_tf.training.step import Trainer

LOG_EVERY = 50  # steps between two training records of an epoch
_STEPS_BEFORE_PICTURES = 10  # people wait to see that training moves
_SECONDS_PER_LOOP = 0.5  # that a call of several steps should take
_STEPS_PER_LOOP_OF_WORKERS = 10  # all workers must come back at the same steps
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
        self._in_cluster = trainer.strategy.extended._in_multi_worker_mode()
        self._evaluator = Evaluator(
            trainer.model, trainer.strategy, self._config.cache_validation
        )
        self._checkpoints = Checkpoints(
            trainer.checkpoint, run, self._config.keep_checkpoints, write=self._chief
        )
        if self._checkpoints.restore():
            logging.info("going on from step %d", trainer.step)
        elif self._config.init_weights:  # which may be gone or others the next time
            self._checkpoints.save(0)
        self._ended = trainer.update_plateau()
        if self._chief:
            self._log = MetricsLog(run.model_dir, run.metrics_file, trainer.step)
            self._monitor = Monitor(
                self._log, trainer.model, trainer.data_set, self._config
            )
        self._progress = Progress(self._config.last_step, trainer.step)
        default = _STEPS_PER_LOOP_OF_WORKERS if self._in_cluster else 1
        self._steps_per_loop = self._config.steps_per_loop or default
        self._first_step = trainer.step
        self._since_record = collections.Counter()  # what `_train` adds up
        self._trained = {}  # the last training record, for the table
        self._has_advised = self._has_written_start = self._was_stuck = False

    def run(self) -> bool:
        """Trains; False if a signal ended it early, with a checkpoint saved."""
        with stop_requests() as is_stop_requested, contextlib.closing(self._progress):
            batches = self._trainer.batches(self._config.cache)
            while True:
                step = self._trainer.step
                # Also when the process was killed between an epoch and its validation.
                if self._is_validation_due(step):
                    self._validate(step)
                if self._ended or step >= self._config.last_step:
                    self._check_written()
                    return True
                if self._must_stop(is_stop_requested()):
                    self._checkpoints.save(step)
                    self._check_written()
                    return False
                self._train(batches, step)

    def _check_written(self) -> None:
        """Raises `UserError` where a disk refused what it should have taken."""
        self._checkpoints.check()
        if self._chief:
            self._log.check()

    def _is_validation_due(self, step: int) -> bool:
        validations = self._trainer.validations
        if step == 0 or (len(validations) and validations[-1, 0] == step):
            return False
        epoch = self._config.epoch
        epoch_ended = math.floor(epoch(step)) > math.floor(epoch(step - 1))
        return epoch_ended or step == self._config.last_step

    def _must_stop(self, is_requested: bool) -> bool:
        """Whether any worker got a signal; all workers must stop at the same step."""
        if self._in_cluster:
            return bool(self._trainer.any_worker(tf.constant(float(is_requested))))
        return is_requested

    def _train(self, batches: Iterator, step: int) -> None:
        """Trains up to the next step at which something is due."""
        trainer, wanted_step = self._trainer, self._next_stop(step)
        start, waited = time.perf_counter(), trainer.waited
        trainer.run_steps(batches, tf.constant(wanted_step - step))
        metrics = trainer.metrics()  # waits for the last step
        seconds = time.perf_counter() - start
        self._check_bad_records()
        if trainer.step < wanted_step:
            self._stop_at_nan()
        waited = trainer.waited - waited
        chunk = {"steps": wanted_step - step, "seconds": seconds, "waited": waited}
        self._since_record.update(chunk)
        self._choose_steps_per_loop(chunk)
        step = wanted_step
        self._show(step, metrics, chunk)
        if self._chief:
            self._watch(step)
        if self._is_record_due(step):
            self._record_training(step, metrics)
        if self._is_validation_due(step):
            return  # what comes next saves
        if self._is_checkpoint_due(step):
            self._checkpoints.save(step)

    def _next_stop(self, step: int) -> int:
        """The step at which the loop has to come back to Python."""
        start, end = self._epoch_around(step)
        intervals = (self._config.checkpoint_every, self._config.histograms_every)
        return min(
            step + self._steps_per_loop,
            step + LOG_EVERY - (step - start) % LOG_EVERY,
            end,
            *((step // every + 1) * every for every in intervals if every),
        )

    def _epoch_around(self, step: int) -> tuple[int, int]:
        """The first step of the epoch that goes on after `step`, and its end."""
        config = self._config
        epoch = math.floor(config.epoch(step))
        end = max(step + 1, config.first_step_of(epoch + 1))
        return config.first_step_of(epoch), min(end, config.last_step)

    def _is_record_due(self, step: int) -> bool:
        """At an epoch's end, and every `LOG_EVERY` steps where much of it is left."""
        start, end = self._epoch_around(step)
        is_far = end - step >= LOG_EVERY // 2
        is_due = (step - start) % LOG_EVERY == 0 and is_far
        return is_due or self._is_validation_due(step)

    def _is_checkpoint_due(self, step: int) -> bool:
        every = self._config.checkpoint_every
        return bool(every) and step % every == 0

    def _check_bad_records(self) -> None:
        bad, limit = len(self._trainer.bad_records), self._config.max_bad_records
        if bad > limit:
            raise UserError(
                f"{bad} records cannot be used, more than "
                f"--max_bad_records={limit}: see them with python -m data.check, or "
                "raise the limit"
            )

    def _stop_at_nan(self) -> None:
        trainer = self._trainer
        where = diagnostics.find_first_bad(trainer.model, *trainer.next_batch())
        saved, advice = self._checkpoints.latest, "try a lower --learning_rate"
        if self._config.precision != "float32":
            advice += ", or --precision=float32 in a new --model_dir"
        raise UserError(
            f"NaN or Inf in step {trainer.step + 1}, first in {where}; the last good "
            f"checkpoint is {saved or 'not there yet'}: {advice}"
        )

    def _choose_steps_per_loop(self, chunk: dict[str, float]) -> None:
        if self._config.steps_per_loop or self._in_cluster:
            return
        wanted = _SECONDS_PER_LOOP * chunk["steps"] / chunk["seconds"]
        self._steps_per_loop = int(np.clip(wanted, 1, LOG_EVERY))

    def _show(self, step: int, metrics: dict, chunk: dict[str, float]) -> None:
        config = self._config
        images = chunk["steps"] * config.recipe.global_batch_size
        epoch, num_epochs = (
            math.floor(config.epoch(end - 1)) + 1 for end in (step, config.last_step)
        )
        self._progress.update(
            step,
            f"{epoch}/{num_epochs}",
            loss=f"{metrics['cross_entropy']:.4f}",
            top1=f"{1 - metrics['top_1_error']:6.1%}",
            images=f"{images / chunk['seconds']:,.0f}/s",
            waiting=f"{chunk['waited'] / chunk['seconds']:.0%}",
            rate=f"{metrics['learning_rate']:.2g}",
        )

    def _watch(self, step: int) -> None:
        """Writes what TensorBoard shows beside the metrics, where it is time."""
        every = self._config.histograms_every
        if every and step % every == 0:
            self._monitor.write_histograms(step, self._trainer.samples())
        is_under_way = step >= self._first_step + _STEPS_BEFORE_PICTURES
        if not self._has_written_start and (
            is_under_way or self._is_validation_due(step)
        ):
            self._has_written_start = True
            self._monitor.write_start()

    def _record_training(self, step: int, metrics: dict) -> None:
        trainer, config = self._trainer, self._config
        trainer.start_metrics()
        interval = dict(self._since_record)
        self._since_record.clear()
        input_wait = interval["waited"] / interval["seconds"]
        images = interval["steps"] * config.recipe.global_batch_size
        share = len(trainer.bad_records) / config.num_train_examples
        self._trained = metrics | {
            "l2": trainer.l2(),
            "images_per_second": images / interval["seconds"],
            "input_wait": input_wait,
            "bad_record_share": share,
        }
        self._write("train", step, self._trained)
        if input_wait > _STARVED and not self._has_advised:
            self._has_advised = True
            self._progress.line(_STARVED_ADVICE.format(input_wait))

    def _write(self, split: str, step: int, metrics: dict) -> None:
        if self._chief:
            self._log.write(split, step, self._config.epoch(step), **metrics)

    def _validate(self, step: int) -> None:
        """Validates, takes the error into the schedule, saves."""
        trainer, start = self._trainer, time.perf_counter()
        result = self._evaluator.evaluate(
            trainer.data_set, "validation", self._config.recipe.global_batch_size
        )
        seconds = time.perf_counter() - start
        metrics = {
            "cross_entropy": result.cross_entropy,
            "l2": trainer.l2(),
            "top_1_error": result.top_1_error,
            "top_5_error": result.top_5_error,
            "learning_rate": float(trainer.learning_rate(step - 1)),
            "images_per_second": result.num_evaluated / seconds,
        }
        self._write("validation", step, metrics)
        if self._chief:
            if self._config.histograms_every is None:
                self._monitor.write_histograms(step, trainer.samples())
            self._monitor.validated(step, result)
        best_before = self._checkpoints.best_error(trainer.validations)
        is_best = result.top_1_error < best_before
        self._show_epoch(step, result, is_best)
        self._advise_if_stuck(step, result)
        trainer.add_validation(result.top_1_error)
        self._ended = trainer.update_plateau()
        self._checkpoints.save(step, best=is_best)

    def _show_epoch(self, step: int, result, is_best: bool) -> None:
        trained = {}
        if self._trained:
            trained = {
                "loss": f"{self._trained['cross_entropy']:.4f}",
                "top1": f"{1 - self._trained['top_1_error']:.1%}",
            }
        top_5 = {"validation_top5": f"{1 - result.top_5_error:.1%}"}
        if len(self._config.class_names) <= 5:
            top_5 = {}
        self._progress.row(
            is_best,
            epoch=f"{self._config.epoch(step):.2f}",
            step=str(step),
            **trained,
            validation_loss=f"{result.cross_entropy:.4f}",
            validation_top1=f"{1 - result.top_1_error:.1%}",
            **top_5,
            largest=f"{result.largest_class:.1%}",
            evaluated=f"{result.num_evaluated}/{result.num_examples}",
        )

    def _advise_if_stuck(self, step: int, result) -> None:
        labels = np.bincount(result.predictions.labels)
        is_last = step == self._config.last_step
        is_stuck = diagnostics.is_stuck(
            step, is_last, result.cross_entropy, result.top_1_error, labels
        )
        if not is_stuck or self._was_stuck:
            return
        self._was_stuck = True
        images, _ = self._trainer.next_batch()
        rate = float(self._trainer.learning_rate(step - 1))
        self._progress.line(
            diagnostics.describe_stuck(
                self._trainer.model,
                images,
                result.cross_entropy,
                self._config.recipe,
                rate,
            )
        )

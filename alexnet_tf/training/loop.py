"""The loop around the training step: records, checkpoints, validations, signals.

What is due when stands in `timetable.py`. The order after a step is always the same:
record, save, validate. So a validation, which may take minutes, is never between a step
and its checkpoint: a signal ends it between two batches, and who goes on from the
checkpoint does it again.
"""

import collections
import contextlib
import time
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
from absl import logging

from alexnet_tf.devices import is_chief
from alexnet_tf.errors import UserError
from alexnet_tf.evaluation import stuck
from alexnet_tf.evaluation.results import Evaluation
from alexnet_tf.metrics_file import read_records
from alexnet_tf.monitoring.metrics_log import MetricsLog
from alexnet_tf.monitoring.progress import Progress
from alexnet_tf.monitoring.tensorboard import Monitor
from alexnet_tf.run import Run
from alexnet_tf.signals import Interrupted, stop_requests
from alexnet_tf.training import diagnostics
from alexnet_tf.training.checkpoints import Checkpoints
from alexnet_tf.training.cluster import find_slow_worker
from alexnet_tf.training.step import Trainer
from alexnet_tf.training.timetable import LOG_EVERY

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

    Attributes:
        evaluations: The last one of each split, by its name.
        seconds: How long each of them took.
        remarks: Lines that a person should see at the end once more.
    """

    def __init__(self, trainer: Trainer, run: Run):
        self._trainer, self._config, self._run = trainer, trainer.config, run
        self._chief, self._workers = is_chief(trainer.strategy), trainer.workers
        self.evaluations: dict[str, Evaluation] = {}
        self.seconds: dict[str, float] = {}
        self.remarks: list[str] = []
        self._is_stop_requested: Callable[[], bool] = lambda: False
        self.checkpoints = Checkpoints(
            trainer.state.checkpoint(),
            run,
            self._config.keep_checkpoints,
            write=self._chief,
        )
        self._restore()
        self._timetable = trainer.timetable
        self._ended = trainer.update_plateau()
        self._trained = {}  # the last training record, for the table
        if self._chief:
            self._log = MetricsLog(run, trainer.step)
            self._monitor = Monitor(
                self._log, trainer.model, trainer.data_set, self._config
            )
        self._progress = Progress(self._timetable.last_step, trainer.step)
        default = _STEPS_PER_LOOP_OF_WORKERS if self._workers.are_several else 1
        self._steps_per_loop = self._config.steps_per_loop or default
        self._first_step, self._saved_at = trainer.step, time.monotonic()
        self._since_record = collections.Counter()  # what `_train` adds up
        self._has_advised = self._has_written_start = False

    def _restore(self) -> None:
        """Goes on from the latest checkpoint, all workers from the same one."""
        trainer = self._trainer
        if self.checkpoints.restore():
            self._take_last_validation()
            trainer.begin()
            logging.info("going on from step %d", trainer.step)
        elif self._config.init_weights:  # which may be gone or others the next time
            self.checkpoints.save(0)
            self.checkpoints.wait()
        if self._workers.are_several:
            self._workers.check_equal(
                {
                    "step": trainer.step,
                    "weights": trainer.digest(),
                    "validations": len(trainer.validations),
                },
                "they must all see one --model_dir, on a disk that they share",
            )

    def _take_last_validation(self) -> None:
        """A validation follows its checkpoint; where it was done, a record says so."""
        trainer = self._trainer
        for record in read_records(self._run.metrics_file):
            is_last = (record["split"], record["step"]) == ("validation", trainer.step)
            if is_last and trainer.step not in trainer.validations[:, 0]:
                trainer.add_validation(record["top_1_error"])

    def run(self) -> bool:
        """Trains; False if a signal ended it early, with a checkpoint saved."""
        with stop_requests() as self._is_stop_requested:
            with (
                contextlib.closing(self._progress),
                contextlib.closing(self.checkpoints),
            ):
                try:
                    self._train_to_the_end()
                    is_done = True
                except KeyboardInterrupt:  # by `_stop_if_asked`, or a notebook's own
                    is_done = False
                self.checkpoints.save(self._trainer.step)
                # What a disk refused is an error now, and no longer a warning.
                self.checkpoints.check()
                if self._chief:
                    self._log.check()
            if not is_done:
                # A worker's own signal may come while it stops for that of another:
                # this answers it.
                self._is_stop_requested()
        return is_done

    def _train_to_the_end(self) -> None:
        batches = self._trainer.batches(self._config.cache)
        while True:
            step = self._trainer.step
            self._stop_if_asked()
            # Also where a run was stopped between a checkpoint and its validation.
            if self._is_validation_missing(step):
                self._validate(step)
            if self._ended or step >= self._timetable.last_step:
                break
            self._train(batches, step)
        if not self.evaluations:  # it was done before this process
            self._evaluate("validation")
        # The test split is looked at once, when nothing can be chosen by it any more.
        test = self._trainer.data_set.splits.get("test")
        if test and test.num_examples:
            self._evaluate("test")

    def _is_validation_missing(self, step: int) -> bool:
        validated = self._trainer.validations[:, 0]
        return self._timetable.is_validation_due(step) and step not in validated

    def _stop_if_asked(self, *_) -> None:
        """Raises `Interrupted` on all workers where one of them got a signal."""
        if self._workers.any(self._is_stop_requested()):
            raise Interrupted

    def _train(self, batches: Iterator, step: int) -> None:
        """Trains up to the next step at which something is due, and does that."""
        trainer, before = self._trainer, self._measure()
        wanted_step = self._timetable.next_stop(step, self._steps_per_loop)
        trainer.run_steps(batches, tf.constant(wanted_step - step))
        metrics = trainer.metrics()  # waits for the last step
        chunk = {name: x - before[name] for name, x in self._measure().items()}
        self._check_bad_records()
        if trainer.step < wanted_step:
            self._stop_at_nan()
        self._since_record.update(chunk)
        self._choose_steps_per_loop(chunk)
        step = wanted_step
        self._show(step, metrics, chunk)
        if self._chief:
            self._watch(step)
        if self._timetable.is_record_due(step):
            self._record_training(step, metrics)
        minutes = (time.monotonic() - self._saved_at) / 60
        if self._timetable.is_checkpoint_due(step, minutes):
            self.checkpoints.save(step)
            self._saved_at = time.monotonic()

    def _measure(self) -> dict[str, float]:
        """Counters whose differences say how fast training is; seconds, but steps."""
        return {
            "steps": self._trainer.step,
            "seconds": time.perf_counter(),
            "waited": float(self._trainer.state.waited.numpy()),
            "computed": float(self._trainer.state.computed.numpy()),
        }

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
        self.checkpoints.wait()
        where = diagnostics.find_first_bad(trainer.model, *trainer.next_batch())
        saved, advice = self.checkpoints.latest, "try a lower --learning_rate"
        if self._config.precision != "float32":
            advice += ", or --precision=float32 in a new --model_dir"
        raise UserError(
            f"NaN or Inf in step {trainer.step + 1}, first in {where}; the last good "
            f"checkpoint is {saved or 'not there yet'}: {advice}"
        )

    def _choose_steps_per_loop(self, chunk: dict[str, float]) -> None:
        if self._config.steps_per_loop or self._workers.are_several:
            return
        wanted = _SECONDS_PER_LOOP * chunk["steps"] / chunk["seconds"]
        self._steps_per_loop = int(np.clip(wanted, 1, LOG_EVERY))

    def _show(self, step: int, metrics: dict, chunk: dict[str, float]) -> None:
        images = chunk["steps"] * self._config.recipe.global_batch_size
        last_step = self._timetable.last_step
        epoch, num_epochs = (
            int(self._timetable.epoch(end - 1)) + 1 for end in (step, last_step)
        )
        self._progress.update(
            step,
            f"epoch {epoch}/{num_epochs} step {step}/{last_step} "
            f"loss {metrics['cross_entropy']:.4f} "
            f"top1 {1 - metrics['top_1_error']:.1%} "
            f"{images / chunk['seconds']:,.0f}/s "
            f"wait {chunk['waited'] / chunk['seconds']:.0%}",
        )

    def _watch(self, step: int) -> None:
        """Writes what TensorBoard shows beside the metrics, where it is time."""
        is_validation_due = self._timetable.is_validation_due(step)
        if is_validation_due:
            self._monitor.write_histograms(step, self._trainer.samples())
        is_under_way = step >= self._first_step + _STEPS_BEFORE_PICTURES
        if not self._has_written_start and (is_under_way or is_validation_due):
            self._has_written_start = True
            self._monitor.write_start()

    def _record_training(self, step: int, metrics: dict) -> None:
        trainer, config = self._trainer, self._config
        trainer.start_metrics()
        interval = dict(self._since_record)
        self._since_record.clear()
        input_wait = interval["waited"] / interval["seconds"]
        images = interval["steps"] * config.recipe.global_batch_size
        self._trained = metrics | {
            "l2": trainer.l2(),
            "images_per_second": images / interval["seconds"],
            "input_wait": input_wait,
        }
        bad = {}
        if len(trainer.bad_records):
            share = len(trainer.bad_records) / config.num_train_examples
            bad = {"bad_record_share": share}
        self._write("train", step, self._trained | bad)
        own_seconds = np.array([interval["waited"] + interval["computed"]])
        seconds = self._workers.gather(own_seconds)[:, 0]
        slow = find_slow_worker(self._workers.names, seconds)
        if input_wait > _STARVED:
            slow = slow or _STARVED_ADVICE.format(input_wait)
        if slow and not self._has_advised:
            self._has_advised = True
            self._progress.line(slow)

    def _write(self, split: str, step: int, metrics: dict) -> None:
        if self._chief:
            self._log.write(split, step, self._timetable.epoch(step), **metrics)

    def _evaluate(self, split: str) -> Evaluation:
        """Evaluates a split, unless a signal comes between two of its batches."""
        start = time.perf_counter()
        evaluation = self._trainer.evaluator.evaluate(
            self._trainer.data_set,
            split,
            self._config.recipe.global_batch_size,
            on_batch=self._stop_if_asked,
        )
        self.seconds[split] = time.perf_counter() - start
        self.evaluations[split] = evaluation
        return evaluation

    def _validate(self, step: int) -> None:
        """Validates, and takes the error into the schedule."""
        trainer, result = self._trainer, self._evaluate("validation")
        metrics = {
            "cross_entropy": result.cross_entropy,
            "l2": trainer.l2(),
            "top_1_error": result.top_1_error,
            "top_5_error": result.top_5_error,
            "learning_rate": trainer.learning_rate(step - 1),
            "images_per_second": result.num_evaluated / self.seconds["validation"],
        }
        best_before = self.checkpoints.best_error(trainer.validations)
        is_best = result.top_1_error < best_before
        if is_best:
            self.checkpoints.mark_best(step)
        # From here on it counts as done; who is killed before does it again.
        self._write("validation", step, metrics)
        if self._chief:
            self._monitor.validated(step, result)
        self._show_epoch(step, result, is_best)
        self._advise_if_stuck(step, result)
        trainer.add_validation(result.top_1_error)
        self._ended = trainer.update_plateau()

    def _show_epoch(self, step: int, result: Evaluation, is_best: bool) -> None:
        # The first row after a start may have no training record: its columns stay.
        trained = {"loss": "", "top1": ""}
        if self._trained:
            trained["loss"] = f"{self._trained['cross_entropy']:.4f}"
            trained["top1"] = f"{1 - self._trained['top_1_error']:.1%}"
        top_5 = {"validation_top5": f"{1 - result.top_5_error:.1%}"}
        if len(self._config.class_names) <= 5:
            top_5 = {}
        self._progress.row(
            is_best,
            epoch=self._timetable.describe_epoch(step),
            step=str(step),
            **trained,
            validation_loss=f"{result.cross_entropy:.4f}",
            validation_top1=f"{1 - result.top_1_error:.1%}",
            **top_5,
        )

    def _advise_if_stuck(self, step: int, result: Evaluation) -> None:
        is_last, weights = step == self._timetable.last_step, self._config.loss_weights
        enough = stuck.STEPS_TO_START_AT_END if is_last else stuck.STEPS_TO_START
        if step < enough or not stuck.is_stuck(result.predictions, weights):
            self.remarks = []
        elif not self.remarks:
            images, _ = self._trainer.next_batch()
            layers = diagnostics.describe_layers(self._trainer.model, images)
            self.remarks = [stuck.describe_stuck(result, self._config)]
            self._progress.line(f"{self.remarks[0]}\n{layers}")

"""What train.py does: trains a run to its end, evaluates it and exports it."""

import contextlib
import dataclasses
import gc
import os
import re
import sys
import types
from collections.abc import Iterator, Mapping

import keras
import tensorflow as tf
from absl import logging

from alexnet_tf.command_line import command
from alexnet_tf.config import Config, flat, resolve
from alexnet_tf.devices import (
    check_batch_size,
    choose_precision,
    describe,
    is_chief,
    make_training_strategy,
)
from alexnet_tf.errors import UserError
from alexnet_tf.evaluation.evaluation import compare_fits
from alexnet_tf.evaluation.results import describe_evaluation, write_results
from alexnet_tf.export.exporting import export_run
from alexnet_tf.files import check_output, lock
from alexnet_tf.metrics_file import read_records
from alexnet_tf.paths import from_here, list_checkpoints
from alexnet_tf.pipeline.batches import check_image_size
from alexnet_tf.pipeline.data_set import DataSet, open_data_set
from alexnet_tf.pipeline.tfrecords import check_lengths
from alexnet_tf.run import Run
from alexnet_tf.training.cluster import Workers
from alexnet_tf.training.loop import Loop
from alexnet_tf.training.resuming import find_unfinished, make_run
from alexnet_tf.training.step import Trainer
from alexnet_tf.weights.loading import Loaded
from alexnet_tf.weights.published import PublishedWeights, assign
from alexnet_tf.weights.weight_files import read_weights

_NOTHING = types.MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a training.

    Attributes:
        run: Where it is.
        is_finished: Whether it came to its end, or was interrupted.
        lines: How good the network is, for people; empty where it did not come to its
            end, and on all workers but the chief.
    """

    run: Run
    is_finished: bool
    lines: tuple[str, ...] = ()


def tell_next(outcome: Outcome, is_exported: bool) -> None:
    """Says what to type in a shell after a training, however it ended."""
    if not outcome.is_finished:
        logging.info("checkpoint saved; this goes on from there:")
        logging.info("  %s", _command_to_go_on(outcome.run))
    if outcome.lines:
        commands = _next_commands(from_here(outcome.run.model_dir), is_exported)
        print("\n".join(["", *outcome.lines, "Next:", *commands]))


def _command_to_go_on(run: Run) -> str:
    """The command that was given, with what it needs in order to find the run."""
    words = [word for word in sys.argv if not re.match("--?overwrite", word)]
    if not any(re.match("--?model_dir", word) for word in words):
        words.append(f"--model_dir={from_here(run.model_dir)}")
    return command("python", *words)


def _next_commands(model_dir: str, export: bool) -> Iterator[str]:
    if export:
        predict = command("python", "predict.py", f"--saved_model={model_dir}")
        yield f"  {predict} PICTURE…"
    yield f"  {command('tensorboard', f'--logdir={model_dir}')}"
    report = f"--report_dir={os.path.join(model_dir, 'report')}"
    yield f"  {command('python', 'eval.py', f'--model_dir={model_dir}', report)}"


def train_run(
    data_dir: str,
    model_dir: str | None = None,
    recipe: str = "auto",
    given: Mapping[str, object] = _NOTHING,
    *,
    overwrite: bool = False,
    export: bool = True,
) -> Outcome:
    """Trains a run to its end, evaluates it and exports it.

    Args:
        data_dir: Directory of the data set.
        model_dir: Directory of the run; one that was interrupted goes on. None for the
            newest unfinished run of the same settings in `RUNS_DIR`, or else a new one
            there, called by its time and recipe.
        recipe: A name in `RECIPES`, or "auto".
        given: Values by the names of fields of `Recipe` and `Config`. Others are the
            recipe's or the default; of a run that goes on, what they were.
        overwrite: Whether to remove an earlier run in `model_dir`.
        export: Whether to export a SavedModel.

    Raises:
        UserError: If something that was asked for is not there, or does not fit.
    """
    # First of all: several workers must meet before TensorFlow does anything else.
    strategy = make_training_strategy(
        given.get("num_gpus"), given.get("simulate_gpus", 0)
    )
    data_set = open_data_set(data_dir)
    _check_data(data_set)

    def complete(previous: Config | None, weights: PublishedWeights | None = None):
        return _complete(resolve(data_set, recipe, given, previous, weights))

    with contextlib.ExitStack() as stack:
        stack.enter_context(_explain_lost_workers())
        if model_dir is None:
            if strategy.extended._in_multi_worker_mode():
                raise UserError("several workers share a --model_dir: give it to each")
            run = find_unfinished(complete, given, export, stack)
        else:
            run = Run(model_dir)
            if is_chief(strategy):
                check_output(model_dir, [data_dir], what="--model_dir")
                stack.enter_context(lock(model_dir))
        goes_on = run and run.exists() and not overwrite
        previous = run.read_config() if goes_on else None
        weights = _first_weights(run, previous, given)
        config = complete(previous, weights)
        check_batch_size(config.recipe.global_batch_size, strategy)
        check_image_size(data_set, config.recipe.image_size)
        _check_workers_agree(config, data_set, strategy)
        run = run or make_run(config, stack)
        run.start(config, overwrite, write=is_chief(strategy))
        return _train_run(run, config, data_set, strategy, weights, export)


def _check_data(data_set: DataSet) -> None:
    for split in ("train", "validation"):
        if not data_set.splits.get(split) or not data_set.splits[split].num_examples:
            raise UserError(
                f"no {split} images in {data_set.data_dir}: it has the splits "
                + (", ".join(data_set.splits) or "none")
            )
    for split in data_set.splits.values():
        check_lengths(split.filenames)


@contextlib.contextmanager
def _explain_lost_workers() -> Iterator[None]:
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError):
        raise UserError(
            "another worker was lost: start the same command again on all workers; it "
            "goes on from the last checkpoint"
        ) from None


def _check_workers_agree(config: Config, data_set: DataSet, strategy) -> None:
    """Several workers would average the gradients of different networks."""
    workers = Workers(strategy)
    if workers.are_several:
        # Where the data is mounted may differ; what it is may not.
        settings = {k: v for k, v in flat(config).items() if k != "data_dir"}
        shards = {name: s.shard_lengths for name, s in data_set.splits.items()}
        workers.check_equal(
            settings | {"data set": shards},
            "start all with the same command and the same data set",
        )


def _first_weights(
    run: Run | None, previous: Config | None, given
) -> PublishedWeights | None:
    """Reads what a run starts from; one that has a checkpoint goes on from there."""
    path = given.get("init_weights") or (previous and previous.init_weights)
    if not path or (previous and list_checkpoints(run.checkpoint_dir)):
        return None
    return read_weights(path)


def _complete(config: Config) -> Config:
    """Puts in what the machine decides."""
    precision = config.precision
    if precision == "auto":
        precision = choose_precision()
    reduce_in_bfloat16 = config.reduce_in_bfloat16
    if reduce_in_bfloat16 is None:  # such gradients are bfloat16 already
        reduce_in_bfloat16 = precision == "mixed_bfloat16"
    return dataclasses.replace(
        config,
        precision=precision,
        reduce_in_bfloat16=reduce_in_bfloat16,
        num_gpus=len(tf.config.get_visible_devices("GPU")),
    )


def _train_run(run, config, data_set, strategy, weights, export) -> Outcome:
    _log_configuration(run, config, strategy)
    with _explain_full_memory(config, strategy):
        trainer = _make_trainer(config, data_set, strategy, weights)
        loop = Loop(trainer, run)
        is_finished = loop.run()
    if not is_finished or not is_chief(strategy):
        return Outcome(run, is_finished)
    lines = _write_results(loop, trainer, run)
    del trainer, loop
    gc.collect()  # the weights and their velocities, before they are loaded again
    return Outcome(run, True, (*lines, *_finish(run, config, export)))


def _log_configuration(
    run: Run, config: Config, strategy: tf.distribute.Strategy
) -> None:
    logging.info("the run is in %s", run.model_dir)
    logging.info(
        "recipe %s for %d classes, on %s, %s",
        config.recipe.name,
        len(config.class_names),
        describe(strategy, config.simulate_gpus),
        config.precision,
    )
    length = f"{config.recipe.num_epochs:g} epochs"
    if config.train_steps:
        length = f"{config.train_steps:,} steps"
    logging.info(
        "batch %d and %s for %s images",
        config.recipe.global_batch_size,
        length,
        f"{config.num_train_examples:,}",
    )
    values = flat(config)
    for name in config.given:
        logging.info("  %s %s (given)", name, values[name])
    logging.info(
        "loss and top1 are those of training, with its dropout and its changes of the "
        "pictures: they may well be worse than those of validation"
    )


def _make_trainer(config: Config, data_set: DataSet, strategy, weights) -> Trainer:
    """Builds the network in training, with the weights that the run starts from."""
    if config.deterministic:
        keras.utils.set_random_seed(config.seed)
        tf.config.experimental.enable_op_determinism()
    trainer = Trainer(config, data_set, strategy)
    if weights is None:
        return trainer
    logging.info("starting from %s", weights.source)
    for layer, state in assign(trainer.model, weights, config.class_names).items():
        is_frozen = layer in (config.recipe.freeze or ())
        logging.info("  %s: %s%s", layer, state, ", frozen" if is_frozen else "")
    for recipe in weights.recipes:
        if recipe.name == config.recipe.name:
            compare_fits(recipe.fit, data_set.fit)
    return trainer


@contextlib.contextmanager
def _explain_full_memory(
    config: Config, strategy: tf.distribute.Strategy
) -> Iterator[None]:
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        if "memory" not in error.message and "OOM" not in error.message:
            raise  # a disk
        raise _out_of_memory(config, strategy) from None


def _out_of_memory(config: Config, strategy: tf.distribute.Strategy) -> UserError:
    batch_size = config.recipe.global_batch_size
    replicas = strategy.num_replicas_in_sync
    half = max(1, batch_size // 2 // replicas) * replicas
    advice = [f"--global_batch_size={half}"] if half < batch_size else []
    if config.precision == "float32":
        advice.append("--precision=mixed_bfloat16 in a new --model_dir")
    return UserError(
        f"out of memory with --global_batch_size={batch_size} on "
        f"{describe(strategy, config.simulate_gpus)} in {config.precision}: try "
        + " or ".join([*advice, "more GPUs"])
    )


def _write_results(loop: Loop, trainer: Trainer, run: Run) -> list[str]:
    """Writes eval.json and its like of what the loop evaluated last; describes it."""
    network = Loaded(trainer.model, trainer.config, loop.checkpoints.latest)
    lines, result = [], loop.evaluations["validation"]
    for split, evaluation in loop.evaluations.items():
        rate = evaluation.num_evaluated / loop.seconds[split]
        facts = describe_evaluation(evaluation, [network], trainer.data_set, rate)
        write_results(run.model_dir, evaluation, facts, trainer.data_set)
        name = {"validation": "Held-out", "test": "Test"}[split]
        lines.append(
            f"{name} top-1: {1 - evaluation.top_1_error:.1%} of "
            f"{evaluation.num_evaluated:,} images (always answering the largest class: "
            f"{evaluation.largest_class:.1%}); balanced accuracy "
            f"{evaluation.balanced_accuracy:.1%}, macro-F1 {evaluation.macro_f1:.1%}."
        )
    timetable = trainer.timetable
    if trainer.step < timetable.last_step:
        lines.append(
            f"Training ended at step {trainer.step:,} of {timetable.last_step:,}, "
            "because the validation error improved no more."
        )
    records = [x for x in read_records(run.metrics_file) if x["split"] == "validation"]
    best = min(records, key=lambda record: record["top_1_error"])
    if best["top_1_error"] < result.top_1_error:
        lines.append(
            f"The best validation was that of epoch "
            f"{timetable.describe_epoch(best['step'])}: {1 - best['top_1_error']:.1%}; "
            "--checkpoint=best exports, evaluates and predicts with that network."
        )
    return lines + loop.remarks


def _finish(run: Run, config: Config, export: bool) -> list[str]:
    """Exports a run that has ended; says what is where."""
    lines = [
        f"The run is in {from_here(run.model_dir)}; learning_curves.png there shows "
        "how it learned, batch.png what it was shown"
    ]
    if export:
        lines.append(f"The SavedModel is in {from_here(export_run(run.model_dir))}")
    run.write_config(dataclasses.replace(config, is_finished=True))
    return lines

"""What train.py does: trains a run to its end, evaluates it and exports it."""

import contextlib
import dataclasses
import gc
import os
import re
import sys
import time
import types
from collections.abc import Mapping

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
from alexnet_tf.evaluation.evaluation import evaluate_run
from alexnet_tf.evaluation.results import read_records
from alexnet_tf.export import export_run
from alexnet_tf.files import check_output, lock, make_fresh_directory
from alexnet_tf.paths import from_here, list_checkpoints, list_names
from alexnet_tf.pipeline.data_set import DataSet, open_data_set
from alexnet_tf.run import Run
from alexnet_tf.training.loop import Loop
from alexnet_tf.training.schedules import plateau
from alexnet_tf.training.step import Trainer
from alexnet_tf.weights.published import PublishedWeights, assign, read_weights

RUNS_DIR = "runs"


def train(
    data_dir: str,
    model_dir: str | None = None,
    recipe: str = "auto",
    given: Mapping[str, object] = types.MappingProxyType({}),
    *,
    overwrite: bool = False,
    export: bool = True,
) -> bool:
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

    Returns:
        Whether training came to its end; False if a signal stopped it.

    Raises:
        UserError: If something that was asked for is not there, or does not fit.
    """
    # First of all: several workers must meet before TensorFlow does anything else.
    strategy = make_training_strategy(
        given.get("num_gpus"),
        given.get("simulate_gpus", 0),
        given.get("memory_growth", True),
    )
    data_set = open_data_set(data_dir)
    _check_splits(data_set)
    with contextlib.ExitStack() as stack:
        if model_dir is None:
            _check_alone(strategy)
            run = _find_unfinished(data_set, recipe, given, export, stack)
        else:
            run = Run(model_dir)
            if is_chief(strategy):
                check_output(model_dir, [data_dir], what="--model_dir", replaced=False)
                stack.enter_context(lock(model_dir, "the run"))
        goes_on = run and run.exists() and not overwrite
        previous = run.read_config() if goes_on else None
        weights = _first_weights(run, previous, given)
        config = _complete(resolve(data_set, recipe, given, previous, weights))
        check_batch_size(config.recipe.global_batch_size, strategy)
        run = run or _make_run(config, stack)
        run.start(config, overwrite, write=is_chief(strategy))
        return _train_run(run, config, data_set, strategy, weights, export)


def _check_alone(strategy: tf.distribute.Strategy) -> None:
    if strategy.extended._in_multi_worker_mode():
        raise UserError("several workers must share a --model_dir: give it to each")


def _find_unfinished(data_set, recipe: str, given, export: bool, stack) -> Run | None:
    """The newest run of the same settings that no other process is at, locked."""
    for name in reversed(list_names(RUNS_DIR)):
        run = Run(os.path.join(RUNS_DIR, name))
        if _can_go_on(run, data_set, recipe, given, export):
            with contextlib.suppress(UserError):  # another process is at it
                stack.enter_context(lock(run.model_dir, "the run"))
                return run
    return None


def _make_run(config: Config, stack) -> Run:
    """Makes the directory of a run without a name, and locks it."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{config.recipe.name}"
    directory = make_fresh_directory(os.path.join(RUNS_DIR, name))
    stack.enter_context(lock(directory, "the run"))
    return Run(directory)


def _can_go_on(run: Run, data_set: DataSet, recipe: str, given, export: bool) -> bool:
    """Whether it is an unfinished run of the same settings."""
    if not run.exists():
        return False
    try:
        config = run.read_config()
        wanted = _complete(resolve(data_set, recipe, given, config))
    except UserError:
        return False
    values, wanted_values = flat(config), flat(wanted)
    return (
        config.data_dir == data_set.data_dir
        and config.class_names == data_set.class_names
        and recipe in ("auto", config.recipe.name)
        and set(config.given) == set(given)
        and all(values[name] == wanted_values[name] for name in given)
        and not _is_finished(run, config, export)
    )


def _is_finished(run: Run, config: Config, export: bool) -> bool:
    """Whether a run was trained to its end, and then evaluated and exported."""
    records = read_records(run.metrics_file)
    validations = [record for record in records if record["split"] == "validation"]
    is_at_end = bool(validations) and validations[-1]["step"] >= config.last_step
    if config.recipe.lr_schedule == "plateau":
        is_at_end |= plateau([record["top_1_error"] for record in validations])[1]
    wanted = [run.eval_file] + [run.saved_model_dir] * export
    return is_at_end and all(map(tf.io.gfile.exists, wanted))


def _train_run(run, config, data_set, strategy, weights, export) -> bool:
    _log_configuration(run, config, strategy)
    if config.deterministic:
        keras.utils.set_random_seed(config.seed)
        tf.config.experimental.enable_op_determinism()
    if config.profiler_port:
        tf.profiler.experimental.server.start(config.profiler_port)
    if not _train(config, data_set, strategy, run, weights):
        logging.info("checkpoint saved; this goes on from there:")
        logging.info("  %s", _command_to_go_on(run))
        return False
    if is_chief(strategy):
        _finish(run, config, data_set, export)
    return True


def _command_to_go_on(run: Run) -> str:
    """The command that was given, with what it needs in order to find the run."""
    words = [word for word in sys.argv if not re.match("--?overwrite", word)]
    if not any(re.match("--?model_dir", word) for word in words):
        words.append(f"--model_dir={from_here(run.model_dir)}")
    return command("python", *words)


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


def _compare_fits(weights: PublishedWeights, name: str, data_set: DataSet) -> None:
    for recipe in weights.recipes:
        if recipe.name == name and recipe.fit != data_set.fit:
            logging.info(
                "  these weights saw pictures made square by %s, here it is %s",
                recipe.fit,
                data_set.fit,
            )


def _train(config, data_set, strategy, run, weights) -> bool:
    trainer = Trainer(config, data_set, strategy)
    if weights:
        logging.info("starting from %s", weights.source)
        for report in assign(trainer.model, weights, config.class_names):
            is_frozen = report.name in (config.recipe.freeze or ())
            logging.info("  %s%s", report, ", frozen" if is_frozen else "")
        _compare_fits(weights, config.recipe.name, data_set)
    try:
        return Loop(trainer, run).run()
    except (tf.errors.UnavailableError, tf.errors.AbortedError):
        raise UserError(
            "another worker was lost: start the same command again on all workers; it "
            "goes on from the last checkpoint"
        ) from None
    except tf.errors.ResourceExhaustedError as error:
        if "memory" not in error.message and "OOM" not in error.message:
            raise  # a disk
        batch_size = config.recipe.global_batch_size
        replicas = strategy.num_replicas_in_sync
        half = max(1, batch_size // 2 // replicas) * replicas
        advice = [f"--global_batch_size={half}"] if half < batch_size else []
        if config.precision == "float32":
            advice.append("--precision=mixed_bfloat16 in a new --model_dir")
        raise UserError(
            f"out of memory with --global_batch_size={batch_size} on "
            f"{describe(strategy, config.simulate_gpus)} in {config.precision}: try "
            + " or ".join([*advice, "more GPUs"])
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


def _finish(run: Run, config: Config, data_set: DataSet, export: bool) -> None:
    """Evaluates and exports a run that has ended, and says what to do next."""
    # On the test split once, at the end; eval.json is that of the validation split.
    for split in ("test", "validation"):
        if split in data_set.splits and data_set.splits[split].num_examples:
            batch_size = config.recipe.global_batch_size
            result = evaluate_run(
                run.model_dir, split=split, global_batch_size=batch_size
            )
    where = from_here(run.model_dir)
    lines = [
        "",
        f"Held-out top-1: {1 - result.top_1_error:.1%} of {result.num_evaluated:,} "
        f"images (always answering the largest class: {result.largest_class:.1%}).",
        f"The run is in {where}",
    ]
    commands = [
        command("tensorboard", f"--logdir={where}"),
        command(
            *("python", "eval.py", f"--model_dir={where}"),
            f"--report_dir={os.path.join(where, 'report')}",
        ),
    ]
    if export:
        lines.append(f"The SavedModel is in {from_here(export_run(run.model_dir))}")
        predict = command("python", "predict.py", f"--saved_model={where}")
        commands.insert(0, f"{predict} PICTURE…")
    print("\n".join([*lines, "Next:", *(f"  {line}" for line in commands)]))

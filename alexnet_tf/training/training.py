"""What train.py does: trains a run to its end, evaluates it and exports it."""

import contextlib
import dataclasses
import gc
import os
import re
import sys
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
from alexnet_tf.evaluation.results import describe_evaluation, write_results
from alexnet_tf.export.export import export_run
from alexnet_tf.files import check_output, lock
from alexnet_tf.metrics_file import read_records
from alexnet_tf.paths import from_here, list_checkpoints
from alexnet_tf.pipeline.data_set import DataSet, open_data_set
from alexnet_tf.run import Run
from alexnet_tf.training.cluster import Workers
from alexnet_tf.training.loop import Loop
from alexnet_tf.training.resuming import find_unfinished, make_run
from alexnet_tf.training.step import Trainer
from alexnet_tf.weights.loading import Loaded
from alexnet_tf.weights.published import PublishedWeights, assign, read_weights


def train(
    data_dir: str,
    model_dir: str | None = None,
    recipe: str = "auto",
    given: Mapping[str, object] = types.MappingProxyType({}),
    *,
    overwrite: bool = False,
    export: bool = True,
    checkpoint: str = "latest",
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
        checkpoint: Which one to export, "latest" or "best".

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

    def complete(previous: Config | None, weights: PublishedWeights | None = None):
        return _complete(resolve(data_set, recipe, given, previous, weights))

    with contextlib.ExitStack() as stack:
        if model_dir is None:
            _check_alone(strategy)
            run = find_unfinished(complete, given, export, stack)
        else:
            run = Run(model_dir)
            if is_chief(strategy):
                check_output(model_dir, [data_dir], what="--model_dir", replaced=False)
                stack.enter_context(lock(model_dir, "the run"))
        goes_on = run and run.exists() and not overwrite
        previous = run.read_config() if goes_on else None
        weights = _first_weights(run, previous, given)
        config = complete(previous, weights)
        check_batch_size(config.recipe.global_batch_size, strategy)
        _check_workers_agree(config, data_set, strategy)
        run = run or make_run(config, stack)
        run.start(config, overwrite, write=is_chief(strategy))
        exported = checkpoint if export else None
        return _train_run(run, config, data_set, strategy, weights, exported)


def _check_splits(data_set: DataSet) -> None:
    for split in ("train", "validation"):
        if not data_set.splits.get(split) or not data_set.splits[split].num_examples:
            raise UserError(
                f"no {split} images in {data_set.data_dir}: it has the splits "
                + (", ".join(data_set.splits) or "none")
            )


def _check_alone(strategy: tf.distribute.Strategy) -> None:
    if strategy.extended._in_multi_worker_mode():
        raise UserError("several workers must share a --model_dir: give it to each")


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


def _train_run(run, config, data_set, strategy, weights, exported) -> bool:
    _log_configuration(run, config, strategy)
    if config.deterministic:
        keras.utils.set_random_seed(config.seed)
        tf.config.experimental.enable_op_determinism()
    if config.profiler_port:
        tf.profiler.experimental.server.start(config.profiler_port)
    try:
        trainer = Trainer(config, data_set, strategy)
        if weights:
            _assign_first(trainer.model, weights, config, data_set)
        loop = Loop(trainer, run)
        finished = loop.run()
    except (tf.errors.UnavailableError, tf.errors.AbortedError):
        raise UserError(
            "another worker was lost: start the same command again on all workers; it "
            "goes on from the last checkpoint"
        ) from None
    except tf.errors.ResourceExhaustedError as error:
        if "memory" not in error.message and "OOM" not in error.message:
            raise  # a disk
        raise _out_of_memory(config, strategy) from None
    if not finished:
        logging.info("checkpoint saved; this goes on from there:")
        logging.info("  %s", _command_to_go_on(run))
    elif is_chief(strategy):
        results = _write_results(loop, trainer, run)
        remarks = loop.remarks
        del trainer, loop
        gc.collect()  # the weights and their velocities, before they are loaded again
        _finish(run, results, remarks, exported)
    return finished


def _assign_first(model, weights, config: Config, data_set: DataSet) -> None:
    """Puts in the weights that a run starts from, and says what became of each."""
    logging.info("starting from %s", weights.source)
    for report in assign(model, weights, config.class_names):
        is_frozen = report.name in (config.recipe.freeze or ())
        logging.info("  %s%s", report, ", frozen" if is_frozen else "")
    for recipe in weights.recipes:
        if recipe.name == config.recipe.name and recipe.fit != data_set.fit:
            logging.info(
                "  these weights saw pictures made square by %s, here it is %s",
                recipe.fit,
                data_set.fit,
            )


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


def _command_to_go_on(run: Run) -> str:
    """The command that was given, with what it needs in order to find the run."""
    words = [word for word in sys.argv if not re.match("--?overwrite", word)]
    if not any(re.match("--?model_dir", word) for word in words):
        words.append(f"--model_dir={from_here(run.model_dir)}")
    return command("python", *words)


def _write_results(loop: Loop, trainer: Trainer, run: Run) -> dict[str, dict]:
    """Writes eval.json and its like of what the loop evaluated last; returns them."""
    results, config = {}, trainer.config
    network = Loaded(trainer.model, config, loop.checkpoints.latest)
    for split, evaluation in loop.evaluations.items():
        rate = evaluation.num_evaluated / loop.seconds[split]
        facts = describe_evaluation(evaluation, [network], trainer.data_set, rate)
        write_results(run.model_dir, evaluation, facts, trainer.data_set)
        results[split] = facts
    return results


def _finish(run: Run, results: dict[str, dict], remarks: list[str], exported) -> None:
    """Exports a run that has ended, and says how good it is and what to do next."""
    where, lines = from_here(run.model_dir), ["", *_describe_results(run, results)]
    lines += remarks
    lines.append(
        f"The run is in {where}; learning_curves.png there shows how it learned, "
        "batch.png what it was shown"
    )
    commands = [
        command("tensorboard", f"--logdir={where}"),
        command(
            *("python", "eval.py", f"--model_dir={where}"),
            f"--report_dir={os.path.join(where, 'report')}",
        ),
    ]
    if exported:
        directory = export_run(run.model_dir, checkpoint=exported)
        lines.append(f"The SavedModel is in {from_here(directory)}")
        predict = command("python", "predict.py", f"--saved_model={where}")
        commands.insert(0, f"{predict} PICTURE…")
    print("\n".join([*lines, "Next:", *(f"  {line}" for line in commands)]))


def _describe_results(run: Run, results: dict[str, dict]) -> list[str]:
    """How often a run is right, and when it was best."""
    last, lines = results["validation"], []
    for split, facts in results.items():
        name = {"validation": "Held-out", "test": "Test"}[split]
        lines.append(
            f"{name} top-1: {1 - facts['top_1_error']:.1%} of "
            f"{facts['num_evaluated']:,} images (always answering the largest class: "
            f"{facts['largest_class']:.1%})."
        )
    records = [x for x in read_records(run.metrics_file) if x["split"] == "validation"]
    best = min(records, key=lambda record: record["top_1_error"])
    if best["top_1_error"] < last["top_1_error"]:
        epoch = best["epoch"]
        lines.append(
            f"The best validation was that after epoch {int(epoch) or f'{epoch:.2f}'}: "
            f"{1 - best['top_1_error']:.1%}; --checkpoint=best exports, evaluates and "
            "predicts with that network."
        )
    return lines

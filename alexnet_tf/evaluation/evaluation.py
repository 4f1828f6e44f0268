"""Evaluates runs: opens them and the data, checks that they fit, prints, writes."""

import dataclasses
import math
import os
import sys
import time
from collections.abc import Sequence

import keras
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from alexnet_tf import imagenet
from alexnet_tf.config import Config, flat
from alexnet_tf.devices import check_batch_size, choose_precision
from alexnet_tf.errors import UserError
from alexnet_tf.evaluation import results
from alexnet_tf.evaluation.evaluator import Evaluator
from alexnet_tf.evaluation.results import Evaluation
from alexnet_tf.pipeline.data_set import DataSet, open_data_set
from alexnet_tf.run import Run, find_run
from alexnet_tf.weights.loading import load_network, name_classes


@dataclasses.dataclass(frozen=True)
class Member:
    """One network of those whose probabilities are averaged.

    Attributes:
        model: From uint8 images to logits.
        path: Of its checkpoint, without `.index`, or of its file of weights.
        config: Of the run that it is from, or as it were one's.
        run: The one that it is from; None for weights that others published.
    """

    model: keras.Model
    path: str
    config: Config
    run: Run | None = None


def evaluate_run(
    model_dir: str | None,
    data_dir: str | None = None,
    *,
    split: str = "validation",
    checkpoints: Sequence[str] = ("latest",),
    init_weights: str | None = None,
    recipe: str = "auto",
    views: int = 1,
    strategy: tf.distribute.Strategy | None = None,
    global_batch_size: int = 128,
    precision: str = "float32",
    predictions: bool = False,
    report_dir: str | None = None,
) -> Evaluation:
    """Evaluates checkpoints of runs; prints and writes the result.

    Writes `eval.json` and `per_class.csv` into `report_dir` or else `model_dir`.

    Args:
        model_dir: Directory of the run; None where `checkpoints` says it all.
        data_dir: Directory of the data set; None for the one it was trained on.
        split: Name of the split.
        checkpoints: See `load_members`; the probabilities of several are averaged.
        init_weights: Published weights to evaluate instead; see `load_network`.
        recipe: Which network they are for.
        views: 1, the central crop, or 10 (section 4.1).
        strategy: The devices; None for the default strategy.
        global_batch_size: Images in a step, over all replicas.
        precision: "float32", "mixed_bfloat16" or "auto".
        predictions: Whether to write `predictions.csv` too.
        report_dir: Where to write a page with figures; None for none.

    Returns:
        The errors.

    Raises:
        UserError: If something that was asked for is not there, or does not fit.
    """
    strategy = strategy or tf.distribute.get_strategy()
    check_batch_size(global_batch_size, strategy)
    precision = choose_precision() if precision == "auto" else precision
    with strategy.scope():
        if init_weights:
            loaded = load_network(init_weights, recipe=recipe, dtype=precision)
            model, config, path = loaded
            members = [Member(model, path, config)]
        else:
            members = load_members(checkpoints, model_dir, precision)
    data_set = _open_data(data_dir, split, members[0])
    evaluator = Evaluator([member.model for member in members], strategy)
    start = time.perf_counter()
    evaluation = _evaluate(evaluator, data_set, split, global_batch_size, views)
    seconds = time.perf_counter() - start
    facts = describe_evaluation(
        evaluation, members, data_set, precision=precision, seconds=seconds
    )
    print(results.format_table(evaluation, data_set, facts))
    if directory := report_dir or model_dir:
        results.write_results(directory, evaluation, facts, data_set)
        if predictions:
            results.write_predictions(evaluation, data_set, directory)
    if report_dir:
        from alexnet_tf.evaluation import report  # matplotlib takes a second to import

        network = members[0].model, members[0].run
        subject = report.Subject(evaluation, facts, data_set, *network)
        report.write_report(report_dir, subject)
        print(f"The report is {os.path.join(report_dir, 'index.html')}")
    return evaluation


def load_members(
    checkpoints: Sequence[str], model_dir: str | None, precision: str
) -> list[Member]:
    """Loads what `--checkpoint` names, each a member of the ensemble.

    Args:
        checkpoints: Each "latest" or "best" of `model_dir`; the path of a checkpoint of
            any run; or the directory of a run, for its latest one.
        model_dir: Directory of a run; None where no member needs it.
        precision: Keras dtype policy of the networks.

    Returns:
        The members, all for the same classes and the same size of images.

    Raises:
        UserError: If one is not there, or they do not fit together.
    """
    members = [_load_member(name, model_dir, precision) for name in checkpoints]
    first = members[0]
    for member in members[1:]:
        if member.config.class_names != first.config.class_names:
            raise UserError(f"{first.path} and {member.path} know different classes")
        if member.model.input_shape != first.model.input_shape:
            raise UserError(
                f"{first.path} takes images of {first.model.input_shape[1]} pixels, "
                f"{member.path} of {member.model.input_shape[1]}: evaluate them apart"
            )
    return members


def _load_member(name: str, model_dir: str | None, precision: str) -> Member:
    if Run(name).exists():
        name, model_dir = "latest", name
    elif name not in ("latest", "best"):
        run = find_run(name)
        model_dir = run.model_dir if run else model_dir
    if model_dir is None:
        raise UserError(f"--checkpoint={name} is in no run: give --model_dir too")
    run = Run(model_dir)
    model, config, path = run.load_model(name, precision)
    return Member(model, path, config, run)


def _open_data(
    data_dir: str | None,
    split: str,
    member: Member,
) -> DataSet:
    """Opens the data set, and checks that what is to be evaluated fits it."""
    config = member.config
    if not (data_dir or config.data_dir):
        raise UserError("published weights need a data set: give --data_dir")
    if data_dir is None and not tf.io.gfile.isdir(config.data_dir):
        raise UserError(
            f"the data set of {member.run.model_dir} is no longer in "
            f"{config.data_dir}: give --data_dir"
        )
    data_set = open_data_set(data_dir or config.data_dir)
    splits = data_set.splits
    if split not in splits or not splits[split].num_examples:
        raise UserError(
            f"no split {split!r} with images in {data_set.data_dir}: it has "
            + ", ".join(f"{s.name} ({s.num_examples})" for s in splits.values())
        )
    if not _has_classes(config, data_set):
        raise UserError(
            f"{member.path} knows {len(config.class_names)} classes, which are not the "
            f"{data_set.num_classes} of {data_set.data_dir}: give the data set that it "
            "was trained on, or another one with the same classes"
        )
    return fit_as_trained(config, data_set)


def _has_classes(config: Config, data_set: DataSet) -> bool:
    """Whether a data set has a network's classes."""
    if data_set.class_names == config.class_names:
        return True
    own = config.class_names == name_classes(data_set.num_classes)
    is_unknown = data_set.num_classes != 1000
    return own and (is_unknown or data_set.class_names == imagenet.synsets())


def fit_as_trained(config: Config, data_set: DataSet) -> DataSet:
    """Says if pictures were made square in another way than those of the training."""
    fit = config.fitting.fit
    if data_set.fit != fit:
        logging.info(
            "these pictures were made square by %s, those of the training by %s: "
            "to compare with published figures, prepare them with --fit=%s",
            data_set.fit,
            fit,
            fit,
        )
    return data_set


def describe_evaluation(
    evaluation: Evaluation,
    members: Sequence[Member],
    data_set: DataSet,
    *,
    precision: str,
    seconds: float,
) -> dict:
    """What `eval.json` says of an evaluation; settings are those of the first network.

    Args:
        evaluation: The errors.
        members: The networks.
        data_set: What was evaluated.
        precision: What the networks computed with.
        seconds: How long it took.
    """
    config = members[0].config
    weights = (w for m in members for w in m.model.trainable_variables)
    return results.gather_facts(evaluation, [m.path for m in members], data_set) | {
        "recipe": config.recipe.name,
        "settings": {name: flat(config)[name] for name in config.given},
        "seeds": [member.config.seed for member in members],
        "parameters": sum(math.prod(weight.shape) for weight in weights),
        "precision": precision,
        "images_per_second": evaluation.num_evaluated / seconds,
    }


def _evaluate(
    evaluator: Evaluator, data_set: DataSet, split: str, batch_size: int, views: int
) -> Evaluation:
    """Evaluates under a progress bar."""
    with tqdm(
        total=data_set.splits[split].num_examples,
        unit=" images",
        leave=False,
        disable=not sys.stderr.isatty(),
    ) as bar:
        return evaluator.evaluate(
            data_set,
            split,
            batch_size,
            views=views,
            on_batch=lambda n: bar.update(n - bar.n),
        )

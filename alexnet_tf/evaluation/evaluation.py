"""Evaluates networks: loads them, opens the data, checks that they fit, writes."""

import dataclasses
import os
import time
from collections.abc import Sequence

import tensorflow as tf
from absl import logging
from tqdm import tqdm

from alexnet_tf import imagenet_classes
from alexnet_tf.config import Config
from alexnet_tf.devices import check_batch_size
from alexnet_tf.errors import UserError
from alexnet_tf.evaluation import results
from alexnet_tf.evaluation.evaluator import Evaluator
from alexnet_tf.evaluation.results import Evaluation
from alexnet_tf.pipeline.data_set import DataSet, open_data_set
from alexnet_tf.weights.loading import Loaded, load_network, name_classes

_MAX_BYTES = 2**32  # of the probabilities of all classes, which stay in memory


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What an evaluation writes.

    Attributes:
        directory: Where to; None prints the result only.
        predictions: "top" for a row for each image in `predictions.csv`, "all" with the
            probabilities of all classes; None for no such file.
        report: Whether to write a page with figures.
    """

    directory: str | None = None
    predictions: str | None = None
    report: bool = False


def evaluate_networks(
    networks: Sequence[Loaded],
    data_dir: str | None = None,
    *,
    split: str = "validation",
    views: int = 1,
    strategy: tf.distribute.Strategy,
    global_batch_size: int = 128,
    outputs: Outputs = Outputs(),
) -> Evaluation:
    """Evaluates networks together: the mean of their probabilities.

    Args:
        networks: From `load_networks`.
        data_dir: Directory of the data set; None for the one of the first's training.
        split: Name of the split.
        views: 1, the central crop, or 10 (section 4.1).
        strategy: The one in whose scope they were loaded.
        global_batch_size: Images in a step, over all replicas.
        outputs: What to write.

    Returns:
        The errors.

    Raises:
        UserError: If something that was asked for is not there, or does not fit.
    """
    check_batch_size(global_batch_size, strategy)
    data_set = _open_data(data_dir, split, networks[0])
    number = data_set.splits[split].num_examples
    keep_all = outputs.predictions == "all"
    if keep_all and 4 * number * data_set.num_classes > _MAX_BYTES:
        raise UserError(
            f"the probabilities of {data_set.num_classes:,} classes for {number:,} "
            "images do not fit in memory: give --predictions without all"
        )
    models = [network.model for network in networks]
    evaluator = Evaluator(models, strategy, keep_all=keep_all)
    start = time.perf_counter()
    with tqdm(total=number, unit=" images", leave=False, disable=None) as bar:
        evaluation = evaluator.evaluate(
            data_set,
            split,
            global_batch_size,
            views=views,
            on_batch=lambda n: bar.update(n - bar.n),
        )
    rate = evaluation.num_evaluated / (time.perf_counter() - start)
    facts = results.describe_evaluation(evaluation, networks, data_set, rate)
    print(results.format_table(facts, data_set))
    if outputs.directory:
        _write(evaluation, facts, networks, data_set, outputs)
    return evaluation


def _write(
    evaluation: Evaluation,
    facts: dict,
    networks: Sequence[Loaded],
    data_set: DataSet,
    outputs: Outputs,
) -> None:
    """Writes what is to be written of an evaluation."""
    results.write_results(outputs.directory, evaluation, facts, data_set)
    if outputs.predictions:
        results.write_predictions(evaluation, data_set, outputs.directory)
    if outputs.report:
        from alexnet_tf.evaluation import report  # matplotlib takes a second to import

        subject = report.Subject(evaluation, facts, data_set, networks[0])
        report.write_report(outputs.directory, subject)
        print(f"The report is {os.path.join(outputs.directory, 'index.html')}")


def load_networks(
    checkpoints: Sequence[str],
    source: str | None,
    recipe: str | None = None,
    precision: str = "float32",
    class_names: str | None = None,
) -> list[Loaded]:
    """Loads what `--checkpoint` names, each a member of the ensemble.

    Args:
        checkpoints: Each "latest" or "best" of `source`, or a path that `load_network`
            takes, such as the directory of a run.
        source: A run, or a file of weights; None where no member needs it.
        recipe: See `load_network`.
        precision: Keras dtype policy of the networks.
        class_names: See `load_network`.

    Returns:
        The networks, all for the same classes and the same size of images.

    Raises:
        UserError: If one is not there, or they do not fit together.
    """
    networks = []
    known = {"recipe": recipe, "dtype": precision, "class_names": class_names}
    for name in checkpoints:
        is_of_run = name in ("latest", "best")
        path, checkpoint = (source, name) if is_of_run else (name, "latest")
        if path is None:
            raise UserError(f"--checkpoint={name} is in no run: give --model_dir too")
        networks.append(load_network(path, checkpoint=checkpoint, **known))
    first = networks[0]
    for other in networks[1:]:
        names, shape = other.config.class_names, other.model.input_shape
        if (names, shape) != (first.config.class_names, first.model.input_shape):
            raise UserError(
                f"{first.path} and {other.path} know different classes, or take images "
                "of different sizes: evaluate them apart"
            )
    return networks


def _open_data(data_dir: str | None, split: str, network: Loaded) -> DataSet:
    """Opens the data set, and checks that what is to be evaluated fits it."""
    config = network.config
    if not (data_dir or config.data_dir):
        raise UserError("published weights need a data set: give --data_dir")
    if data_dir is None and not tf.io.gfile.isdir(config.data_dir):
        raise UserError(
            f"{network.path} was trained on {config.data_dir}, which is no longer "
            "there: give --data_dir"
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
            f"{network.path} knows {len(config.class_names)} classes, which are not "
            f"the {data_set.num_classes} of {data_set.data_dir}: give the data set "
            "that it was trained on, or another one with the same classes"
        )
    compare_fits(config.fitting.fit, data_set.fit)
    return data_set


def compare_fits(trained: str, given: str) -> None:
    """Says if pictures were made square in another way than those of the training."""
    if given != trained:
        logging.info(
            "these pictures were made square by %s, those that the weights are from by "
            "%s: data.prepare --fit=%s makes them alike",
            *(given, trained, trained),
        )


def _has_classes(config: Config, data_set: DataSet) -> bool:
    """Whether a data set has a network's classes."""
    if data_set.class_names == config.class_names:
        return True
    own = config.class_names == name_classes(data_set.num_classes)
    is_unknown = data_set.num_classes != 1000
    return own and (is_unknown or data_set.class_names == imagenet_classes.synsets())

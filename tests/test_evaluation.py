"""Tests of the room evaluation, but its pictures, against NumPy in float64."""

import csv
import dataclasses
import json
import pathlib
import shutil
import tracemalloc

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import evaluate_run, make_config

from alexnet_tf.devices import make_strategy
from alexnet_tf.errors import UserError
from alexnet_tf.evaluation import evaluation, report, results
from alexnet_tf.evaluation.evaluation import evaluate_networks, load_networks
from alexnet_tf.evaluation.evaluator import Evaluator
from alexnet_tf.evaluation.metrics import (
    precision_recall_f1,
    sum_metrics,
    wilson_interval,
)
from alexnet_tf.pipeline.batches import read_pictures
from alexnet_tf.pipeline.data_set import DataSet, Split
from alexnet_tf.run import Run, build_model

N, SIDE, CROP, CLASSES = 23, 12, 8, 7
LENGTHS = (9, 1, 13)
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (N, SIDE, SIDE, 3), np.uint8)
LABELS = RNG.integers(0, CLASSES, N)
KERNELS = RNG.normal(0, 0.02, (2, CROP * CROP * 3, CLASSES)).astype(np.float32)


def serialize(image_bytes, label, name):
    example = tf.train.Example()
    example.features.feature["file_name"].bytes_list.value.append(name.encode())
    example.features.feature["image"].bytes_list.value.append(image_bytes)
    example.features.feature["label"].int64_list.value.append(label)
    return example.SerializeToString()


def write(folder, spoilt=()):
    """Raw pictures in three shards; the record of each of `spoilt` is too short."""
    first, filenames = 0, []
    for i, length in enumerate(LENGTHS):
        filenames.append(str(folder / f"shard-{i}"))
        with tf.io.TFRecordWriter(filenames[-1]) as writer:
            for n in range(first, first + length):
                data = b"?" if n in spoilt else PIXELS[n].tobytes()
                writer.write(serialize(data, LABELS[n], f"é/{n}.jpg"))
        first += length
    return DataSet(
        data_dir=str(folder),
        name="test",
        class_names=tuple(f"class {i}" for i in range(CLASSES)),
        splits={"validation": Split("validation", tuple(filenames), LENGTHS)},
        image_size=SIDE,
        encoding="raw",
    )


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    return write(tmp_path_factory.mktemp("raw"))


def linear(kernel):
    """A network that NumPy can follow."""
    images = keras.Input((CROP, CROP, 3))
    x = keras.layers.Rescaling(1 / 255)(images)
    dense = keras.layers.Dense(kernel.shape[1], use_bias=False)
    model = keras.Model(images, dense(keras.layers.Flatten()(x)))
    dense.set_weights([kernel])
    return model


def read_csv(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def softmax(logits):
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def numpy_probabilities(crops, kernel):
    return softmax(crops.reshape(len(crops), -1) / 255.0 @ kernel.astype(np.float64))


def center(pixels):
    return pixels[:, 2:10, 2:10]


def ten_crops(pixels):
    corners = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
    crops = [pixels[:, y : y + CROP, x : x + CROP] for y, x in corners]
    return crops + [crop[:, :, ::-1] for crop in crops]


def check(result, probabilities, labels=LABELS):
    """Compares with the probabilities of all examples, each counted once."""
    own = probabilities[np.arange(len(labels)), labels]
    ranks = (probabilities > own[:, np.newaxis]).sum(axis=1)
    assert result.num_evaluated == len(labels)
    assert result.top_1_error == (ranks >= 1).mean()
    assert result.top_5_error == (ranks >= 5).mean()
    np.testing.assert_allclose(result.cross_entropy, -np.log(own).mean(), rtol=1e-5)
    assert result.largest_class == np.bincount(labels).max() / len(labels)


def test_sums_against_numpy_with_ties_nan_and_places_without_example():
    logits = RNG.normal(size=(9, CLASSES)).astype(np.float32)
    labels = np.array([3, 0, -1, 6, 2, 5, 1, 4, -1], np.int32)
    logits[2], logits[8] = np.nan, 100.0  # no examples
    logits[4], logits[5] = 0.0, 0.0  # ties: the classes rank in their order
    sums = sum_metrics(tf.constant(logits), tf.constant(labels))
    examples = labels >= 0
    logits, labels = logits[examples].astype(np.float64), labels[examples]
    order = np.argsort(-logits, axis=1, kind="stable")
    ranks = np.argmax(order == labels[:, np.newaxis], axis=1)
    losses = -np.log(softmax(logits)[np.arange(7), labels])
    expected = [7, losses.sum(), (ranks >= 1).sum(), (ranks >= 5).sum()]
    np.testing.assert_allclose(sums, expected, rtol=1e-6)
    logits[0, 0] = np.nan
    sums = sum_metrics(tf.constant(logits[:1], tf.float32), tf.constant(labels[:1]))
    assert (sums.wrong_top_1, sums.wrong_top_5) == (1, 1)


@pytest.mark.parametrize("global_batch_size", [1, 4, 23, 64])
def test_every_example_counts_once_at_any_batch_size(data_set, global_batch_size):
    evaluator = Evaluator(linear(KERNELS[0]), tf.distribute.get_strategy())
    result = evaluator.evaluate(data_set, "validation", global_batch_size)
    check(result, numpy_probabilities(center(PIXELS), KERNELS[0]))


@pytest.mark.parametrize("views", [1, 10])
def test_two_replicas_evaluate_the_same_in_the_same_order(data_set, views):
    strategy = make_strategy(simulate_gpus=2)
    with strategy.scope():
        model = linear(KERNELS[0])
    result = Evaluator(model, strategy).evaluate(data_set, "validation", 6, views=views)
    one = Evaluator(linear(KERNELS[0]), tf.distribute.get_strategy()).evaluate(
        data_set, "validation", 23, views=views
    )
    for name in ("labels", "positions", "ranks", "top_ids"):
        np.testing.assert_array_equal(
            getattr(result.predictions, name), getattr(one.predictions, name), name
        )
    assert result.num_evaluated == N


def test_ten_views_average_the_softmax(data_set):
    evaluator = Evaluator(linear(KERNELS[0]), tf.distribute.get_strategy())
    result = evaluator.evaluate(data_set, "validation", 5, views=10)
    each = [numpy_probabilities(crop, KERNELS[0]) for crop in ten_crops(PIXELS)]
    check(result, np.mean(each, axis=0))
    assert result.views == 10


def test_several_networks_average_the_softmax(data_set):
    models = [linear(kernel) for kernel in KERNELS]
    evaluator = Evaluator(models, tf.distribute.get_strategy())
    result = evaluator.evaluate(data_set, "validation", 5, views=10)
    each = [
        numpy_probabilities(crop, kernel)
        for crop in ten_crops(PIXELS)
        for kernel in KERNELS
    ]
    check(result, np.mean(each, axis=0))


def test_predictions_and_tables_name_each_record(data_set, tmp_path):
    evaluator = Evaluator(linear(KERNELS[0]), tf.distribute.get_strategy())
    result = evaluator.evaluate(data_set, "validation", 6)
    results.write_predictions(result, data_set, str(tmp_path))
    results.write_results(str(tmp_path), result, {}, data_set)
    probabilities = numpy_probabilities(center(PIXELS), KERNELS[0])
    answers = probabilities.argmax(axis=1)
    rows = read_csv(tmp_path / "predictions.csv")
    seen = set()
    for row in rows:
        n = int(row["record"])
        seen.add(n)
        assert row["file_name"] == f"é/{n}.jpg"
        assert row["label"] == f"class {LABELS[n]}"
        assert row["class_1"] == f"class {answers[n]}"
        assert abs(float(row["p_1"]) - probabilities[n].max()) < 1e-5
    assert seen == set(range(N))
    assert [*rows[0]][-2:] == ["class_5", "p_5"]
    for label, row in enumerate(read_csv(tmp_path / "per_class.csv")):
        is_class = label == LABELS
        assert int(row["examples"]) == is_class.sum()
        error = (answers[is_class] != label).mean()
        assert abs(float(row["top_1_error"]) - error) < 1e-9
        wrong = np.bincount(answers[is_class & (answers != label)], minlength=CLASSES)
        assert int(row["times"]) == wrong.max()
        right = (answers[is_class] == label).sum()
        for name, total in (
            ("precision", (answers == label).sum()),
            ("recall", is_class.sum()),
        ):
            expected = str(right / total) if total else ""
            assert row[name] == expected


def test_names_are_neither_formulas_nor_control_in_csv(data_set, tmp_path):
    names = ("=1+1", "@x", "-2", "a\nb\033[2J", "a,b", "café", "\udcff")
    hostile = DataSet(**vars(data_set) | {"class_names": names})
    evaluator = Evaluator(linear(KERNELS[0]), tf.distribute.get_strategy())
    evaluation = evaluator.evaluate(hostile, "validation", 6)
    results.write_results(str(tmp_path), evaluation, {}, hostile)
    results.write_predictions(evaluation, hostile, str(tmp_path))
    shown = ["'=1+1", "'@x", "'-2", r"a\nb\x1b[2J", "a,b", "café", r"\xff"]
    assert [row["class"] for row in read_csv(tmp_path / "per_class.csv")] == shown
    labels = [row["label"] for row in read_csv(tmp_path / "predictions.csv")]
    assert set(labels) == {shown[label] for label in LABELS}
    assert len(labels) == N


def test_confusion_counts_label_by_answer(data_set):
    evaluator = Evaluator(linear(KERNELS[0]), tf.distribute.get_strategy())
    predictions = evaluator.evaluate(data_set, "validation", 6).predictions
    answers = numpy_probabilities(center(PIXELS), KERNELS[0]).argmax(axis=1)
    expected = np.zeros((CLASSES, CLASSES), int)
    np.add.at(expected, (LABELS, answers), 1)
    np.testing.assert_array_equal(predictions.confusion(CLASSES), expected)


def test_each_class_has_what_it_is_most_often_taken_for(data_set):
    evaluator = Evaluator(linear(KERNELS[0]), tf.distribute.get_strategy())
    evaluation = evaluator.evaluate(data_set, "validation", 6)
    counts = evaluation.predictions.confusion(CLASSES)
    np.fill_diagonal(counts, 0)
    names = [f"class {i}" for i in range(CLASSES)]
    table = results.tabulate_classes(evaluation, names)
    assert list(table["times"]) == counts.max(axis=1).tolist()
    assert counts.max() > 1
    expected = [names[row.argmax()] if row.any() else "" for row in counts]
    assert table["most_often_taken_for"] == expected


def test_predictions_of_all_classes_are_their_probabilities(data_set, tmp_path):
    strategy = tf.distribute.get_strategy()
    evaluator = Evaluator(linear(KERNELS[0]), strategy, keep_all=True)
    result = evaluator.evaluate(data_set, "validation", 6)
    results.write_predictions(result, data_set, str(tmp_path))
    expected = numpy_probabilities(center(PIXELS), KERNELS[0])
    for row in read_csv(tmp_path / "predictions.csv"):
        n = int(row["file_name"].split("/")[1].removesuffix(".jpg"))
        found = [float(row[f"class {i}"]) for i in range(CLASSES)]
        np.testing.assert_allclose(found, expected[n], atol=1e-6)


def many_predictions(number, num_classes):
    rng = np.random.default_rng(0)
    top_ids = rng.integers(0, num_classes, (number, 5), np.int32)
    labels = rng.integers(0, num_classes, number, np.int32)
    ones = np.ones(number, np.float32)
    top = np.full((number, 5), 0.1, np.float32)
    ranks = (labels != top_ids[:, 0]).astype(np.int32)
    return results.Predictions(np.arange(number), labels, ranks, ones, top_ids, top)


def test_classes_cost_no_memory_for_each_pair_of_them(data_set, tmp_path):
    """The whole ImageNet has 21,841: a count for each pair would take 3.6 GiB."""
    num_classes, number = 21_841, 40_000
    names = tuple(map(str, range(num_classes)))
    many = DataSet(**vars(data_set) | {"class_names": names})
    predictions = many_predictions(number, num_classes)
    evaluation = results.Evaluation("validation", 1, number, predictions)
    page = report.Page(str(tmp_path))
    subject = report.Subject(evaluation, {}, many, None)
    tracemalloc.start()
    results.write_results(str(tmp_path), evaluation, {}, many)
    assert evaluation.macro_f1 < evaluation.balanced_accuracy < 0.01
    report._add_classes(page, subject)
    report._add_confusion(page, subject)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10**8  # bytes; of pairs of classes it would be 38 times that
    rows = read_csv(tmp_path / "per_class.csv")
    assert len(rows) == num_classes
    assert not (tmp_path / "confusion_matrix.png").exists()
    label = int(predictions.labels[0])
    of_class = predictions.ranks[predictions.labels == label]
    assert int(rows[label]["examples"]) == len(of_class)
    assert float(rows[label]["top_1_error"]) == (of_class >= 1).mean()


def test_balanced_accuracy_and_macro_f1_against_literal_numbers():
    """A network that always answers the common class of 90, 8 and 2."""
    labels = np.repeat([0, 1, 2], [90, 8, 2])
    ones = np.ones(100)
    ranks = (labels > 0).astype(int)
    top_ids, top = np.zeros((100, 1), int), np.ones((100, 1))
    predictions = results.Predictions(np.arange(100), labels, ranks, ones, top_ids, top)
    evaluation = results.Evaluation("validation", 1, 100, predictions)
    assert evaluation.top_1_error == 0.1
    assert abs(evaluation.balanced_accuracy - 1 / 3) < 1e-12
    assert abs(evaluation.macro_f1 - (2 * 90 / 190) / 3) < 1e-12
    # A class without examples, which is never answered, counts in neither.
    shifted = dataclasses.replace(predictions, labels=labels * 2)
    evaluation = results.Evaluation("validation", 1, 100, shifted)
    assert abs(evaluation.balanced_accuracy - 1 / 3) < 1e-12
    assert abs(evaluation.macro_f1 - (2 * 90 / 190) / 3) < 1e-12


def test_precision_recall_and_f1_against_their_definitions():
    confusion = np.array([[3, 1, 0, 0], [2, 4, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]])
    labels, answers = np.indices((4, 4)).reshape(2, -1).repeat(confusion.flat, axis=1)
    nan = np.nan
    expected = [
        [3 / 6, 3 / 4, 6 / 10],
        [4 / 6, 4 / 6, 8 / 12],
        [nan, nan, nan],  # neither an example nor an answer
        [nan, 0.0, 0.0],  # two examples, never answered
    ]
    np.testing.assert_allclose(precision_recall_f1(labels, answers, 4), expected)


def test_pictures_are_read_by_their_place(data_set):
    evaluator = Evaluator(linear(KERNELS[0]), tf.distribute.get_strategy())
    labels = evaluator.evaluate(data_set, "validation", 6).predictions.labels
    places = np.array([22, 0, 9])
    images = read_pictures(data_set, "validation", places, CROP)
    for image, label in zip(images, labels[places], strict=True):
        found = np.flatnonzero((center(PIXELS) == image).all(axis=(1, 2, 3)))
        assert LABELS[found].tolist() == [label]


def test_a_record_that_cannot_be_decoded_is_not_counted(tmp_path):
    data_set = write(tmp_path, spoilt={3, 20})
    evaluator = Evaluator(linear(KERNELS[0]), tf.distribute.get_strategy())
    result = evaluator.evaluate(data_set, "validation", 6)
    good = np.delete(np.arange(N), [3, 20])
    probabilities = numpy_probabilities(center(PIXELS[good]), KERNELS[0])
    check(result, probabilities, LABELS[good])
    assert (result.num_evaluated, result.num_examples) == (21, 23)


def test_a_split_that_cannot_be_used_at_all_is_no_perfect_answer(tmp_path):
    data_set = write(tmp_path, spoilt=range(N))
    evaluator = Evaluator(linear(KERNELS[0]), tf.distribute.get_strategy())
    with pytest.raises(UserError, match="none of the 23 images of validation"):
        evaluator.evaluate(data_set, "validation", 6)


def test_wilson_interval_against_published_values():
    np.testing.assert_allclose(wilson_interval(0.5, 10), (0.2366, 0.7634), atol=1e-4)
    np.testing.assert_allclose(wilson_interval(0.0, 10), (0.0, 0.2775), atol=1e-4)
    low, high = wilson_interval(0.407, 50_000)
    np.testing.assert_allclose((low, high), (0.4027, 0.4113), atol=1e-4)


def make_run(folder, data_dir, seed):
    """A run with the checkpoint of a network whose answers differ between images."""
    given = {"width": 0.05, "image_size": 67, "lrn": False, "seed": seed}
    config = make_config(data_dir, "small", **given)
    run = Run(str(folder))
    run.start(config)
    model = build_model(config, "float32")
    for variable in model.trainable_variables:
        variable.assign(variable * 2)
    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(model=model), run.checkpoint_dir, 1
    )
    manager.save(1)
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data_dir):
    root = tmp_path_factory.mktemp("runs")
    return [make_run(root / str(seed), data_dir, seed) for seed in range(2)]


def test_an_ensemble_of_runs_is_the_mean_of_its_members(runs):
    networks = load_networks([run.model_dir for run in runs], None)
    strategy = tf.distribute.get_strategy()
    both = evaluate_networks(networks, strategy=strategy).predictions
    each = []
    for run in runs:
        told = evaluate_run(run.model_dir).predictions
        each.append(np.exp(-told.cross_entropies))
    np.testing.assert_allclose(
        np.exp(-both.cross_entropies), np.mean(each, axis=0), rtol=1e-4
    )


def test_eval_json_says_what_was_evaluated(runs, tmp_path):
    result = evaluate_run(runs[1].model_dir, global_batch_size=7)
    facts = json.loads(pathlib.Path(runs[1].eval_file).read_text())
    assert facts["top_1_error"] == result.top_1_error
    assert facts["num_evaluated"] == facts["num_examples"] == 25
    assert facts["checkpoint"] == tf.train.latest_checkpoint(runs[1].checkpoint_dir)
    assert len(facts["sha256"][0]) == len(facts["data_fingerprint"]) == 64
    assert facts["versions"]["tensorflow"] == tf.__version__
    assert facts["seeds"] == [1]
    assert facts["recipe"] == "small"
    assert facts["settings"]["width"] == 0.05
    model = build_model(runs[1].read_config(), "float32")
    trainable = sum(np.prod(v.shape) for v in model.trainable_variables)
    assert facts["parameters"] == trainable
    low, high = facts["top_1_error_interval"]
    assert low <= result.top_1_error <= high
    evaluate_run(runs[0].model_dir)
    other = json.loads(pathlib.Path(runs[0].eval_file).read_text())
    assert other["sha256"] != facts["sha256"]
    assert other["data_fingerprint"] == facts["data_fingerprint"]


def test_a_remote_run_is_evaluated(runs):
    remote = "ram://test_evaluation/run"
    for path in pathlib.Path(runs[0].model_dir).rglob("*"):
        name = f"{remote}/{path.relative_to(runs[0].model_dir)}"
        if path.is_file():
            tf.io.gfile.makedirs(name.rsplit("/", 1)[0])
            with tf.io.gfile.GFile(name, "wb") as file:
                file.write(path.read_bytes())
    checkpoint = Run(remote).checkpoint_path()
    error = evaluate_run(runs[0].model_dir).top_1_error
    for path in (remote, checkpoint):
        assert evaluate_run(path).top_1_error == error
    with tf.io.gfile.GFile(f"{remote}/eval.json") as file:
        assert json.loads(file.read())["checkpoint"] == checkpoint
    with tf.io.gfile.GFile(f"{remote}/per_class.csv") as file:
        assert len(file.read().splitlines()) == 4


def test_the_result_of_a_split_leaves_that_of_another(runs, data_dir, tmp_path):
    for split in ("validation", "train"):
        evaluate_run(runs[0].model_dir, split=split, report_dir=None)
    names = {path.name for path in pathlib.Path(runs[0].model_dir).iterdir()}
    assert names >= {"eval.json", "eval_train.json"}
    assert names >= {"per_class.csv", "per_class_train.csv"}
    for name, split in (("eval.json", "validation"), ("eval_train.json", "train")):
        facts = json.loads(pathlib.Path(runs[0].model_dir, name).read_text())
        assert facts["split"] == split


def test_the_fingerprint_changes_with_the_data(data_set, tmp_path):
    other = write(tmp_path, spoilt={0})
    prints = [results.fingerprint(d.splits["validation"]) for d in (data_set, other)]
    assert prints[0] != prints[1]


TABLE = """\
validation: evaluated 4 of 5 images, 12 images/s, cross-entropy 0.5000, macro-F1 60.00%
                         top-1 accuracy        error top-5 accuracy        error
1 CNN, 1 view                    75.00%       25.00%        100.00%        0.00%
  95 % interval: from            30.06%       69.94%         51.01%       48.99%
  to                             95.44%        4.56%        100.00%        0.00%
  balanced (class mean)          66.67%       33.33%
always the largest class         50.00%       50.00%"""


def test_the_table_has_accuracy_beside_error_and_the_largest_class(data_set):
    predictions = results.Predictions(
        positions=np.arange(4),
        labels=np.array([0, 0, 1, 2]),
        ranks=np.array([0, 0, 1, 0]),
        cross_entropies=np.full(4, 0.5),
        top_ids=np.array([[0], [0], [0], [2]]),
        top_probabilities=np.full((4, 1), 0.5),
    )
    evaluation = results.Evaluation("validation", 1, 5, predictions)
    facts = {name: getattr(evaluation, name) for name in results._MEASURES}
    facts |= {"sha256": ["0"], "images_per_second": 12.0}
    for name in ("top_1_error", "top_5_error"):
        facts[f"{name}_interval"] = wilson_interval(facts[name], 4)
    assert results.format_table(facts, data_set) == TABLE

    def renamed(name, num_classes):
        names = tuple(map(str, range(num_classes)))
        return DataSet(**vars(data_set) | {"name": name, "class_names": names})

    # The fifth of five classes is always among the first five.
    table = results.format_table(facts, renamed("few", 5))
    assert "top-5" not in table
    assert "25.00%" in table
    table = results.format_table(facts, renamed("imagenet2012", 1000))
    assert "paper: 1 CNN, 10 views           59.30%       40.70%" in table
    assert table.endswith("84.60%       15.40%")


def test_what_is_not_there_is_named(runs):
    model_dir = runs[0].model_dir
    with pytest.raises(UserError, match="no split 'test'"):
        evaluate_run(model_dir, split="test")
    with pytest.raises(UserError, match="nowhere"):
        load_networks(["nowhere"], model_dir)
    with pytest.raises(UserError, match="no checkpoint 'best'"):
        load_networks(["best"], model_dir)


def test_data_that_are_gone_are_to_be_given(runs, data_dir, tmp_path):
    shutil.copytree(runs[0].model_dir, tmp_path / "run")
    run = Run(str(tmp_path / "run"))
    gone = dataclasses.replace(run.read_config(), data_dir=str(tmp_path / "gone"))
    run.write_config(gone)
    with pytest.raises(UserError, match=r"gone, which is no longer there: give"):
        evaluate_run(run.model_dir)
    assert evaluate_run(run.model_dir, data_dir).num_evaluated == 25


def test_a_checkpoint_without_a_run_needs_model_dir():
    with pytest.raises(UserError, match="--model_dir"):
        load_networks(["latest"], None)


def test_networks_of_other_classes_are_refused(runs, data_dir, tmp_path):
    config = json.loads(pathlib.Path(runs[0].config_file).read_text())
    config["class_names"] = ["a", "b", "c"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint = tf.train.latest_checkpoint(runs[0].checkpoint_dir)
    with pytest.raises(UserError, match="no checkpoint"):
        evaluate_run(str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    for path in pathlib.Path(runs[0].checkpoint_dir).iterdir():
        if path.is_file():
            (tmp_path / "checkpoints" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="knows 3 classes"):
        evaluate_run(str(tmp_path), data_dir)
    with pytest.raises(UserError, match="different classes"):
        load_networks([str(tmp_path), checkpoint], None)


def test_probabilities_of_all_classes_that_do_not_fit_in_memory_are_refused(
    runs, monkeypatch
):
    monkeypatch.setattr(evaluation, "_MAX_BYTES", 4 * 25 * 3 - 1)
    networks = load_networks(["latest"], runs[0].model_dir)
    strategy = tf.distribute.get_strategy()
    outputs = evaluation.Outputs(runs[0].model_dir, "all")
    with pytest.raises(UserError, match="3 classes for 25 images do not fit"):
        evaluate_networks(networks, strategy=strategy, outputs=outputs)

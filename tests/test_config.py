"""What a run is, and that it stays so when recipes change."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from helpers import (
    SMALL,
    draw_no_pictures,
    evaluate_run,
    largest_difference,
    make_config,
    make_trainer,
    train,
)

from alexnet_tf.config import Config, resolve, weigh_classes
from alexnet_tf.errors import UserError
from alexnet_tf.export.exporting import export_run
from alexnet_tf.pipeline.data_set import open_data_set
from alexnet_tf.recipes import (
    RECIPES,
    SMALL_BATCHES,
    SMALL_MAX_EPOCHS,
    Recipe,
    fit_small,
)
from alexnet_tf.run import Run
from alexnet_tf.settings import from_json


def test_what_is_given_wins_over_the_recipe(data_dir):
    config = resolve(open_data_set(data_dir), given={"momentum": 0.8, "width": 0.5})
    fitted = fit_small(150) | {"momentum": 0.8, "width": 0.5}
    assert config.recipe == dataclasses.replace(RECIPES["small"], **fitted)
    assert config.given == ("momentum", "width")
    with pytest.raises(UserError, match="no setting 'momentun'"):
        resolve(open_data_set(data_dir), given={"momentun": 0.8})


@pytest.mark.parametrize(
    ("images", "batch"),
    [(1, 16), (249, 16), (250, 32), (567, 32), (1000, 64), (2099, 64), (4000, 128)],
)
def test_batch_and_length_of_small_follow_from_the_number_of_images(
    data_dir, images, batch
):
    data_set = open_data_set(data_dir)
    train = dataclasses.replace(data_set.splits["train"], shard_lengths=(images,))
    data_set = dataclasses.replace(data_set, splits=data_set.splits | {"train": train})
    recipe = resolve(data_set, "small").recipe
    _, rate, steps = SMALL_BATCHES[batch]
    assert (recipe.global_batch_size, recipe.learning_rate) == (batch, rate)
    assert RECIPES["small"].num_epochs <= recipe.num_epochs <= SMALL_MAX_EPOCHS
    if recipe.num_epochs < SMALL_MAX_EPOCHS:
        assert steps <= recipe.num_epochs * images / batch
    # What is given changes itself, and nothing of what the images say of the rest.
    for given in (
        {"num_epochs": 3.0},
        {"global_batch_size": 128},
        {"learning_rate": 0.1},
    ):
        expected = dataclasses.replace(recipe, **given)
        assert resolve(data_set, "small", given).recipe == expected
    assert resolve(data_set, "paper").recipe == RECIPES["paper"]


def test_a_run_that_goes_on_keeps_its_batch_and_length(data_dir):
    data_set = open_data_set(data_dir)
    first = resolve(data_set, "small", {"global_batch_size": 128})
    assert resolve(data_set, previous=first).recipe == first.recipe


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"filters": (96, 256)}, "--filters must be 5 numbers with commas.*, received"),
        ({"color": "sepia"}, "--color must be jitter or pca or none, received sepia"),
        ({"dropout": 0.2}, "--dropout must be mask or inverted; --dropout_rate takes"),
        (
            {"dropout_rate": 1.0},
            "--dropout_rate must be a number from 0 to 0.99, received 1.0",
        ),
        (
            {"momentum": float("nan")},
            "--momentum must be a number from 0 to 1, received nan",
        ),
        ({"momentum": "much"}, "--momentum must be a number .*, received much"),
        ({"momentum": (0.9,)}, r"--momentum must be a number .*, received \(0\.9,\)"),
        ({"mirror": 1}, "--mirror must be yes or no, received 1"),
        ({"groups": True}, "--groups must be 1 or 2, received True"),
        (
            {"global_batch_size": 2.5},
            "--global_batch_size must be a whole number of at least 1, received 2.5",
        ),
        ({"filters": 96}, "--filters must be 5 numbers with commas .*, received 96"),
        ({"seed": 2**32}, "--seed must be a whole number .*, received 4294967296"),
        (
            {"input_stddev": (0.0, 1.0, 1.0)},
            "--input_stddev must be 3 numbers with commas of at least 1e-06, received",
        ),
        ({"width": 0.0}, "--width must be a number from 0.001 to 4, received 0.0"),
        ({"train_steps": 0}, "--train_steps must be a whole number .*, received 0"),
        ({"num_epochs": None}, "--num_epochs must be a number .*, received None"),
    ],
)
def test_values_out_of_range_are_one_line(data_dir, given, message):
    with pytest.raises(UserError, match=message):
        resolve(open_data_set(data_dir), given=given)


def test_large_data_sets_and_large_batches(data_dir):
    data_set = open_data_set(data_dir)
    given = {"optimizer": "lars", "global_batch_size": 1024}
    config = resolve(data_set, "paper", given)
    assert config.recipe.initial_rate == pytest.approx(0.08)
    assert (config.recipe.lr_schedule, config.recipe.warmup_epochs) == ("poly", 5.0)
    # Where such a run goes on, what it was given stays.
    cosine = resolve(data_set, "paper", given | {"lr_schedule": "cosine"})
    again = resolve(data_set, given={"optimizer": "lars"}, previous=cosine)
    assert again.recipe == cosine.recipe
    large = dataclasses.replace(data_set.splits["train"], shard_lengths=(100_000,))
    many = dataclasses.replace(data_set, splits=data_set.splits | {"train": large})
    assert resolve(many).recipe.name == "paper"


def test_the_weights_of_classes_are_1_on_average(data_dir, tmp_path):
    """Of 60, 50 and 40 images; what is given, or follows from them, stays a run's."""
    data_set, path = open_data_set(data_dir), tmp_path / "weights.json"
    assert resolve(data_set).loss_weights == ()
    balanced = resolve(data_set, given={"class_weights": "balanced"})
    expected = [150 / (3 * number) for number in (60, 50, 40)]
    assert balanced.loss_weights == pytest.approx(expected, rel=1e-15)
    path.write_text('{"red": 3, "green": 0, "blue": 1}')
    own = resolve(data_set, given={"class_weights": str(path)})
    assert own.loss_weights == pytest.approx([150 / 180, 0, 450 / 180], rel=1e-15)
    path.unlink()
    assert resolve(data_set, previous=own).loss_weights == own.loss_weights
    none = resolve(data_set, given={"class_weights": "none"}, previous=own)
    assert none.loss_weights == ()
    empty = dataclasses.replace(data_set.splits["train"], class_counts=(100, 50, 0))
    assert weigh_classes("balanced", empty, data_set.class_names) == (0.75, 1.5, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting property name"),
        ('["blue"]', "no JSON object"),
        ('{"blue": 1, "green": 1}', "'red'"),
        ('{"blue": 1, "green": 1, "red": 1, "pink": 1}', "'pink': 1"),
        ('{"blue": -1, "green": 1, "red": 1}', "-1.0"),
        ('{"blue": 1, "green": 1, "red": NaN}', "nan"),
        ('{"blue": 0, "green": 0, "red": 0}', "no class that has images"),
        (None, "No such file"),
    ],
)
def test_a_file_that_does_not_weigh_all_classes_is_one_line(
    data_dir, tmp_path, text, message
):
    path = tmp_path / "weights.json"
    if text:
        path.write_text(text)
    with pytest.raises(UserError, match=f"weights.json: .*{message}") as caught:
        resolve(open_data_set(data_dir), given={"class_weights": str(path)})
    assert "\n" not in str(caught.value)


def test_epochs_that_are_given_replace_the_steps_of_before(data_dir):
    data_set = open_data_set(data_dir)
    before = resolve(data_set, "small", SMALL | {"train_steps": 7})
    assert resolve(data_set, "auto", {}, before).train_steps == 7
    assert resolve(data_set, "auto", {"num_epochs": 2.0}, before).train_steps is None


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_configuration_comes_back_from_json(data_dir, recipe):
    config = make_config(data_dir, recipe, lr_drop_epochs=(1.0, 2.5))
    read = from_json(Config, json.loads(json.dumps(dataclasses.asdict(config))))
    assert read == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("seed"), "seed is missing"),
        (lambda c: c.update(depth=3), "depth is unknown"),
        (
            lambda c: c["recipe"].update(width="wide"),
            "width must be a number .*, received wide",
        ),
        (lambda c: c["recipe"].update(lrn=1), "lrn must be yes or no, received 1"),
        (lambda c: c.update(recipe="small"), "expected an object, found 'small'"),
        (
            lambda c: c.update(class_names=["a", 2]),
            r"class_names must be a text or several with commas, received \('a', 2\)",
        ),
        (lambda c: c.update(seed=True), "seed must be a whole .*, received True"),
        (lambda c: c.update(data_dir=None), "data_dir must be a text, received None"),
    ],
)
def test_a_damaged_configuration_is_one_line(data_dir, tmp_path, change, message):
    run = Run(str(tmp_path))
    run.write_config(make_config(data_dir))
    values = json.loads((tmp_path / "config.json").read_text())
    change(values)
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=f"not a configuration of this .*{message}"):
        run.read_config()
    for text in ("[]", "{", "\x00"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match="not a configuration of this version"):
            run.read_config()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"width": 0.2}, "width 0.1, now 0.2"),
        ({"recipe": "original"}, "recipe small, now original"),
        ({"groups": 1}, "groups 2, now 1"),
        ({"dropout": "inverted"}, "dropout mask, now inverted"),
        ({"lrn_bias": 1.0}, "lrn_bias 2.0, now 1.0"),
        ({"precision": "mixed_bfloat16"}, "precision float32, now mixed_bfloat16"),
    ],
)
def test_a_run_does_not_go_on_with_another_network(data_dir, tmp_path, given, message):
    run = Run(str(tmp_path / "run"))
    run.start(make_config(data_dir))
    with pytest.raises(UserError, match=message):
        run.start(make_config(data_dir, **given))
    run.start(make_config(data_dir, **given), overwrite=True)


def test_a_run_does_not_go_on_with_other_classes(data_dir, tmp_path):
    data_set = open_data_set(data_dir)
    run = Run(str(tmp_path / "run"))
    run.start(make_config(data_set))
    other = dataclasses.replace(data_set, class_names=("cat", "dog", "bee", "ant"))
    message = r"class_names 3 \(blue, green, red\), now 4 \(cat, dog, bee, …\) .*"
    message += f"and --init_weights={run.model_dir} to use its weights"
    with pytest.raises(UserError, match=message):
        run.start(make_config(other))


def test_a_worker_is_not_stopped_by_what_another_has_just_written(
    data_dir, tmp_path, monkeypatch
):
    config = make_config(data_dir)
    run, same = Run(str(tmp_path / "run")), Run(str(tmp_path / "run"))
    run.start(config)
    monkeypatch.setattr(same, "exists", lambda: False)  # the moment before
    same.start(config, write=False)


def test_what_may_change_is_taken_and_logged(data_dir, tmp_path, caplog):
    run = Run(str(tmp_path / "run"))
    run.start(make_config(data_dir))
    with caplog.at_level("INFO", logger="absl"):
        run.start(make_config(data_dir, learning_rate=0.5, num_epochs=3.0))
    assert "learning_rate 0.001 → 0.5" in caplog.text
    assert run.read_config().recipe.learning_rate == 0.5


def test_a_run_is_what_its_config_says_when_recipes_change(
    data_dir, tmp_path, monkeypatch
):
    """Evaluation, export and resume do not look up the recipe by its name."""
    draw_no_pictures(monkeypatch.setattr)
    given = {"image_size": 67, "global_batch_size": 8}
    trainer = make_trainer(data_dir, recipe="small", **given)
    trainer.run_steps(trainer.batches(), tf.constant(3))
    given = SMALL | given | {"lr_schedule": "constant", "warmup_epochs": 0.0}
    run_dir = str(tmp_path / "run")
    assert train(data_dir, run_dir, given=given | {"train_steps": 2}, export=False)
    expected = evaluate_run(run_dir).cross_entropy
    changed = dataclasses.replace(
        RECIPES["small"],
        lrn_bias=1.0,
        lrn_alpha=0.1,
        image_size=227,
        conv1_padding=(0, 0),
        dropout="inverted",
        momentum=0.5,
    )
    monkeypatch.setitem(RECIPES, "small", changed)
    assert evaluate_run(run_dir).cross_entropy == expected
    exported = export_run(run_dir)
    answer = tf.saved_model.load(exported).signatures["images"]
    model, config, _ = Run(run_dir).load_model()
    assert config.recipe.lrn_bias == model.get_layer("lrn1").bias == 2.0
    images = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), np.uint8)
    probabilities = tf.nn.softmax(model(images[:, 94:161, 94:161]))
    np.testing.assert_allclose(
        np.sort(answer(images=tf.constant(images))["probabilities"]),
        np.sort(probabilities),
        atol=1e-5,
    )
    assert train(data_dir, run_dir, given={"train_steps": 3}, export=False)
    resumed, _, _ = Run(run_dir).load_model()
    expected = trainer.model.trainable_variables
    assert largest_difference(resumed.trainable_variables, expected) == 0


def test_a_run_and_its_data_move_together(data_dir, tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    data = before / "sets" / "colors"
    shutil.copytree(data_dir, data)
    run = Run(str(before / "runs" / "1"))
    run.start(make_config(str(data)))
    shutil.copytree(before, after)
    assert Run(str(after / "runs" / "1")).read_config().data_dir == str(data)
    shutil.rmtree(before)
    run = Run(str(after / "runs" / "1"))
    config = run.read_config()
    assert config == make_config(str(after / "sets" / "colors"))
    run.start(config)
    assert run.read_config() == config
    (after / "sets").rename(after / "elsewhere")
    assert run.read_config() == config


def test_every_number_of_a_recipe_is_a_setting():
    for field in dataclasses.fields(Recipe):
        assert field.name in ("name", "fit", "resampling") or field.metadata["help"]


def test_another_networks_checkpoint_is_refused(data_dir, tmp_path):
    run = Run(str(tmp_path))
    run.write_config(make_config(data_dir))
    path = tf.train.Checkpoint(step=tf.Variable(1)).write(
        str(tmp_path / "checkpoints" / "ckpt-1")
    )
    with pytest.raises(UserError, match="has no weights for "):
        run.load_model()
    with pytest.raises(UserError, match="no checkpoint 'nowhere'"):
        run.load_model("nowhere")
    assert path


@pytest.mark.parametrize(
    "name",
    [
        "events.csv",
        "train/events.md",
        "saved_model/labels.txt",
        "saved_model/assets/photo.jpg",
        ".lock",
        "checkpoints/ckpt-notes.txt",
    ],
)
def test_a_run_with_a_file_of_a_person_is_not_removed(data_dir, tmp_path, name):
    run = Run(str(tmp_path / "run"))
    run.start(make_config(data_dir))
    ours = tmp_path / "run" / "train" / "events.out.tfevents.1700000000.123456.7"
    for path in (tmp_path / "run" / name, ours):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    with pytest.raises(UserError, match=f"run holds {name}, which this program"):
        run.start(make_config(data_dir), overwrite=True)
    assert (tmp_path / "run" / name).read_text() == "mine"
    assert ours.exists()
    (tmp_path / "run" / name).unlink()
    run.start(make_config(data_dir), overwrite=True)
    assert not ours.exists()


def test_a_run_does_not_go_on_through_links(data_dir, tmp_path):
    """As a downloaded one may have them."""
    run = Run(str(tmp_path / "run"))
    run.start(make_config(data_dir))
    (tmp_path / "run" / "train").symlink_to(tmp_path)
    with pytest.raises(UserError, match="run/train is a link: remove it"):
        run.start(make_config(data_dir))

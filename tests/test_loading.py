"""One way to load a network: of runs, checkpoints and what Keras saves of ours."""

import dataclasses
import json
import re
import shutil
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import SMALL, make_config, train

from alexnet_tf import RECIPES, alexnet
from alexnet_tf.errors import UserError
from alexnet_tf.network.layers import LocalResponseNormalization
from alexnet_tf.run import Run, build_model
from alexnet_tf.training.training import _first_weights
from alexnet_tf.weights.loading import load_network
from alexnet_tf.weights.published import assign
from alexnet_tf.weights.weight_files import read_weights


def variables_of(model):
    return {
        layer.name: {v.name: v.numpy() for v in layer.weights}
        for layer in model.layers
        if layer.weights
    }


def assert_same(found, expected):
    """That weights are bit by bit those of another."""
    assert found.keys() == expected.keys()
    for layer, variables in expected.items():
        for name, values in variables.items():
            np.testing.assert_array_equal(found[layer][name], values, strict=True)


@pytest.fixture(scope="module")
def run_dir(data_dir, tmp_path_factory):
    """A run that has a checkpoint, and the mean of each pixel."""
    run = Run(str(tmp_path_factory.mktemp("runs") / "first"))
    config = make_config(data_dir, "small", mean="image")
    run.start(config)
    mean = np.random.default_rng(1).uniform(0, 255, (224, 224, 3))
    state = tf.train.Checkpoint(model=build_model(config, "float32", mean))
    tf.train.CheckpointManager(state, run.checkpoint_dir, 1).save(2)
    return run.model_dir


def test_a_run_its_checkpoint_and_a_keras_file_are_one_network(run_dir, tmp_path):
    model, config, checkpoint = Run(run_dir).load_model()
    expected = variables_of(model)
    assert expected["input_normalization"]["mean"].shape == (224, 224, 3)
    model.save(tmp_path / "m.keras")
    (tmp_path / "m.keras").rename(tmp_path / "weights")
    for path in (run_dir, checkpoint, tmp_path / "weights"):
        loaded = load_network(path)
        assert_same(variables_of(loaded.model), expected)
        assert loaded.config.recipe == config.recipe
    for given in ({"recipe": "bvlc"}, {"class_names": ("a", "b", "c")}):
        with pytest.raises(UserError, match="is a run, which has its own recipe"):
            load_network(run_dir, **given)
    loaded = load_network(run_dir, checkpoint=checkpoint)
    assert (loaded.config, loaded.path) == (config, checkpoint)
    weights = read_weights(run_dir)
    assert_same(weights.layers, expected)
    assert weights.class_names == config.class_names
    other = alexnet(3, config.recipe)
    states = assign(other, weights, ("a", "b", "c"))
    assert states["fc8"].startswith("new")  # as many classes, but others
    states = assign(other, weights, config.class_names)
    assert {state.split()[0] for state in states.values()} == {"loaded"}


def test_a_checkpoint_away_from_its_run_is_refused(run_dir, tmp_path):
    for suffix in ("index", "data-00000-of-00001"):
        shutil.copy(f"{run_dir}/checkpoints/ckpt-2.{suffix}", tmp_path / f"c.{suffix}")
    for read in (load_network, lambda path: read_weights(str(path))):
        with pytest.raises(UserError, match="does not tell its network without"):
            read(tmp_path / "c")


def test_a_checkpoint_of_a_network_with_more_layers_is_refused(run_dir, tmp_path):
    shutil.copytree(run_dir, tmp_path / "run")
    model, _, _ = Run(run_dir).load_model()
    x = model.get_layer("dropout7").output
    x = keras.layers.Dense(3)(x)  # where fc8 should be
    changed = keras.Model(model.inputs, keras.layers.Dense(3, name="fc8")(x))
    checkpoint = str(tmp_path / "run" / "checkpoints" / "ckpt-3")
    tf.train.Checkpoint(model=changed).write(checkpoint)
    with pytest.raises(UserError, match="no weights for its layers: it is of another"):
        load_network(checkpoint)


def test_other_places_are_one_line(tmp_path):
    (tmp_path / "holiday.jpg").touch()
    message = r"it is no run \(no config\.json\); it holds holiday\.jpg"
    with pytest.raises(UserError, match=message):
        load_network(tmp_path)
    with pytest.raises(UserError, match=r"it cannot be read \(No such file"):
        load_network(tmp_path / "none")


# What Keras saves.


@pytest.fixture(scope="module")
def model():
    """A small network with its mean."""
    return alexnet(5, "small", width=0.03, seed=0, image_mean=(1, 2, 3))


CHANGES = {
    "groups": 1,
    "lrn_alpha": 0.1,
    "spatial_normalization": False,
    "image_size": 227,
    "conv1_padding": (0, 0),
    "dropout_rate": 0.2,
    "activation": "tanh",
    "mean": "color",
    "input_stddev": (2.0, 3.0, 4.0),
}


def test_a_keras_file_holds_its_recipe_through_copies_and_clones(tmp_path):
    recipe = dataclasses.replace(RECIPES["original"], width=0.03, **CHANGES)
    model = alexnet(3, recipe, seed=0)
    model.save(tmp_path / "a.keras")
    copy = keras.saving.load_model(tmp_path / "a.keras")
    clone = keras.models.clone_model(copy)
    clone.set_weights(copy.get_weights())
    clone.compile("sgd", "mse")
    clone.save(tmp_path / "b.keras")
    again, config, _ = load_network(tmp_path / "b.keras")
    assert config.recipe == recipe
    images = tf.random.stateless_uniform((2, 227, 227, 3), (0, 1), 0, 255)
    np.testing.assert_allclose(again(images), model(images), rtol=1e-4, atol=1e-7)
    weights = read_weights(str(tmp_path / "b.keras"))
    assert_same(weights.layers, variables_of(model))


def edit(model, path, change, **kwargs):
    """Saves a network, and changes the description of its layers in the file."""
    model.save(path)
    with zipfile.ZipFile(path) as old:
        contents = {name: old.read(name) for name in old.namelist()}
    config = json.loads(contents["config.json"])
    change({layer["config"]["name"]: layer for layer in config["config"]["layers"]})
    contents["config.json"] = json.dumps(config)
    with zipfile.ZipFile(path, "w", **kwargs) as new:
        for name, content in contents.items():
            new.writestr(name, content)


def set_recipe(**changes):
    def change(layers):
        layers["input_normalization"]["config"]["recipe"].update(changes)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x["input_normalization"]["config"].update(recipe=None),
         "it does not tell its recipe, since an early version saved it"),
        # Numbers that would take more memory than there is.
        (set_recipe(width=4.0), "for another network: conv1's kernel is 11×11×3×2"),
        (set_recipe(filters=[2**16] * 5), "conv1's kernel is 11×11×3×2, in the recipe"),
        (set_recipe(width=1e9), "width must be a number from"),
        (set_recipe(image_size=10**6), "image_size must be a whole number from"),
        (set_recipe(conv1_padding=[0, 10**9]), "conv1_padding must be 2 numbers"),
        (lambda x: x["dropout6"]["inbound_nodes"][0]["kwargs"].update(training=True),
         "dropout6's call is .*'training': True.*, in the recipe small .{.."),
        (lambda x: x["fc6"].update(registered_name="Dense"), "fc6's registered is De"),
        (lambda x: x["fc6"]["config"].update(use_bias=False), "fc6's use_bias is Fal"),
        (lambda x: x["pool1"]["config"].pop("padding"), "pool1's padding is None"),
        (lambda x: x["pool1"]["config"].update(more=2), "pool1's more is 2, in the"),
        (lambda x: x["images"].update(x=" " * 2**23), "its config.json is larger"),
    ],
)  # fmt: skip
def test_what_a_keras_file_says_is_compared_before_it_is_built(
    model, tmp_path, change, message
):
    edit(model, tmp_path / "m.keras", change)
    with pytest.raises(UserError, match=message) as caught:
        load_network(tmp_path / "m.keras")
    assert "\n" not in str(caught.value)


def test_a_keras_file_that_unpacks_to_too_much_is_refused(model, tmp_path):
    def fill(layers):
        layers["images"]["x"] = " " * 2**24

    edit(model, tmp_path / "m.keras", fill, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="it unpacks to more than an AlexNet can"):
        read_weights(str(tmp_path / "m.keras"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda group: group.create_dataset("0", (11, 11, 3, 2), "f4", external="x"),
         "/0 is no array in this file"),
        (lambda group: group.__setitem__("0", h5py.ExternalLink("x", "y")),
         "/0 is no array in this file"),
        (lambda group: group.create_dataset("0", (10**5, 10**5), "f4", chunks=True),
         "/0 has more numbers than the file holds"),
        (lambda group: group.parent.parent["dense/vars"].attrs.create("name", "conv1"),
         "conv1 holds bias, not a kernel|two of its layers are called conv1"),
        (lambda group: group.create_dataset("2", data=np.ones(3)),
         "conv1 holds bias, 2, not a kernel"),
    ],
)  # fmt: skip
def test_arrays_are_those_in_the_file(model, tmp_path, change, message):
    path = tmp_path / "m.weights.h5"
    model.save_weights(path)
    with h5py.File(path, "a") as file:
        group = file["layers/grouped_conv2d/vars"]
        del group["0"]
        change(group)
    with pytest.raises(UserError, match=message):
        read_weights(str(path))


@pytest.mark.parametrize(("name", "said"), [("x/a", "/x (a)"), ("a", "/ (a)")])
def test_arrays_of_no_layer_are_not_left_out(model, tmp_path, name, said):
    path = tmp_path / "m.weights.h5"
    model.save_weights(path)
    with h5py.File(path, "a") as file:
        file.create_dataset(name, data=np.ones(3))
    with pytest.raises(UserError, match=re.escape(f"it holds {said}, which no")):
        read_weights(str(path))


def test_what_an_optimizer_keeps_is_no_layer(tmp_path):
    model = alexnet(3, "bvlc", width=0.02, seed=0)
    model.compile("sgd", "mse")
    model.optimizer.build(model.trainable_variables)
    model.save_weights(tmp_path / "m.weights.h5")
    assert_same(
        read_weights(str(tmp_path / "m.weights.h5")).layers, variables_of(model)
    )


def replaced(model, name, make):
    """A network with another layer in the place of one."""

    def clone(layer):
        own = type(layer).from_config(layer.get_config())
        return make(layer) if layer.name == name else own

    return keras.models.clone_model(model, clone_function=clone)


def with_alpha(layer):
    config = layer.get_config() | {"alpha": 0.5}
    return LocalResponseNormalization.from_config(config)


def with_elu(layer):
    return type(layer).from_config(layer.get_config() | {"activation": "elu"})


def average(layer):
    return keras.layers.AveragePooling2D(3, 2, name=layer.name)


def quantized(model):
    copy = keras.models.clone_model(model)
    copy.quantize("int8")
    return copy


def rescaled(model):
    layers = [keras.layers.Input((224, 224, 3)), keras.layers.Rescaling(1 / 255), model]
    return keras.Sequential(layers)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (quantized, "fc6's dtype is .*int8.*, in the recipe small float32"),
        (lambda m: replaced(m, "lrn2", with_alpha), "lrn2's alpha is 0.5, in"),
        (lambda m: replaced(m, "conv3", with_elu), "conv3's activation is elu, in the"),
        (lambda m: replaced(m, "pool1", average), "pool1's class is AveragePooling2D"),
        (lambda m: keras.models.clone_model(m, keras.Input((230, 230, 3))),
         "it reads pictures of 230 pixels, the recipe small those of 224"),
        (rescaled, r"rescaling.* \(Rescaling\) stands first, where"),
        (lambda m: keras.Sequential([keras.Input((256, 256, 3)),
                                     keras.layers.RandomCrop(224, 224), m]),
         r"random_crop.* \(RandomCrop\) stands first, where"),
        (lambda m: keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]),
         r"dense.* \(Dense\) stands first, where a network of ours reads"),
    ],
)  # fmt: skip
def test_a_network_of_ours_that_was_changed_is_refused(
    model, tmp_path, change, message
):
    change(model).save(tmp_path / "m.keras")
    with pytest.raises(UserError, match=message) as caught:
        read_weights(str(tmp_path / "m.keras"))
    assert "\n" not in str(caught.value)


def with_layers(model, *layers, after="fc7"):
    x = model.get_layer(after).output
    for layer in layers:
        x = layer(x)
    return keras.Model(model.inputs, x)


def dense(units, name):
    return keras.layers.Dense(units, name=name)


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (lambda m: with_layers(m, dense(9, "x"), dense(5, "fc8")), "x, fc8"),
        (lambda m: with_layers(m, keras.layers.BatchNormalization(name="bn"),
                               dense(5, "fc8")), "bn, fc8"),
        (lambda m: with_layers(m, keras.layers.Activation("sigmoid", name="p"),
                               after="logits"), "p"),
        (lambda m: with_layers(m, dense(20, "fc8_flickr")), "fc8_flickr"),
        (lambda m: keras.Sequential([keras.layers.Input((224, 224, 3)),
            keras.Sequential([keras.layers.RandomFlip(), keras.layers.RandomZoom(.1)]),
            keras.Model(m.inputs, m.get_layer("fc7").output), dense(4, "new")]), "new"),
        (lambda m: keras.Model(m.inputs, m.get_layer("pool5").output), ""),
    ],
)  # fmt: skip
def test_of_a_network_with_another_head_the_body_is_taken(
    model, tmp_path, change, left
):
    changed = change(model)
    changed.save(tmp_path / "m.keras")
    weights = read_weights(str(tmp_path / "m.keras"))
    names = ["input_normalization", "conv1", "conv2", "conv3", "conv4", "conv5"]
    names += ["fc6", "fc7"] * bool(left)
    assert_same(weights.layers, {name: variables_of(model)[name] for name in names})
    assert weights.left == left
    assert weights.recipe_for().width == 0.03
    instead = left or "nothing after conv5"
    with pytest.raises(UserError, match=f"instead of fc8 it has {instead}"):
        load_network(tmp_path / "m.keras")
    # The weights alone: what they are for must be said.
    changed.save_weights(tmp_path / "m.weights.h5")
    if left in ("new", "fc8_flickr", ""):
        alone = read_weights(str(tmp_path / "m.weights.h5"))
        assert_same(alone.layers, weights.layers)
        assert (alone.left, alone.is_exact) == (left, False)
        assert alone.recipe_for("small", {"width": 0.03}).mean == "color"
    elif left != "p":  # which has no weights
        with pytest.raises(UserError, match=r"it holds (x|bn), which no"):
            read_weights(str(tmp_path / "m.weights.h5"))


def test_augmentation_before_a_network_and_softmax_after_it_go(model, tmp_path):
    softmax = keras.layers.Activation("softmax")
    whole = keras.Model(model.inputs, softmax(model.output))
    flip = keras.layers.RandomFlip()
    whole = keras.Sequential([keras.layers.Input((224, 224, 3)), flip, whole])
    whole.save(tmp_path / "m.keras")
    loaded = load_network(tmp_path / "m.keras")
    assert_same(variables_of(loaded.model), variables_of(model))


# Training.


def test_training_starts_from_weights_and_goes_on_from_its_checkpoint(
    run_dir, data_dir, tmp_path
):
    start = read_weights(run_dir)
    directory = str(tmp_path / "second")
    given = SMALL | {"train_steps": 1, "init_weights": run_dir, "learning_rate": 0.0}
    given |= {"warmup_epochs": 0.0}
    assert train(data_dir, directory, given=given, export=False)
    config = Run(directory).read_config()
    assert config.init_weights == run_dir
    assert config.recipe.mean == "image"  # the network is that of the weights
    assert_same(read_weights(directory).layers, start.layers)
    # It never reads them again, even if they are gone.
    given["init_weights"] = str(tmp_path / "gone")
    assert _first_weights(Run(directory), config, given) is None
    with pytest.raises(UserError, match=r"has init_weights .*, now .*gone was given"):
        train(data_dir, directory, given=given)

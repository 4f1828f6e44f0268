"""AlexNet by the words of keras.applications, and weights by name."""

import dataclasses
import functools
import http.server
import inspect
import threading

import keras
import numpy as np
import pytest
from weight_writers import write_caffe

import alexnet_tf
from alexnet_tf import RECIPES, AlexNet, alexnet, decode_predictions, preprocess_input
from alexnet_tf.errors import UserError
from alexnet_tf.recipes import LAYERS
from alexnet_tf.weights import downloads
from alexnet_tf.weights.weight_files import read_weights

WIDTH = 0.05


@pytest.fixture(scope="module")
def layers():
    """Weights of a small network of Caffe's, for ImageNet's classes."""
    model = alexnet(1000, "bvlc", width=WIDTH, seed=0)
    return {
        name: {v.name: v.numpy() for v in model.get_layer(name).weights}
        for name in LAYERS
    }


@pytest.fixture(scope="module")
def served(tmp_path_factory, layers):
    """The folder and the address of a server that has a small `bvlc`."""
    folder = tmp_path_factory.mktemp("served")
    write_caffe(folder / "bvlc_alexnet.caffemodel", layers)
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    requests: list[str] = []  # noqa: RUF012

    def log_message(self, *_):
        self.requests.append(self.path)


@pytest.fixture
def publisher(served, tmp_path, monkeypatch):
    """Has `bvlc` come from that server; returns what sets its hash and its name."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    (tmp_path / "keras").mkdir()
    _Quiet.requests.clear()
    folder, url = served
    content = (folder / "bvlc_alexnet.caffemodel").read_bytes()

    def publish(name="bvlc_alexnet.caffemodel", digest=None):
        digest = digest or downloads.hashlib.sha1(content).hexdigest()
        row = (f"{url}/{name}", digest)
        monkeypatch.setitem(downloads.DOWNLOADS, "bvlc", row)

    publish()
    return publish


def test_weights_by_name_are_fetched_once_and_checked(publisher, layers, tmp_path):
    for _ in range(2):
        weights = read_weights("bvlc")
        np.testing.assert_array_equal(weights.layers["fc7"]["kernel"],
                                      layers["fc7"]["kernel"])  # fmt: skip
    assert _Quiet.requests == ["/bvlc_alexnet.caffemodel"]
    publisher(digest="0123")
    with pytest.raises(UserError, match="whose SHA begins with 0123: remove it"):
        read_weights("bvlc")


def test_without_a_network_it_says_where_to_put_the_file(publisher, tmp_path):
    publisher("other.caffemodel")
    message = r"URL fetch failure on .* 404 .*: get http.*other\.caffemodel by another"
    with pytest.raises(UserError, match=message) as caught:
        read_weights("bvlc")
    assert f"put it at {tmp_path}/keras/models/other.caffemodel" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_torchvisions_weights_need_pytorch(monkeypatch):
    monkeypatch.setattr(downloads.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="torchvision's weights are PyTorch's: pip"):
        read_weights("torchvision")


# The words of keras.applications.


@pytest.fixture
def small(monkeypatch):
    """Has `AlexNet` without weights be a small one."""
    recipe = dataclasses.replace(RECIPES["bvlc"], width=WIDTH)
    monkeypatch.setitem(RECIPES, "bvlc", recipe)


def test_the_arguments_are_those_of_keras():
    theirs = inspect.signature(keras.applications.VGG16).parameters.values()
    ours = inspect.signature(AlexNet).parameters.values()
    assert [p.name for p in ours] == [p.name for p in theirs]
    defaults = {p.name: p.default for p in theirs} | {"name": "alexnet"}
    assert {p.name: p.default for p in ours} == defaults


SIZED = {"weights": None, "input_shape": (80, 80, 3)}


@pytest.mark.parametrize(
    "given",
    [
        {"weights": None, "include_top": False},
        {"weights": None, "include_top": False, "pooling": "avg"},
        {"weights": None, "include_top": False, "pooling": "max"},
        {"include_top": False, **SIZED},
        {"classes": 3, **SIZED},
        {"classes": 3, "classifier_activation": None, **SIZED},
        {"classes": 3, "classifier_activation": "sigmoid", **SIZED},
        {"weights": None, "include_top": False, "input_tensor": (80, 90, 3)},
    ],
    ids=str,
)
def test_a_model_is_as_keras_makes_it(small, given):
    images = np.random.default_rng(0).integers(0, 256, (2, 80, 90, 3)).astype("float32")
    images = images[:, :, : 80 if "input_shape" in given else 90]
    made = []
    for make in (keras.applications.VGG16, AlexNet):
        tensor = given.get("input_tensor") and keras.Input(given["input_tensor"])
        made.append(make(name="x", **given | {"input_tensor": tensor}))
    theirs, ours = made
    assert ours.name == theirs.name == "x"
    assert ours.input_shape == theirs.input_shape
    assert len(ours.output_shape) == len(theirs.output_shape)
    (a, b), kind = (m.predict(images, verbose=0) for m in made), given.get("pooling")
    if a.ndim == 2 and not kind:
        assert a.shape == b.shape == (2, 3)
        is_sure = np.allclose(b.sum(1), 1, atol=1e-5)
        assert is_sure == np.allclose(a.sum(1), 1, atol=1e-5)
    elif kind:
        full = AlexNet(weights=None, include_top=False)
        full.set_weights(ours.get_weights())
        maps = full.predict(images, verbose=0)
        expected = maps.mean((1, 2)) if kind == "avg" else maps.max((1, 2))
        np.testing.assert_allclose(b, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "given",
    [
        {"weights": "nowhere"},
        {"weights": ""},
        {"weights": 5},
        {"weights": None, "input_shape": (20, 20, 3)},
        {"weights": None, "input_shape": (None, None, 3)},
        {"weights": None, "input_shape": (224, 224)},
        {"classes": 10},
        {"input_shape": (230, 230, 3)},
        {"input_shape": (230, 230, 4), "include_top": False},
        {"classifier_activation": "sigmoid"},
    ],
    ids=str,
)
def test_what_keras_refuses_is_refused(small, publisher, given):
    for make in (keras.applications.VGG16, AlexNet):
        with pytest.raises(ValueError, match=r".+") as caught:
            make(**given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pooling": "sum"}, "pooling must be None, avg or max, received 'sum'"),
        ({"input_shape": (224, 224, 1)}, "RGB, received .*: repeat a grey picture's"),
        ({"input_shape": (224, 224, 4)}, "leave a fourth one out"),
        ({"input_shape": (66, 66, 3)}, "at least 67x67, received"),
    ],
)
def test_what_keras_lets_pass_is_a_sentence(small, given, message):
    with pytest.raises(ValueError, match=message):
        AlexNet(weights=None, **given)


def test_a_mean_of_each_pixel_has_its_own_size(tmp_path):
    path = tmp_path / "m.keras"
    alexnet(3, "paper", width=WIDTH).save(path)
    model = AlexNet(include_top=False, weights=path)
    assert model.input_shape == (None, 224, 224, 3)
    with pytest.raises(
        ValueError, match=r"input_shape must be \(224, 224, 3\), received"
    ):
        AlexNet(include_top=False, weights=path, input_shape=(160, 160, 3))


def test_imagenets_weights_give_imagenets_names(publisher, layers, tmp_path):
    model = AlexNet()
    assert model.input_shape == (None, 227, 227, 3)
    images = np.random.default_rng(0).integers(0, 256, (2, 227, 227, 3)).astype("uint8")
    probabilities = model.predict(preprocess_input(images), verbose=0)
    reference = alexnet(weights="bvlc")
    logits = reference.predict(images, verbose=0)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4)
    best, second = decode_predictions(probabilities, top=2)[1]
    assert best[2] == pytest.approx(probabilities[1].max())
    assert best[2] >= second[2]
    probabilities[1] = np.eye(1000)[1]
    assert decode_predictions(probabilities)[1][0] == ("n01443537", "goldfish", 1.0)
    with pytest.raises(ValueError, match=r"\(samples, 1000\), received \(2, 5\)"):
        decode_predictions(probabilities[:, :5])
    model.save(tmp_path / "m.keras")  # the softmax after the logits is not in the way
    assert read_weights(str(tmp_path / "m.keras")).num_classes == 1000


def test_pixels_that_are_not_0_to_255_are_noticed(caplog):
    images = np.full((1, 4, 4, 3), 200.0, np.float32)
    assert preprocess_input(images) is images
    assert not caplog.text
    preprocess_input(images / 255)
    assert "these pixels are 0..1, and the network reads RGB 0..255" in caplog.text
    with pytest.raises(ValueError, match="must be channels_last"):
        preprocess_input(images, "channels_first")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            ("paper",),
            ValueError,
            "received 'paper': for the recipe write recipe=",
        ),
        ((2.5,), ValueError, "num_classes must be a number, received 2.5"),
        ((0,), ValueError, "num_classes must be >= 1, received 0"),
        ((3, "papper"), ValueError, "recipe must be one of .*, received 'papper'"),
    ],
)
def test_a_mistake_is_a_sentence(given, error, message):
    with pytest.raises(error, match=message):
        alexnet(*given)


def test_a_mean_for_a_recipe_that_has_its_own_is_refused():
    with pytest.raises(
        UserError, match="image_mean: the recipe bvlc has a mean of its"
    ):
        alexnet(3, "bvlc", width=WIDTH, image_mean=(1, 2, 3))


def test_fields_of_a_recipe_are_keywords():
    model = alexnet(3, "small", width=WIDTH, dropout="inverted", groups=1)
    assert model.get_layer("dropout6").scale_in_training
    assert model.get_layer("conv2").groups == 1
    with pytest.raises(TypeError, match=r"no field 'dropuot'; did you mean dropout\?"):
        alexnet(3, dropuot="inverted")


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_least_size_of_images_is_said(recipe):
    least = RECIPES[recipe].least_image_size
    model = alexnet(2, recipe, image_size=least, width=0.02)
    assert model.get_layer("pool5").output.shape[1:3] == (1, 1)
    message = f"image_size must be at least {least} in the recipe {recipe}, received "
    with pytest.raises(ValueError, match=message):
        alexnet(2, recipe, image_size=least - 1, width=0.02)


def test_the_version_is_that_of_the_package():
    assert alexnet_tf.__version__.split(".")[0] == "1"

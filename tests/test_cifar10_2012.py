"""The networks of 2012 on CIFAR-10 are those of the definitions that were published."""

import json

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from examples import cifar10_2012 as cifar10
from examples import cifar10_2012_report as report

# Of each layer with weights: the shape of its output, its parameters. From the
# definitions: filters · (window · channels in + 1), and for a local layer its pixels ·
# filters · (9 · channels in + 1).
CONVOLUTIONS = {
    "conv1": ((32, 32, 32), 32 * (25 * 3 + 1)),
    "conv2": ((16, 16, 32), 32 * (25 * 32 + 1)),
    "conv3": ((8, 8, 64), 64 * (25 * 32 + 1)),
}
SOFTMAX = {"fc10": ((10,), 10 * (4 * 4 * 64 + 1))}
CROPS = {
    "conv1": ((24, 24, 64), 64 * (25 * 3 + 1)),
    "conv2": ((12, 12, 64), 64 * (25 * 64 + 1)),
}
FC10 = {"fc10": ((10,), 10 * (6 * 6 * 32 + 1))}
LOCAL_32 = {
    "local3": ((6, 6, 32), 36 * 32 * (9 * 64 + 1)),
    "local4": ((6, 6, 32), 36 * 32 * (9 * 32 + 1)),
}
LOCAL_64 = {
    "local3": ((6, 6, 64), 36 * 64 * (9 * 64 + 1)),
    "local4": ((6, 6, 32), 36 * 32 * (9 * 64 + 1)),
}
FC64 = {"fc64": ((64,), 64 * (4 * 4 * 64 + 1)), "fc10": ((10,), 10 * (64 + 1))}
DEFINITIONS = {
    "80sec": CONVOLUTIONS | FC64,
    "18pct": CONVOLUTIONS | SOFTMAX,
    "18pct_plain": CONVOLUTIONS | SOFTMAX,
    "19pct": CONVOLUTIONS | SOFTMAX,
    "13pct": CROPS | LOCAL_32 | FC10,
    "13pct_normalized": CROPS | LOCAL_32 | FC10,
    "11pct": CROPS | LOCAL_64 | FC10,
    "relu": CONVOLUTIONS | SOFTMAX,
    "tanh": CONVOLUTIONS | SOFTMAX,
}
PARAMETERS = {"80sec": 145_578, "18pct": 89_578, "13pct": 1_116_490, "11pct": 2_112_970}


CONV_DECAY = {"conv1": 0.004, "conv2": 0.004, "conv3": 0.004}
LOCAL_DECAY = {"local3": 0.004, "local4": 0.004}
DECAY = {
    "80sec": CONV_DECAY | {"fc64": 0.03, "fc10": 0.03},
    "18pct": CONV_DECAY | {"fc10": 1.0},
    "18pct_plain": CONV_DECAY | {"fc10": 1.0},
    "19pct": CONV_DECAY | {"fc10": 3.0},
    "13pct": LOCAL_DECAY | {"fc10": 0.004},
    "13pct_normalized": LOCAL_DECAY | {"fc10": 0.004},
    "11pct": LOCAL_DECAY | {"fc10": 0.01},
    "relu": {},
    "tanh": {},
}


def make_data(train=1280, test=40) -> dict[str, np.ndarray]:
    """Noise around a colour of each of the ten classes."""
    rng, data = np.random.default_rng(0), {}
    colors = rng.uniform(0, 255, (10, 1, 1, 3))
    for split, number in (("train", train), ("test", test)):
        labels = rng.integers(0, 10, number).astype(np.int32)
        images = rng.normal(colors[labels], 20.0, (number, 32, 32, 3))
        data[f"{split}_images"] = images.clip(0, 255).astype(np.uint8)
        data[f"{split}_labels"] = labels
    return data


@pytest.fixture(scope="module")
def data():
    return make_data()


@pytest.mark.parametrize("name", cifar10.NETWORKS)
def test_shapes_and_parameters_are_those_of_the_definitions(name):
    size = cifar10.NETWORKS[name].image_size
    layers = [keras.Input((size, size, 3)), *cifar10.NETWORKS[name].layers()]
    model = keras.Sequential(layers)
    found = {
        layer.name: (layer.output.shape[1:], layer.count_params())
        for layer in model.layers
        if layer.count_params()
    }
    assert found == DEFINITIONS[name]
    decay = cifar10.NETWORKS[name].decay
    assert {layer: decay[layer] for layer in found if layer in decay} == DECAY[name]
    assert model.count_params() == PARAMETERS.get(name, model.count_params())


def test_normalisation_stands_where_the_definitions_have_it():
    def kinds(name):
        layers = cifar10.NETWORKS[name].layers()
        return [type(layer).__name__ for layer in layers][:6]

    same, across = "SameMapNormalization", "LocalResponseNormalization"
    conv, mean = "Conv2D", "AveragePooling2D"
    assert kinds("18pct") == [conv, "MaxPooling2D", same, conv, mean, same]
    assert kinds("11pct") == [
        *(conv, "MaxPooling2D", across),
        *(conv, across, "MaxPooling2D"),
    ]
    assert not {same, across} & {*kinds("13pct"), *kinds("19pct"), *kinds("80sec")}


def test_lengths_of_the_training():
    images = {
        name: sum(10_000 for _ in network.timetable())
        for name, network in cifar10.NETWORKS.items()
    }
    assert images["18pct"] == 140 * 50_000
    assert images["13pct"] == 100 * 40_000 + 60 * 50_000
    assert images["11pct"] == 350 * 40_000 + 170 * 50_000
    factors = [factor for *_, factor in cifar10.NETWORKS["18pct"].timetable()]
    assert [factors.index(0.1), factors.index(0.01)] == [120 * 5, 130 * 5]


def test_same_map_normalization_equals_a_loop():
    x = np.random.default_rng(0).normal(0, 200, (2, 4, 5, 3))
    expected = np.empty_like(x)
    for i, j in np.ndindex(4, 5):
        around = x[:, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
        squares = (around**2).sum(axis=(1, 2))
        expected[:, i, j] = x[:, i, j] / (1 + 5e-5 / 9 * squares) ** 0.75
    found = cifar10.SameMapNormalization()(tf.constant(x, tf.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_locally_connected_equals_a_loop():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    layer = cifar10.LocallyConnected(6)
    layer.build(x.shape)
    assert np.std(layer.kernel) == pytest.approx(0.04, rel=0.1)
    layer.bias.assign(rng.normal(size=(12, 6)))
    kernel, bias = layer.kernel.numpy(), layer.bias.numpy()
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = np.empty((2, 3, 4, 6))
    for pixel, (i, j) in enumerate(np.ndindex(3, 4)):
        patch = padded[:, i : i + 3, j : j + 3].reshape(2, -1)
        expected[:, i, j] = np.maximum(patch @ kernel[pixel] + bias[pixel], 0)
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)


def test_crops_are_windows_of_the_images_half_of_them_mirrored(data):
    trainer = cifar10.Trainer(cifar10.NETWORKS["13pct"], data)
    batch = tf.range(128)
    crops = trainer._crop(batch, tf.constant([0, 0])) + trainer.mean
    crops, places, mirrored = np.round(crops), set(), 0
    for image, crop in zip(data["train_images"], crops, strict=False):
        windows = np.lib.stride_tricks.sliding_window_view(image, (24, 24), (0, 1))
        windows = windows.transpose(0, 1, 3, 4, 2)
        for way in (1, -1):
            same = (windows[:, :, :, ::way] == crop).all(axis=(2, 3, 4))
            places |= {tuple(place) for place in np.argwhere(same)}
            mirrored += same.any() * (way == -1)
    assert 50 < len(places) <= 81
    assert 40 < mirrored < 88
    np.testing.assert_array_equal(
        trainer.mean, data["train_images"].mean(0).astype(np.float32)[4:28, 4:28]
    )


def test_a_step_is_the_paper_s_update_with_the_rates_of_the_definition(data):
    trainer = cifar10.Trainer(cifar10.NETWORKS["18pct"], data)
    before = [variable.numpy() for variable in trainer.variables]
    images = tf.cast(data["train_images"], tf.float32) - trainer.mean
    order = np.random.default_rng([0, 0]).permutation(1280)
    moves = [np.zeros_like(value) for value in before]
    expected = before
    for step in range(2):
        batch = order[step * 128 :][:128]
        for variable, value in zip(trainer.variables, expected, strict=True):
            variable.assign(value)
        with tf.GradientTape() as tape:
            losses = keras.losses.sparse_categorical_crossentropy(
                data["train_labels"][batch],
                trainer.model(tf.gather(images, batch)),
                from_logits=True,
            )
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, trainer.variables)
        for i, (variable, gradient) in enumerate(
            zip(trainer.variables, gradients, strict=True)
        ):
            decay = {"conv": 0.004, "fc10": 1.0}[variable.path.split("/")[-2][:4]]
            if variable.name == "bias":
                moves[i] = 0.9 * moves[i] - 0.002 * gradient
            else:
                moves[i] = 0.9 * moves[i] - 0.0001 * (gradient + decay * expected[i])
        expected = [value + move for value, move in zip(expected, moves, strict=True)]
    for variable, value in zip(trainer.variables, before, strict=True):
        variable.assign(value)
    trainer.train_part(0, 0, 5, 0.1)
    for variable, value in zip(trainer.variables, expected, strict=True):
        np.testing.assert_allclose(variable, value, atol=2e-6)


def test_the_error_of_views_is_that_of_their_mean():
    data = make_data(train=128, test=200)
    trainer = cifar10.Trainer(cifar10.NETWORKS["13pct"], data)
    for variable in trainer.variables:
        variable.assign(tf.random.stateless_normal(variable.shape, (0, 1), stddev=0.02))
    images, views = data["test_images"].astype(np.float32), {1: 0, -1: 0}
    for top, left in ((0, 0), (0, 8), (4, 4), (8, 0), (8, 8)):
        crop = images[:, top : top + 24, left : left + 24]
        for way in views:
            logits = trainer.model(crop[:, :, ::way] - trainer.mean)
            views[way] = views[way] + tf.nn.softmax(logits).numpy()
    data["test_labels"] = (views[1] + views[-1]).argmax(axis=1)
    assert trainer.test_error(cifar10.TEN_VIEWS) == 0
    straight = np.mean(views[1].argmax(axis=1) != data["test_labels"])
    assert straight > 0
    assert trainer.test_error(cifar10.TEN_VIEWS[::2]) == straight
    assert len(set(cifar10.NINE_VIEWS)) == 9


def test_a_net_learns(data):
    trainer = cifar10.Trainer(cifar10.NETWORKS["relu"], data)
    errors = [
        trainer.train_part(*part) for part in cifar10.NETWORKS["relu"].timetable()[:25]
    ]
    assert errors[0] > 0.7
    assert errors[-1] < 0.3
    assert trainer.test_error([(0, 0, 1)]) < 0.3


class StoppedError(Exception):
    """The run ends here."""


def test_a_run_that_was_stopped_goes_on_exactly(tmp_path, monkeypatch):
    data = make_data(train=640)
    network = cifar10.NETWORKS["13pct"]
    stages = ((1, 4, 1.0), (1, 5, 0.1))
    short = type(network)(network.layers, network.decay, stages, 24)
    monkeypatch.setitem(cifar10.NETWORKS, "13pct", short)
    whole = cifar10.run("13pct", 1, 0.001, data, tmp_path / "whole")

    train_part = cifar10.Trainer.train_part

    def stop(trainer, epoch, part, *others):
        if (epoch, part) == (1, 1):
            raise StoppedError
        return train_part(trainer, epoch, part, *others)

    monkeypatch.setattr(cifar10.Trainer, "train_part", stop)
    with pytest.raises(StoppedError):
        cifar10.run("13pct", 1, 0.001, data, tmp_path / "stopped")
    monkeypatch.setattr(cifar10.Trainer, "train_part", train_part)
    again = cifar10.run("13pct", 1, 0.001, data, tmp_path / "stopped")
    assert again["errors"] == whole["errors"]
    assert again["test_errors"] == whole["test_errors"]
    assert set(again["test_errors"]) == {"central", "nine", "ten"}
    saved = [np.load(tmp_path / name / "state.npz") for name in ("whole", "stopped")]
    for name in saved[0].files:
        if name != "record":
            np.testing.assert_array_equal(saved[0][name], saved[1][name])


def test_pictures_are_read_from_their_folders(tmp_path):
    for split in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(3):
                PIL.Image.new("RGB", (32, 32), (label, i, 7)).save(folder / f"{i}.png")
    data = cifar10.load_cifar10(tmp_path)
    assert data["train_images"].shape == (6, 32, 32, 3)
    np.testing.assert_array_equal(
        data["train_images"][:, 0, 0, 0], data["train_labels"]
    )
    with pytest.raises(SystemExit, match="none/train has no folders of pictures"):
        cifar10.load_cifar10(tmp_path / "none")


def test_report_says_what_the_records_hold(tmp_path, capsys):
    def write(network, seed, rate, errors, **tests):
        folder = tmp_path / f"{network}-{seed}-{rate}"
        folder.mkdir()
        record = {"network": network, "seed": seed, "rate": rate, "errors": errors}
        record |= {"test_errors": tests, "cpu_seconds": 7200.0}
        (folder / "record.json").write_text(json.dumps(record))

    write("18pct", 0, 0.001, [0.2] * 700, central=0.18)
    write("18pct", 1, 0.001, [0.2] * 700, central=0.19)
    write("13pct", 0, 0.001, [0.2] * 700, central=0.12, nine=0.11)
    write("relu", 0, 0.001, [0.5] * 10 + [0.2] * 5, central=0.3)
    write("relu", 0, 0.002, [0.5] * 5 + [0.2] * 5, central=0.3)
    write("tanh", 0, 0.001, [0.5] * 300, central=0.3)
    report.report(tmp_path, tmp_path / "figure.png")
    lines = capsys.readouterr().out.splitlines()
    assert (
        "| 18pct | 0.001 | 0, 1 | 18.00, 19.00: **18.50** ± 0.71 | – | – | 120 |"
        in lines
    )
    assert (
        "| 13pct | 0.001 | 0 | 12.00: **12.00** | 11.00: **11.00** | – | 120 |" in lines
    )
    assert "| relu | 0.001 | 0 | 3.0: **3.0** | 120 |" in lines
    assert "| tanh | 0.001 | 0 | – | 120 |" in lines
    best = report.best_rates(report.read_records(tmp_path))
    assert {name: runs[0]["rate"] for name, runs in best.items()} == {"relu": 0.002}
    assert PIL.Image.open(tmp_path / "figure.png").size[0] > 300

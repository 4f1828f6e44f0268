"""Activations on disk: the right ones, of the right pictures, killed or not."""

import dataclasses
import pathlib
import signal
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from helpers import make_config
from numpy_alexnet import NumpyAlexNet

from alexnet_tf import RECIPES, alexnet, features
from alexnet_tf.errors import UserError
from alexnet_tf.paths import LOCK_FILE
from alexnet_tf.pictures.fitting import Fitting
from alexnet_tf.pipeline.batches import evaluation_batches
from alexnet_tf.pipeline.data_set import open_data_set
from alexnet_tf.recipes import LAYERS as WITH_WEIGHTS
from alexnet_tf.run import Run, checkpoint_sha256

SCRIPT = pathlib.Path(__file__).parents[1] / "features.py"
LAYERS = ["fc7", "conv5"]


class Recording(NumpyAlexNet):
    """Keeps what the layers give before their ReLU."""

    def _conv(self, x, name, **options):
        self.found[name] = super()._conv(x, name, **options)
        return self.found[name]

    def _dense(self, x, name):
        self.found[name] = super()._dense(x, name)
        return self.found[name]


@pytest.fixture(scope="module")
def model():
    model = alexnet(3, "small", width=0.05, seed=0)
    for variable in model.trainable_variables:  # of size, so that every part counts
        variable.assign(variable * 4)
    return model


@pytest.fixture(scope="module")
def run(data_dir, model, tmp_path_factory):
    """A run with this model."""
    run = Run(str(tmp_path_factory.mktemp("run")))
    run.write_config(make_config(data_dir, "small", width=0.05))
    tf.train.Checkpoint(model=model).save(f"{run.checkpoint_dir}/ckpt")
    return run


def write(model, pictures, output, layers=LAYERS, dtype="float32", **facts):
    network = features.take_layers(model, layers)
    return features.write_features(network, pictures, str(output), facts, dtype)


def of_split(data_dir, split="validation"):
    return features.pictures_of_split(open_data_set(data_dir), split, 224)


def load(directory):
    return {path.stem: np.load(path) for path in pathlib.Path(directory).glob("*.npy")}


def test_layers_equal_numpy_before_and_after_their_relu(model):
    image = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    weights = {v.path: v.numpy().astype(np.float64) for v in model.weights}
    reference = Recording(RECIPES["small"], weights)
    reference.found = {}
    reference.forward(image)
    names = ["conv1", "conv4", "fc6", "fc7"]
    before = features.take_layers(model, names, before_relu=True)(image)
    after = features.take_layers(model, names)(image)
    for name in names:
        expected = reference.found[name]
        assert expected.min() < 0 < expected.max()
        close = {"rtol": 2e-4, "atol": 2e-4 * expected.std()}
        np.testing.assert_allclose(before[name], expected, **close, err_msg=name)
        expected = np.maximum(expected, 0)
        np.testing.assert_allclose(after[name], expected, **close, err_msg=name)


def test_an_unknown_layer_names_those_that_there_are(model):
    with pytest.raises(UserError, match=r"no layer 'fc9': give one of .*conv1, lrn1"):
        features.take_layers(model, ["fc7", "fc9"])


def test_rows_are_what_evaluation_sees_with_names_and_labels(data_dir, model, tmp_path):
    assert write(model, of_split(data_dir), tmp_path / "out") == []
    found = load(tmp_path / "out")
    (images, labels), *_ = evaluation_batches(
        open_data_set(data_dir), "validation", global_batch_size=25
    )
    for name in LAYERS:
        expected = features.take_layers(model, [name])(images)[name]
        assert found[name].shape == (25, *expected.shape[1:])
        np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(found["labels"], labels)
    names = found["class_names"][found["labels"]]
    assert [name.split("/")[1] for name in found["file_names"]] == names.tolist()
    assert len(set(found["file_names"])) == 25
    assert np.bincount(found["labels"]).tolist() == [12, 8, 5]


def test_a_folder_is_seen_as_the_model_sees_pictures(tmp_path, model):
    """The middle of a picture; what cannot be read is named and leaves no row."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 256, 256, 3), np.uint8)
    (tmp_path / "in" / "cats").mkdir(parents=True)
    paths = [tmp_path / "in" / n for n in ("cats/a.png", "broken.jpg", "b.tiff")]
    PIL.Image.fromarray(pixels[0]).save(paths[0])
    paths[1].write_bytes(b"\xff\xd8\xff no more")
    PIL.Image.fromarray(pixels[1]).save(paths[2])  # not a kind that the graph takes
    folder, paths = str(tmp_path / "in"), list(map(str, paths))
    pictures = features.pictures_of_folder(folder, paths, Fitting(), 224)
    left_out = write(model, pictures, tmp_path / "out", ["pad1", "fc7"])
    assert [row.name for row in left_out] == ["broken.jpg"]
    found = load(tmp_path / "out")
    assert found["file_names"].tolist() == ["cats/a.png", "b.tiff"]
    assert found["labels"].tolist() == [0, -1]
    assert found["class_names"].tolist() == ["cats"]
    mean = model.get_layer("input_normalization").mean.numpy()
    expected = pixels[:, 16:240, 16:240] - mean
    np.testing.assert_allclose(found["pad1"][:, :224, :224], expected, atol=1e-4)


def test_bad_records_leave_no_row(data_dir, model, tmp_path):
    two = dataclasses.replace(open_data_set(data_dir), class_names=("blue", "green"))
    pictures = features.pictures_of_split(two, "validation", 224)
    left_out = write(model, pictures, tmp_path / "out", ["fc7"])
    assert len(left_out) == 5
    assert all(row.name.startswith("validation/red/") for row in left_out)
    found = load(tmp_path / "out")
    assert len(found["fc7"]) == len(found["labels"]) == 20


KILLED = """
import os, runpy, signal, sys
script, *sys.argv[1:] = sys.argv[1:]
sys.argv[0], sys.path[0] = script, os.path.dirname(script)
from alexnet_tf import features
append, calls = features._Array.append, []
def append_or_die(array, rows):
    calls.append(array)
    if len(calls) == 4:  # a layer of the second batch is written, the other is not
        os.kill(os.getpid(), signal.SIGKILL)
    append(array, rows)
features._Array.append = append_or_die
runpy.run_path(script, run_name="__main__")
"""


def test_a_killed_process_is_followed_by_one_that_goes_on(
    data_dir, model, run, tmp_path
):
    output, source = tmp_path / "out.npz", of_split(data_dir, "train")
    arguments = [
        SCRIPT,
        f"--data_dir={data_dir}",
        "--split=train",
        f"--model_dir={run.model_dir}",
        f"--layer={','.join(LAYERS)}",
        f"--output={output}",
    ]
    command = [sys.executable, "-c", KILLED, *map(str, arguments)]
    killed = subprocess.run(command, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    started = []

    def batches(start):
        started.append(start)
        return source.batches(start)

    facts = {
        "weights": checkpoint_sha256(run.checkpoint_path()),
        "before_relu": False,
    }
    watched = dataclasses.replace(source, batches=batches)
    assert write(model, watched, output, **facts) == []
    assert started == [64]
    write(model, source, tmp_path / "whole", **facts)
    expected = load(tmp_path / "whole")
    found = np.load(output)
    assert len(expected["fc7"]) == 150
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.npz", "whole"]
    for done in (output, tmp_path / "whole"):  # there is nothing left to do
        write(model, watched, done, **facts)
    assert started == [64]
    (tmp_path / "whole" / "conv5.npy").unlink()
    write(model, watched, tmp_path / "whole", **facts)
    assert started == [64, 0]
    np.testing.assert_array_equal(load(tmp_path / "whole")["conv5"], expected["conv5"])


@pytest.mark.parametrize("name", ["out", "out.npz"])
def test_an_output_of_something_else_stays(data_dir, model, tmp_path, name):
    output, pictures = tmp_path / name, of_split(data_dir)
    write(model, pictures, output, ["fc7"], weights="a")
    with pytest.raises(UserError, match="with weights a, now it is b: give a new"):
        write(model, pictures, output, ["fc7"], weights="b")
    with pytest.raises(UserError, match=r"with layers \['fc7'\], now it is \['fc6'\]"):
        write(model, pictures, output, ["fc6"], weights="a")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("my own")
    with pytest.raises(UserError, match="holds other files"):
        write(model, pictures, mine)
    assert [p.name for p in mine.iterdir()] == ["notes.txt"]
    np.savez(tmp_path / "mine.npz", mine=np.ones(3))
    (tmp_path / "text.npz").write_text("my own")
    for taken in ("mine.npz", "text.npz"):
        with pytest.raises(UserError, match="holds something else"):
            write(model, pictures, tmp_path / taken)
    pictures = features.pictures_of_folder("a", ["a/b.jpg"], Fitting(), 224)
    with pytest.raises(UserError, match="holds something else"):
        write(model, pictures, output, ["fc7"], weights="a")


def test_half_precision_and_what_it_cannot_hold(data_dir, model, tmp_path):
    pictures = of_split(data_dir)
    write(model, pictures, tmp_path / "whole", ["fc7"])
    write(model, pictures, tmp_path / "half", ["fc7"], "float16")
    whole, half = load(tmp_path / "whole")["fc7"], load(tmp_path / "half")["fc7"]
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, whole.astype(np.float16))
    loud = alexnet(3, "small", width=0.05, seed=0)
    loud.get_layer("fc7").bias.assign(70_000 * tf.ones_like(loud.get_layer("fc7").bias))
    with pytest.raises(UserError, match=r"fc7.*too large for float16: give --dtype"):
        write(loud, pictures, tmp_path / "loud", ["fc7"], "float16")


def test_a_full_disk_is_one_line(data_dir, model, tmp_path, monkeypatch):
    def refuse(array, rows):
        raise OSError(28, "No space left on device", "fc7.npy")

    monkeypatch.setattr(features._Array, "append", refuse)
    with pytest.raises(UserError, match="free some space and run the same command"):
        write(model, of_split(data_dir), tmp_path / "out", ["fc7"])
    monkeypatch.undo()
    write(model, of_split(data_dir), tmp_path / "out", ["fc7"])
    assert len(load(tmp_path / "out")["fc7"]) == 25
    assert not (tmp_path / "out" / LOCK_FILE).exists()


def test_published_weights_need_no_run(tmp_path):
    source = alexnet(5, "bvlc", width=0.05, seed=3)
    layers = {n: [v.numpy() for v in source.get_layer(n).weights] for n in WITH_WEIGHTS}
    np.save(tmp_path / "weights.npy", layers)
    picture = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    (tmp_path / "in").mkdir()
    PIL.Image.fromarray(picture).save(tmp_path / "in" / "a.png")
    arguments = [
        f"--input={tmp_path}/in",
        f"--init_weights={tmp_path}/weights.npy",
        "--recipe=bvlc",
        "--layer=conv3,fc8",
        f"--output={tmp_path}/out.npz",
    ]
    command = [sys.executable, str(SCRIPT), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "conv3, fc8 of 1 pictures" in ended.stdout
    found = np.load(tmp_path / "out.npz")
    crop = picture[np.newaxis, 14 : 14 + 227, 14 : 14 + 227]
    assert found["conv3"].shape == (1, 13, 13, 20)
    np.testing.assert_allclose(found["fc8"], source(crop), rtol=1e-3, atol=1e-4)
    assert found["file_names"].tolist() == ["a.png"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--input=."], 2, "give --model_dir or --init_weights"),
        (["--model_dir=."], 2, "give --input or --data_dir"),
        (["--input=.", "--data_dir=.", "--model_dir=."], 2, "give --input or"),
        (["--input=tests", "--model_dir=."], 1, "no pictures in tests"),
        (["--input=nowhere", "--model_dir=."], 2, "there is no nowhere"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, arguments, code, message):
    command = [sys.executable, str(SCRIPT), f"--output={tmp_path}/out", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parent)
    assert ended.returncode == code
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr

"""Activations on disk: the right ones, of the right pictures, killed or not."""

import dataclasses
import importlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import types

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from helpers import make_config, run_script
from numpy_alexnet import NumpyAlexNet

from alexnet_tf import RECIPES, alexnet, extracting
from alexnet_tf.errors import UserError
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
    network = extracting.take_layers(model, layers)
    return extracting.write_features(network, pictures, str(output), facts, dtype)


def of_split(data_dir, split="validation"):
    return extracting.pictures_of_split(open_data_set(data_dir), split, 224)


def of_folder(folder, paths):
    paths = list(map(str, paths))
    return extracting.pictures_of_folder(str(folder), paths, Fitting(), 224)


def load(directory):
    return {path.stem: np.load(path) for path in pathlib.Path(directory).glob("*.npy")}


def test_layers_equal_numpy_before_and_after_their_relu(model):
    image = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    weights = {v.path: v.numpy().astype(np.float64) for v in model.weights}
    reference = Recording(RECIPES["small"], weights)
    reference.found = {}
    reference.forward(image)
    names = ["conv1", "conv4", "fc6", "fc7"]
    before = extracting.take_layers(model, names, before_relu=True)(image)
    after = extracting.take_layers(model, names)(image)
    for name in names:
        expected = reference.found[name]
        assert expected.min() < 0 < expected.max()
        close = {"rtol": 2e-4, "atol": 2e-4 * expected.std()}
        np.testing.assert_allclose(before[name], expected, **close, err_msg=name)
        expected = np.maximum(expected, 0)
        np.testing.assert_allclose(after[name], expected, **close, err_msg=name)


def test_an_unknown_layer_names_those_that_there_are(model):
    with pytest.raises(UserError, match=r"no layer 'fc9': give one of .*conv1, lrn1"):
        extracting.take_layers(model, ["fc7", "fc9"])


def test_rows_are_what_evaluation_sees_with_names_and_labels(data_dir, model, tmp_path):
    assert write(model, of_split(data_dir), tmp_path / "out") == []
    found = load(tmp_path / "out")
    (images, labels), *_ = evaluation_batches(
        open_data_set(data_dir), "validation", global_batch_size=25
    )
    for name in LAYERS:
        expected = extracting.take_layers(model, [name])(images)[name]
        assert found[name].shape == (25, *expected.shape[1:])
        np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(found["labels"], labels)
    names = found["class_names"][found["labels"]]
    assert [name.split("/")[1] for name in found["file_names"]] == names.tolist()
    assert len(set(found["file_names"])) == 25
    assert np.bincount(found["labels"]).tolist() == [12, 8, 5]


def test_a_folder_is_seen_as_the_model_sees_pictures(tmp_path, model):
    """The middle of a picture; what cannot be read is named and has a row of NaN."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 256, 256, 3), np.uint8)
    (tmp_path / "in" / "cats").mkdir(parents=True)
    paths = [tmp_path / "in" / n for n in ("cats/a.png", "cats/broken.jpg", "b.tiff")]
    PIL.Image.fromarray(pixels[0]).save(paths[0])
    paths[1].write_bytes(b"\xff\xd8\xff no more")
    PIL.Image.fromarray(pixels[1]).save(paths[2])  # not a kind that the graph takes
    pictures = of_folder(tmp_path / "in", paths)
    left_out = write(model, pictures, tmp_path / "out", ["pad1", "fc7"])
    assert [name for name, _ in left_out] == ["cats/broken.jpg"]
    found = load(tmp_path / "out")
    names = ["cats/a.png", "cats/broken.jpg", "b.tiff"]
    assert found["file_names"].tolist() == names
    assert found["labels"].tolist() == [0, -1, -1]
    assert found["class_names"].tolist() == ["cats"]
    mean = model.get_layer("input_normalization").mean.numpy()
    expected = pixels[:, 16:240, 16:240] - mean
    np.testing.assert_allclose(found["pad1"][::2, :224, :224], expected, atol=1e-4)
    for layer in ("pad1", "fc7"):
        is_missing = np.isnan(found[layer]).reshape(3, -1)
        assert is_missing.all(axis=1).tolist() == [False, True, False]
        assert is_missing.any(axis=1).tolist() == [False, True, False]


def test_bad_records_have_a_row_of_nan(data_dir, model, tmp_path):
    two = dataclasses.replace(open_data_set(data_dir), class_names=("blue", "green"))
    pictures = extracting.pictures_of_split(two, "validation", 224)
    left_out = write(model, pictures, tmp_path / "out", ["fc7"])
    assert len(left_out) == 5
    assert all(name.startswith("validation/red/") for name, _ in left_out)
    found = load(tmp_path / "out")
    is_bad = found["labels"] == -1
    assert is_bad.sum() == 5
    np.testing.assert_array_equal(np.isnan(found["fc7"]).any(axis=1), is_bad)


def test_pictures_that_were_replaced_are_not_taken_for_those_before(tmp_path, model):
    """Of the same names and sizes, and a file that was touched is another, too."""
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.png"
    PIL.Image.new("RGB", (256, 256), "red").save(path, compress_level=0)
    size = path.stat().st_size
    write(model, of_folder(tmp_path / "in", [path]), tmp_path / "out", ["fc7"])
    before = load(tmp_path / "out")["fc7"]
    write(model, of_folder(tmp_path / "in", [path]), tmp_path / "out", ["fc7"])
    PIL.Image.new("RGB", (256, 256), "blue").save(path, compress_level=0)
    assert path.stat().st_size == size
    pictures = of_folder(tmp_path / "in", [path])
    with pytest.raises(UserError, match=r"was begun with pictures .*: give a new dir"):
        write(model, pictures, tmp_path / "out", ["fc7"])
    write(model, pictures, tmp_path / "new", ["fc7"])
    assert not np.array_equal(load(tmp_path / "new")["fc7"], before)


def test_records_that_were_replaced_are_not_taken_for_those_before(
    data_dir, model, tmp_path
):
    shutil.copytree(data_dir, tmp_path / "data")
    write(model, of_split(str(tmp_path / "data")), tmp_path / "out", ["fc7"])
    (shard,) = (tmp_path / "data").glob("*validation*")
    content = bytearray(shard.read_bytes())
    content[5000] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match="was begun with pictures"):
        write(model, of_split(str(tmp_path / "data")), tmp_path / "out", ["fc7"])


KILLED = """
import os, runpy, signal, sys
script, *sys.argv[1:] = sys.argv[1:]
sys.argv[0], sys.path[0] = script, os.path.dirname(script)
from alexnet_tf import extracting
store, calls = extracting._store, []
def store_or_die(*arguments):
    calls.append(arguments)
    if len(calls) == 4:  # a layer of the second batch is written, the other is not
        os.kill(os.getpid(), signal.SIGKILL)
    store(*arguments)
extracting._store = store_or_die
runpy.run_path(script, run_name="__main__")
"""


def test_a_killed_process_is_followed_by_one_that_goes_on(
    data_dir, model, run, tmp_path
):
    output, source = tmp_path / "out", of_split(data_dir, "train")
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
    assert json.loads((output / "features.json").read_text())["rows_done"] == 64
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
    expected, found = load(tmp_path / "whole"), load(output)
    assert len(expected["fc7"]) == 150
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    write(model, watched, output, **facts)  # there is nothing left to do
    assert started == [64]
    (output / "conv5.npy").unlink()
    write(model, watched, output, **facts)
    assert started == [64, 0]
    np.testing.assert_array_equal(load(output)["conv5"], expected["conv5"])


def test_an_output_of_something_else_stays(data_dir, model, tmp_path):
    output, pictures = tmp_path / "out", of_split(data_dir)
    write(model, pictures, output, ["fc7"], weights="a")
    with pytest.raises(UserError, match="with weights a, now it is b: give a new"):
        write(model, pictures, output, ["fc7"], weights="b")
    with pytest.raises(UserError, match=r"with layers \['fc7'\], now it is \['fc6'\]"):
        write(model, pictures, output, ["fc6"], weights="a")
    (output / "features.json").write_text("{")
    with pytest.raises(UserError, match="damaged or of another version"):
        write(model, pictures, output, ["fc7"], weights="a")
    (output / "features.json").unlink()
    os.mkfifo(output / "features.json")
    with pytest.raises(UserError, match="damaged or of another version"):
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


def test_a_disk_without_room_for_all_rows_is_one_line_before_the_work(
    data_dir, model, tmp_path, monkeypatch
):
    """A file that is mapped into memory would else kill the process in the middle."""

    def refuse(descriptor, start, size):
        raise OSError(28, "No space left on device")

    pictures = of_split(data_dir)
    nothing = dataclasses.replace(pictures, batches=None)
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", refuse)
        with pytest.raises(UserError, match="free some space and run the same command"):
            write(model, nothing, tmp_path / "out", ["fc7"])
    write(model, pictures, tmp_path / "out", ["fc7"])
    assert len(load(tmp_path / "out")["fc7"]) == 25


def test_published_weights_need_no_run(tmp_path, capsys):
    source = alexnet(5, "bvlc", width=0.05, seed=3)
    layers = {n: [v.numpy() for v in source.get_layer(n).weights] for n in WITH_WEIGHTS}
    np.save(tmp_path / "weights.npy", layers)
    picture = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    (tmp_path / "in").mkdir()
    PIL.Image.fromarray(picture).save(tmp_path / "in" / "a.png")
    values = types.SimpleNamespace(
        input=str(tmp_path / "in"),
        model_dir=None,
        init_weights=str(tmp_path / "weights.npy"),
        checkpoint="latest",
        recipe="bvlc",
        class_names=None,
        layer=["conv3", "fc8"],
        before_relu=False,
        dtype="float32",
        output=str(tmp_path / "out"),
    )
    script = importlib.import_module("features")
    assert script.main(values, [str(tmp_path / "in" / "a.png")]) == 0
    assert "conv3, fc8 of 1 pictures" in capsys.readouterr().out
    found = load(tmp_path / "out")
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
        ([f"--input={SCRIPT.parent}/tests", "--model_dir=."], 1, "no pictures in "),
        (["--input=nowhere", "--model_dir=."], 2, "there is no nowhere"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, capsys, arguments, code, message):
    assert run_script("features", f"--output={tmp_path}/out", *arguments) == code
    errors = capsys.readouterr().err
    assert message in errors
    assert "Traceback" not in errors

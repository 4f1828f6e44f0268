"""Tests of alexnet_tf/classifier.py: a network that takes what people have."""

import pathlib

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from helpers import make_config

import alexnet_tf
from alexnet_tf.pictures.fitting import Fitting, fit_for_network
from alexnet_tf.run import Run, build_model
from benchmarks.hostile import encode, noise


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    """A run whose network answers by what it sees."""
    run = Run(str(tmp_path_factory.mktemp("run")))
    config = make_config(data_dir, "torchvision")
    run.write_config(config)
    model = build_model(config, "float32")
    checkpoint = tf.train.Checkpoint(model=model)
    tf.train.CheckpointManager(checkpoint, run.checkpoint_dir, 1).save()
    return run


@pytest.fixture(scope="module")
def classifier(run):
    return alexnet_tf.load(pathlib.Path(run.model_dir))


def test_a_run_says_what_pictures_show(run, classifier, tmp_path):
    picture = noise(260, 300)
    picture.save(tmp_path / "upright.png")
    turned = picture.transpose(PIL.Image.Transpose.ROTATE_90)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turn it by 90 degrees clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    turned.save(tmp_path / "as it lies.png")
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty").mkdir()
    names = ("upright.png", "no file.png", "turned.png", "text.jpg", "as it lies.png")
    paths = [*(tmp_path / name for name in (*names, "empty")), "~nobody_at_all.jpg"]
    found = classifier.predict_pictures(paths)
    upright, gone, upright_too, text, lying, nobody = found
    assert upright.path == str(tmp_path / "upright.png")
    assert upright.error is None
    assert gone.error == "No such file or directory"
    assert gone.classes == text.classes == []
    assert text.error == "not a picture in a known format"
    assert nobody.path == "~nobody_at_all.jpg"
    assert "there is no such user" in nobody.error

    fitted = fit_for_network(picture, Fitting(), 224)[np.newaxis]
    probabilities = tf.nn.softmax(run.load_model()[0](fitted))[0].numpy()
    names = ("blue", "green", "red")
    assert classifier.class_names == names
    expected = sorted(zip(probabilities, names, strict=True))[::-1]
    found = upright.classes
    assert [name for name, _ in found] == [name for _, name in expected]
    assert [p for _, p in found] == pytest.approx([p for p, _ in expected], abs=1e-6)
    assert dict(upright_too.classes) == pytest.approx(dict(found), abs=1e-6)
    assert dict(lying.classes) != pytest.approx(dict(found), abs=1e-5)
    # More than go through the network at a time; one path alone; fewer classes.
    many = classifier.predict_pictures([paths[0]] * 33 + [paths[3]], top_k=1)
    assert [len(one.classes) for one in many] == [1] * 33 + [0]
    assert many[32].classes[0][0] == found[0][0]
    assert len(classifier.predict_pictures(str(paths[0]))) == 1
    assert classifier.predict_pictures([]) == []
    with pytest.raises(ValueError, match="top_k"):
        classifier.predict_pictures(paths, top_k=0)


def test_folders_pictures_of_pillow_and_arrays_are_pictures(classifier, tmp_path):
    picture = noise(60, 80)
    (tmp_path / "below").mkdir()
    picture.save(tmp_path / "below" / "a.png")
    (tmp_path / "b.tif").write_bytes(encode(picture, "TIFF"))
    pixels = np.asarray(picture)
    found = classifier.predict_pictures([tmp_path, picture, pixels])
    names = ["b.tif", "below/a.png"]
    assert [one.path for one in found[:2]] == [str(tmp_path / name) for name in names]
    assert [one.path for one in found[2:]] == ["", ""]
    for given in (picture, pixels, pixels[np.newaxis]):
        found += classifier.predict_pictures(given)
    assert len(found) == 7
    for one in found[1:]:
        assert dict(one.classes) == pytest.approx(dict(found[0].classes))
    (wrong,) = classifier.predict_pictures(pixels / 255)
    assert "uint8 array" in wrong.error

"""`alexnet_tf.train`: training as a call in a notebook."""

import logging
import os
import pathlib
import shutil
import signal
import sys
import threading

import keras
import numpy as np
import pytest
from helpers import SMALL

import alexnet_tf
from alexnet_tf.errors import UserError
from alexnet_tf.monitoring.tensorboard import Monitor
from alexnet_tf.run import Run
from alexnet_tf.training import library
from alexnet_tf.training.step import Trainer


@pytest.fixture
def train(tmp_path, data_dir, monkeypatch):
    """Trains on a folder of pictures for an epoch of two steps."""
    pictures = tmp_path / "pictures"
    for split, number in {"train": 16, "validation": 2}.items():
        for name in ("blue", "red"):
            (pictures / split / name).mkdir(parents=True)
            for i in range(number):
                path = pathlib.Path(data_dir).parent / "in" / split / name / f"{i}.jpg"
                shutil.copy(path, pictures / split / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "kernel.json"])
    monkeypatch.setattr(Monitor, "write_start", lambda *_: None)
    given = SMALL | {"image_size": 67, "lrn": False, "num_epochs": 2.0, "num_gpus": 0}
    given |= {"global_batch_size": 16, "steps_per_loop": 1}
    return lambda **more: alexnet_tf.train(pictures, **given | more)


def test_a_call_trains_on_pictures_and_returns_the_run(train, capfd):
    """In a thread, too, as some notebooks have it; it takes no signals."""
    handlers = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    runs = []
    thread = threading.Thread(target=lambda: runs.append(train()))
    thread.start()
    thread.join()
    (run,) = runs
    assert run.is_finished
    assert run.accuracy in (0, 0.25, 0.5, 0.75, 1)
    assert isinstance(run.model, keras.Model)
    assert run.class_names == ("blue", "red")
    assert run.curves().size[0] > 100
    (prediction,) = run.predict_pictures(np.zeros((80, 80, 3), np.uint8))
    assert len(prediction.classes) == 2
    said, errors = capfd.readouterr()
    for part in (
        "pictures in runs/data/pictures-",
        "recipe small for 2 classes",
        "  num_epochs 2.0 (given)",
        "val loss",
        f"Held-out top-1: {run.accuracy:.1%} of 4 images",
        f"alexnet_tf.load({run.model_dir!r})",
    ):
        assert part in said
    for part in ("python ", "--", "kernel.json", "INFO", "tensorboard "):
        assert part not in said
    assert "Traceback" not in errors
    after = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    assert after == handlers


def test_an_interrupted_call_goes_on(train, capsys, monkeypatch):
    run_steps = Trainer.run_steps

    def interrupt(trainer, *arguments):
        if trainer.step == 3:
            raise KeyboardInterrupt
        run_steps.__get__(trainer, Trainer)(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_steps", interrupt)
        run = train()
    assert not run.is_finished
    assert run.accuracy is not None  # of the first epoch
    assert Run(run.model_dir).checkpoint_path().endswith("ckpt-3")
    assert "the same call of train() goes on" in capsys.readouterr().out
    again = train()
    assert again.model_dir == run.model_dir
    assert again.is_finished
    assert "going on from step 3" in capsys.readouterr().out
    assert len(os.listdir("runs/data")) == 1


def test_errors_of_a_call_speak_of_arguments(train):
    with pytest.raises(UserError, match="there is no setting 'epochs'"):
        train(epochs=3)
    assert not os.path.exists("runs")  # said before the pictures are prepared
    with pytest.raises(UserError, match=r"^num_gpus=99, but TensorFlow found"):
        train(num_gpus=99)


def test_advice_that_is_logged_speaks_of_arguments():
    text = "raw records (--encoding=raw), --cache or a-b -- c"
    record = logging.makeLogRecord({"msg": text})
    formatted = library._Formatter().format(record)
    assert formatted == "raw records (encoding=raw), cache or a-b -- c"

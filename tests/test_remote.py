"""A whole run where no path is on this machine's disk: TensorFlow's `ram://`."""

import pathlib

import pytest
import tensorflow as tf
from helpers import SMALL, evaluate_run, train

from alexnet_tf.errors import UserError
from alexnet_tf.export.exporting import export_run
from alexnet_tf.paths import local_only
from alexnet_tf.run import Run


def test_a_remote_run_is_trained_resumed_evaluated_and_exported(data_dir, capsys):
    for path in pathlib.Path(data_dir).iterdir():
        with tf.io.gfile.GFile(f"ram://data/set/{path.name}", "wb") as file:
            file.write(path.read_bytes())
    run = "ram://runs/first"
    given = SMALL | {"train_steps": 2, "keep_checkpoints": 1, "image_size": 67}
    given |= {"lrn": False}
    assert train("ram://data/set", run, given=given, export=False)
    assert train("ram://data/set", run, given={"train_steps": 3}, export=False)
    assert "ckpt-3" in Run(run).load_model()[2]
    assert not tf.io.gfile.exists(f"{run}/checkpoints/ckpt-2.index")
    metrics = Run(run).metrics_file
    with tf.io.gfile.GFile(metrics) as file:
        assert file.read().count('"split": "validation"') == 2
    evaluation = evaluate_run(run, split="train")
    assert evaluation.num_evaluated == 150
    assert tf.io.gfile.exists(f"{run}/eval.json")
    for name in ("saved_model.pb", "assets.extra/tf_serving_warmup_requests"):
        with tf.io.gfile.GFile(f"{run}/saved_model/{name}", "w") as file:
            file.write("earlier")
    exported = export_run(run)
    assert tf.saved_model.load(exported).signatures["images"] is not None
    assert not [name for name in tf.io.gfile.listdir(run) if "unfinished" in name]


def test_what_cannot_be_remote_says_so():
    with pytest.raises(UserError, match="cannot be remote"):
        local_only("gs://bucket/x", "--cache")

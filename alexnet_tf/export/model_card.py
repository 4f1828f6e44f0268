"""What one needs to know of an export."""

import dataclasses
import json

import tensorflow as tf

from alexnet_tf.config import Config
from alexnet_tf.pictures.fitting import Fitting
from alexnet_tf.run import (
    Run,
    checkpoint_sha256,
    library_versions,
)


def describe_export(
    run: Run | None, config: Config, checkpoint: str, fitting: Fitting
) -> dict:
    """What one needs to know in order to trust and to repeat an export."""
    sha256 = checkpoint_sha256(checkpoint)
    evaluation = None
    if run and tf.io.gfile.exists(run.eval_file):
        with tf.io.gfile.GFile(run.eval_file) as file:
            report = json.load(file)
        if report.get("sha256") == [sha256]:
            evaluation = report
    return {
        "model": "AlexNet",
        "recipe": config.recipe.name,
        "fitting": dataclasses.asdict(fitting),
        "training": dataclasses.asdict(config),
        "evaluation": evaluation,
        "checkpoint": checkpoint,
        "checkpoint_sha256": sha256,
        "versions": library_versions(),
    }

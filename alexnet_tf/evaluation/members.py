"""What can be evaluated: checkpoints of runs, and SavedModels."""

import dataclasses
import os
from collections.abc import Sequence

import keras
import tensorflow as tf

from alexnet_tf.errors import UserError
from alexnet_tf.pipeline.decoding import RESIZED
from alexnet_tf.run import Run, sha256_of


@dataclasses.dataclass(frozen=True)
class Member:
    """One network of those whose probabilities are averaged.

    Attributes:
        model: From uint8 images to logits, or to log-probabilities.
        path: Of the checkpoint, without `.index`, or of the SavedModel.
        sha256: Of its files.
        class_names: The index is the class.
        data_dir: Of the data set that it was trained on; None where that is unknown.
    """

    model: keras.Model | tf.Module
    path: str
    sha256: str
    class_names: tuple[str, ...]
    data_dir: str | None


class ExportedModel(tf.Module):
    """A SavedModel of `export.py` as a function from images to log-probabilities.

    Args:
        path: Its directory.
    """

    def __init__(self, path: str):
        super().__init__()
        self._loaded = tf.saved_model.load(path)
        try:
            self._classify = self._loaded.signatures["images"]
            with open(os.path.join(path, "assets", "labels.txt")) as file:
                self.class_names = tuple(file.read().splitlines())
        except (KeyError, FileNotFoundError):
            raise UserError(
                f"the SavedModel {path} has no signature 'images' with labels: export "
                "it with export.py"
            ) from None
        self.top_k = self._classify.structured_outputs["class_ids"].shape[-1]
        # It crops by itself, as it does when it serves.
        self.input_shape = (None, RESIZED, RESIZED, 3)

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns log-probabilities; -inf for classes that it does not answer."""
        answer = self._classify(images=images)
        class_ids, probabilities = answer["class_ids"], answer["probabilities"]
        one_hot = tf.one_hot(class_ids, len(self.class_names))
        return tf.math.log(tf.einsum("bk,bkc->bc", probabilities, one_hot))


def load_members(
    checkpoints: Sequence[str], model_dir: str | None, precision: str
) -> list[Member]:
    """Loads what `--checkpoint` names, each a member of the ensemble.

    Args:
        checkpoints: Each "latest" or "best" of `model_dir`; the path of a checkpoint of
            any run; the directory of a run, for its latest one; or of a SavedModel.
        model_dir: Directory of a run; None where no member needs it.
        precision: Keras dtype policy of the networks from checkpoints.

    Returns:
        The members, all for the same classes and the same size of images.

    Raises:
        UserError: If one is not there, or they do not fit together.
    """
    members = [_load_member(name, model_dir, precision) for name in checkpoints]
    first = members[0]
    for member in members[1:]:
        if member.class_names != first.class_names:
            raise UserError(f"{first.path} and {member.path} know different classes")
        if member.model.input_shape != first.model.input_shape:
            raise UserError(
                f"{first.path} takes images of {first.model.input_shape[1]} pixels, "
                f"{member.path} of {member.model.input_shape[1]}: evaluate them apart"
            )
    return members


def _load_member(name: str, model_dir: str | None, precision: str) -> Member:
    if tf.saved_model.contains_saved_model(name):
        model = ExportedModel(name)
        paths = [
            os.path.join(folder, file)
            for folder, _, files in os.walk(name)
            for file in files
        ]
        return Member(model, name, sha256_of(paths), model.class_names, None)
    if os.path.exists(os.path.join(name, "config.json")):
        name, model_dir = "latest", name
    elif name not in ("latest", "best"):
        model_dir = _run_of(name) or model_dir
    if model_dir is None:
        raise UserError(
            f"--checkpoint={name} is no SavedModel and in no run: give --model_dir too"
        )
    model, config, path = Run(model_dir).load_model(name, precision)
    paths = [path + ".index", *tf.io.gfile.glob(path + ".data-*")]
    return Member(model, path, sha256_of(paths), config.class_names, config.data_dir)


def _run_of(checkpoint: str) -> str | None:
    """The directory of the run that a checkpoint's path lies in."""
    directory = os.path.dirname(os.path.abspath(checkpoint))
    while directory != os.path.dirname(directory):
        if os.path.exists(os.path.join(directory, "config.json")):
            return directory
        directory = os.path.dirname(directory)
    return None

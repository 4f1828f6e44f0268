"""A run on disk: its configuration, its checkpoints, its model."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf
from absl import logging

from alexnet_tf.errors import UserError
from alexnet_tf.network.alexnet import alexnet
from alexnet_tf.pipeline.data_set import DataSet
from alexnet_tf.recipes import RECIPES, choose_recipe


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that a run depends on; `config.json` holds it.

    Attributes:
        data_dir: Directory of the prepared data set.
        class_names: Its classes; the index is the label.
        image_mean: RGB mean of its training split, 0..255.
        num_train_examples: Images in its training split.
        recipe: Name of the recipe.
        groups: Towers, 1 or 2.
        width: Multiplies the channels of every layer.
        precision: "float32" or "mixed_bfloat16".
        num_gpus: GPUs to train on.
        simulate_gpus: Replicas on the CPU instead; 0 for none.
        global_batch_size: Images in a step, over all replicas.
        num_epochs: Epochs to train.
        train_steps: Steps after which to end, whatever the epochs; None for no limit.
        learning_rate: Initial rate.
        lr_schedule: "plateau", "steps", "cosine", "poly" or "constant".
        warmup_epochs: Epochs in which the rate grows to its initial value.
        optimizer: "momentum" or "lars".
        momentum: 0..1.
        weight_decay: Of the paper's update rule.
        dropout_rate: In fc6 and fc7, 0..1.
        color: Colour augmentation.
        steps_per_loop: Steps that TensorFlow runs without coming back to Python; None
            to choose by the time that a step takes.
        checkpoint_every: Steps between checkpoints; None for once an epoch.
        keep_checkpoints: How many of the latest checkpoints stay.
        cache: Whether to keep the training images in memory, decoded.
        cache_validation: The same for the validation images.
        data_service: Address of a tf.data service that reads and augments; or None.
        histograms_every: Steps between histograms; None for every epoch, 0 for never.
        on_nan: "stop" or "rollback".
        max_bad_records: Records that may be impossible to decode.
        reduce_in_bfloat16: Whether gradients travel between replicas in bfloat16.
        deterministic: Whether TensorFlow's operations are to be.
        seed: Of the weights, the order of the images, their augmentation and dropout.
    """

    data_dir: str
    class_names: tuple[str, ...]
    image_mean: tuple[float, ...]
    num_train_examples: int
    recipe: str
    groups: int
    width: float
    precision: str
    num_gpus: int
    simulate_gpus: int
    global_batch_size: int
    num_epochs: float
    train_steps: int | None
    learning_rate: float
    lr_schedule: str
    warmup_epochs: float
    optimizer: str
    momentum: float
    weight_decay: float
    dropout_rate: float
    color: str
    steps_per_loop: int | None
    checkpoint_every: int | None
    keep_checkpoints: int
    cache: bool
    cache_validation: bool
    data_service: str | None
    histograms_every: int | None
    on_nan: str
    max_bad_records: int
    reduce_in_bfloat16: bool
    deterministic: bool
    seed: int


# What the weights in a model_dir depend on, or what they mean.
_UNCHANGEABLE = ("class_names", "recipe", "groups", "width", "precision")
_DEFAULTS = {
    "width": 1.0,
    "train_steps": None,
    "simulate_gpus": 0,
    "steps_per_loop": None,
    "checkpoint_every": None,
    "keep_checkpoints": 5,
    "warmup_epochs": 0.0,
    "optimizer": "momentum",
    "cache": False,
    "cache_validation": False,
    "data_service": None,
    "histograms_every": None,
    "on_nan": "stop",
    "max_bad_records": 100,
    "reduce_in_bfloat16": False,
    "deterministic": False,
    "seed": 0,
}
# What goes with the optimizer for large batches.
_LARS_DEFAULTS = {"lr_schedule": "poly", "warmup_epochs": 5.0}


def resolve(
    given: Mapping[str, object],
    data_set: DataSet,
    found: Mapping[str, object],
    scale_lr: bool = False,
) -> tuple[Config, dict[str, str]]:
    """Completes what the user gave by the recipe and the machine.

    Args:
        given: Values by the names of `Config`'s fields, without those not given;
            `recipe` may be "auto".
        data_set: The data.
        found: What was found out about the machine: `precision`, `num_gpus`.
        scale_lr: Whether to multiply the learning rate by global batch size / 128.

    Returns:
        The configuration, and for each of its fields where the value came from.
    """
    num_train_examples = data_set.splits["train"].num_examples
    if given.get("recipe", "auto") == "auto":
        recipe = choose_recipe(num_train_examples)
        given = {name: value for name, value in given.items() if name != "recipe"}
    else:
        recipe = RECIPES[given["recipe"]]
    facts = {
        "data_dir": data_set.data_dir,
        "class_names": data_set.class_names,
        "image_mean": data_set.image_mean,
        "num_train_examples": num_train_examples,
        "recipe": recipe.name,
    }
    values, origins = {}, {}
    for origin, known in (  # what comes later wins
        ("default", _DEFAULTS),
        ("data", facts),
        (f"recipe {recipe.name}", dataclasses.asdict(recipe)),
        ("optimizer lars", _LARS_DEFAULTS if given.get("optimizer") == "lars" else {}),
        ("machine", found),
        ("command line", given),
    ):
        for field in dataclasses.fields(Config):
            if field.name in known:
                values[field.name], origins[field.name] = known[field.name], origin
    if scale_lr:
        values["learning_rate"] *= values["global_batch_size"] / 128
        origins["learning_rate"] += ", scaled by the batch size"
    return Config(**values), origins


class Run:
    """The directory of a run; names every file in it."""

    def __init__(self, model_dir: str):
        self.model_dir = model_dir
        self.config_file = os.path.join(model_dir, "config.json")
        self.checkpoint_dir = os.path.join(model_dir, "checkpoints")
        self.best_dir = os.path.join(model_dir, "checkpoints", "best")
        self.metrics_file = os.path.join(model_dir, "metrics.jsonl")
        self.saved_model_dir = os.path.join(model_dir, "saved_model")
        self.eval_file = os.path.join(model_dir, "eval.json")

    def read_config(self) -> Config:
        """Returns the run's configuration.

        Raises:
            UserError: If there is none.
        """
        try:
            with open(self.config_file, encoding="utf-8") as file:
                values = {
                    name: entry["value"] for name, entry in json.load(file).items()
                }
            values["class_names"] = tuple(values["class_names"])
            values["image_mean"] = tuple(values["image_mean"])
            return Config(**values)
        except FileNotFoundError:
            raise UserError(
                f"no run in {self.model_dir!r} (no config.json there): give the "
                "--model_dir of a training run"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.config_file} is not a configuration of this version ({error}): "
                "train anew in another --model_dir"
            ) from None

    def write_config(self, config: Config, origins: Mapping[str, str]) -> None:
        """Writes every value and where it came from, replacing the file in one move."""
        os.makedirs(self.model_dir, exist_ok=True)
        entries = {
            name: {"value": value, "from": origins[name]}
            for name, value in dataclasses.asdict(config).items()
        }
        with open(self.config_file + ".tmp", "w", encoding="utf-8") as file:
            json.dump(entries, file, indent=1)
        os.replace(self.config_file + ".tmp", self.config_file)

    def start(
        self,
        config: Config,
        origins: Mapping[str, str],
        overwrite: bool = False,
        write: bool = True,
    ) -> None:
        """Makes the directory, or checks that `config` may go on with what is there.

        Args:
            config: Of the training that is about to start.
            origins: Where its values came from.
            overwrite: Whether to remove an earlier run instead.
            write: Whether this process is the one that writes.

        Raises:
            UserError: If the directory holds something else, or a run that `config`
                cannot go on with.
        """
        if os.path.exists(self.config_file):
            if not overwrite:
                self._check_unchanged(self.read_config(), config)
            elif write:
                shutil.rmtree(self.model_dir)
        elif os.path.isdir(self.model_dir) and os.listdir(self.model_dir):
            raise UserError(
                f"--model_dir={self.model_dir} holds files but no run: give an empty "
                "or a new directory"
            )
        if write:
            self.write_config(config, origins)

    def _check_unchanged(self, old: Config, new: Config) -> None:
        for field in dataclasses.fields(Config):
            name, before, now = (
                field.name,
                *(getattr(c, field.name) for c in (old, new)),
            )
            if before == now:
                continue
            if name == "class_names":
                name, before, now = "classes", *map(_describe_classes, (before, now))
            elif name not in _UNCHANGEABLE:
                logging.info(
                    "changed since the last start: %s %s → %s", name, before, now
                )
                continue
            raise UserError(
                f"the run in {self.model_dir} has {name} {before}, now {now} was "
                "given: give another --model_dir, or --overwrite to start anew"
            )

    def load_model(
        self, checkpoint: str | None = None, dtype: str = "float32"
    ) -> tuple[keras.Model, Config, str]:
        """Builds the run's network with the weights of a checkpoint.

        Args:
            checkpoint: "latest", "best" or a path without its `.index`; None for
                the latest.
            dtype: Keras dtype policy to compute with.

        Returns:
            The model, the run's configuration, the path of the checkpoint.

        Raises:
            UserError: If there is no such checkpoint.
        """
        config = self.read_config()
        path = checkpoint
        if checkpoint in (None, "latest", "best"):
            directory = self.best_dir if checkpoint == "best" else self.checkpoint_dir
            path = tf.train.latest_checkpoint(directory)
        if not path or not os.path.exists(path + ".index"):
            raise UserError(
                f"no checkpoint {checkpoint or 'latest'!r} in {self.model_dir}: train "
                "first, or give --checkpoint=latest, best or a path without .index"
            )
        model = build_model(config, dtype)
        _restore(model, path)
        return model, config, path


def _restore(model: keras.Model, checkpoint: str) -> None:
    """Restores every variable of a network; a checkpoint may hold more."""
    try:
        status = tf.train.Checkpoint(model=model).restore(checkpoint).expect_partial()
        status.assert_existing_objects_matched()
    except AssertionError as error:
        missing = min(re.findall(r"<Variable path=([^,]+),", str(error)), default="")
        raise UserError(
            f"checkpoint {checkpoint} has no weights for {missing}: it is of another "
            "network; give one of this run"
        ) from None
    except (ValueError, IndexError, tf.errors.OpError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"checkpoint {checkpoint} is damaged or of another network ({reason}): "
            "give another"
        ) from None


def sha256_of(paths: Sequence[str]) -> str:
    """The SHA-256 of the content of some files, in the order of their names."""
    total = hashlib.sha256()
    for path in sorted(paths):
        with open(path, "rb") as file:
            while chunk := file.read(2**20):
                total.update(chunk)
    return total.hexdigest()


def build_model(config: Config, dtype: str) -> keras.Model:
    """Builds the network of a configuration, with new weights."""
    return alexnet(
        len(config.class_names),
        config.recipe,
        image_mean=config.image_mean,
        width=config.width,
        groups=config.groups,
        dropout_rate=config.dropout_rate,
        dtype=dtype,
        seed=config.seed,
    )


def _describe_classes(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return f"{len(names)} ({shown})"

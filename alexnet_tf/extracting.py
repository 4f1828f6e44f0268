"""Activations of pictures, on disk while they are computed.

A directory has a NumPy file for each layer, with a row for each picture, and
`labels.npy`, `file_names.npy`, `class_names.npy`; `np.load(path, mmap_mode="r")` opens
them without reading them. The files have their full size from the start, and
`features.json` says how many rows are done and what they depend on: a process that was
killed is followed by one that goes on there, or is refused if anything has changed.
"""

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from alexnet_tf import files
from alexnet_tf.errors import UserError
from alexnet_tf.evaluation.explaining import before_activation, find_layer
from alexnet_tf.evaluation.results import fingerprint, read_names
from alexnet_tf.pictures.decoding import open_for_network
from alexnet_tf.pictures.fitting import Fitting
from alexnet_tf.pipeline.batches import evaluation_batches
from alexnet_tf.pipeline.data_set import DataSet
from alexnet_tf.pipeline.examples import CHUNK, BadRecords

BATCH_SIZE = CHUNK  # the numbers do not depend on where a process was killed
_MAX_BYTES = 2**28  # of what is known of millions of pictures
_STATE = "features.json"


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The pictures to look at, in an order that stays.

    Attributes:
        facts: What they are, for JSON; with other facts nothing goes on.
        names: The name of each.
        class_names: The index is the label.
        batches: From a number of pictures to leave out, whole batches, to the rest in
            batches of `BATCH_SIZE`, of which the last is filled up: uint8 RGB
            `(batch, size, size, 3)`, as evaluation sees them, their labels (-1 for
            none), and of each why it cannot be used, or None.
    """

    facts: Mapping[str, object]
    names: Sequence[str]
    class_names: Sequence[str]
    batches: Callable[[int], Iterator[tuple[np.ndarray, Sequence, Sequence]]]


def pictures_of_split(data_set: DataSet, split: str, image_size: int) -> Pictures:
    """The pictures of a split of a data set.

    Raises:
        UserError: If there is no such split.
    """
    if split not in data_set.splits or not data_set.splits[split].num_examples:
        raise UserError(
            f"no split {split!r} with images in {data_set.data_dir}: it has "
            + ", ".join(data_set.splits)
        )
    records = data_set.splits[split]

    def batches(start: int) -> Iterator:
        bad_records = BadRecords()
        read = evaluation_batches(
            data_set,
            split,
            global_batch_size=BATCH_SIZE,
            image_size=image_size,
            start=start,
            bad_records=bad_records,
        )
        for images, labels in read.as_numpy_iterator():
            len(bad_records)  # warns of each
            yield images, labels, [None if n >= 0 else "a bad record" for n in labels]

    facts = {"data_dir": data_set.data_dir, "split": split}
    facts["pictures"] = fingerprint(records)
    return Pictures(facts, read_names(records), data_set.class_names, batches)


def pictures_of_folder(
    folder: str, paths: Sequence[str], fitting: Fitting, image_size: int
) -> Pictures:
    """Picture files; the class of each is called as the folder that it lies in.

    Args:
        folder: Which all of them are in.
        paths: The paths of the files.
        fitting: How the pictures of the network's data set were made square.
        image_size: Height and width of the network's input, pixels.
    """
    names = [os.path.relpath(path, folder) for path in paths]
    classes = [os.path.basename(os.path.dirname(name)) for name in names]
    class_names = sorted(set(classes) - {""})
    labels = {"": -1} | {name: label for label, name in enumerate(class_names)}

    def batches(start: int) -> Iterator:
        for begin in range(start, len(paths), BATCH_SIZE):
            images = np.zeros((BATCH_SIZE, image_size, image_size, 3), np.uint8)
            errors = []
            for i, path in enumerate(paths[begin : begin + BATCH_SIZE]):
                images[i], error = open_for_network(path, fitting, image_size)
                errors.append(error)
            part = classes[begin : begin + BATCH_SIZE]
            yield images, [labels[name] for name in part], errors

    facts = {"input": os.path.abspath(folder), "pictures": _fingerprint(names, paths)}
    return Pictures(facts, names, class_names, batches)


def _fingerprint(names: Sequence[str], paths: Sequence[str]) -> str:
    """SHA-256 of the files' names, sizes and times of change."""
    total = hashlib.sha256()
    for name, path in zip(names, paths, strict=True):
        status = os.stat(path)
        line = f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0"
        total.update(line.encode(errors="surrogateescape"))
    return total.hexdigest()


def take_layers(
    model: keras.Model, names: Sequence[str], before_relu: bool = False
) -> keras.Model:
    """The network up to some of its layers.

    Args:
        model: The network.
        names: The names of the layers.
        before_relu: Whether to give what a layer computes before its own activation
            function; of layers without one, what they put out.

    Returns:
        A model from images to the layers' outputs, float32, by their names.

    Raises:
        UserError: If there is no such layer.
    """
    layers = {name: find_layer(model, name) for name in names}
    outputs = {
        name: before_activation(layer) if before_relu else layer.output
        for name, layer in layers.items()
    }
    return keras.Model(model.input, outputs)


def write_features(
    network: keras.Model,
    pictures: Pictures,
    directory: str,
    facts: Mapping[str, object],
    dtype: str = "float32",
) -> list[tuple[str, str]]:
    """Writes what layers put out for pictures, or goes on with it.

    Args:
        network: From `take_layers`.
        pictures: What it looks at.
        directory: Where to.
        facts: What else the numbers depend on, such as the weights, for JSON.
        dtype: "float32" or "float16".

    Returns:
        The names of pictures that could not be used, and why. Their rows hold NaN and
        their label is -1.

    Raises:
        UserError: If there is something else in the directory, the disk has too little
            room, or a number is too large for `dtype`.
    """
    layers, total = network.output, len(pictures.names)
    settings = {"layers": [*layers], "dtype": dtype, **facts, **pictures.facts}
    shapes = {name: (total, *output.shape[1:]) for name, output in layers.items()}
    with (
        files.lock(directory),
        files.disk_errors(f"--output={directory}"),
    ):
        state = _open_state(directory, settings)
        if not all(os.path.exists(_path(directory, x)) for x in (*shapes, "labels")):
            state = _State(settings)
        arrays = {
            name: _open_array(directory, name, shape, dtype)
            for name, shape in shapes.items()
        }
        arrays["labels"] = _open_array(directory, "labels", (total,), "int64")
        _compute(network, pictures, arrays, directory, state)
        texts = {"file_names": pictures.names, "class_names": pictures.class_names}
        for name, values in texts.items():
            with files.writing(_path(directory, name), "wb") as file:
                np.save(file, np.array(values, np.str_))
    return [(pictures.names[i], error) for i, error in state.errors]


def _path(directory: str, name: str) -> str:
    return os.path.join(directory, f"{name}.npy")


@dataclasses.dataclass
class _State:
    """How far the work is; `features.json` holds it.

    Attributes:
        settings: What the numbers depend on.
        rows_done: Pictures whose rows are in the arrays.
        errors: Positions of pictures that could not be used, and why.
    """

    settings: Mapping[str, object]
    rows_done: int = 0
    errors: list[tuple[int, str]] = dataclasses.field(default_factory=list)

    def write(self, directory: str) -> None:
        with files.writing(os.path.join(directory, _STATE)) as file:
            json.dump(dataclasses.asdict(self), file)


def _open_state(directory: str, settings: Mapping[str, object]) -> _State:
    """Begins, or checks that what is there can be gone on with."""
    path = os.path.join(directory, _STATE)
    if not os.path.exists(path):
        _State(settings).write(directory)
    try:
        state = _State(**files.read_json(path, _MAX_BYTES))
    except (ValueError, TypeError):
        raise UserError(
            f"{path} is damaged or of another version: give a new directory"
        ) from None
    for name, value in json.loads(json.dumps(settings)).items():
        before = state.settings.get(name)
        if before != value:
            raise UserError(
                f"--output={directory} was begun with {name} {before}, now it is "
                f"{value}: give a new directory"
            )
    return state


def _open_array(
    directory: str, name: str, shape: tuple[int, ...], dtype: str
) -> np.ndarray:
    """A NumPy file that is mapped into memory; made if it is not there."""
    path = _path(directory, name)
    if not os.path.exists(path):
        np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):
        # Without its room on the disk, a full one would kill the process, not raise.
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
    return np.lib.format.open_memmap(path, "r+")


def _compute(
    network: keras.Model,
    pictures: Pictures,
    arrays: Mapping[str, np.ndarray],
    directory: str,
    state: _State,
) -> None:
    """Fills in the rows that are missing."""
    call = tf.function(lambda images: network(images, training=False))
    total, done = len(pictures.names), state.rows_done
    with _progress_bar(total, done) as bar:
        batches = pictures.batches(done) if done < total else ()
        for images, labels, errors in batches:
            rows = slice(done, min(done + BATCH_SIZE, total))
            number = rows.stop - done
            is_bad = np.array([error is not None for error in errors[:number]])
            for name, values in call(tf.constant(images)).items():
                values = np.array(values[:number])
                values[is_bad] = np.nan
                _store(name, arrays[name], rows, values)
            arrays["labels"][rows] = np.where(is_bad, -1, labels[:number])
            for array in arrays.values():
                array.flush()  # the rows lie on the disk before they are counted
            state.errors += [
                (done + i, errors[i]) for i in np.flatnonzero(is_bad).tolist()
            ]
            state.rows_done = done = rows.stop
            state.write(directory)
            bar.update(number)


def _store(name: str, array: np.ndarray, rows: slice, values: np.ndarray) -> None:
    with np.errstate(over="ignore"):
        array[rows] = values
    if (np.isinf(array[rows]) & np.isfinite(values)).any():
        raise UserError(
            f"{name}: {np.nanmax(np.abs(values)):.4g} is too large for {array.dtype}: "
            "give --dtype=float32"
        )


def _progress_bar(number: int, done: int) -> tqdm:
    """Shows the number, the rate and the time left; seldom where it fills a log."""
    seconds = 0.2 if sys.stderr.isatty() else 30
    return tqdm(total=number, initial=done, unit=" pictures", mininterval=seconds)

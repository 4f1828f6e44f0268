"""Activations of pictures, on disk while they are computed.

`write_features` reads like what it does; `Pictures` is where they come from. In a
directory lie NumPy files, which `np.load(path, mmap_mode="r")` opens without reading
them: one for each layer, `labels.npy`, `file_names.npy` and `class_names.npy`. Rows are
appended; `rows.jsonl` has a line for each picture, written after its rows, so that a
process that was killed at any place is followed by one that goes on.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from alexnet_tf import files
from alexnet_tf.errors import UserError
from alexnet_tf.paths import list_names
from alexnet_tf.pictures.decoding import open_picture
from alexnet_tf.pictures.fitting import Fitting, fit_for_network
from alexnet_tf.pipeline.batches import named_batches
from alexnet_tf.pipeline.data_set import DataSet
from alexnet_tf.pipeline.examples import CHUNK, BadRecords

BATCH_SIZE = CHUNK  # the numbers do not depend on where a process was killed
_SETTINGS, _ROWS, _PARTS = "features.json", "rows.jsonl", ".parts"
_FACTS = ("labels", "file_names", "class_names")


class Row(NamedTuple):
    """A picture: its name, its label (-1 for none), why there are no activations."""

    name: str
    label: int
    error: str | None = None


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The pictures to look at, in an order that stays.

    Attributes:
        facts: What they are, for JSON; with other facts nothing goes on.
        number: How many.
        class_names: The index is the label.
        batches: From a number of pictures to leave out to batches of `BATCH_SIZE` of
            the rest: uint8 RGB `(batch, size, size, 3)`, as evaluation sees them, and a
            `Row` for each.
    """

    facts: Mapping[str, object]
    number: int
    class_names: Sequence[str]
    batches: Callable[[int], Iterator[tuple[np.ndarray, list[Row]]]]


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

    def batches(start):
        bad_records = BadRecords()
        read = named_batches(data_set, split, image_size, start, bad_records)
        for images, labels, names in read.as_numpy_iterator():
            len(bad_records)  # warns of each
            rows = [
                Row(
                    name.decode(errors="replace") or f"{split}/{number}",
                    int(label),
                    None if label >= 0 else "a bad record",
                )
                for number, (label, name) in enumerate(
                    zip(labels, names, strict=True), start
                )
            ]
            yield images, rows
            start += len(rows)

    number = data_set.splits[split].num_examples
    facts = {"data_dir": data_set.data_dir, "split": split, "number": number}
    return Pictures(facts, number, data_set.class_names, batches)


def pictures_of_folder(
    folder: str, paths: Sequence[str], fitting: Fitting, image_size: int
) -> Pictures:
    """Picture files; the class of each is called as the folder that it lies in.

    Args:
        folder: Which all of them are in.
        paths: Of the files.
        fitting: How the pictures of the network's data set were made square.
        image_size: Height and width of the network's input, pixels.
    """
    names = [os.path.relpath(path, folder) for path in paths]
    classes = [os.path.basename(os.path.dirname(name)) for name in names]
    class_names = sorted(set(classes) - {""})
    labels = {"": -1} | {name: label for label, name in enumerate(class_names)}
    nothing = np.zeros((image_size, image_size, 3), np.uint8)

    def load(path):
        try:
            image = open_picture(path, fitting.stored_size)
        except ValueError as error:
            return nothing, str(error)
        return fit_for_network(image, fitting, image_size), None

    def batches(start):
        for begin in range(start, len(paths), BATCH_SIZE):
            part = slice(begin, begin + BATCH_SIZE)
            images, errors = zip(*map(load, paths[part]), strict=True)
            facts = zip(names[part], classes[part], errors, strict=True)
            rows = [Row(name, labels[kind], error) for name, kind, error in facts]
            yield np.stack(images), rows

    digest = hashlib.sha256("\0".join(names).encode(errors="surrogateescape"))
    facts = {"input": os.path.abspath(folder), "files": digest.hexdigest()}
    return Pictures(facts, len(paths), class_names, batches)


def take_layers(
    model: keras.Model, names: Sequence[str], before_relu: bool = False
) -> keras.Model:
    """The network up to some of its layers.

    Args:
        model: The network.
        names: Of the layers.
        before_relu: Whether to give what a layer computes before its own activation
            function; of layers without one, what they put out.

    Returns:
        A model from images to the layers' outputs, float32, by their names.

    Raises:
        UserError: If there is no such layer.
    """
    known = [layer.name for layer in model.layers[1:]]  # behind the input
    if unknown := [name for name in names if name not in known]:
        raise UserError(
            f"there is no layer {unknown[0]!r}: give one of {', '.join(known)}"
        )
    outputs = {}
    for name in names:
        layer = model.get_layer(name)
        outputs[name] = layer.output
        if before_relu and hasattr(layer, "activation"):
            config = layer.get_config() | {"activation": "linear"}
            linear = type(layer).from_config(config | {"name": f"{name}_before_relu"})
            outputs[name] = linear(layer.input)
            linear.set_weights(layer.get_weights())
    return keras.Model(model.input, outputs)


def write_features(
    network: keras.Model,
    pictures: Pictures,
    output: str,
    facts: Mapping[str, object],
    dtype: str = "float32",
) -> list[Row]:
    """Writes what layers put out for pictures, or goes on with it.

    Args:
        network: From `take_layers`.
        pictures: What it looks at.
        output: Directory, or a file called `*.npz`, which has the same arrays and is
            made of a directory beside it at the end.
        facts: What else the numbers depend on, such as the weights, for JSON.
        dtype: "float32" or "float16".

    Returns:
        The pictures that could not be used; there is nothing of them in the arrays.

    Raises:
        UserError: If there is something else in `output`, or a number is too large for
            `dtype`.
    """
    is_packed = output.endswith(".npz")
    directory = output + _PARTS if is_packed else output
    layers = list(network.output)
    names = [_SETTINGS, _ROWS, *(f"{name}.npy" for name in (*layers, *_FACTS))]
    settings = {"layers": layers, "dtype": dtype} | dict(facts) | dict(pictures.facts)
    if is_packed and os.path.exists(output):
        _check_settings(output, _read_settings(output), settings)
        return []
    what = f"--output={output}"
    with files.lock(directory, "the features"), files.disk_errors(what):
        _start(directory, output, settings)
        rows = _compute(network, pictures, directory, dtype)
        _write_facts(directory, [row for row in rows if not row.error], pictures)
        if is_packed:
            arrays = {
                name: np.load(_path(directory, name), mmap_mode="r")
                for name in (*layers, *_FACTS)
            }
            with files.writing(output, "wb") as file:
                np.savez(file, **arrays, settings=json.dumps(settings))
            files.remove_written(directory, names)
    if is_packed:
        with contextlib.suppress(OSError):  # the lock has removed what it made
            os.rmdir(directory)
    return [row for row in rows if row.error]


def _path(directory: str, name: str) -> str:
    return os.path.join(directory, f"{name}.npy")


def _start(directory: str, output: str, settings: Mapping[str, object]) -> None:
    """Begins, or checks that what is there can be gone on with."""
    path = os.path.join(directory, _SETTINGS)
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            _check_settings(output, file.read(), settings)
    elif not all(map(files.is_unfinished, list_names(directory))):
        raise UserError(f"--output={output} holds other files: give a new directory")
    else:
        with files.writing(path) as file:
            json.dump(settings, file)


def _read_settings(path: str) -> str:
    """The settings in a `.npz`, "" where it is none of ours."""
    try:
        with np.load(path) as arrays:
            return str(arrays["settings"])
    except Exception:  # NumPy raises all sorts of things on what is no .npz
        return ""


def _check_settings(output: str, found: str, settings: Mapping[str, object]) -> None:
    with contextlib.suppress(ValueError):
        found = json.loads(found)
    if not isinstance(found, dict) or found.keys() != settings.keys():
        raise UserError(f"--output={output} holds something else: give a new name")
    for name, value in json.loads(json.dumps(settings)).items():
        if found[name] != value:
            raise UserError(
                f"--output={output} was begun with {name} {found[name]}, now it is "
                f"{value}: give a new name"
            )


def _compute(network, pictures: Pictures, directory: str, dtype: str) -> list[Row]:
    """Appends to what is there the rows that are missing; returns all of them."""
    rows_path = os.path.join(directory, _ROWS)
    arrays = {
        name: _Array(_path(directory, name), tuple(output.shape[1:]), dtype)
        for name, output in network.output.items()
    }
    length = min(array.length for array in arrays.values())
    rows = _rows_done(rows_path, length, pictures.number)
    with files.writing(rows_path) as file:
        _append_lines(file, rows)
    call = tf.function(lambda images: network(images, training=False))
    with contextlib.ExitStack() as stack:
        rows_file = stack.enter_context(open(rows_path, "a", encoding="utf-8"))
        for array in arrays.values():
            stack.enter_context(array.opened(sum(not row.error for row in rows)))
        bar = stack.enter_context(_progress_bar(pictures.number, len(rows)))
        todo = pictures.batches(len(rows)) if len(rows) < pictures.number else ()
        for images, new in todo:
            missing = BATCH_SIZE - len(images)
            images = np.pad(images, [(0, missing)] + [(0, 0)] * 3)
            kept = [number for number, row in enumerate(new) if not row.error]
            for name, values in call(tf.constant(images)).items():
                arrays[name].append(values.numpy()[kept])
            _append_lines(rows_file, new)
            rows += new
            bar.update(len(new))
    return rows


def _rows_done(path: str, length: int, number: int) -> list[Row]:
    """The pictures of whole batches whose rows are all in files of `length` rows."""
    rows = []
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            lines = [line for line in file if line.endswith("\n")]
        rows = [Row(*json.loads(line)) for line in lines]
    while (len(rows) % BATCH_SIZE and len(rows) < number) or (
        sum(not row.error for row in rows) > length
    ):
        rows = rows[: (len(rows) - 1) // BATCH_SIZE * BATCH_SIZE]
    return rows


def _append_lines(file, rows: Sequence[Row]) -> None:
    file.writelines(json.dumps(row) + "\n" for row in rows)
    file.flush()


def _progress_bar(number: int, done: int) -> tqdm:
    """Shows the number, the rate and the time left; seldom where it fills a log."""
    seconds = 0.2 if sys.stderr.isatty() else 30
    return tqdm(total=number, initial=done, unit=" pictures", mininterval=seconds)


class _Array:
    """A `.npy` file that rows are appended to."""

    def __init__(self, path: str, shape: tuple[int, ...], dtype: str):
        self._path, self._shape, self._dtype = path, shape, np.dtype(dtype)
        self._head = len(self._header(0))  # NumPy leaves room for larger numbers
        self._row_bytes = math.prod(shape) * self._dtype.itemsize
        size = os.path.getsize(path) if os.path.exists(path) else 0
        self.length = max(0, size - self._head) // self._row_bytes

    def _header(self, length: int) -> bytes:
        file = io.BytesIO()
        facts = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (length, *self._shape),
        }
        np.lib.format.write_array_header_1_0(file, facts)
        return file.getvalue()

    @contextlib.contextmanager
    def opened(self, length: int) -> Iterator[None]:
        """Opens the file to append behind `length` rows; at the end it is whole."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        with open(descriptor, "r+b", buffering=0) as self._file:
            self.length = length
            self._file.truncate(self._head + length * self._row_bytes)
            self._file.seek(0, os.SEEK_END)
            try:
                yield
            finally:
                self._file.seek(0)
                self._file.write(self._header(self.length))

    def append(self, rows: np.ndarray) -> None:
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(rows, self._dtype)
        if not np.isfinite(stored).all() and np.isfinite(rows).all():
            raise UserError(
                f"{os.path.basename(self._path)}: {np.abs(rows).max():.4g} is too "
                f"large for {self._dtype}: give --dtype=float32"
            )
        content = memoryview(stored).cast("B")
        while content:  # a call may write a part
            content = content[self._file.write(content) :]
        self.length += len(rows)


def _write_facts(directory: str, rows: Sequence[Row], pictures: Pictures) -> None:
    arrays = {
        "labels": np.array([row.label for row in rows], np.int64),
        "file_names": np.array([row.name for row in rows], np.str_),
        "class_names": np.array(pictures.class_names, np.str_),
    }
    for name, array in arrays.items():
        with files.writing(_path(directory, name), "wb") as file:
            np.save(file, array)

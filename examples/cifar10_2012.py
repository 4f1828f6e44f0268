"""The CIFAR-10 networks that the paper's claims are about, as their authors had them.

Sections 3.1 and 3.3 of the paper and its figure 1 speak of small networks on CIFAR-10,
not of AlexNet. The authors published the definitions: `80sec`, `18pct`, `19pct` and
`13pct` with the source of 2012 (`example-layers/`), `11pct` with cuda-convnet in March
2012. What their definitions mean, by the source:

- Max-pooling and ReLU stand in either order, which is the same. The first window of a
  pooling begins at the first pixel, and the last one ends outside of the image; a mean
  is that of the pixels inside.
- `rnorm` normalises by the square of pixels around, in the same map, and `cmrnorm` by
  the maps around. Both divide the factor of the sum by the size of the window; k is 1.
- The loss is the mean over 128 images. Decay goes through the momentum, and biases have
  none. Where rates are divided by ten, those of the biases are not.
- Pixels are those of 0..255, less the mean of each pixel.

    python -m examples.cifar10_2012 --data_dir=CIFAR10 --network=18pct --seed=0
    python -m examples.cifar10_2012_report --runs_dir=runs/cifar10_2012

CIFAR10 is a folder that holds `train/` and `test/`, and each of these a folder of
pictures for each class. The same command goes on with a run that was stopped.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Callable

import keras
import numpy as np
import PIL.Image
import tensorflow as tf

from alexnet_tf.network.layers import LocalResponseNormalization
from alexnet_tf.training.optimizers import MomentumSGD

BATCH_SIZE = 128
# The upper left corner and the direction of the columns of each view of a test image.
NINE_VIEWS = [(y, x, 1) for y in (0, 4, 8) for x in (0, 4, 8)]
TEN_VIEWS = [(*NINE_VIEWS[i][:2], way) for i in (0, 2, 4, 6, 8) for way in (1, -1)]


class SameMapNormalization(keras.layers.Layer):
    """Divides by the squares of the 3×3 pixels around, in the same map: `rnorm`.

    `y = x / (1 + 5e-5 / 9 · Σ x²) ** 0.75`, with zeros outside the image.
    """

    def call(self, inputs):
        """Returns a tensor of the shape of `inputs`, `(batch, height, width, maps)`."""
        squares = tf.pad(tf.square(inputs), [[0, 0], [1, 1], [1, 1], [0, 0]])
        root = tf.math.rsqrt(1.0 + 5e-5 * tf.nn.avg_pool2d(squares, 3, 1, "VALID"))
        return inputs * root * tf.sqrt(root)


class LocallyConnected(keras.layers.Layer):
    """A 3×3 convolution with filters and biases of its own at every pixel, and ReLU."""

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters

    def build(self, input_shape):
        """Makes `kernel` (pixels, 9·channels, filters) and `bias` (pixels, filters)."""
        _, height, width, channels = input_shape
        pixels, normal = height * width, keras.initializers.RandomNormal(stddev=0.04)
        shape = (pixels, 9 * channels, self.filters)
        self.kernel = self.add_weight(shape, normal, name="kernel")
        self.bias = self.add_weight((pixels, self.filters), "zeros", name="bias")

    def call(self, inputs):
        """Returns `(batch, height, width, filters)`."""
        ones = [1, 1, 1, 1]
        patches = tf.image.extract_patches(inputs, [1, 3, 3, 1], ones, ones, "SAME")
        _, height, width, length = patches.shape
        patches = tf.reshape(patches, (-1, height * width, length))
        y = tf.nn.relu(tf.einsum("bpi,pio->bpo", patches, self.kernel) + self.bias)
        return tf.reshape(y, (-1, height, width, self.filters))


def conv(name: str, filters: int, stddev: float, activation: str = "relu"):
    """Makes a 5×5 convolution that keeps the size of the image."""
    normal = keras.initializers.RandomNormal(stddev=stddev)
    options = {"activation": activation, "kernel_initializer": normal, "name": name}
    return keras.layers.Conv2D(filters, 5, padding="same", **options)


def dense(name: str, units: int, stddev: float, activation: str | None = None):
    """Makes a fully connected layer."""
    normal = keras.initializers.RandomNormal(stddev=stddev)
    return keras.layers.Dense(units, activation, kernel_initializer=normal, name=name)


max_pool = functools.partial(keras.layers.MaxPooling2D, 3, 2, "same")
mean_pool = functools.partial(keras.layers.AveragePooling2D, 3, 2, "same")
no_norm = keras.layers.Identity
across_maps = functools.partial(LocalResponseNormalization, 4, 1.0, 0.001 / 9, 0.75)


def three_convolutions(norm=no_norm, activation="relu", hidden=()) -> list:
    """Makes the layers of 80sec, 18pct, 19pct and figure 1, for images of 32×32."""
    return [
        *(conv("conv1", 32, 0.0001, activation), max_pool(), norm()),
        *(conv("conv2", 32, 0.01, activation), mean_pool(), norm()),
        *(conv("conv3", 64, 0.01, activation), mean_pool(), keras.layers.Flatten()),
        *(dense("fc64", units, 0.1, "relu") for units in hidden),
        dense("fc10", 10, 0.1 if hidden else 0.01),
    ]


def two_convolutions(norm=no_norm, local3=32) -> list:
    """Makes the layers of 13pct and 11pct, for crops of 24×24."""
    return [
        *(conv("conv1", 64, 0.0001), max_pool(), norm()),
        *(conv("conv2", 64, 0.01), norm(), max_pool()),
        *(LocallyConnected(local3, name="local3"), LocallyConnected(32, name="local4")),
        *(keras.layers.Flatten(), dense("fc10", 10, 0.01)),
    ]


@dataclasses.dataclass(frozen=True)
class Network:
    """A network of 2012 and its training.

    Args:
        layers: Makes its layers.
        decay: Weight decay of the kernels, by the names of their layers.
        stages: Epochs, fifths of the training images that they see, and what the
            weights' rate is multiplied by.
        image_size: 32, or 24 for random crops and mirror images.
        stop_at: Training error, 0..1, that ends the run before its last epoch.
    """

    layers: Callable[[], list]
    decay: dict[str, float]
    stages: tuple[tuple[int, int, float], ...]
    image_size: int = 32
    stop_at: float = -1.0

    def timetable(self) -> list[tuple[int, int, int, float]]:
        """Returns epoch, part, parts of the epoch, factor of the rate of each fifth."""
        epochs = [stage[1:] for stage in self.stages for _ in range(stage[0])]
        return [
            (epoch, part, parts, factor)
            for epoch, (parts, factor) in enumerate(epochs)
            for part in range(parts)
        ]


def _three(fc10: float, stages, *args, **others) -> Network:
    decay = {"conv1": 0.004, "conv2": 0.004, "conv3": 0.004, "fc64": 0.03, "fc10": fc10}
    layers = functools.partial(three_convolutions, *args, **others)
    return Network(layers, decay, stages)


def _two(fc10: float, epochs: int, more_epochs: int, *args) -> Network:
    # The last fifth is for validation, until it stops improving; then it joins.
    stages = ((epochs, 4, 1.0), (more_epochs, 5, 1.0), (10, 5, 0.1), (10, 5, 0.01))
    decay = {"local3": 0.004, "local4": 0.004, "fc10": fc10}
    return Network(functools.partial(two_convolutions, *args), decay, stages, 24)


def _figure_1(activation: str) -> Network:
    layers = functools.partial(three_convolutions, no_norm, activation)
    return Network(layers, {}, ((60, 5, 1.0),), stop_at=0.25)


# 80sec comes without a length: ten epochs take 80 seconds if 140 of 18pct take twenty
# minutes. 18pct_plain and 13pct_normalized are 18pct and 13pct with nothing changed but
# the normalisation. Figure 1 comes without a network: it is 19pct without decay here.
_TEN = ((8, 5, 1.0), (2, 5, 0.1))
_MANY = ((120, 5, 1.0), (10, 5, 0.1), (10, 5, 0.01))
NETWORKS = {
    "80sec": _three(0.03, _TEN, hidden=(64,)),
    "18pct": _three(1.0, _MANY, SameMapNormalization),
    "18pct_plain": _three(1.0, _MANY),
    "19pct": _three(3.0, _MANY),
    "13pct": _two(0.004, 100, 40),
    "13pct_normalized": _two(0.004, 100, 40, across_maps),
    "11pct": _two(0.01, 350, 150, across_maps, 64),
    "relu": _figure_1("relu"),
    "tanh": _figure_1("tanh"),
}


def load_cifar10(data_dir: str) -> dict[str, np.ndarray]:
    """Reads the pictures.

    Returns:
        `train_images` and `test_images`, uint8 `(number, 32, 32, 3)` RGB, and int32
        `train_labels` and `test_labels`, in an order that is drawn once.
    """
    arrays = {}
    for split in ("train", "test"):
        folder = pathlib.Path(data_dir) / split
        files = sorted(folder.glob("*/*.*"))
        if not files:
            raise SystemExit(f"{folder} has no folders of pictures")
        classes = sorted({file.parent.name for file in files})
        np.random.default_rng(0).shuffle(files)
        images = [np.asarray(PIL.Image.open(file).convert("RGB")) for file in files]
        labels = [classes.index(file.parent.name) for file in files]
        arrays[f"{split}_images"] = np.stack(images)
        arrays[f"{split}_labels"] = np.array(labels, np.int32)
    return arrays


class Trainer:
    """A network, its update and all images, in memory.

    A step is a function of `state`, the seed and the number of the step, so that a run
    that was stopped goes on as if it had not been.

    Args:
        network: What is trained.
        data: As `load_cifar10` returns it.
        seed: Decides the weights, the order of the images, crops and mirror images.
        rate: The learning rate of the weights; that of the biases is twice as high.
    """

    def __init__(self, network: Network, data: dict, seed=0, rate=0.001):
        self.network, self.data, self.seed, self.rate = network, data, seed, rate
        keras.utils.set_random_seed(seed)
        self.size = network.image_size
        image = keras.Input((self.size, self.size, 3))
        self.model = keras.Sequential([image, *network.layers()])
        self.variables = self.model.trainable_variables
        self.optimizer = MomentumSGD(rate, momentum=0.9, weight_decay=0.0)
        self.optimizer.build(self.variables)
        self.state = [*self.variables, *self.optimizer.momentums]
        self.step = 0
        # A row for each pixel, so that one gather cuts the crops of a whole batch.
        self.pixels = tf.constant(data["train_images"].reshape(-1, 3))
        self.labels = tf.constant(data["train_labels"])
        border = slice((32 - self.size) // 2, (32 + self.size) // 2)
        mean = data["train_images"].mean(axis=0, dtype=np.float64)
        self.mean = mean[border, border].astype(np.float32)
        self.train_step = tf.function(self._train_step, autograph=False)

    def train_part(self, epoch, part, parts, factor) -> float:
        """Trains a fifth of the images; returns its error, 0..1.

        It is that of the steps themselves, each before its update, as in figure 1 and
        in what the source of 2012 prints.
        """
        fifth = len(self.labels) // 5
        order = np.random.default_rng([self.seed, epoch]).permutation(parts * fifth)
        steps = fifth // BATCH_SIZE
        batches = order[part * fifth :][: steps * BATCH_SIZE].reshape(steps, -1)
        self.optimizer.learning_rate.assign(self.rate * factor)
        self.optimizer.rate_factors.assign(
            [1.0 if v.name == "kernel" else 2.0 / factor for v in self.variables]
        )
        errors = 0.0
        for batch in tf.constant(batches, tf.int32):
            errors += self.train_step(batch, tf.constant([self.seed, self.step]))
            self.step += 1
        return float(errors / (steps * BATCH_SIZE))

    def _train_step(self, batch: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Updates once with the images of these indices; counts the errors."""
        images, labels = self._crop(batch, seed), tf.gather(self.labels, batch)
        with tf.GradientTape() as tape:
            logits = self.model(images, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, [v.value for v in self.variables])
        for i, variable in enumerate(self.variables):
            layer, name = variable.path.split("/")[-2:]
            if name == "kernel" and layer in self.network.decay:
                gradients[i] += self.network.decay[layer] * variable.value
        self.optimizer.apply(gradients, self.variables)
        wrong = tf.argmax(logits, 1, tf.int32) != labels
        return tf.math.count_nonzero(wrong, dtype=tf.float32)

    def _crop(self, batch: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Images minus the mean; where they are crops, each at a place of its own."""
        numbers = tf.random.stateless_uniform((3, BATCH_SIZE, 1), seed)
        top, left, way = tf.unstack(numbers)
        columns = tf.range(self.size)
        if self.size < 32:
            columns = tf.where(way < 0.5, columns, columns[::-1])
        columns += tf.cast(left * (33 - self.size), tf.int32)
        rows = tf.range(self.size) + tf.cast(top * (33 - self.size), tf.int32)
        places = (batch[:, None] * 32 + rows)[:, :, None] * 32 + columns[:, None]
        return tf.cast(tf.gather(self.pixels, places), tf.float32) - self.mean

    def test_error(self, views) -> float:
        """Returns the error on the test images, 0..1, of the mean softmax of views."""
        total = 0.0
        for top, left, way in views:
            rows, columns = slice(top, top + self.size), slice(left, left + self.size)
            images = self.data["test_images"][:, rows, columns]
            logits = self.model.predict(images[:, :, ::way] - self.mean, 500, verbose=0)
            total += tf.nn.softmax(logits).numpy()
        return float(np.mean(total.argmax(axis=1) != self.data["test_labels"]))

    def save(self, file: pathlib.Path, record: dict) -> None:
        """Writes all that the run is into one file, so that all is of one moment."""
        arrays = {str(i): variable.numpy() for i, variable in enumerate(self.state)}
        partial = file.with_name("partial.npz")
        np.savez(partial, step=self.step, record=json.dumps(record), **arrays)
        partial.replace(file)

    def restore(self, file: pathlib.Path) -> dict:
        """Takes what `save` wrote, and returns its record."""
        with np.load(file) as saved:
            for i, variable in enumerate(self.state):
                variable.assign(saved[str(i)])
            self.step = int(saved["step"])
            return json.loads(str(saved["record"]))


def run(name: str, seed: int, rate: float, data: dict, run_dir: pathlib.Path) -> dict:
    """Trains a network to its end, from where the last file of `run_dir` has it.

    Returns:
        What `record.json` then holds: `errors` of each fifth in training, `tests` as
        (epochs, error of the central view), `test_errors` at the end by views, and
        `cpu_seconds` of training, those of all processors.
    """
    network = NETWORKS[name]
    trainer = Trainer(network, data, seed, rate)
    record = {"network": name, "seed": seed, "rate": rate}
    record |= {"errors": [], "tests": [], "cpu_seconds": 0.0}
    if (run_dir / "state.npz").exists():
        record = trainer.restore(run_dir / "state.npz")
    views = {"central": [((32 - trainer.size) // 2,) * 2 + (1,)]}
    run_dir.mkdir(parents=True, exist_ok=True)
    for part in network.timetable()[len(record["errors"]) :]:
        started = time.process_time()
        record["errors"].append(trainer.train_part(*part))
        record["cpu_seconds"] += time.process_time() - started
        if part[0] % 5 == 4 and part[1] == part[2] - 1:
            record["tests"].append((part[0] + 1, trainer.test_error(views["central"])))
            print(f"{run_dir.name}: epochs, error: {record['tests'][-1]}", flush=True)
        if np.mean(record["errors"][-5:]) <= network.stop_at:
            break
        trainer.save(run_dir / "state.npz", record)
    if trainer.size < 32:
        views |= {"nine": NINE_VIEWS, "ten": TEN_VIEWS}
    record["test_errors"] = {key: trainer.test_error(v) for key, v in views.items()}
    trainer.save(run_dir / "state.npz", record)
    (run_dir / "partial.json").write_text(json.dumps(record))
    (run_dir / "partial.json").replace(run_dir / "record.json")
    return record


def main() -> None:
    """Trains one network, unless it has been."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data_dir", required=True, help="folder of train/ and test/")
    parser.add_argument("--network", choices=NETWORKS, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning_rate", type=float, default=0.001)
    parser.add_argument("--runs_dir", type=pathlib.Path, default="runs/cifar10_2012")
    args = parser.parse_args()
    name = f"{args.network}-rate{args.learning_rate:g}-seed{args.seed}"
    run_dir = args.runs_dir / name
    if not (run_dir / "record.json").exists():
        data = load_cifar10(args.data_dir)
        run(args.network, args.seed, args.learning_rate, data, run_dir)
    print(name, json.loads((run_dir / "record.json").read_text())["test_errors"])


if __name__ == "__main__":
    main()

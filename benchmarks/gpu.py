"""What a machine with GPUs does: tables for docs/results.md.

    python benchmarks/gpu.py --data_dir=runs/demo_data [--width=1] [--torch]
    python benchmarks/gpu.py --data_dir=runs/demo_data --simulate_gpus=2 --width=0.1

The first table is of training steps on one GPU, on images that are in its memory:
forward, backward and update of the recipe `paper` with 1000 classes, for every batch,
in float32, in float32 with TensorFloat-32 and in bfloat16; beside them Keras as it
comes (see train_step.py) and, with `--torch`, the network in PyTorch, compiled. "of
matmul" is the share of the rate at which the same GPU multiplies two large matrices in
that precision; "memory" is the most that was taken.

The second is of conv1 alone, as it is and after space-to-depth (see conv1.py): forward,
and the gradient of its kernel.

The third is of training as train.py does it, on 1 … N GPUs: fed from memory, from
JPEG records, from raw ones and from those kept decoded. "efficiency" is the rate of N
GPUs to N times that of one, "waiting" the share of the time spent waiting for input.

Figures are medians. Each number of GPUs is measured in a process of its own, as a
TensorFlow process cannot change its devices.
"""

import dataclasses
import multiprocessing
import os
import statistics
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import keras
import tensorflow as tf
from absl import app, flags

from alexnet_tf import alexnet
from alexnet_tf.config import resolve
from alexnet_tf.devices import make_strategy
from alexnet_tf.pipeline.data_set import open_data_set
from alexnet_tf.training.optimizers import MomentumSGD
from alexnet_tf.training.step import Trainer
from benchmarks import conv1, train_step
from benchmarks.records import convert

# --rounds and --keras are those of train_step.py.
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Prepared JPEG set.", required=True)
_BATCHES = flags.DEFINE_list("batches", None, "Images in a step of each GPU.")
_WIDTH = flags.DEFINE_float("width", 1.0, "Multiplies the channels of every layer.")
_NUM_GPUS = flags.DEFINE_integer("num_gpus", None, "By default all there are.")
_SIMULATE = flags.DEFINE_integer("simulate_gpus", 0, "Replicas on the CPU instead.")
_TORCH = flags.DEFINE_bool("torch", False, "Measure PyTorch, compiled, too.")
_PRECISIONS = {  # name: dtype policy, type of the matrices, whether TF32 is on
    "float32": ("float32", tf.float32, False),
    "TF32": ("float32", tf.float32, True),
    "bfloat16": ("mixed_bfloat16", tf.bfloat16, True),
}
_SOURCES = ("memory", "JPEG", "raw", "cached")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the processes that measure are told."""

    batches: tuple[int, ...]
    width: float
    simulate_gpus: int
    rounds: int
    keras: bool
    torch: bool
    steps: int
    matrix_size: int


def measure_steps(settings: Settings) -> list[list]:
    """The rows of the first table, measured on one device."""
    make_strategy(1 - bool(settings.simulate_gpus), min(settings.simulate_gpus, 1))
    rows = []
    for name, (policy, matrix_type, tensor_float_32) in _PRECISIONS.items():
        if tensor_float_32 and policy == "float32" and settings.simulate_gpus:
            continue  # a GPU's
        tf.config.experimental.enable_tensor_float_32_execution(tensor_float_32)
        multiply, flop = train_step.matmul_function(matrix_type, settings.matrix_size)
        matmul = flop / median_seconds(multiply, settings)
        for batch in settings.batches:
            for who, step, flop in make_steps(policy, batch, settings):
                _reset_memory()
                rate = batch / median_seconds(step, settings)
                rows.append([name, batch, who, rate, rate * flop / matmul, _memory()])
        if settings.torch:
            rows += measure_torch(name, matmul, settings)
    return rows


def make_steps(policy: str, batch: int, settings: Settings):
    """Yields what is measured: its name, a step, and FLOP of an image."""
    images = tf.random.stateless_uniform((batch, 224, 224, 3), (0, 3), 0, 256, tf.int32)
    images = tf.cast(images, tf.uint8)
    labels = tf.random.stateless_uniform((batch,), (0, 4), 0, 1000, tf.int32)
    model = alexnet(width=settings.width, dtype=policy, seed=0)
    flop = train_step.flop_per_image(model)
    yield "ours", train_step.step_function(model, MomentumSGD(), images, labels), flop
    if settings.keras and policy == "float32":
        model = train_step.keras_as_it_comes(width=settings.width)
        optimizer = keras.optimizers.SGD(0.01, 0.9)
        yield (
            "Keras",
            train_step.step_function(model, optimizer, images, labels),
            flop,
        )


def measure_conv1(settings: Settings) -> list[list]:
    """The rows of the second table, measured on one device."""
    make_strategy(1 - bool(settings.simulate_gpus), min(settings.simulate_gpus, 1))
    batch = settings.batches[0]
    return [
        [dtype, batch, name, 1e3 * median_seconds(function, settings)]
        for dtype in ("float32", "bfloat16")
        for name, function in conv1.make_functions(batch, dtype).items()
    ]


def median_seconds(step, settings: Settings) -> float:
    """Seconds of a step, of several that wait only for the last."""

    def seconds() -> float:
        start = time.perf_counter()
        for _ in range(settings.steps):
            result = step()
        float(result)
        return (time.perf_counter() - start) / settings.steps

    seconds()
    return statistics.median(seconds() for _ in range(settings.rounds))


def measure_torch(name: str, matmul: float, settings: Settings) -> list[list]:
    """The rows of the network in PyTorch, compiled, channels last."""
    import torch

    from benchmarks.torch_alexnet import make_step

    flop = train_step.flop_per_image(alexnet(width=settings.width))
    rows = []
    for batch in settings.batches:
        step = make_step(batch, name, settings.width)
        rate = batch / median_seconds(step, settings)
        memory = "–"
        if torch.cuda.is_available():
            memory = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
        rows.append([name, batch, "PyTorch", rate, rate * flop / matmul, memory])
    return rows


def measure_training(
    settings: Settings, num_gpus: int, data_dir: str, raw, precision: str
) -> list[list]:
    """The rows of the second table for a number of GPUs."""
    simulated = num_gpus if settings.simulate_gpus else 0
    strategy = make_strategy(0 if simulated else num_gpus, simulated)
    jpeg = open_data_set(data_dir)
    rows = []
    for source in _SOURCES:
        given = {
            "width": settings.width,
            "precision": precision,
            "reduce_in_bfloat16": precision == "mixed_bfloat16",
            "global_batch_size": settings.batches[0] * num_gpus,
        }
        data_set = raw if source == "raw" else jpeg
        trainer = Trainer(resolve(data_set, "paper", given), data_set, strategy)
        if source == "memory":
            batches = repeat_first(trainer)
        else:
            batches = trainer.batches(cache=source == "cached")
        rows.append([num_gpus, source, *train(trainer, batches, settings)])
    return rows


def repeat_first(trainer: Trainer):
    """The first batch again and again."""
    images, labels = (x.numpy() for x in trainer.next_batch())

    def repeat(context):
        size = context.get_per_replica_batch_size(len(labels))
        batch = tf.data.Dataset.from_tensors((images[:size], labels[:size]))
        return batch.repeat().prefetch(2)

    return iter(trainer.strategy.distribute_datasets_from_function(repeat))


def train(trainer: Trainer, batches, settings: Settings) -> tuple[float, float]:
    """Images per second, and the share of the time spent waiting for input."""
    results = []
    for _ in range(1 + settings.rounds):
        start = time.perf_counter()
        trainer.state.waited.assign(0.0)
        trainer.run_steps(batches, tf.constant(settings.steps))
        trainer.metrics()  # waits for the last step
        seconds = time.perf_counter() - start
        waited = float(trainer.state.waited.numpy())
        images = settings.steps * trainer.recipe.global_batch_size
        results.append((images / seconds, waited / seconds))
    return tuple(statistics.median(column) for column in zip(*results[1:], strict=True))


def _reset_memory() -> None:
    if tf.config.list_logical_devices("GPU"):
        tf.config.experimental.reset_memory_stats("GPU:0")


def _memory() -> str:
    if not tf.config.list_logical_devices("GPU"):
        return "–"
    return f"{tf.config.experimental.get_memory_info('GPU:0')['peak'] / 2**30:.1f} GiB"


def print_table(titles: list[str], rows: list[list]) -> None:
    """Prints a table in Markdown."""
    for row in [titles, ["---"] * len(titles), *rows]:
        cells = (f"{x:,.2f}" if isinstance(x, float) else str(x) for x in row)
        print("|", " | ".join(cells), "|")
    print()


def main(_) -> None:
    """Measures and prints the tables."""
    gpus = tf.config.list_physical_devices("GPU")
    names = {tf.config.experimental.get_device_details(g)["device_name"] for g in gpus}
    num_gpus = _SIMULATE.value or _NUM_GPUS.value or len(gpus)
    if not num_gpus:
        sys.exit("error: TensorFlow finds no GPU; --simulate_gpus=2 tries the program")
    default = ["32"] if _SIMULATE.value else ["128", "256", "512", "1024"]
    settings = Settings(
        batches=tuple(map(int, _BATCHES.value or default)),
        width=_WIDTH.value,
        simulate_gpus=_SIMULATE.value,
        rounds=flags.FLAGS.rounds,
        keras=flags.FLAGS.keras,
        torch=_TORCH.value,
        steps=2 if _SIMULATE.value else 20,
        matrix_size=1024 if _SIMULATE.value else 8192,
    )
    context = multiprocessing.get_context("spawn")

    def measure(function, *arguments):
        with context.Pool(1) as pool:
            return pool.apply(function, (settings, *arguments))

    where = "simulated on the CPU" if _SIMULATE.value else ", ".join(sorted(names))
    print(f"{num_gpus} GPUs, {where}; {os.cpu_count()} cores; TensorFlow", end=" ")
    print(f"{tf.__version__}; median of {settings.rounds} rounds\n")
    titles = ["precision", "batch", "", "images/s", "of matmul", "memory"]
    print_table(titles, measure(measure_steps))
    print_table(["precision", "batch", "conv1", "ms"], measure(measure_conv1))
    precision = "float32" if _SIMULATE.value else "mixed_bfloat16"
    with tempfile.TemporaryDirectory() as folder:
        tf.config.set_visible_devices([], "GPU")  # they are the other processes'
        raw = convert(open_data_set(_DATA_DIR.value), folder)
        rows = []
        for number in range(1, num_gpus + 1):
            data = (number, _DATA_DIR.value, raw, precision)
            rows += measure(measure_training, *data)
    alone = {source: rate for number, source, rate, _ in rows if number == 1}
    for row in rows:
        row.insert(3, row[2] / (row[0] * alone[row[1]]))
    print_table(["GPUs", "fed from", "images/s", "efficiency", "waiting"], rows)


if __name__ == "__main__":
    app.run(main)

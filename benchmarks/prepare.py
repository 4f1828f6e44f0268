"""Speed and memory of data preparation.

    python benchmarks/prepare.py --input=PICTURES
    python benchmarks/prepare.py --memory

The first prints images per second of `data.prepare` on pictures (files at any depth,
used several times over), beside what decoding, resizing and encoding alone reach in
as many processes: every picture already in memory, nothing read, hashed or written.
That is done twice: in plain Pillow, and with the faster functions of `data.prepare`.
The second prints the main process's peak memory on 1,000, 10,000 and 100,000 small
pictures.
"""

import io
import itertools
import multiprocessing
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from absl import app, flags
from PIL import Image

from alexnet_tf.pictures.decoding import load_rgb
from alexnet_tf.pictures.fitting import fit_picture
from data.prepare import prepare
from data.transcode import Options, to_jpeg

_INPUT = flags.DEFINE_string("input", None, "Directory of pictures.")
_NUMBER = flags.DEFINE_integer("number", 16_000, "Pictures to prepare.")
_WORKERS = flags.DEFINE_integer("num_workers", os.cpu_count(), "Processes.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Rounds; the medians are printed.")
_MEMORY = flags.DEFINE_bool("memory", False, "Measure memory instead.")
_MEMORY_OF = flags.DEFINE_string("memory_of", None, "Folder of pictures: one run.")


def plain(content: bytes, name: str, options: Options) -> bytes:
    """Transcodes as one would write it: scale the shorter side, then crop."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    size = options.image_size
    scale = size / min(image.size)
    width, height = (round(scale * side) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    image = image.crop((left, top, left + size, top + size))
    return to_jpeg(image, options.quality)


def ours(content: bytes, name: str, options: Options) -> bytes:
    """Transcodes as `data.prepare` does: the crop is part of the scaling."""
    image, _ = load_rgb(content, name, options.image_size)
    return to_jpeg(fit_picture(image, options.fitting), options.quality)


def transcode_alone(
    function: Callable, paths: list[pathlib.Path], number: int
) -> tuple[float, float]:
    """Returns the seconds, and CPU seconds, of one process for `number` pictures."""
    options = Options()
    pictures = [(path.read_bytes(), path.name) for path in paths]
    start, cpu_start = time.perf_counter(), time.process_time()
    for content, name in itertools.islice(itertools.cycle(pictures), number):
        function(content, name, options)
    return time.perf_counter() - start, time.process_time() - cpu_start


def measure_speed() -> None:
    """Prints both speeds and their ratio."""
    paths = sorted(p for p in pathlib.Path(_INPUT.value).rglob("*") if p.is_file())
    number, workers = _NUMBER.value, _WORKERS.value
    import data.writer  # noqa: F401, TensorFlow's import is not to be measured

    figures = {"plain Pillow alone": [], "our functions alone": [], "data.prepare": []}
    with tempfile.TemporaryDirectory() as directory:
        root = pathlib.Path(directory)
        for index, path in zip(range(number), itertools.cycle(paths), strict=False):
            folder = root / "in" / f"class_{index % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{index:06d}{path.suffix}").symlink_to(path.resolve())
        for _ in range(_ROUNDS.value):
            for name, function in zip(figures, (plain, ours), strict=False):
                figures[name].append(_measure_alone(function, paths))
            start, cpu_start = time.perf_counter(), _cpu_seconds()
            _prepare(root / "in", root / "out", num_workers=workers)
            speed = number / (time.perf_counter() - start)
            cpu_seconds = (_cpu_seconds() - cpu_start) / number
            figures["data.prepare"].append((speed, cpu_seconds))
    print(f"{workers} processes, {number:,} pictures, median of {_ROUNDS.value} rounds")
    for name, rounds in figures.items():
        speed, cpu = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratio = statistics.median(
            o[0] / a[0] for o, a in zip(figures["data.prepare"], rounds, strict=True)
        )
        print(
            f"{name:20} {speed:5.0f} images/s, {1e3 * cpu:.2f} CPU ms an image; "
            f"data.prepare reaches {ratio:.2f} of it"
        )


def _measure_alone(function: Callable, paths: list[pathlib.Path]) -> tuple:
    """Returns images/s of all processes together, and CPU seconds an image."""
    number, workers = _NUMBER.value, _WORKERS.value
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        pool.starmap(transcode_alone, [(function, paths[:1], 1)] * workers)  # imports
        share = [(function, paths, number // workers)] * workers
        runs = pool.starmap(transcode_alone, share, 1)
    seconds, cpu_seconds = zip(*runs, strict=True)
    return number / max(seconds), sum(cpu_seconds) / number


def _cpu_seconds() -> float:
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _prepare(folder, output, **kwargs) -> None:
    folder, output = str(folder), str(output)
    prepare(source="folder", input=folder, output=output, overwrite=True, **kwargs)


def measure_memory() -> None:
    """Prints peak memory by the number of pictures."""
    import numpy as np

    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as directory:
        done = 0
        for number in (1_000, 10_000, 100_000):
            for index in range(done, number):
                folder = pathlib.Path(directory, f"class_{index % 2}")
                folder.mkdir(exist_ok=True)
                pixels = generator.integers(0, 256, (32, 32, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{index:06d}.bmp")
            done = number
            command = [sys.executable, __file__, f"--memory_of={directory}"]
            run = subprocess.run(command, check=True, capture_output=True, text=True)
            print(f"{number:7,} pictures: {run.stdout.splitlines()[-1]}")


def measure_memory_once() -> None:
    """Prints the peak memory of preparing one folder."""
    with tempfile.TemporaryDirectory() as directory:
        options = Options(image_size=32)
        _prepare(_MEMORY_OF.value, os.path.join(directory, "out"), options=options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak {peak:.0f} MiB")


def main(_) -> None:
    """Measures what the flags say."""
    if _MEMORY_OF.value:
        measure_memory_once()
    elif _MEMORY.value:
        measure_memory()
    else:
        measure_speed()


if __name__ == "__main__":
    app.run(main)

"""Requests per second of the model server, asked by 1, 8 and 32 clients at once.

    python benchmarks/server.py
    python benchmarks/server.py --saved_model=runs/demo --seconds=30
    python benchmarks/server.py --url=http://127.0.0.1:8501

Each client sends one 256×256 JPEG after another, in the JSON of TensorFlow Serving.
Prints how many were answered, the time of a request in the middle (p50) and at its
slowest (p99), and the memory of the server's process. Without `--saved_model` it is the
full network (recipe `paper`, 1000 classes, random weights).
"""

import collections
import concurrent.futures
import http.client
import io
import os
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np
from absl import app, flags
from PIL import Image

from benchmarks.server_process import ServerProcess, ask, make_export

_SAVED_MODEL = flags.DEFINE_string("saved_model", None, "Default: a new full network.")
_URL = flags.DEFINE_string("url", None, "A server that runs already.")
_SECONDS = flags.DEFINE_float("seconds", 10.0, "How long each number of clients asks.")
_CLIENTS = (1, 8, 32)


def make_picture() -> bytes:
    """A JPEG of 256×256 pixels with the detail of a photograph."""
    cells = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    content = io.BytesIO()
    image = Image.fromarray(cells).resize((256, 256), Image.Resampling.BICUBIC)
    image.save(content, "JPEG", quality=95)
    return content.getvalue()


def measure(address: str, number: int, seconds: float) -> str:
    """A line of what a number of clients was answered."""
    picture = make_picture()
    end = time.perf_counter() + seconds

    def ask_on(_) -> list[tuple[int, float]]:
        client, found = http.client.HTTPConnection(address), []
        while (start := time.perf_counter()) < end:
            status, _ = ask(client, [picture])
            found.append((status, time.perf_counter() - start))
        return found

    with concurrent.futures.ThreadPoolExecutor(number) as pool:
        found = [one for part in pool.map(ask_on, range(number)) for one in part]
    times = [1000 * taken for status, taken in found if status == 200]
    others = collections.Counter(status for status, _ in found if status != 200)
    middle, slowest = np.percentile(times, [50, 99])
    rate = len(times) / seconds
    return f"{number:7}{rate:12.1f}{middle:9.0f}{slowest:9.0f}  {dict(others) or ''}"


def main(_) -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory() as directory:
        server = None
        if not _URL.value:
            path = _SAVED_MODEL.value or make_export(directory)
            server = ServerProcess(path)
        address = _URL.value.split("//")[-1] if _URL.value else server.address
        print("clients  requests/s   p50 ms   p99 ms  other answers")
        for number in _CLIENTS:
            print(measure(address, number, _SECONDS.value), flush=True)
        if server:
            print(f"memory {server.read_memory():.2f} GiB, exit code {server.stop()}")


if __name__ == "__main__":
    app.run(main)

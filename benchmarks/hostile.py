"""Odd, damaged and malicious picture files against an export, or the model server.

    python benchmarks/hostile.py
    python benchmarks/hostile.py --http
    python benchmarks/hostile.py --saved_model=runs/demo/saved_model photos/*

Makes some hundred files, or takes those that are named, and sends each to an export
that a process of its own has loaded, between two good pictures; with `--http`, to
`serving.server`, which takes more kinds of pictures. Prints for each group
how many were answered, how many were no picture, how many requests failed, cost a
neighbour, killed the process or took longer than `--seconds`, the slowest and the most
memory of the process.
"""

import collections
import http.client
import io
import multiprocessing
import os
import struct
import sys
import tempfile
import time
import zlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np
from absl import app, flags
from PIL import Image

from benchmarks.server_process import ServerProcess, ask, make_export

_SAVED_MODEL = flags.DEFINE_string("saved_model", None, "Default: a new full network.")
_SECONDS = flags.DEFINE_float("seconds", 5.0, "That a request of 1 MB may take.")
_HTTP = flags.DEFINE_bool("http", False, "Ask the model server instead.")
_MUTANTS = flags.DEFINE_integer("mutants", 40, "How many damaged files of each kind.")


def noise(height: int, width: int, mode: str = "RGB", cells: int = 8) -> Image.Image:
    """A picture of coarse noise."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(0).integers(0, 256, (cells, cells, bands), np.uint8)
    image = Image.fromarray(values.squeeze(), mode)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, form: str, **options) -> bytes:
    """The file of a picture."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes, length: int | None = None) -> bytes:
    """A chunk of a PNG, which may declare another length."""
    length = len(content) if length is None else length
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", length) + kind + content + checksum


def png(height: int, width: int, depth=8, color=2, between=b"", pieces=1) -> bytes:
    """A PNG of zeros with other chunks between its header and its pixels."""
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    pixels = zlib.compress(bytes(height * (1 + (width * bits + 7) // 8)), 9)
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    size = -(-len(pixels) // pieces)
    data = [chunk(b"IDAT", pixels[i : i + size]) for i in range(0, len(pixels), size)]
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), between, *data]
    ) + chunk(b"IEND", b"")


def resized(jpeg: bytes, height: int, width: int) -> bytes:
    """A JPEG that declares another size."""
    start = max(jpeg.find(marker) for marker in (b"\xff\xc0", b"\xff\xc2")) + 5
    return jpeg[:start] + struct.pack(">HH", height, width) + jpeg[start + 4 :]


def scans(height: int, width: int, number: int) -> bytes:
    """A progressive JPEG whose second scan comes again and again, empty."""
    small = encode(noise(16, 16), "JPEG", progressive=True)
    small = resized(small, height, width)
    second = small.index(b"\xff\xda", small.index(b"\xff\xda") + 2)
    (length,) = struct.unpack(">H", small[second + 2 : second + 4])
    again = small[second : second + 2 + length]
    return small[:second] + again * number + b"\xff\xd9"


def inflating(height: int, width: int, num_bytes: int) -> bytes:
    """A PNG of zeros whose pixels are followed by many more."""
    head = png(height, width)[:33]
    return head + chunk(b"IDAT", zlib.compress(bytes(num_bytes), 9)) + png(9, 9)[-12:]


OUTCOMES = ("answered", "no picture", "failed", "neighbour", "died", "hung")


def kinds() -> dict[str, bytes]:
    """One small picture of every kind that people have."""
    rgb, rgba, grey = (noise(60, 80, mode) for mode in ("RGB", "RGBA", "L"))
    palette = rgb.quantize(64)
    bits = grey.point(lambda value: 255 * (value > 127)).convert("1")
    more = {"save_all": True, "append_images": [noise(60, 80, cells=4)]}
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    return {
        "JPEG": encode(rgb, "JPEG"),
        "JPEG progressive": encode(rgb, "JPEG", progressive=True),
        "JPEG grey": encode(grey, "JPEG"),
        "JPEG CMYK": encode(rgb.convert("CMYK"), "JPEG"),
        "PNG": encode(rgb, "PNG"),
        "PNG alpha": encode(rgba, "PNG"),
        "PNG grey alpha": encode(rgba.convert("LA"), "PNG"),
        "PNG grey": encode(grey, "PNG"),
        "PNG 1 bit": encode(bits, "PNG"),
        "PNG 16 bits": encode(deep, "PNG"),
        "PNG palette": encode(palette, "PNG"),
        "PNG palette tRNS": encode(palette, "PNG", transparency=bytes(range(64))),
        "PNG color tRNS": encode(rgb, "PNG", transparency=rgb.getpixel((3, 3))),
        "GIF": encode(palette, "GIF"),
        "GIF transparent": encode(palette, "GIF", transparency=7),
        "GIF animated": encode(palette, "GIF", comment=b"x" * 300, **more),
        "BMP": encode(rgb, "BMP"),
        "BMP 32 bits": encode(rgba, "BMP"),
        "BMP palette": encode(palette, "BMP"),
        "BMP grey": encode(grey, "BMP"),
        "BMP 1 bit": encode(bits, "BMP"),
        "WebP": encode(rgb, "WEBP"),
        "WebP lossless": encode(rgb, "WEBP", lossless=True),
        "WebP alpha": encode(rgba, "WEBP"),
        "WebP lossless alpha": encode(rgba, "WEBP", lossless=True),
        "WebP animated": encode(rgb, "WEBP", **more),
        "TIFF": encode(rgb, "TIFF"),
        "PPM": encode(rgb, "PPM"),
    }


def quick_bombs() -> dict[str, bytes]:
    """Those of the `bombs` that are made, and refused, in no time."""
    filling = bytes(2**20 - 2**18)  # as many pixels are allowed as 1 MB allows
    small = encode(noise(16, 16), "JPEG")
    made = {
        f"{name.decode()} of 1 GiB": png(9, 9, between=chunk(name, b"x\0\0x", 2**30))
        for name in (b"zTXt", b"tEXt", b"iTXt", b"sPLT", b"pCAL", b"sCAL", b"iCCP")
    }
    return made | {
        "two IHDR": png(9, 9, between=png(30_000, 30_000, 1, 0)[8:33]),
        "PNG 999,999×1": png(999_999, 1, 1, 0),
        "PNG 1×999,999": png(1, 999_999, 1, 0),
        "PNG 16,384×64": png(16_384, 64, 1, 0),
        "PNG 164×16,384": png(164, 16_384, 1, 0) + bytes(2**17),
        "PNG 16,384×1,500": png(16_384, 1500) + filling,
        "JPEG 1,000 scans": scans(1000, 1000, 1000),
        "JPEG 65,000×1": resized(small, 65_000, 1),
        "JPEG 1×65,000": resized(small, 1, 65_000),
        "JPEG 65,000²": resized(small, 65_000, 65_000),
        "GIF 40,000²": b"GIF89a" + struct.pack("<HH", 40_000, 40_000) + bytes(99),
        "WebP 16,000²": b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0\0\0\0\x9d\x01\x2a"
        + b"\xff\x3e" * 9,
        "BMP 2³¹": encode(noise(9, 9), "BMP")[:18]
        + b"\xff\xff\xff\x7f" * 2
        + bytes(99),
        "empty": b"",
        "text": b"BMhello",
    }


def bombs() -> dict[str, bytes]:
    """Small files that some decoder needs seconds or gigabytes for."""
    text = b"Comment\0\0" + zlib.compress(bytes(2**23), 9)
    filling = bytes(2**20 - 2**18)
    return quick_bombs() | {
        "100 zTXt": png(9, 9, between=chunk(b"zTXt", text) * 100),
        "80,000 chunks": png(9, 9, between=chunk(b"teXt", b"") * 80_000),
        "10,000 IDAT": png(3000, 3000, pieces=10_000),
        "IHDR is second": png(9, 9)[:8]
        + chunk(b"tEXt", bytes(13))
        + png(5500, 5500)[8:],
        "PNG 5,000² alpha": png(5000, 5000, 8, 6) + filling,
        "PNG 5,000² 16 bits": png(5000, 5000, 16, 6) + filling,
        "PNG 1 bit 60,000²": png(60_000, 60_000, 1, 0),
        "PNG inflating to 1 GiB": inflating(9, 9, 2**30),
        "PNG 1,000² inflating to 1 GiB": inflating(1000, 1000, 2**30),
        "JPEG 5,000² 25 scans": scans(5000, 5000, 25) + filling,
    }


def giants() -> dict[str, bytes]:
    """Small files of as many pixels as a decoder of their kind may meet."""
    side = 11_500
    plain = {mode: Image.new(mode, (side, side)) for mode in ("P", "RGB")}
    less = Image.new("RGB", (5700, 5700))
    return {
        "PNG RGBA": png(side, side, 8, 6),
        "PNG 16 bits": png(side, side, 16, 0),
        "PNG 1 bit": png(side, side, 1, 0),
        "PNG palette tRNS": encode(plain["P"], "PNG", transparency=0),
        "GIF": encode(plain["P"], "GIF"),
        "JPEG progressive": encode(plain["RGB"], "JPEG", progressive=True, quality=10),
        "TIFF": encode(plain["RGB"], "TIFF", compression="tiff_adobe_deflate"),
        "WebP": encode(less, "WEBP", lossless=True, method=0),
        "AVIF": encode(less, "AVIF", speed=10),
        "JPEG 2000": encode(less.resize((4000, 4000)), "JPEG2000", num_resolutions=1),
    }


def cuts() -> dict[str, bytes]:
    """Pictures that end early, above all behind the first byte of a JPEG's marker."""
    made = {}
    for name, picture in kinds().items():
        ends = [int(len(picture) * part) for part in (0.1, 0.3, 0.6, 0.9, 0.99)]
        if name.startswith("JPEG"):
            ends += [i + 1 for i, byte in enumerate(picture) if byte == 0xFF]
        made |= {f"{name} until {end}": picture[:end] for end in ends}
    return made


def mutants(number: int) -> dict[str, bytes]:
    """Pictures with some bytes changed, most of them at the beginning."""
    rng, made = np.random.default_rng(0), {}
    for name, picture in kinds().items():
        for i in range(number):
            mutant = bytearray(picture)
            for _ in range(rng.integers(1, 6)):
                place = int(len(mutant) * rng.random() ** 3)
                mutant[place] = rng.choice([0, 1, 127, 128, 255, rng.integers(256)])
            made[f"{name} mutant {i}"] = bytes(mutant)
    return made


def crowds() -> dict[str, list[bytes]]:
    """Whole requests of at most 1 MB."""
    alone = {
        "64 PNG of 1,000²": png(1000, 1000, 1, 0),
        "64 RGBA of 1,000²": png(1000, 1000, 8, 6),
        "64 JPEG of 30 scans": scans(1000, 1000, 30),
        "64 PNG of 16,384×164": png(16_384, 164, 1, 0),
        "64 PNG that inflate": inflating(9, 9, 2**24),
    }
    crowd = {name: [one] * 64 for name, one in alone.items()}
    return crowd | {"9,000 pictures": [png(9, 9)] * 9000}


def serve(saved_model: str, pipe) -> None:
    """Answers requests until there are no more, in a process of its own."""
    import tensorflow as tf

    classify = tf.saved_model.load(saved_model).signatures["serving_default"]
    classify(image_bytes=tf.constant([encode(noise(256, 256), "JPEG")] * 2))
    while True:
        status = read("/proc/self/status").decode()
        pipe.send(("ready", int(status.split("VmHWM:")[1].split()[0]) / 2**20))
        try:
            answer = classify(image_bytes=tf.constant(pipe.recv()))
            pipe.send((answer["class_ids"][:, 0].numpy().tolist(), None))
        except tf.errors.OpError as error:
            pipe.send((None, str(error)))
        except EOFError:
            return


class Server:
    """A process that serves an export; a new one after a death or a hang."""

    def __init__(self, saved_model: str, seconds: float):
        self.saved_model, self.seconds = saved_model, seconds
        self.memory, self.process = 0.0, None

    def ask(self, request: list[bytes]) -> tuple[str, list[int], float]:
        """What became of a request, the class ids, and the seconds it took."""
        if not self.process:
            self.start()
        start = time.perf_counter()
        self.pipe.send(request)
        try:
            if not self.pipe.poll(self.seconds + 10):  # "slow" is known before
                self.stop()
                return "hung", [], self.seconds + 10
            ids, _ = self.pipe.recv()
            seconds = time.perf_counter() - start
            _, self.memory = self.pipe.recv()
        except EOFError:
            self.stop()
            return "died", [], time.perf_counter() - start
        if ids is None:
            return "failed", [], seconds
        return "answered", ids, seconds

    def start(self) -> None:
        """Starts the process, and waits until it has loaded the export."""
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(self.saved_model, other))
        self.process.start()
        other.close()
        _, self.memory = self.pipe.recv()

    def stop(self) -> None:
        """Kills the process."""
        self.process.kill()
        self.process.join()
        self.process = None


class ModelServer(Server):
    """The same of `serving.server`, asked over HTTP."""

    def ask(self, request: list[bytes]) -> tuple[str, list[int], float]:
        """What became of a request, the class ids, and the seconds it took."""
        if not self.process:
            self.start()
        start = time.perf_counter()
        client = http.client.HTTPConnection(self.process.address, timeout=60)
        try:
            status, answer = ask(client, request)
        except TimeoutError:
            self.stop()
            return "hung", [], 60.0
        except (OSError, http.client.HTTPException):
            self.stop()
            return "died", [], time.perf_counter() - start
        seconds = time.perf_counter() - start
        self.memory = self.process.read_memory()
        if status != 200:
            return "failed", [], seconds
        ids = [row["class_ids"][0] for row in answer["predictions"]]
        return "answered", ids, seconds

    def start(self) -> None:
        """Starts the server, and waits until it is ready."""
        self.process = ServerProcess(self.saved_model)
        print(f"idle server: {self.process.read_memory():.2f} GiB")

    def stop(self) -> None:
        """Ends the server."""
        self.process.stop()
        self.process = None


def try_group(server: Server, requests: dict[str, list[bytes]]) -> str:
    """Sends each request; a line of what became of them."""
    counts, slowest, worst = collections.Counter(), 0.0, ""
    for name, request in requests.items():
        outcome, ids, seconds = server.ask(request)
        if outcome == "answered":
            is_between = len(request) == 3
            if is_between and min(ids[0], ids[2]) < 0:
                outcome = "neighbour"
            elif max(ids[1:-1] if is_between else ids) < 0:
                outcome = "no picture"
        if outcome in ("hung", "died", "neighbour") or seconds > server.seconds:
            print(f"  {name}: {outcome}, {seconds:.1f} s")
        counts[outcome] += 1
        counts["slow"] += seconds > server.seconds
        if seconds > slowest:
            slowest, worst = seconds, name
    numbers = "".join(f"{counts[outcome]:>12}" for outcome in OUTCOMES)
    memory = f"{server.memory:7.2f} GiB"
    return f"{len(requests):>6}{numbers}{slowest:>10.2f} s{memory} {worst}"


def read(path: str) -> bytes:
    """The content of a file."""
    with open(path, "rb") as file:
        return file.read()


def main(arguments: list[str]) -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory() as directory:
        saved_model = _SAVED_MODEL.value or make_export(directory)
        kind = ModelServer if _HTTP.value else Server
        server = kind(saved_model, _SECONDS.value)
        groups = {"kinds": kinds(), "bombs": bombs(), "giants": giants()}
        groups["cut"] = cuts()
        groups["mutants"] = mutants(_MUTANTS.value)
        if arguments[1:]:
            groups = {"named": {path: read(path) for path in arguments[1:]}}
        good = encode(noise(256, 256), "JPEG")
        titles = "".join(f"{outcome:>12}" for outcome in OUTCOMES)
        print(f"{'':10} tried{titles}     slowest      memory")
        for group, files in groups.items():
            requests = {name: [good, file, good] for name, file in files.items()}
            print(f"{group:10}" + try_group(server, requests), flush=True)
        if not arguments[1:]:
            print(f"{'crowds':10}" + try_group(server, crowds()))
        server.stop()


if __name__ == "__main__":
    app.run(main)

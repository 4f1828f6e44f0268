"""The requests that the server answers, and within which bounds.

Every bound is kept before the work that it bounds: the size of a body while it is read,
the number of pictures before they are decoded, what may wait before it waits. A client
that has left is noticed, and its pictures are left out of the next batch.
"""

import asyncio
import base64
import contextlib
import dataclasses
import hashlib
import io
import json
import pathlib
import re
import time

import numpy as np
import prometheus_client as prometheus
import tensorflow as tf
from absl import logging
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from alexnet_tf.evaluation import explaining
from alexnet_tf.export.saved_model import MAX_BATCH_SIZE
from alexnet_tf.pictures.decoding import load_rgb
from alexnet_tf.pictures.fitting import fit_picture
from serving.batching import Batcher, OverloadedError
from serving.models import Model, Versions

_PAGE = pathlib.Path(__file__).with_name("page.html").read_text(encoding="utf-8")
_MODEL = "/v1/models/alexnet"
_RETRY = {"Retry-After": "1"}
_NO_PICTURE = {"classes": "", "class_ids": -1, "probabilities": 0.0}


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a request may cost.

    Attributes:
        body: Bytes of a request.
        waiting: Pictures that may wait or be computed.
        seconds: Time until a request is answered.
    """

    body: int = 32 << 20
    waiting: int = 256
    seconds: float = 30.0


class RefusedError(Exception):
    """What is said to a client instead of an answer: a status and a sentence."""

    def __init__(self, status: int, reason: str, headers: dict | None = None):
        super().__init__(reason)
        self.status, self.headers = status, headers


class _Metrics:
    """What Prometheus may ask."""

    def __init__(self, batcher):
        self.registry = prometheus.CollectorRegistry()
        common = {"registry": self.registry}
        self.requests = prometheus.Counter(
            "alexnet_requests", "Requests by status.", ["status"], **common
        )
        self.pictures = prometheus.Counter(
            "alexnet_pictures", "Pictures that were answered.", **common
        )
        self.seconds = prometheus.Histogram(
            "alexnet_request_seconds", "Time from request to answer.", **common
        )
        waiting = prometheus.Gauge(
            "alexnet_waiting", "Pictures that wait or are computed.", **common
        )
        waiting.set_function(lambda: batcher().num_waiting)


class Service:
    """A model behind the routes.

    Args:
        directory: See `Versions`.
        limits: What a request may cost.
    """

    def __init__(self, directory: str, limits: Limits):
        self._versions, self._limits = Versions(directory), limits
        self._batcher: Batcher | None = None
        self._metrics = _Metrics(lambda: self._batcher)

    @contextlib.asynccontextmanager
    async def run(self, _):
        """Loads and warms up the model before the first request is taken."""
        await asyncio.to_thread(self._versions.load)
        self._versions.watch()
        self._batcher = Batcher(
            lambda signature, rows: self._model.run(signature, rows),
            max_waiting=self._limits.waiting,
        )
        logging.info("ready: version %d", self._model.version)
        yield
        self._versions.close()
        await self._batcher.close()

    @property
    def _model(self) -> Model:
        return self._versions.current

    async def predict(self, request: Request) -> Response:
        """Answers pictures or arrays; see `Limits` for what is refused."""
        start, number, status = time.perf_counter(), 0, 500
        try:
            body = await self._read_body(request)
            work = asyncio.ensure_future(self._answer(request, body))
            answer, number = await self._unless_client_leaves(request, work)
            status = 200
            return JSONResponse(answer)
        except RefusedError as refused:
            status = refused.status
            return JSONResponse({"error": str(refused)}, status, refused.headers)
        finally:
            seconds = time.perf_counter() - start
            self._metrics.requests.labels(str(status)).inc()
            self._metrics.pictures.inc(number)
            self._metrics.seconds.observe(seconds)
            logging.info(
                "%s %s %d, %d pictures, %.0f ms",
                *(request.method, request.url.path, status, number, 1000 * seconds),
            )

    async def _read_body(self, request: Request) -> bytes:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self._limits.body:
                raise RefusedError(
                    413, f"a request has at most {self._limits.body >> 20} MiB"
                )
        return bytes(body)

    async def _unless_client_leaves(self, request: Request, work: asyncio.Future):
        """Awaits the work, no longer than its time and than somebody waits for it."""

        async def wait_for_leaving() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        leaving = asyncio.ensure_future(wait_for_leaving())
        try:
            await asyncio.wait(
                {work, leaving},
                timeout=self._limits.seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if work.done():
                return self._result_of(work)
            if leaving.done():
                raise RefusedError(499, "the client has left")
            raise RefusedError(504, f"not answered within {self._limits.seconds:g} s")
        finally:
            work.cancel()
            leaving.cancel()

    def _result_of(self, work: asyncio.Future):
        try:
            return work.result()
        except OverloadedError:
            raise RefusedError(503, "too much waits: come again", _RETRY) from None
        except (tf.errors.ResourceExhaustedError, MemoryError):
            raise RefusedError(503, "out of memory: come again", _RETRY) from None
        except tf.errors.InvalidArgumentError as error:
            found = re.search(r"assertion failed: \[(.*?)\]", error.message)
            reason = found[1] if found else " ".join(error.message.split())[:200]
            raise RefusedError(400, reason) from None

    async def _answer(self, request: Request, body: bytes) -> tuple[dict, int]:
        if request.headers.get("content-type", "").startswith("image/"):
            rows, _ = await self._classify([body])
            if rows[0]["class_ids"][0] < 0:
                raise RefusedError(400, "it is no picture of a kind that is taken")
            return rows[0], 1
        signature, inputs, is_columns = _parse(body, self._model)
        if signature == "serving_default":
            rows, columns = await self._classify(_to_bytes(inputs))
        else:
            array = _to_array(inputs, self._model.input_of(signature))
            columns = await self._batcher.ask(signature, array)
            columns = {name: _to_json(values) for name, values in columns.items()}
            rows = _to_rows(columns)
        answer = {"outputs": columns} if is_columns else {"predictions": rows}
        return answer, len(rows)

    async def _classify(self, files: list[bytes]) -> tuple[list[dict], dict]:
        """Decodes pictures, asks for those that are some, and puts the rest between."""
        model = self._model
        if self._batcher.num_waiting + len(files) > self._limits.waiting:
            raise OverloadedError  # before anything is decoded
        squares = await asyncio.gather(
            *(asyncio.to_thread(_decode, file, model.fitting) for file in files)
        )
        good = [square for square in squares if square is not None]
        found = await self._batcher.ask("images", np.stack(good)) if good else {}
        answers = iter(_to_rows({k: _to_json(v) for k, v in found.items()}))
        k = len(next(iter(found.values()))[0]) if good else 1
        nothing = {name: [value] * k for name, value in _NO_PICTURE.items()}
        rows = [nothing if s is None else next(answers) for s in squares]
        return rows, {name: [row[name] for row in rows] for name in rows[0]}

    async def explain(self, request: Request) -> Response:
        """A picture in grey, in colour where the network looks: PNG."""
        try:
            body = await self._read_body(request)
            square = await asyncio.to_thread(_decode, body, self._model.fitting)
            if square is None:
                raise RefusedError(400, "it is no picture of a kind that is taken")
            loop = asyncio.get_running_loop()

            def ask(images: np.ndarray) -> np.ndarray:
                asked = asyncio.run_coroutine_threadsafe(
                    self._batcher.ask("images", images), loop
                )
                answer = asked.result()
                hit = answer["class_ids"] == class_id
                least = answer["probabilities"][:, -1]
                sums = (answer["probabilities"] * hit).sum(1)
                return np.where(hit.any(1), sums, least)

            first = await self._batcher.ask("images", square[np.newaxis])
            class_id = first["class_ids"][0, 0]
            work = asyncio.ensure_future(
                asyncio.to_thread(explaining.show_occlusion, ask, square, 32)
            )
            overlay, points = await self._unless_client_leaves(request, work)
        except OverloadedError:
            return JSONResponse({"error": "too many pictures wait"}, 503, _RETRY)
        except RefusedError as refused:
            return JSONResponse({"error": str(refused)}, refused.status)
        content = io.BytesIO()
        Image.fromarray(overlay).save(content, "PNG")
        said = {"X-Falls": points}
        return Response(content.getvalue(), media_type="image/png", headers=said)

    async def status(self, _: Request) -> Response:
        """What TensorFlow Serving says of a model."""
        version = {"version": str(self._model.version), "state": "AVAILABLE"}
        version["status"] = {"error_code": "OK", "error_message": ""}
        return JSONResponse({"model_version_status": [version]})

    async def metrics(self, _: Request) -> Response:
        """Counts and times in Prometheus' format."""
        content = prometheus.generate_latest(self._metrics.registry)
        return Response(content, media_type=prometheus.CONTENT_TYPE_LATEST)


def make_app(directory: str, limits: Limits) -> Starlette:
    """The application: nothing can be loaded or unloaded by a request."""
    service = Service(directory, limits)

    async def be_healthy(_: Request) -> Response:  # nobody asks before it is ready
        return JSONResponse({"status": "ok"})

    async def show_page(_: Request) -> Response:
        return HTMLResponse(_PAGE, headers=_page_headers())

    async def fail(request: Request, error: Exception) -> Response:
        logging.error("%s: %s", type(error).__name__, " ".join(str(error).split()))
        return JSONResponse({"error": "the server failed; its log says why"}, 500)

    return Starlette(
        routes=[
            Route("/", show_page),
            Route(_MODEL, service.status),
            Route(f"{_MODEL}:predict", service.predict, methods=["POST"]),
            Route("/explain", service.explain, methods=["POST"]),
            Route("/health/live", be_healthy),
            Route("/health/ready", be_healthy),
            Route("/metrics", service.metrics),
        ],
        lifespan=service.run,
        exception_handlers={Exception: fail},
    )


def _page_headers() -> dict[str, str]:
    """Only the page's own script and style run, and it asks nobody else."""

    def digest(tag: str) -> str:
        content = re.search(rf"<{tag}>(.*?)</{tag}>", _PAGE, re.DOTALL)[1]
        value = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        return f"'sha256-{value}'"

    policy = (
        f"default-src 'none'; script-src {digest('script')}; style-src "
        f"{digest('style')}; img-src blob:; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )
    return {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"}


def _parse(body: bytes, model: Model) -> tuple[str, list, bool]:
    """The signature, its inputs by rows, and whether columns are to be answered."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError(400, "the body is no JSON and no picture") from None
    keys = {"instances", "inputs"} & {*content} if isinstance(content, dict) else set()
    if len(keys) != 1:
        raise RefusedError(400, 'expected {"instances": …} or {"inputs": …}')
    signature = content.get("signature_name", "serving_default")
    if signature not in model.signatures:
        raise RefusedError(400, f"expected a signature of {model.signatures}")
    name, is_columns = model.input_of(signature), "inputs" in content
    inputs = content[keys.pop()]
    if is_columns and isinstance(inputs, dict) and {*inputs} == {name}:
        inputs = inputs[name]
    if not isinstance(inputs, list) or not 1 <= len(inputs) <= MAX_BATCH_SIZE:
        raise RefusedError(400, f"expected a list of 1 to {MAX_BATCH_SIZE} inputs")
    is_named = [isinstance(row, dict) and {*row} == {name} for row in inputs]
    inputs = [
        row[name] if is_one else row
        for row, is_one in zip(inputs, is_named, strict=True)
    ]
    return signature, inputs, is_columns


def _to_bytes(inputs: list) -> list[bytes]:
    """The files behind {"b64": …}; a text stands for its own bytes."""
    files = []
    for value in inputs:
        if isinstance(value, dict) and {*value} == {"b64"}:
            value = value["b64"]
            try:
                files.append(base64.b64decode(value, validate=True))
            except (ValueError, TypeError):
                raise RefusedError(400, "an input's b64 is no base64") from None
        elif isinstance(value, str):
            files.append(value.encode())
        else:
            raise RefusedError(400, 'expected {"b64": …} for each picture')
    return files


def _to_array(inputs: list, name: str) -> np.ndarray:
    """The inputs of a signature that takes no picture files to be decoded here."""
    if name != "images":
        return np.array(_to_bytes(inputs), object)
    try:
        array = np.array(inputs)
    except ValueError:
        array = np.zeros(0)
    if array.ndim != 4 or array.shape[3] != 3 or array.dtype.kind not in "iu":
        raise RefusedError(400, "images have the shape (batch, height, width, 3)")
    if array.min() < 0 or array.max() > 255:
        raise RefusedError(400, "images are whole numbers 0..255")
    return array.astype(np.uint8)


def _decode(file: bytes, fitting) -> np.ndarray | None:
    """A picture file as the network's square, uint8; None for what is none."""
    try:
        return np.asarray(fit_picture(load_rgb(file)[0], fitting))
    except ValueError:
        return None


def _to_json(values: np.ndarray) -> list:
    """Lists of numbers and texts; bytes of any kind become text."""
    if values.dtype != object:
        return values.tolist()
    flat = [value.decode(errors="replace") for value in values.ravel()]
    return np.array(flat, object).reshape(values.shape).tolist()


def _to_rows(columns: dict[str, list]) -> list[dict]:
    return [
        dict(zip(columns, row, strict=True))
        for row in zip(*columns.values(), strict=True)
    ]

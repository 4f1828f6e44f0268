"""What the server answers: classes of pictures, where the network looks, its state."""

import asyncio
import concurrent.futures
import contextlib
import os
import pathlib
import re
from collections.abc import Callable

import numpy as np
import prometheus_client as prometheus
import tensorflow as tf
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from alexnet_tf.evaluation import explaining
from alexnet_tf.exported import pick_class
from alexnet_tf.pictures.decoding import MAX_PIXELS, TooManyPixelsError, load_rgb
from alexnet_tf.pictures.fitting import Fitting, fit_picture
from serving import rest
from serving.batching import Batcher
from serving.gate import Gate, Limits, overloaded, unless_client_leaves
from serving.models import Versions

_FOLDER = pathlib.Path(__file__).parent
_PAGE_HEADERS = {  # only the page's own script and style run, and it asks nobody else
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src "
    "'self'; img-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
_MODEL = "/v1/models/alexnet"
_FORM = "application/x-www-form-urlencoded"  # what curl -d says
_JSON_TYPES = ("", "application/json", "text/plain", _FORM)
_SMALL_PIXELS = 2**23  # many such pictures are decoded at once, larger ones one by one
_BATCH = 32
_BAD = "it is no picture of a kind that is taken"


class Service:
    """A model behind the routes.

    Args:
        versions: The model.
        gate: What bounds the requests.
    """

    def __init__(self, versions: Versions, gate: Gate):
        self._versions, self._gate = versions, gate
        self._decoding = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
        self._decoding_large = concurrent.futures.ThreadPoolExecutor(1)

    @contextlib.asynccontextmanager
    async def run(self, _):
        """Batches what is asked until the server ends, and looks for new versions."""
        self._batcher = Batcher(
            lambda signature, rows: self._versions.current.run(signature, rows), _BATCH
        )
        self._versions.watch()
        yield

    async def predict(self, request: Request) -> Response:
        """Answers pictures or arrays."""
        answer = self._classify if _is_picture(request) else self._answer
        return await self._answer_body(request, answer)

    async def explain(self, request: Request) -> Response:
        """Answers a picture in grey, in colour where the network looks: PNG."""
        return await self._answer_body(request, self._explain)

    async def _answer_body(self, request: Request, answer: Callable) -> Response:
        """Answers the body, and says in one sentence what is wrong with it."""
        if request.headers.get("content-encoding", "identity") != "identity":
            raise HTTPException(415, "send the body without a content encoding")
        async with self._gate.body(request) as body:
            try:
                work = answer(request, body)
                return await unless_client_leaves(request, work)
            except (tf.errors.ResourceExhaustedError, MemoryError):
                raise overloaded("out of memory") from None
            except tf.errors.InvalidArgumentError as error:
                found = re.search(r"assertion failed: \[(.*?)\]", error.message)
                reason = found[1] if found else " ".join(error.message.split())[:200]
                raise HTTPException(400, reason) from None

    async def _answer(self, request: Request, body: bytes) -> Response:
        """Answers a request in JSON."""
        model = self._versions.current
        signature, inputs, is_columns = rest.parse(body, model)
        with self._gate.room_for(len(inputs)):
            if model.input_of(signature) == "images":
                rows = rest.to_images(inputs)
                columns = await self._batcher.ask(signature, rows)
            else:
                files = rest.to_files(inputs)
                columns = await self._ask_files(files, signature)
        request.state.number = len(inputs)
        return JSONResponse(rest.to_answer(columns, is_columns))

    async def _classify(self, request: Request, body: bytes) -> Response:
        """Answers a body that is a picture."""
        with self._gate.room_for(1):
            columns = await self._ask_files([body])
        if columns["class_ids"][0, 0] < 0:
            raise HTTPException(400, _BAD)
        request.state.number = 1
        return JSONResponse(rest.to_answer(columns, False)["predictions"][0])

    async def _ask_files(
        self, files: list[bytes], signature: str = "serving_default"
    ) -> dict[str, np.ndarray]:
        """Answers picture files. What is none is answered as the export does it."""
        fitting = self._versions.current.fitting  # another version may come meanwhile
        squares = await asyncio.gather(*(self._decode(f, fitting) for f in files))
        if signature == "features":
            # It takes files, and of fewer kinds than are taken here.
            files = [b"" if square is None else _to_png(square) for square in squares]
            return await self._batcher.ask(signature, np.array(files, object))
        is_bad = np.array([square is None for square in squares])
        nothing = np.zeros((fitting.stored_size, fitting.stored_size, 3), np.uint8)
        squares = [nothing if square is None else square for square in squares]
        columns = await self._batcher.ask("images", np.stack(squares))
        for name, value in (("classes", b""), ("class_ids", -1), ("probabilities", 0)):
            columns[name][is_bad] = value
        return columns

    async def _decode(self, file: bytes, fitting: Fitting) -> np.ndarray | None:
        """A picture file as the network's square, uint8; None for what is none."""
        loop = asyncio.get_running_loop()
        for threads, pixels in (
            (self._decoding, _SMALL_PIXELS),
            (self._decoding_large, MAX_PIXELS),
        ):
            try:
                return await loop.run_in_executor(
                    threads, _decode, file, fitting, pixels
                )
            except TooManyPixelsError:
                continue
            except ValueError:
                break
        return None

    async def _explain(self, request: Request, body: bytes) -> Response:
        number = min(_BATCH, self._gate.limits.waiting)
        with self._gate.room_for(number):
            square = await self._decode(body, self._versions.current.fitting)
            if square is None:
                raise HTTPException(400, _BAD)
            first = await self._batcher.ask("images", square[np.newaxis])
            class_id, probabilities = first["class_ids"][0, 0], []
            for hidden in explaining.hide_parts(square, number):
                answer = await self._batcher.ask("images", hidden)
                probabilities.extend(pick_class(answer, class_id))
        pixels, words = explaining.show_falls(square, probabilities)
        request.state.number = 1
        headers = {"X-Falls": words}
        return Response(_to_png(pixels), media_type="image/png", headers=headers)

    async def status(self, _: Request) -> Response:
        """What TensorFlow Serving says of a model."""
        version = {"version": str(self._versions.number), "state": "AVAILABLE"}
        version["status"] = {"error_code": "OK", "error_message": ""}
        return JSONResponse({"model_version_status": [version]})

    async def metrics(self, _: Request) -> Response:
        """Counts and times in Prometheus' format."""
        content = prometheus.generate_latest()
        return Response(content, media_type=prometheus.CONTENT_TYPE_LATEST)


def make_app(versions: Versions, limits: Limits) -> Callable:
    """The application: nothing can be loaded or unloaded by a request."""
    gate = Gate(limits)
    service = Service(versions, gate)

    async def be_healthy(_: Request) -> Response:  # nobody can ask before it is ready
        return JSONResponse({"status": "ok"})

    async def show_page(request: Request) -> Response:
        name = request.url.path[1:] or "page.html"
        return FileResponse(_FOLDER / name, headers=_PAGE_HEADERS)

    async def refuse(_: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    async def fail(*_) -> Response:
        return JSONResponse({"error": "the server failed; its log says why"}, 500)

    app = Starlette(
        routes=[
            *(Route(path, show_page) for path in ("/", "/page.css", "/page.js")),
            Route(_MODEL, service.status),
            Route(f"{_MODEL}:predict", service.predict, methods=["POST"]),
            Route("/explain", service.explain, methods=["POST"]),
            Route("/health/live", be_healthy),
            Route("/health/ready", be_healthy),
            Route("/metrics", service.metrics),
        ],
        lifespan=service.run,
        exception_handlers={HTTPException: refuse, Exception: fail},
    )
    return gate.around(app)


def _is_picture(request: Request) -> bool:
    """Whether the body is a picture, by its content type, or JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _JSON_TYPES and not kind.startswith("image/"):
        raise HTTPException(
            415, "send JSON, or a picture as image/jpeg or its own type"
        )
    return kind.startswith("image/")


def _decode(file: bytes, fitting: Fitting, max_pixels: int) -> np.ndarray:
    image, _ = load_rgb(file, image_size=fitting.stored_size, max_pixels=max_pixels)
    return np.asarray(fit_picture(image, fitting))


def _to_png(pixels: np.ndarray) -> bytes:
    return tf.io.encode_png(pixels, compression=1).numpy()

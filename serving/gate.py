"""The door that every request goes through: bounded, counted, in one line of the log.

Every bound is kept before the work that it bounds: connections when they come, the
size of a body while it is read, pictures before they are decoded. All of a request
has one time, and what a client no longer waits for is stopped.
"""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

import prometheus_client as prometheus
from absl import logging
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from alexnet_tf.errors import escape

_BODIES = 8  # of the largest size, that all requests together may hold
_MAX_CONNECTIONS = 500
_QUIET = ("/health/live", "/health/ready", "/metrics")  # machines ask all the time
_REQUESTS = prometheus.Counter("alexnet_requests", "Requests by status.", ["status"])
_ANSWERED = prometheus.Counter("alexnet_pictures", "Pictures that were answered.")
_SECONDS = prometheus.Histogram("alexnet_request_seconds", "Time of a request.")
_WAITING = prometheus.Gauge("alexnet_waiting", "Pictures that wait or are computed.")
_NO_ROOM = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Length: 0\r\n\r\n"
)


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a request may cost.

    Attributes:
        body: Bytes of a request.
        waiting: Pictures that may wait or be computed, of all requests together.
        seconds: Time until a request is answered.
    """

    body: int = 32 << 20
    waiting: int = 256
    seconds: float = 30.0


def overloaded(reason: str) -> HTTPException:
    """What is answered to a client that may ask again a second later."""
    return HTTPException(503, f"{reason}: come again", {"Retry-After": "1"})


class Budget:
    """So much of something may be in use at once.

    Args:
        most: How much.
    """

    def __init__(self, most: int):
        self.most, self.used = most, 0

    def take(self, number: int) -> bool:
        """Takes some of it, and says whether there was enough."""
        is_enough = self.used + number <= self.most
        self.used += number * is_enough
        return is_enough

    def give_back(self, number: int) -> None:
        """What was taken is no longer in use."""
        self.used -= number


class Gate:
    """Bounds, counts and logs the requests of an application.

    Args:
        limits: What a request may cost.

    Attributes:
        pictures: Those that wait or are computed.
    """

    def __init__(self, limits: Limits):
        self.limits, self.pictures = limits, Budget(limits.waiting)
        self._bytes = Budget(_BODIES * limits.body)
        _WAITING.set_function(lambda: self.pictures.used)

    def around(self, app: Callable) -> Callable:
        """The application of which no request goes on for ever or ends unsaid."""

        async def bounded(scope, receive, send) -> None:
            if scope["type"] != "http":
                return await app(scope, receive, send)
            start, status = time.perf_counter(), 0
            state = scope.setdefault("state", {})

            async def send_and_note(message) -> None:
                nonlocal status
                status = message.get("status", status)
                await send(message)

            try:
                async with asyncio.timeout(self.limits.seconds):
                    await app(scope, receive, send_and_note)
            except ClientDisconnect:
                status = 499
            except TimeoutError:
                if not status:
                    answer = self._time_is_over(state)
                    await answer(scope, receive, send_and_note)
            except Exception as error:
                line = " ".join(str(error).split())[:500]
                logging.error("%s: %s", type(error).__name__, line)
                logging.debug("", exc_info=error)
            self._note(scope, status, time.perf_counter() - start)

        return bounded

    def _time_is_over(self, state: dict) -> JSONResponse:
        status, what = (504, "answered") if state.get("is_read") else (408, "received")
        error = f"not {what} within {self.limits.seconds:g} s"
        return JSONResponse({"error": error}, status, {"Connection": "close"})

    def _note(self, scope: dict, status: int, seconds: float) -> None:
        number = scope["state"].get("number", 0)
        _REQUESTS.labels(str(status)).inc()
        _ANSWERED.inc(number)
        _SECONDS.observe(seconds)
        if scope["path"] not in _QUIET:
            asked = escape(f"{scope['method']} {scope['path']}")[:100]
            logging.info(
                "%s %d, %d pictures, %.0f ms", asked, status, number, 1000 * seconds
            )

    @contextlib.asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """Reads a body that is not too large; inside, it is counted."""
        content, refusal = bytearray(), None
        try:
            async for part in request.stream():
                if refusal:
                    continue  # only a client that has sent all hears of it
                if len(content) + len(part) > self.limits.body:
                    most = self.limits.body >> 20
                    refusal = HTTPException(413, f"a request has at most {most} MiB")
                elif self._bytes.take(len(part)):
                    content += part
                else:
                    refusal = overloaded("too much is being read")
            if refusal:
                raise refusal
            request.state.is_read = True
            yield bytes(content)
        finally:
            self._bytes.give_back(len(content))

    @contextlib.contextmanager
    def room_for(self, number: int) -> Iterator[None]:
        """Inside, so many pictures wait or are computed."""
        if not self.pictures.take(number):
            raise overloaded("too many pictures wait")
        try:
            yield
        finally:
            self.pictures.give_back(number)


async def unless_client_leaves(request: Request, work: Coroutine):
    """Awaits work on a request whose body was read, while its client waits for it."""

    async def wait_for_leaving() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(task) for task in (work, wait_for_leaving())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise ClientDisconnect
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()


def make_protocol(seconds: float) -> type[H11Protocol]:
    """HTTP whose connections are bounded in number, and in time without a new request.

    A client that asks nothing, and one that does not read what it is answered, go. Of
    too many, one that has asked nothing yet makes room for the next.
    """

    class Protocol(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            if len(self.connections) > _MAX_CONNECTIONS:
                silent = [c for c in self.connections - {self} if not c.cycle]
                if silent:
                    silent[0].transport.abort()
                else:
                    transport.write(_NO_ROOM)
                    transport.close()
            self._look_later()

        def connection_lost(self, error: Exception | None) -> None:
            self._timer.cancel()
            super().connection_lost(error)

        def _look_later(self) -> None:
            # By then the gate has ended a request, unless its client reads no answer.
            wait = 1.2 * seconds
            self._timer = self.loop.call_later(wait, self._end_unless_new, self.cycle)

        def _end_unless_new(self, last_cycle) -> None:
            if self.cycle is last_cycle:
                self.transport.abort()
            else:
                self._look_later()

    return Protocol

"""Serves an export over HTTP: pictures in, classes out.

    python -m serving.server --saved_model=runs/demo
    curl -H "Content-Type: image/jpeg" --data-binary @photo.jpg $MODEL:predict
    MODEL=http://127.0.0.1:8501/v1/models/alexnet

Answers at /v1/models/alexnet:predict what TensorFlow Serving answers there, and
pictures that are sent as they are; has a page for people at /. Only this machine can
ask, unless --host says otherwise: what is open to others belongs behind a server that
does TLS and authentication.
"""

from alexnet_tf import signals

if __name__ == "__main__":  # from here on a signal ends it in one line
    signals.handle()

import os
import socket
import threading

from absl import logging

from alexnet_tf import command_line
from alexnet_tf.command_line import flags
from alexnet_tf.errors import UserError

_BACKLOG = 100  # connections that the system keeps while the server is busy


def define_flags() -> None:
    """Defines the flags."""
    whole = flags.DEFINE_integer
    command_line.define_path(
        "saved_model",
        None,
        "An export, a run that has one, or a directory of numbered versions, of which "
        "the newest is served.",
        exists=True,
        required=True,
    )
    flags.DEFINE_string("host", "127.0.0.1", "The address to listen on.")
    whole("port", 8501, "The port to listen on.", lower_bound=0, upper_bound=65535)
    whole("max_body_mib", 32, "The size of a request at most, MiB.", lower_bound=1)
    whole("max_waiting", 256, "The pictures that may wait at most.", lower_bound=1)
    flags.DEFINE_float(
        "timeout", 30.0, "Seconds after which a request ends.", lower_bound=0.1
    )


def main(values: flags.FlagValues) -> None:
    """Serves until a signal comes; requests in flight are answered then."""
    try:
        import uvicorn

        from serving import application, gate, models
    except ModuleNotFoundError as error:
        if error.name not in ("uvicorn", "starlette", "prometheus_client"):
            raise
        raise UserError(
            f"there is no {error.name}: pip install starlette uvicorn prometheus_client"
        ) from None
    listening = listen(values.host, values.port)
    versions = models.Versions(os.fspath(values.saved_model))
    limits = gate.Limits(values.max_body_mib << 20, values.max_waiting, values.timeout)
    config = uvicorn.Config(
        application.make_app(versions, limits),
        http=gate.make_protocol(values.timeout),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=int(values.timeout) + 1,
    )
    server = uvicorn.Server(config)
    # In a thread, where it leaves the signals to this program.
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    with signals.stop_requests("what is in flight") as is_stop_requested:
        thread.start()
        logging.info("ready at http://%s:%d", *listening.getsockname()[:2])
        while thread.is_alive() and not is_stop_requested():
            thread.join(0.2)
        if not is_stop_requested():
            raise UserError("the server ended by itself: see above, and start it again")
        server.should_exit = True
        thread.join()


def listen(host: str, port: int) -> socket.socket:
    """Takes an address before the model is loaded.

    Raises:
        UserError: It cannot be taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise UserError(
            f"--host={host} --port={port} cannot be listened on ({error.strerror}): "
            "give others"
        ) from None
    # An answer is a head and a body: the second must not wait for the first's receipt.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


if __name__ == "__main__":
    command_line.run(main, define_flags)

"""The model server: a real process, asked by real clients over HTTP."""

import asyncio
import base64
import concurrent.futures
import contextlib
import http.client
import io
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest
import tensorflow as tf
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from alexnet_tf import alexnet
from alexnet_tf.errors import UserError
from alexnet_tf.export.saved_model import export_model
from alexnet_tf.pictures.fitting import FITTING_FILE, Fitting, fit_picture
from serving import gate, models, rest
from serving.application import Service, make_app
from serving.batching import Batcher
from serving.models import Versions
from serving.server import listen

ROOT = pathlib.Path(__file__).parents[1]
NAMES = ["cat", "dog", "emu"]
PREDICT = "/v1/models/alexnet:predict"
IMAGES = b'{"signature_name": "images", "instances": [%s]}'


def encode(seed=0, size=(300, 200), form="JPEG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(content, form)
    return content.getvalue()


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """A directory of versions, in which there is one."""
    versions = tmp_path_factory.mktemp("versions")
    export_model(alexnet(3, width=0.1, seed=0), NAMES, str(versions / "1"))
    return versions


class Server:
    """The server's process, on a port that was free."""

    def __init__(self, directory, log):
        limits = ("--max_body_mib=1", "--max_waiting=40", "--timeout=20")
        self.log = log
        with open(log, "w") as file:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "serving.server", "--port=0"),
                    *(f"--saved_model={directory}", *limits),
                ],
                cwd=ROOT,
                stderr=file,
                env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
            )
        while not (
            ready := re.search(r"ready at http://127.0.0.1:(\d+)\n", self.said())
        ):
            assert self.process.poll() is None, self.said()
            time.sleep(0.1)
        self.port = int(ready[1])

    def said(self):
        """What it has logged."""
        return self.log.read_text()

    def ask(self, method, path, body=None, **headers):
        """The status, the headers and the body of an answer."""
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        client.request(method, path, body, headers)
        answer = client.getresponse()
        return answer.status, answer.headers, answer.read()

    def predict(self, content):
        """The status and the answer of a request in JSON."""
        status, _, body = self.ask("POST", PREDICT, json.dumps(content))
        return status, json.loads(body)


@pytest.fixture(scope="module")
def server(export, tmp_path_factory):
    started = Server(export, tmp_path_factory.mktemp("log") / "log")
    yield started
    started.process.kill()


def b64(content):
    return {"b64": base64.b64encode(content).decode()}


def expected_rows(export, files):
    """What the export itself says of pictures that Pillow made square."""
    serve = tf.saved_model.load(str(export / "1")).signatures["images"]
    squares = [
        np.asarray(fit_picture(Image.open(io.BytesIO(f)).convert("RGB"), Fitting()))
        for f in files
    ]
    found = serve(images=tf.constant(np.stack(squares)))
    return found["class_ids"].numpy(), found["probabilities"].numpy()


def test_all_forms_of_a_request_are_answered_alike(server, export):
    """The forms of tensorflow.org/tfx/serving/api_rest#predict_api, and raw bodies."""
    files = [encode(0), encode(1, form="PNG"), encode(2, form="TIFF")]
    ids, probabilities = expected_rows(export, files)
    encoded = [b64(file) for file in files]
    named = [{"image_bytes": value} for value in encoded]
    for instances in (encoded, named):
        status, answer = server.predict({"instances": instances})
        assert status == 200
        for row, k, p in zip(answer["predictions"], ids, probabilities, strict=True):
            assert row["class_ids"] == k.tolist()
            assert row["classes"] == [NAMES[i] for i in k]
            np.testing.assert_allclose(row["probabilities"], p, atol=1e-4)
    for inputs in (encoded, {"image_bytes": encoded}):
        _, answer = server.predict({"inputs": inputs})
        assert answer["outputs"]["class_ids"] == ids.tolist()
    kind = {"Content-Type": "image/tiff"}
    status, _, body = server.ask("POST", PREDICT, files[2], **kind)
    assert status == 200
    assert json.loads(body)["class_ids"] == ids[2].tolist()


def test_other_signatures(server):
    pixels = np.zeros((2, 40, 30, 3), int).tolist()
    status, answer = server.predict({"signature_name": "images", "instances": pixels})
    assert status == 200
    assert len(answer["predictions"]) == 2
    files = [b64(encode()), b64(b"nothing"), b64(encode(form="TIFF"))]
    _, answer = server.predict({"signature_name": "features", "inputs": files})
    features = np.array(answer["outputs"]["features"])
    assert features.shape == (3, 410)
    assert features.any(1).tolist() == [True, False, True]


def test_what_is_no_picture_costs_no_other(server, export):
    files = [b64(encode()), b64(b"nothing"), b64(encode(3))]
    status, answer = server.predict({"instances": files})
    assert status == 200
    found = [row["classes"] for row in answer["predictions"]]
    assert found[1] == ["", "", ""]
    assert answer["predictions"][1]["probabilities"] == [0, 0, 0]
    assert found[0][0] in NAMES
    assert found[2][0] in NAMES


@pytest.mark.parametrize(
    ("body", "kind", "status", "reason"),
    [
        (b"{", "application/json", 400, "no JSON"),
        (b"[" * 100_000, "application/json", 400, "no JSON"),
        (b"[]", "text/plain", 400, "instances"),
        (b'{"instances": []}', "", 400, "list of 1 to 64"),
        (b'{"instances": [3]}', "application/json", 400, "b64"),
        (b'{"instances": [{"b64": "?"}]}', "application/json", 400, "in base64"),
        (b'{"instances": [{"b64": 3}]}', "application/json", 400, "in base64"),
        (b'{"instances": ["\\ud800"]}', "application/json", 400, "in base64"),
        (b'{"instances": [""], "signature_name": "x"}', "", 400, "signature"),
        (b'{"instances": [""], "signature_name": [1]}', "", 400, "signature"),
        (IMAGES % b"[1, 2]", "", 400, "shape"),
        (IMAGES % (b"[" * 700 + b"]" * 700), "", 400, "shape"),
        (IMAGES % (b'"", ' * 30 + b'"%s"' % (b"x" * 900_000)), "", 400, "shape"),
        (IMAGES % b"[[[0.5, 0.5, 0.5]]]", "", 400, "whole numbers"),
        (IMAGES % b"[[[1e999, NaN, 256]]]", "", 400, "whole numbers"),
        (IMAGES % (b"[[" + b"[0, 0, 0], " * 20_000 + b"[0, 0, 0]]]"), "", 400, "thin"),
        (b"no picture", "image/png", 400, "no picture"),
        (bytes(2**20 + 1), "image/png", 413, "at most 1 MiB"),
        (bytes(2**24), "image/png", 413, "at most 1 MiB"),
        (b"{}", "multipart/form-data; boundary=x", 415, "send JSON"),
    ],
)
def test_bad_requests_are_a_sentence(server, body, kind, status, reason):
    kind = {"Content-Type": kind}
    found, _, answer = server.ask("POST", PREDICT, body, **kind)
    assert found == status
    assert reason in json.loads(answer)["error"]


def test_values_are_counted_before_they_are_read():
    for number, refusal in ((2**21 + 1, "413: JSON has at most"), (2**21, "400: the")):
        with pytest.raises(HTTPException, match=refusal):
            rest.parse(b"," * number, None)


def test_other_oddities_of_http(server):
    for method, path, status in (
        ("GET", PREDICT, 405),
        ("POST", "/v2/repository/models/alexnet/unload", 404),
        ("GET", "/%0aforged%1b[31m", 404),
    ):
        found, _, answer = server.ask(method, path)
        assert (found, bool(json.loads(answer)["error"])) == (status, True)
    coded = {"Content-Encoding": "gzip"}
    assert server.ask("POST", PREDICT, b"{}", **coded)[0] == 415
    assert "GET /\\nforged\\x1b[31m 404" in server.said()


def test_more_than_may_wait_is_told_to_come_again(server):
    files = [b64(encode(size=(20, 20)))] * 41
    client = server.ask("POST", PREDICT, json.dumps({"instances": files}))
    assert client[0] == 503
    assert client[1]["Retry-After"] == "1"
    assert server.predict({"instances": files[:1]})[0] == 200  # it goes on


def test_clients_that_leave_cost_no_answer(server):
    body = json.dumps({"instances": [b64(encode())] * 20}).encode()
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(head.encode() + body)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        _, _, metrics = server.ask("GET", "/metrics")
        if b'status="499"' in metrics and b"alexnet_waiting 0.0" in metrics:
            break
        time.sleep(0.1)
    assert b'status="499"' in metrics
    assert b"alexnet_waiting 0.0" in metrics
    assert server.predict({"instances": [b64(encode())]})[0] == 200


def test_many_clients_are_answered_each_with_its_own(server, export):
    files = [encode(seed) for seed in range(24)]
    ids, probabilities = expected_rows(export, files)

    def ask(file):
        return server.predict({"instances": [b64(file)]})

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, files))
    for (status, answer), k, p in zip(answers, ids, probabilities, strict=True):
        assert status == 200
        assert answer["predictions"][0]["class_ids"] == k.tolist()
        found = answer["predictions"][0]["probabilities"]
        np.testing.assert_allclose(found, p, atol=1e-4)


def test_pages_and_states(server):
    status, headers, body = server.ask("GET", "/")
    assert (status, b"<h1>" in body) == (200, True)
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for name, kind in {"page.css": "text/css", "page.js": "text/javascript"}.items():
        assert f'"{name}"'.encode() in body
        status, headers, _ = server.ask("GET", f"/{name}")
        assert (status, headers["Content-Type"].split(";")[0]) == (200, kind)
    for path in ("/rest.py", "/page.html/../rest.py", "/..%2frest.py"):
        assert server.ask("GET", path)[0] == 404
    assert server.ask("GET", "/health/live")[0] == 200
    state = json.loads(server.ask("GET", "/v1/models/alexnet")[2])
    assert state["model_version_status"][0]["state"] == "AVAILABLE"
    status, headers, body = server.ask("POST", "/explain", encode())
    assert (status, headers["Content-Type"]) == (200, "image/png")
    assert Image.open(io.BytesIO(body)).size == (256, 256)
    assert server.ask("POST", "/explain", b"x")[0] == 400
    _, _, metrics = server.ask("GET", "/metrics")
    assert b'alexnet_requests_total{status="200"}' in metrics
    assert b"alexnet_request_seconds_bucket" in metrics
    assert b"process_resident_memory_bytes" in metrics


def test_a_signal_lets_requests_in_flight_be_answered(server):
    files = [b64(encode())] * 32
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.predict, {"instances": files})
        time.sleep(0.05)
        server.process.send_signal(signal.SIGTERM)
        assert answer.result()[0] == 200
    assert server.process.wait(timeout=30) == 0
    errors = server.said()
    assert "Traceback" not in errors
    assert "POST /v1/models/alexnet:predict 200, 32 pictures" in errors
    assert "stopping after what is in flight" in errors


def test_a_newer_version_takes_the_place_of_the_old_one(tmp_path, monkeypatch, caplog):
    def load(directory):
        content = pathlib.Path(directory, "saved_model.pb").read_text()
        if content != "whole":
            raise KeyError("images")
        return object()

    def export_to(number, content="whole"):
        (tmp_path / str(number)).mkdir(exist_ok=True)
        (tmp_path / str(number) / "saved_model.pb").write_text(content)

    monkeypatch.setattr(models, "_load", load)
    export_to(1)
    versions = Versions(str(tmp_path))
    first = versions.current
    assert versions.number == 1
    export_to(3)
    export_to(4, "half")  # its copy is under way
    versions.look()
    assert versions.number == 3
    assert versions.current is not first
    newest = versions.current
    versions.look()
    assert versions.current is newest
    warnings = [x.getMessage() for x in caplog.records if x.levelname == "WARNING"]
    assert warnings == ["version 4 is not served: 'images'"]  # once
    export_to(4)
    versions.look()
    assert versions.number == 4
    shutil.rmtree(tmp_path / "4")
    versions.look()
    assert versions.number == 3


def test_a_version_that_comes_while_pictures_are_decoded_changes_none_of_them():
    sizes = itertools.count(32)

    class Changing:
        @property
        def current(self):
            return types.SimpleNamespace(fitting=Fitting(stored_size=next(sizes)))

    async def ask(_, rows):
        ids = np.zeros((len(rows), 1), int)
        classes, ones = np.full(ids.shape, b"cat", object), np.ones(ids.shape)
        return {"classes": classes, "class_ids": ids, "probabilities": ones}

    service = Service(Changing(), None)
    service._batcher = types.SimpleNamespace(ask=ask)
    files = [encode(form="PNG"), b"none", encode()]
    columns = asyncio.run(service._ask_files(files))
    assert columns["class_ids"].ravel().tolist() == [0, -1, 0]


def test_damaged_exports_are_refused_whatever_is_damaged(export, tmp_path):
    content = (export / "1" / "saved_model.pb").read_bytes()
    shutil.copytree(export / "1", tmp_path / "1")
    (tmp_path / "1" / "saved_model.pb").write_bytes(content[: len(content) // 2])
    shutil.copytree(export / "1", tmp_path / "2")
    (tmp_path / "2" / FITTING_FILE).write_text('{"stored_size": 1000000000}')
    with pytest.raises(UserError, match="is no SavedModel"):
        Versions(str(tmp_path))


def test_what_waits_becomes_one_batch_and_what_is_left_is_left_out():
    sizes = []

    def run(signature, rows):
        sizes.append((signature, len(rows)))
        time.sleep(0.1)
        if signature == "bad":
            raise ValueError("broken")
        return {"twice": 2 * rows}

    async def try_it():
        batcher = Batcher(run, max_batch=4)
        ask = [asyncio.ensure_future(batcher.ask("a", np.array([n]))) for n in range(6)]
        bad = asyncio.ensure_future(batcher.ask("bad", np.array([0])))
        await asyncio.sleep(0.05)  # the first are being computed
        ask[5].cancel()
        assert [(await a)["twice"].tolist() for a in ask[:5]] == [
            [2 * n] for n in range(5)
        ]
        with pytest.raises(ValueError, match="broken"):
            await bad

    asyncio.run(try_it())
    assert sizes == [("a", 4), ("a", 1), ("bad", 1)]


def test_what_cannot_be_served_is_one_line(tmp_path):
    with pytest.raises(UserError, match="is no SavedModel"):
        Versions(str(tmp_path))
    with listen("127.0.0.1", 0) as taken:
        assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        port = taken.getsockname()[1]
        with pytest.raises(
            UserError, match=r"--port=\d+ cannot be listened on \(Address"
        ):
            listen("127.0.0.1", port)


@contextlib.contextmanager
def serving(app, limits):
    """Serves an application in a thread: its server and its address."""
    listening = listen("127.0.0.1", 0)
    config = uvicorn.Config(
        app,
        http=gate.make_protocol(limits.seconds),
        ws="none",
        log_config=None,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    yield server, listening.getsockname()
    server.should_exit = True
    thread.join()


@pytest.fixture
def quick_server():
    """A server of half a second a request, whose application sends a body back."""
    limits = gate.Limits(body=1000, waiting=1, seconds=0.5)
    door = gate.Gate(limits)

    async def echo(request):
        async with door.body(request) as body:
            if body.startswith(b"wait"):
                await asyncio.sleep(60)
            if body == b"fail":
                raise KeyError("a secret")
            return PlainTextResponse(body * 2**21 if body == b"many" else body)

    app = door.around(Starlette(routes=[Route("/", echo, methods=["POST"])]))
    with serving(app, limits) as server:
        yield server


@pytest.fixture
def quick(quick_server):
    return quick_server[1]


def converse(address, content, seconds=5):
    """All that a server answers until it closes the connection."""
    with socket.create_connection(address, timeout=seconds) as client:
        client.sendall(content)
        answer = b""
        while part := client.recv(65536):
            answer += part
    return answer


def post(body, length=None):
    length = len(body) if length is None else length
    head = (
        f"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}"
    )
    return head.encode() + b"\r\n\r\n" + body


def test_slow_clients_are_ended(quick, caplog):
    """Those that say nothing, stop in a head, stop in a body, and slow work."""
    caplog.set_level("INFO", "absl")
    assert converse(quick, b"") == b""
    assert converse(quick, b"POST / HTTP/1.1\r\nHo") == b""
    assert converse(quick, post(b"half", 8)).startswith(b"HTTP/1.1 408")
    assert converse(quick, post(b"wait")).startswith(b"HTTP/1.1 504")
    assert converse(quick, post(b"echo")).endswith(b"\r\n\r\necho")
    assert caplog.messages[-1].startswith("POST / 200, 0 pictures")


def test_a_client_that_reads_no_answer_is_ended(quick_server):
    server, address = quick_server
    request = post(b"many").replace(b"close", b"keep-alive")
    with socket.create_connection(address) as client:
        client.sendall(3 * request)
        deadline = time.monotonic() + 10
        has_come = False
        while time.monotonic() < deadline:
            number = len(server.server_state.connections)
            if has_come and not number:
                break
            has_come = has_come or number > 0
            time.sleep(0.05)
    assert (has_come, number) == (True, 0)


@pytest.mark.parametrize(
    "error",
    [tf.errors.ResourceExhaustedError(None, None, "OOM when allocating"), MemoryError],
)
def test_a_want_of_memory_is_no_bad_picture(error):
    def run(*_):
        raise error

    model = types.SimpleNamespace(
        run=run,
        fitting=Fitting(),
        signatures=["serving_default"],
        input_of=lambda _: "image_bytes",
    )
    nothing = types.SimpleNamespace(current=model, watch=lambda: None)
    limits = gate.Limits()
    body = json.dumps({"instances": [b64(encode())]}).encode()
    request = post(body).replace(b"/", PREDICT.encode(), 1)
    with serving(make_app(nothing, limits), limits) as (_, address):
        answer = converse(address, request)
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"retry-after: 1\r\n" in answer
    assert answer.endswith(b'{"error":"out of memory: come again"}')


def test_a_fault_of_ours_is_one_line_of_the_log(quick, caplog):
    answer = converse(quick, post(b"fail"))
    assert answer.startswith(b"HTTP/1.1 500")
    assert b"secret" not in answer
    assert [r.message for r in caplog.records if r.levelname == "ERROR"] == [
        "KeyError: 'a secret'"
    ]


def test_connections_and_bodies_are_bounded(quick_server, monkeypatch):
    server, quick = quick_server
    monkeypatch.setattr(gate, "_MAX_CONNECTIONS", 2)
    clients = [socket.create_connection(quick) for _ in range(2)]
    try:
        assert converse(quick, post(b"echo")).endswith(b"echo")  # in place of a silent
        for client in clients:
            client.close()
        clients = [socket.create_connection(quick) for _ in range(2)]
        for client in clients:
            client.sendall(post(b"wait"))
        connections = server.server_state.connections
        while len(connections) != 2 or not all(c.cycle for c in list(connections)):
            time.sleep(0.01)
        assert converse(quick, b"").startswith(b"HTTP/1.1 503")
    finally:
        for client in clients:
            client.close()
    monkeypatch.undo()
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        halves = [post(bytes(900), 999)] * 12  # of which eight may be held
        answers = list(pool.map(lambda part: converse(quick, part)[:12], halves))
        assert answers == [b"HTTP/1.1 408"] * 12
        wholes = [post(b"wait" + bytes(896))] * 12
        answers = list(pool.map(lambda part: converse(quick, part)[:12], wholes))
    assert answers.count(b"HTTP/1.1 503") == 4

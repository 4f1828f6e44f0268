"""The model server: a real process, asked by real clients over HTTP."""

import asyncio
import base64
import concurrent.futures
import http.client
import io
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from alexnet_tf import alexnet
from alexnet_tf.export.saved_model import export_model
from alexnet_tf.pictures.fitting import Fitting, fit_picture
from serving.batching import Batcher, OverloadedError
from serving.models import Versions

ROOT = pathlib.Path(__file__).parents[1]
NAMES = ["cat", "dog", "emu"]
PREDICT = "/v1/models/alexnet:predict"


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

    def __init__(self, directory):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        limits = ("--max_body_mib=1", "--max_waiting=40", "--timeout=20")
        where = (f"--saved_model={directory}", f"--port={self.port}")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "serving.server", *where, *limits],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        for _ in range(600):
            try:
                self.ask("GET", "/health/ready")
                return
            except OSError:
                assert self.process.poll() is None, self.process.stderr.read()
                time.sleep(0.1)

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
def server(export):
    started = Server(export)
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
    content = {"signature_name": "features", "inputs": [b64(encode())]}
    _, answer = server.predict(content)
    assert np.shape(answer["outputs"]["features"]) == (1, 410)


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
        (b"[]", "application/json", 400, '"instances"|instances'),
        (b'{"instances": []}', "application/json", 400, "list of 1 to 64"),
        (b'{"instances": [3]}', "application/json", 400, "b64"),
        (b'{"instances": [{"b64": "?"}]}', "application/json", 400, "no base64"),
        (b'{"instances": [""], "signature_name": "x"}', "", 400, "signature"),
        (b'{"instances": [[1, 2]], "signature_name": "images"}', "", 400, "shape"),
        (b"no picture", "image/png", 400, "no picture"),
        (bytes(2**20 + 1), "image/png", 413, "at most 1 MiB"),
    ],
)
def test_bad_requests_are_a_sentence(server, body, kind, status, reason):
    kind = {"Content-Type": kind}
    found, _, answer = server.ask("POST", PREDICT, body, **kind)
    assert found == status
    assert any(r in json.loads(answer)["error"] for r in reason.split("|"))


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
    assert server.ask("GET", "/health/live")[0] == 200
    state = json.loads(server.ask("GET", "/v1/models/alexnet")[2])
    assert state["model_version_status"][0]["state"] == "AVAILABLE"
    assert server.ask("POST", "/v2/repository/models/alexnet/unload")[0] == 404
    status, headers, body = server.ask("POST", "/explain", encode())
    assert (status, headers["Content-Type"]) == (200, "image/png")
    assert Image.open(io.BytesIO(body)).size == (256, 256)
    assert server.ask("POST", "/explain", b"x")[0] == 400
    _, _, metrics = server.ask("GET", "/metrics")
    assert b'alexnet_requests_total{status="200"}' in metrics
    assert b"alexnet_request_seconds_bucket" in metrics


def test_a_signal_lets_requests_in_flight_be_answered(server):
    files = [b64(encode())] * 32
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.predict, {"instances": files})
        time.sleep(0.05)
        server.process.send_signal(signal.SIGTERM)
        assert answer.result()[0] == 200
    _, errors = server.process.communicate(timeout=30)
    assert server.process.returncode == 0
    assert "Traceback" not in errors
    assert "POST /v1/models/alexnet:predict 200, 32 pictures" in errors
    assert "stopping after what is in flight" in errors


def test_a_newer_version_takes_the_place_of_the_old_one(export, tmp_path, caplog):
    directory = tmp_path / "versions"
    shutil.copytree(export / "1", directory / "1")
    versions = Versions(str(directory))
    versions.load()
    first = versions.current
    assert first.version == 1
    shutil.copytree(export / "1", directory / "3")
    (directory / "4").mkdir()  # no export
    versions.load()
    assert versions.current.version == 3
    assert versions.current is not first
    assert "version 4 is not served" in caplog.text
    newest = versions.current
    versions.load()
    assert versions.current is newest


def test_what_waits_becomes_one_batch_and_what_is_left_is_left_out():
    sizes = []

    def run(signature, rows):
        sizes.append((signature, len(rows)))
        time.sleep(0.1)
        if signature == "bad":
            raise ValueError("broken")
        return {"twice": 2 * rows}

    async def try_it():
        batcher = Batcher(run, max_batch=4, max_waiting=12)
        ask = [asyncio.ensure_future(batcher.ask("a", np.array([n]))) for n in range(6)]
        bad = asyncio.ensure_future(batcher.ask("bad", np.array([0])))
        await asyncio.sleep(0.05)  # the first are being computed
        ask[5].cancel()
        with pytest.raises(OverloadedError):
            await batcher.ask("a", np.zeros(8))
        assert [(await a)["twice"].tolist() for a in ask[:5]] == [
            [2 * n] for n in range(5)
        ]
        with pytest.raises(ValueError, match="broken"):
            await bad
        assert batcher.num_waiting == 0
        await batcher.close()

    asyncio.run(try_it())
    assert sizes == [("a", 4), ("a", 1), ("bad", 1)]

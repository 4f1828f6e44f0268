"""Tests of serving/kserve_server.py: what it answers, with KServe left out."""

import asyncio
import base64
import importlib.util
import json
import pathlib
import socket
import sys
import threading
import types

import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf.errors import UserError
from serving import check_server

SCRIPT = pathlib.Path(__file__).parents[1] / "serving" / "kserve_server.py"


class InvalidInputError(Exception):
    """What KServe answers with 400 and its text."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The model of the server, with the export's signatures: lengths and means."""

    def serving_default(image_bytes):
        lengths = tf.strings.length(image_bytes)[:, tf.newaxis]
        names = tf.strings.as_string(lengths)
        return {"class_ids": lengths, "classes": names}

    def images(images):
        limit = tf.debugging.Assert(tf.shape(images)[0] < 3, ["at most 2 pictures"])
        with tf.control_dependencies([limit]):
            return {"features": tf.reduce_mean(tf.cast(images, tf.float32), [1, 2, 3])}

    strings = tf.TensorSpec((None,), tf.string, name="image_bytes")
    pixels = tf.TensorSpec((None, None, None, 3), tf.uint8, name="images")
    signatures = {
        "serving_default": tf.function(serving_default, input_signature=[strings]),
        "images": tf.function(images, input_signature=[pixels]),
    }
    saved_model = str(tmp_path_factory.mktemp("export"))
    tf.saved_model.save(tf.Module(), saved_model, signatures)

    kserve = types.ModuleType("kserve")
    kserve.Model = type("Model", (), {"__init__": lambda self, name: None})
    kserve.errors = types.SimpleNamespace(InvalidInput=InvalidInputError)
    kserve.InferRequest = type("InferRequest", (), {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "kserve", kserve)
        patch.setitem(sys.modules, "uvicorn", types.ModuleType("uvicorn"))
        spec = importlib.util.spec_from_file_location("kserve_server", SCRIPT)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module.AlexNet(saved_model)


def ask(server, payload):
    return json.loads(json.dumps(asyncio.run(server.predict(payload))))


def b64(content):
    return {"b64": base64.b64encode(content).decode()}


def test_requests_are_answered_as_tensorflow_serving_does(server):
    """The forms of tensorflow.org/tfx/serving/api_rest#predict_api."""
    rows = {"predictions": [{"class_ids": [3], "classes": ["3"]}] * 2}
    for instances in (
        [b64(b"\xff\0a"), b64(b"abc")],
        [{"image_bytes": b64(b"\xff\0a")}, {"image_bytes": "abc"}],
    ):
        assert ask(server, {"instances": instances}) == rows
    columns = {"outputs": {"class_ids": [[3], [1]], "classes": [["3"], ["1"]]}}
    for inputs in ([b64(b"abc"), "a"], {"image_bytes": [b64(b"abc"), "a"]}):
        assert ask(server, {"inputs": inputs}) == columns
    assert ask(server, json.dumps({"inputs": inputs}).encode()) == columns
    pixels = {"signature_name": "images", "instances": [[[[1, 2, 3]]], [[[0, 0, 6]]]]}
    assert ask(server, pixels) == {"predictions": [2.0, 2.0]}  # one output: no name
    pixels = {"signature_name": "images", "inputs": [[[[1, 2, 3]]]]}
    assert ask(server, pixels) == {"outputs": [2.0]}


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ({}, 'either "instances" or "inputs"'),
        ([1], 'either "instances" or "inputs"'),
        ({"instances": ["a"], "inputs": ["a"]}, 'either "instances" or "inputs"'),
        ({"instances": []}, "at least one instance"),
        ({"instances": "a"}, "at least one instance"),
        ({"inputs": []}, "at least one value"),
        ({"inputs": {"image_bytes": "a"}}, "at least one value"),
        ({"inputs": {"x": ["a"]}}, "the one key 'image_bytes'"),
        ({"instances": [{"x": "a"}]}, "the one key 'image_bytes'"),
        ({"instances": [3]}, 'expected {"b64": "…"}'),
        ({"instances": [{"b64": "!"}]}, "not base64"),
        ({"instances": [{"b64": 3}]}, "not base64"),
        ({"instances": ["a"], "signature_name": "x"}, "no signature_name 'x', only"),
        ({"instances": ["a"], "signature_name": ["x"]}, "no signature_name"),
        (b"{", "Expecting property name"),
        (b'{"instances":' + b"[" * 100_000, "nested too deeply"),
        (b"\xff", "decode"),
    ],
)
def test_what_is_not_answered_is_a_sentence(payload, reason, server):
    with pytest.raises(InvalidInputError) as error:
        ask(server, payload)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "instances",
    [[[[[1, 2]]]], [[[[1, 2, 300]]]], [[[[0, 0, -1]]]], [[[[1, 2, 0.5]]]], ["a"]],
)
def test_pixels_are_whole_numbers_below_256(instances, server):
    with pytest.raises(InvalidInputError, match="expected images: uint8 of the shape"):
        ask(server, {"signature_name": "images", "instances": instances})


def test_a_refusal_of_the_export_is_passed_on(server):
    pixels = np.zeros((3, 1, 1, 3), int).tolist()
    with pytest.raises(InvalidInputError, match=r"^at most 2 pictures$"):
        ask(server, {"signature_name": "images", "instances": pixels})


def test_version_2_is_refused(server):
    kserve = type(server).predict.__globals__["kserve"]
    with pytest.raises(InvalidInputError, match="version 2 of the protocol"):
        ask(server, kserve.InferRequest())


FAKE_SERVER = """
import http.server, sys
port = int(sys.argv[2].removeprefix("--http_port="))
handler = http.server.SimpleHTTPRequestHandler
handler.do_GET = lambda self: self.send_response(200) or self.end_headers()
http.server.HTTPServer(("127.0.0.1", port), handler).serve_forever()
"""


def test_what_fails_beside_the_checked_server_is_what_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(check_server, "HERE", str(tmp_path))
    (tmp_path / "kserve_server.py").write_text(FAKE_SERVER)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        pytest.raises(TimeoutError, match="mine"),
        check_server.serve(sys.executable, "x", port),
    ):
        raise TimeoutError("mine")
    (tmp_path / "kserve_server.py").write_text("raise SystemExit('no kserve')")
    with (
        pytest.raises(UserError, match="did not start:\nno kserve"),
        check_server.serve(sys.executable, "x", port),
    ):
        pass


def test_others_are_answered_while_one_waits(server, monkeypatch):
    """A prediction that waits for another request, which an event loop must take."""
    arrived = threading.Event()

    def answer(payload):
        if payload == "second":
            arrived.set()
            return "answered"
        return arrived.wait(60)

    monkeypatch.setattr(server, "_answer", answer)

    async def ask_both():
        return await asyncio.gather(server.predict("first"), server.predict("second"))

    assert asyncio.run(ask_both()) == [True, "answered"]

"""Checks that a model server over HTTP says what eval.py says.

    python -m serving.check_server --model_dir=runs/demo

Exports the run, starts KServe's model server with the export in an environment of its
own (made on first use), sends every validation picture to it over HTTP, and compares
the error and the cross-entropy of its answers with eval.json.
"""

from alexnet_tf import signals

if __name__ == "__main__":  # from here on a signal ends it in one line
    signals.handle()

import base64
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv

from alexnet_tf import command_line
from alexnet_tf.command_line import flags
from alexnet_tf.errors import UserError

HERE = os.path.dirname(os.path.abspath(__file__))
_BATCH = 32
_START_SECONDS = 120


def define_flags() -> None:
    """Defines the flags."""
    flags.DEFINE_string("model_dir", "runs/demo", "Directory of the run.")
    flags.DEFINE_string("environment", "build/kserve", "Where the server is installed.")
    flags.DEFINE_integer("port", 8911, "Of HTTP, on this machine alone.")


def make_environment(folder: str) -> str:
    """Installs the server unless it is; returns its Python."""
    python = os.path.join(folder, "bin", "python")
    ready = os.path.join(folder, "installed")
    if not os.path.exists(ready):
        venv.create(folder, with_pip=True)
        requirements = os.path.join(HERE, "requirements.txt")
        install = [python, "-m", "pip", "install", "-q", "-r", requirements]
        subprocess.run(install, check=True)
        open(ready, "w").close()
    return python


@contextlib.contextmanager
def serve(python: str, saved_model: str, port: int):
    """Runs the server; gives the address of its model once it is ready."""
    url = f"http://127.0.0.1:{port}/v1/models/alexnet"
    command = [python, os.path.join(HERE, "kserve_server.py")]
    command += [f"--saved_model={saved_model}", f"--http_port={port}"]
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            if not becomes_ready(server, url):
                log.seek(0)
                raise UserError(f"the server did not start:\n{log.read()}")
            yield url
        finally:
            server.terminate()
            server.wait()


def becomes_ready(server: subprocess.Popen, url: str) -> bool:
    """Waits until an address answers; False if its server ends first, or never does."""
    end = time.monotonic() + _START_SECONDS
    while server.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url, timeout=_START_SECONDS).close()
            return True
        time.sleep(0.5)
    return False


def ask(url: str, pictures: list[bytes]) -> list[dict]:
    """Sends pictures; returns the predictions."""
    instances = [
        {"image_bytes": {"b64": base64.b64encode(p).decode()}} for p in pictures
    ]
    body = json.dumps({"instances": instances}).encode()
    with urllib.request.urlopen(f"{url}:predict", body) as answer:
        return json.load(answer)["predictions"]


def main(values: flags.FlagValues) -> int:
    """Checks as the flags say; prints both results."""
    import tensorflow as tf

    from alexnet_tf.pipeline.data_set import open_data_set
    from alexnet_tf.pipeline.reading import parse_record

    python = make_environment(values.environment)
    scripts, run = os.path.dirname(HERE), f"--model_dir={values.model_dir}"
    with tempfile.TemporaryDirectory() as saved_model:
        os.rmdir(saved_model)
        for command in (
            ["eval.py", run],
            ["export.py", run, f"--output={saved_model}", "--top_k=100000"],
        ):
            script = os.path.join(scripts, command[0])
            subprocess.run([sys.executable, script, *command[1:]], check=True)
        with open(os.path.join(values.model_dir, "eval.json")) as file:
            expected = json.load(file)
        data_set = open_data_set(expected["data_dir"])
        records = tf.data.TFRecordDataset(data_set.splits["validation"].filenames)
        examples = records.map(parse_record)
        wrong, losses = 0, []
        start = time.perf_counter()
        with serve(python, saved_model, values.port) as url:
            for pictures, labels in examples.batch(_BATCH).as_numpy_iterator():
                answers = ask(url, list(pictures))
                for answer, label in zip(answers, labels, strict=True):
                    wrong += answer["class_ids"][0] != label
                    at = answer["class_ids"].index(label)
                    losses.append(-math.log(answer["probabilities"][at]))
            bad = ask(url, [b"no picture", b"\x89PNG\r\n\x1a\n" + b"\0\0\0\1" * 5])
            seconds = time.perf_counter() - start
    error, cross_entropy = wrong / len(losses), math.fsum(losses) / len(losses)
    for who, top_1, entropy in (
        ("eval.py", expected["top_1_error"], expected["cross_entropy"]),
        ("server", error, cross_entropy),
    ):
        print(f"{who:8} top-1 error {top_1:.4%}  cross-entropy {entropy:.6f}")
    print(f"{len(losses)} pictures in {seconds:.1f} s, with the server's start")
    same = (
        abs(error - expected["top_1_error"]) < 1e-9
        and abs(cross_entropy - expected["cross_entropy"]) < 1e-5
        and {class_id for answer in bad for class_id in answer["class_ids"]} == {-1}
    )
    print("the same" if same else "NOT the same")
    return 0 if same else 1


if __name__ == "__main__":
    command_line.run(main, define_flags)

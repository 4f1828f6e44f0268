"""The model server in a process of its own, for benchmarks that ask it."""

import base64
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_PATH = "/v1/models/alexnet:predict"


class ServerProcess:
    """The model server in a process of its own, on a free port.

    Attributes:
        address: Its host and port.
    """

    def __init__(self, saved_model: str):
        self._log = tempfile.NamedTemporaryFile("r")  # noqa: SIM115
        with open(self._log.name, "w") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "serving.server", "--port=0"),
                    f"--saved_model={saved_model}",
                ],
                cwd=ROOT,
                stderr=log,
            )
        while not (ready := re.search(r"ready at http://(\S+)\n", self.read_log())):
            if self.process.poll() is not None:
                sys.exit(self.read_log())
            time.sleep(0.1)
        self.address = ready[1]

    def read_log(self) -> str:
        """What it has said so far."""
        self._log.seek(0)
        return self._log.read()

    def read_memory(self) -> float:
        """The most memory that it has had, GiB."""
        with open(f"/proc/{self.process.pid}/status") as file:
            return int(file.read().split("VmHWM:")[1].split()[0]) / 2**20

    def stop(self) -> int:
        """Ends it in order; returns its exit code."""
        self.process.terminate()
        return self.process.wait()


def ask(client: http.client.HTTPConnection, files: list[bytes]) -> tuple[int, dict]:
    """The status and the answer of a request for some picture files."""
    encoded = [{"b64": base64.b64encode(file).decode()} for file in files]
    client.request("POST", _PATH, json.dumps({"instances": encoded}))
    answer = client.getresponse()
    return answer.status, json.loads(answer.read())


def make_export(directory: str) -> str:
    """Exports a new network at its full width."""
    from alexnet_tf import alexnet
    from alexnet_tf.export.saved_model import export_model

    export_model(alexnet(seed=0), [str(i) for i in range(1000)], directory)
    return directory

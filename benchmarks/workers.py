"""Starts several workers of one training run on this machine.

    python benchmarks/workers.py 2 --data_dir=DIR --model_dir=DIR --num_epochs=1

The first argument is the number of workers; the others go to train.py. Each worker is
a process of its own that meets the others on the loopback interface, as workers on
several machines meet on the network. For trying a cluster's way of running without a
cluster; the workers share the cores, so it is not faster than one.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys

TRAIN = pathlib.Path(__file__).resolve().parent.parent / "train.py"


def free_addresses(count: int) -> list[str]:
    """Addresses on the loopback interface that nobody listens on."""
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{server.getsockname()[1]}" for server in servers]
    for server in servers:
        server.close()
    return addresses


def main() -> int:
    """Runs the workers to their end; returns the first exit code that is not 0."""
    if len(sys.argv) < 2 or not sys.argv[1].isdigit() or int(sys.argv[1]) < 1:
        print(__doc__, file=sys.stderr)
        return 2
    addresses = free_addresses(int(sys.argv[1]))
    workers = []
    for index in range(len(addresses)):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": addresses}, "task": task})
        command = [sys.executable, str(TRAIN), *sys.argv[2:]]
        output = None if index == 0 else subprocess.DEVNULL
        workers.append(
            subprocess.Popen(
                command, env=os.environ | {"TF_CONFIG": config}, stdout=output
            )
        )
    return next((code for code in [w.wait() for w in workers] if code), 0)


if __name__ == "__main__":
    sys.exit(main())

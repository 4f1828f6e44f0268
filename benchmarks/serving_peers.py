"""The network of the paper in ONNX Runtime, OpenVINO and PyTorch, for serving.py.

Runs in an environment of its own, without TensorFlow. Prints the versions as a line
of JSON, then reads lines of JSON, `[peer, batch]`, and answers each with the seconds
that the network alone took for so many images.
"""

import copy
import functools
import io
import json
import os
import sys
import time
from collections.abc import Callable

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import onnxruntime
import openvino
import torch
import torch_alexnet


def make_peers() -> dict[str, Callable]:
    """Each takes float32 images `(batch, 3, 224, 224)` and returns logits."""
    network = torch_alexnet.make_network(1.0).eval()
    file = io.BytesIO()
    torch.onnx.export(
        *(network, (torch.rand(1, 3, 224, 224),), file),
        input_names=["images"],
        dynamic_axes={"images": {0: "batch"}},
        dynamo=False,
    )
    graph = file.getvalue()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    peers = {"ONNX Runtime float32": lambda x: session.run(None, {"images": x.numpy()})}
    for name, hint in (("float32", "f32"), ("bfloat16", "bf16")):
        hints = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        core = openvino.Core()
        model = core.compile_model(core.read_model(io.BytesIO(graph)), "CPU", hints)
        peers[f"OpenVINO {name}"] = lambda x, model=model: model([x.numpy()])
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        typed = copy.deepcopy(network).to(dtype, memory_format=torch.channels_last)
        peers[f"PyTorch {name}"] = functools.partial(_run, torch.compile(typed), dtype)
    return peers


def _run(compiled: Callable, dtype: torch.dtype, images: torch.Tensor) -> torch.Tensor:
    return compiled(images.to(dtype, memory_format=torch.channels_last))


@torch.inference_mode()
def main() -> None:
    """Answers until its input ends."""
    peers = make_peers()
    versions = {x.__name__: x.__version__ for x in (onnxruntime, openvino, torch)}
    print(json.dumps({"peers": list(peers), "versions": versions}), flush=True)
    for line in sys.stdin:
        peer, batch = json.loads(line)
        images = torch.rand(batch, 3, 224, 224)
        start = time.perf_counter()
        peers[peer](images)
        print(json.dumps(time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    main()

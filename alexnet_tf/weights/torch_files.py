"""PyTorch's files and safetensors: tensors by the names of torchvision's AlexNet."""

import argparse
import dataclasses
import io
import json
import pickle
import re
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from alexnet_tf.errors import UserError
from alexnet_tf.recipes import Recipe
from alexnet_tf.settings import from_json
from alexnet_tf.weights.description import FOREIGN
from alexnet_tf.weights.published import PublishedWeights
from alexnet_tf.weights.weight_layout import (
    TORCHVISION,
    from_outputs_first,
    take_layers,
)

# Where people put a state_dict beside other things, the likeliest first.
_DICTS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "ema")
# What DataParallel and torch.compile put before a name or into it.
_WRAPPER = re.compile(r"(?<![^.])(?:module|_orig_mod)\.")
_COUNTERS = ("n_averaged",)  # of a moving average: no part of the network
# Those of safetensors in which kernels may be.
_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": tf.bfloat16.as_numpy_dtype,
}
_MAX_NUMBERS = 2**29  # in all tensors; a small file may repeat a number so often


def read_torch(content: bytes) -> PublishedWeights:
    """Reads what `torch.save` wrote: a state_dict, or a dict that holds one.

    Raises:
        UserError: If PyTorch is missing, or it is something else.
    """
    try:
        import torch
    except ImportError:
        raise UserError(
            "it is PyTorch's, which its own library reads: pip install torch here, or "
            "where it is installed convert the file with safetensors.torch.save_file("
            "torch.load(FILE, weights_only=True), 'alexnet.safetensors') and give that"
        ) from None
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            state = torch.load(io.BytesIO(content), "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        names = re.findall(r"GLOBAL (\S+) was not", str(error)) or ["objects"]
        raise UserError(
            f"it is damaged, or holds {names[0]} beside its tensors, which could run "
            "code: if you trust it, load it with torch.load(FILE, weights_only=False) "
            "and save its state_dict alone"
        ) from None
    kind = "PyTorch's dict"
    while name := _find_dict(state):
        state, kind = state[name], f"{kind}, its {name!r}"
    if not isinstance(state, Mapping):
        raise UserError(f"it is PyTorch's {type(state).__name__}, not a state_dict")
    for name, x in state.items():
        is_tensor = isinstance(x, torch.Tensor) and x.layout == torch.strided
        if not is_tensor or x.is_quantized or x.is_meta:
            raise UserError(
                f"it holds {name} ({type(x).__name__}), which is no plain tensor: save "
                "the state_dict() of a plain network alone"
            )
    if sum(tensor.numel() for tensor in state.values()) > _MAX_NUMBERS:
        raise UserError("its tensors have more numbers than any AlexNet")
    arrays = {
        name: (x.float() if x.is_floating_point() else x).detach().numpy()
        for name, x in state.items()
    }
    return _from_torchvision(kind, arrays)


def _find_dict(state: object) -> str | None:
    """Where in a dict the state_dict is, if it is not that itself."""
    is_dict = isinstance(state, Mapping)
    names = (name for name in _DICTS if is_dict and isinstance(state.get(name), dict))
    return next(names, None)


def read_safetensors(content: bytes) -> PublishedWeights:
    """Reads safetensors; those that `export.py` wrote say their recipe and more.

    Raises:
        UserError: If `safetensors` is missing, or the names are not torchvision's.
    """
    try:
        import safetensors
    except ImportError:
        raise UserError("it is safetensors: pip install safetensors") from None
    arrays = {}
    for name, tensor in safetensors.deserialize(content):
        if tensor["dtype"] not in _DTYPES:
            raise UserError(
                f"{name} holds {tensor['dtype']}: give floats of 16 bits up"
            )
        values = np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]])
        arrays[name] = values.reshape(tensor["shape"])
    weights = _from_torchvision("safetensors", arrays)
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    if "alexnet_tf" not in metadata:
        return weights
    ours = json.loads(metadata["alexnet_tf"])
    mean = np.asarray(ours["mean"], np.float32)
    return dataclasses.replace(
        weights,
        source="safetensors of ours",
        layers=weights.layers | {"input_normalization": {"mean": mean}},
        recipes=(from_json(Recipe, ours["recipe"]),),
        is_exact=True,
        class_names=tuple(ours["class_names"]),
    )


def _from_torchvision(kind: str, tensors: Mapping[str, np.ndarray]) -> PublishedWeights:
    """Takes a state_dict, in which every tensor but a head's must be known.

    What stands before the names is the same for all: in a file with two networks the
    second one is unknown.
    """
    modules: dict[str, dict[str, np.ndarray]] = {}
    for name, values in tensors.items():
        module, _, variable = _WRAPPER.sub("", name).rpartition(".")
        module = module or variable
        if variable in modules.get(module, {}):
            raise UserError(f"it holds {module}.{variable} twice")
        if variable not in _COUNTERS:
            modules.setdefault(module, {})[variable] = values
    first = TORCHVISION["conv1"]
    prefix = next((x.removesuffix(first) for x in modules if x.endswith(first)), "")
    layer_of = {prefix + module: layer for layer, module in TORCHVISION.items()}
    layers, left = take_layers({layer_of.get(x, x): modules[x] for x in modules})
    pairs = {name: (x["kernel"], x["bias"]) for name, x in layers.items()}
    return PublishedWeights(kind, from_outputs_first(pairs), FOREIGN, False, left)

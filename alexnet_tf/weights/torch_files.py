"""PyTorch's files and safetensors: tensors by the names of torchvision's AlexNet."""

import argparse
import json
import pickle
import re
import zipfile
from collections.abc import Mapping

import numpy as np

from alexnet_tf.errors import UserError
from alexnet_tf.recipes import LAYERS, Recipe
from alexnet_tf.settings import from_json
from alexnet_tf.weights.description import FOREIGN
from alexnet_tf.weights.weight_layout import (
    HEAD,
    TORCHVISION,
    Found,
    from_outputs_first,
)

# Where people put a state_dict beside other things, the likeliest first.
_DICTS = ("state_dict", "model_state_dict", "model", "net", "network", "ema")
# What wrappers put before or between the names: DataParallel, torch.compile, Lightning.
_WRAPPER = re.compile(
    r"(?:.*\.)?(features|classifier)\.(?:module\.)?(\d+)\.(weight|bias)"
)


def read_torch(path: str) -> Found:
    """Reads what `torch.save` wrote: a state_dict, or a dict that holds one.

    Raises:
        UserError: If PyTorch is missing, or it is something else.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any("/code/" in name for name in archive.namelist()):
                raise UserError(
                    "it is TorchScript, a program: where it was made save the "
                    "state_dict() of the network instead"
                )
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
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        names = re.findall(r"GLOBAL (\S+) was not", str(error)) or ["objects"]
        raise UserError(
            f"it is damaged, or holds {names[0]} beside its tensors, which could run "
            "code: if you trust it, load it with torch.load(FILE, weights_only=False) "
            "and save its state_dict alone"
        ) from None
    what = "PyTorch's dict"
    for name in _DICTS:
        inner = state.get(name) if isinstance(state, Mapping) else None
        if isinstance(inner, Mapping):
            state, what = inner, f"{what}, its {name!r}"
            break
    if not isinstance(state, Mapping):
        raise UserError(f"it is PyTorch's {type(state).__name__}, not a state_dict")
    tensors = {
        name: tensor.float().numpy()
        for name, tensor in state.items()
        if isinstance(tensor, torch.Tensor)
    }
    return _from_torchvision(what, tensors)


def read_safetensors(path: str) -> Found:
    """Reads safetensors; those that `export.py` wrote say their recipe and more.

    Raises:
        UserError: If `safetensors` is missing, or the names are not torchvision's.
    """
    try:
        import safetensors
    except ImportError:
        raise UserError("it is safetensors: pip install safetensors") from None
    with safetensors.safe_open(path, framework="tensorflow") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118
    found = _from_torchvision("safetensors", tensors)
    if "alexnet_tf" not in metadata:
        return found
    ours = json.loads(metadata["alexnet_tf"])
    found.layers["input_normalization"] = {"mean": np.asarray(ours["mean"])}
    return found._replace(
        recipes=(from_json(Recipe, ours["recipe"]),),
        is_exact=True,
        class_names=tuple(ours["class_names"]),
    )


def _from_torchvision(what: str, tensors: Mapping[str, np.ndarray]) -> Found:
    """Takes a state_dict, in which every tensor but a head's must be known."""
    layer_of = {module: layer for layer, module in TORCHVISION.items()}
    found, unknown = {}, []
    for name, values in tensors.items():
        parts = _WRAPPER.fullmatch(name.replace("_orig_mod.", ""))
        module = ".".join(parts.groups()[:2]) if parts else ""
        key = layer_of.get(module), parts and parts[3]
        if module in layer_of and key not in found:
            found[key] = values
        else:
            unknown.append(name)
    layers = {
        layer: (found[layer, "weight"], found[layer, "bias"])
        for layer in LAYERS
        if {(layer, "weight"), (layer, "bias")} <= set(found)
    }
    names = ", ".join(unknown[:8]) + ", …" * (len(unknown) > 8)
    if unknown and (HEAD in layers or len(unknown) > 2 or not layers):
        raise UserError(f"it holds {names}, which torchvision's AlexNet has not")
    layers = from_outputs_first(layers)
    return Found(what, layers, FOREIGN, is_exact=False, left=names)

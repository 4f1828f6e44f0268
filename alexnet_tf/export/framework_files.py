"""The weights alone, as other frameworks read them.

`safetensors` and `torch` have the names and the layout of torchvision's AlexNet, for
every recipe; `npy` has the form of `bvlc_alexnet.npy`. Of these only safetensors holds,
as metadata, what else the network depends on.
"""

import dataclasses
import json
import os

import numpy as np

from alexnet_tf.errors import UserError
from alexnet_tf.export.model_card import describe_input
from alexnet_tf.recipes import LAYERS
from alexnet_tf.weights.loading import Loaded
from alexnet_tf.weights.weight_files import read_weights
from alexnet_tf.weights.weight_layout import TORCHVISION, to_outputs_first

WEIGHT_FILES = {
    "safetensors": "alexnet.safetensors",
    "torch": "alexnet.pth",
    "npy": "alexnet.npy",
}


def write_weights(network: Loaded, directory: str, format: str) -> None:
    """Writes a file, reads it again and compares every number.

    Args:
        network: Whose weights.
        directory: Where to.
        format: A key of `WEIGHT_FILES`.

    Raises:
        UserError: If the file does not hold the weights.
    """
    path = os.path.join(directory, WEIGHT_FILES[format])
    layers = {
        name: {v.name: v.numpy() for v in network.model.get_layer(name).weights}
        for name in LAYERS
    }
    if format == "npy":
        pairs = {name: [x["kernel"], x["bias"]] for name, x in layers.items()}
        np.save(path, pairs, allow_pickle=True)
    else:
        tensors = {}
        for layer, (kernel, bias) in to_outputs_first(layers).items():
            tensors[f"{TORCHVISION[layer]}.weight"] = kernel
            tensors[f"{TORCHVISION[layer]}.bias"] = bias
        write = _write_torch if format == "torch" else _write_safetensors
        write(network, tensors, path)
    found = read_weights(path).layers
    for layer, variables in layers.items():
        for name, values in variables.items():
            if not np.array_equal(found[layer][name], values):
                raise UserError(f"{path} holds another {name} of {layer}: export anew")


def _write_torch(_, tensors: dict[str, np.ndarray], path: str) -> None:
    import torch

    torch.save({name: torch.tensor(array) for name, array in tensors.items()}, path)


def _write_safetensors(network: Loaded, tensors: dict, path: str) -> None:
    from safetensors.numpy import save_file

    recipe = network.config.recipe
    mean = network.model.get_layer("input_normalization").mean
    ours = describe_input(network) | {
        "mean": mean.numpy().tolist(),
        "stddev": recipe.input_stddev,
        "channel_order": "BGR" if recipe.bgr else "RGB",
        "class_names": network.config.class_names,
        "recipe": dataclasses.asdict(recipe),
    }
    save_file(tensors, path, {"format": "pt", "alexnet_tf": json.dumps(ours)})

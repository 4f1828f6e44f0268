"""AlexNet (Krizhevsky, Sutskever, Hinton 2012) for TensorFlow and Keras.

The rooms, in the order of reading; each imports only from those above it:

- `errors.py`, `recipes.py`, `files.py`, `signals.py`, `command_line.py`: the one
  exception; every number of the paper and of the published networks; how files are
  written, how a program is stopped, what the scripts share.
- `network/`: the network as a Keras model, and its layers.
- `pipeline/`: from records on disk to batches.
- `config.py`, `devices.py`, `run.py`: a run's settings, where it computes, what is in
  its directory.
- `evaluation/`: exact errors, and pages and pictures of them.
- `monitoring/`: what a run says about itself.
- `export.py`: the SavedModel and its sisters.
- `training/`: the step, the loop around it, the command.
"""

_PUBLIC = {
    "alexnet": "network.alexnet",
    "LocalResponseNormalization": "network.layers",
    "RECIPES": "recipes",
}

__all__ = ["RECIPES", "LocalResponseNormalization", "alexnet"]


def __getattr__(name: str):
    """Imports a public name on first use, so that `--help` needs no TensorFlow."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)

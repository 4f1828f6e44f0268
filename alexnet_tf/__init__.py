"""AlexNet (Krizhevsky, Sutskever, Hinton 2012) for TensorFlow and Keras.

The rooms, in the order of reading; each imports only from those above it:

- `errors.py`, `settings.py`, `recipes.py`: the one exception; what a setting is; every
  number of the paper and of the published networks.
- `paths.py`, `files.py`, `pickles.py`, `signals.py`, `programs.py`, `command_line.py`:
  what a path is, how files are written, how others' pickles are read, how a program is
  stopped, the console commands, what the scripts share.
- `network/`: the network as a Keras model, and its layers.
- `pipeline/`: from records on disk to batches.
- `config.py`, `devices.py`, `run.py`: a run's settings, where it computes, what is in
  its directory.
- `weights/`, `applications.py`: what others published, and ours, read and written; the
  network as Keras users ask for it.
- `evaluation/`: exact errors, and pages and pictures of them.
- `monitoring/`: what a run says about itself.
- `export.py`, `features.py`, `classifier.py`: the SavedModel and its sisters;
  activations on disk; a run as a model that takes pictures.
- `training/`: the step, the loop around it, the command.
"""

import importlib
import importlib.machinery
import sys

_PUBLIC = {
    "alexnet": "applications",
    "LocalResponseNormalization": "network.layers",
    "RECIPES": "recipes",
    "draw_layer": "evaluation.mosaics",
    "explain": "evaluation.explaining",
    "load": "classifier",
}

__all__ = [
    "RECIPES",
    "LocalResponseNormalization",
    "alexnet",
    "draw_layer",
    "explain",
    "load",
]


def __getattr__(name: str):
    """Imports a public name on first use, so that `--help` needs no TensorFlow."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    """Shows the public names to what completes them, such as a notebook."""
    return sorted({*globals(), *__all__})


class _KerasFinder:
    """Finds Keras as Python does, and has our layers imported right after it."""

    @staticmethod
    def find_spec(name: str, path=None, target=None):
        if name != "keras":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec and spec.loader:
            run = spec.loader.exec_module

            def run_and_register(module):
                run(module)
                _register_layers()

            spec.loader.exec_module = run_and_register
        return spec


def _register_layers() -> None:
    importlib.import_module(f"{__name__}.network.layers")


# Keras can load a saved model of ours wherever both are imported, in either order; and
# what does without Keras (`--help`, the workers of data.prepare) stays without it.
if "keras" in sys.modules:
    _register_layers()
else:
    sys.meta_path.insert(0, _KerasFinder)

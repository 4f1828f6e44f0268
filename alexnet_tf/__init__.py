"""AlexNet (Krizhevsky, Sutskever, Hinton 2012) for TensorFlow and Keras.

The spine, in the order of reading: the paper's network, and how it is trained and
measured.

1. `recipes.py`: the numbers of the paper and of the published networks.
2. `network/alexnet.py`, `layers.py`: the network as a Keras model.
3. `pipeline/data_set.py`, `reading.py`, `augmentation.py`, `batches.py`: from records
   on disk to batches.
4. `training/optimizers.py`, `schedules.py`, `step.py`, `loop.py`: the step, and the
   loop around it.
5. `evaluation/metrics.py`, `evaluator.py`: exact errors.

The rooms around it are read for their own sake:

- `errors.py`, `settings.py`: the one exception; what a setting is.
- `paths.py`, `files.py`, `file_names.py`: what a path is, how outputs are put in place,
  the names of all files that programs write.
- `signals.py`, `starting.py`, `programs.py`, `command_line.py`: how a program is
  stopped, how TensorFlow is started, the console commands, what the scripts share.
- `pictures/`: from a person's file to RGB.
- `config.py`, `devices.py`, `run.py`: a run's settings, where it computes, what is in
  its directory.
- `weights/`: what others published, and ours.
- `monitoring/`: what a run reports about itself.
- `export/`, `exported.py`, `extracting.py`, `classifier.py`: the SavedModel and its
  sisters, and how one is asked; activations on disk; a run as a model that takes
  pictures.
- `predicting.py`, `predictions.py`: what predict.py does, and how it shows answers.
- `applications.py`, `training/library.py`: the network as Keras users ask for it;
  training as a call in a notebook.
"""

import importlib

from alexnet_tf import programs, starting

__version__ = "1.1.0"

_PUBLIC = {
    "AlexNet": "applications",
    "Dropout": "network.layers",
    "alexnet": "applications",
    "decode_predictions": "applications",
    "preprocess_input": "applications",
    "LocalResponseNormalization": "network.layers",
    "RECIPES": "recipes",
    "draw_layer": "evaluation.mosaics",
    "excite": "evaluation.explaining",
    "explain": "evaluation.explaining",
    "load": "classifier",
    "train": "training.library",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
    """Imports a public name on first use."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    """Shows the public names alone to what completes them, such as a notebook."""
    return sorted(__all__)


# Keras can load a saved model of ours where its layers are imported. Our own programs
# do it later: `--help` and the workers of data.prepare need no TensorFlow.
if not programs.is_running():
    with starting.importing_quietly():
        importlib.import_module(f"{__name__}.network.layers")

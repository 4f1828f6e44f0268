"""AlexNet (Krizhevsky, Sutskever, Hinton 2012) for TensorFlow and Keras."""

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

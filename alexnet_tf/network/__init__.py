"""The network: AlexNet as a Keras model, and the layers that Keras lacks.

Read `alexnet.py` first, which reads like the paper's table; then `layers.py`.
"""

import os


def _check_backend() -> None:
    """Refuses another backend before Keras, or a library that it wants, is imported."""
    # Given here, it counts for more than what ~/.keras/keras.json says.
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if backend == "tensorflow":
        import keras

        backend = keras.config.backend()  # of an earlier import
    if backend != "tensorflow":
        raise ImportError(
            f"alexnet_tf runs on TensorFlow, and Keras is set to {backend}: set the "
            "environment variable KERAS_BACKEND=tensorflow before keras is imported"
        )


_check_backend()

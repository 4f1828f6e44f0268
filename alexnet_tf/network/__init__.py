"""The network: AlexNet as a Keras model, the layers that Keras lacks, and weights.

Read `alexnet.py` first, which reads like the paper's table; then `layers.py`. What
others trained comes in through `published.py`; `weight_files.py` tells the kinds of
files apart, `numpy_files.py` and `protobuf_files.py` read two of them, and
`weight_layout.py` says how kernels lie in them and here.
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

"""The names of all files that programs write in directories of their own.

`alexnet_tf.files.check_ours` says what `#` and `*` stand for. The first name of each
list is the file by which a reader knows what the directory is. A program removes files
of these names and no others.
"""

from alexnet_tf.settings import CONFIG_FILE

# By format; the card was called model_card.json in earlier versions.
_BESIDE_NETWORK = ("labels.txt", "README.md", "model_card.json")
EXPORT_FILES = {
    "saved_model": (
        "saved_model.pb",
        "fingerprint.pb",
        "variables/variables.index",
        "variables/variables.data-#-of-#",
        "assets/labels.txt",
        "assets.extra/fitting.json",
        "assets.extra/tf_serving_warmup_requests",
        "README.md",
        "model_card.json",
    ),
    "litert": ("alexnet.tflite", *_BESIDE_NETWORK),
    "onnx": ("alexnet.onnx", *_BESIDE_NETWORK),
    "safetensors": ("alexnet.safetensors", *_BESIDE_NETWORK),
    "torch": ("alexnet.pth", *_BESIDE_NETWORK),
    "npy": ("alexnet.npy", *_BESIDE_NETWORK),
}

# Of the split "validation", and of others.
_RESULT_FILES = tuple(
    name
    for part in ("", "_train", "_test")
    for name in (f"eval{part}.json", f"per_class{part}.csv", f"predictions{part}.csv")
)
REPORT_FILES = (
    "index.html",
    *_RESULT_FILES,
    *("learning_curves.png", "confusion_matrix.png", "reliability.png", "kernels.png"),
)
FEATURES_FILES = ("features.json", "*.npy")

UNFINISHED_CHECKPOINT_FILES = ("checkpoint_temp", "ckpt-#.*_temp")
_CHECKPOINT_FILES = (
    "checkpoint",
    "ckpt-#.index",
    "ckpt-#.data-#-of-#",
    *UNFINISHED_CHECKPOINT_FILES,
)
RUN_FILES = (
    CONFIG_FILE,
    "metrics.jsonl",
    *_RESULT_FILES,
    "learning_curves.png",
    "batch.png",
    "events.out.tfevents.0",
    "train/events.out.tfevents.#.#.#",
    "validation/events.out.tfevents.0",
    "validation/events.out.tfevents.#.#.#",
    *(f"checkpoints/{name}" for name in _CHECKPOINT_FILES),
    *(f"checkpoints/best/{name}" for name in _CHECKPOINT_FILES),
    *(f"report/{name}" for name in REPORT_FILES),
    *(f"{format}/{name}" for format in EXPORT_FILES for name in EXPORT_FILES[format]),
)

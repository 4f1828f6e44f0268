"""The demo data: photographs of solar cells from the `elpv-dataset` package.

2,624 grey electroluminescence photographs of 300×300 pixels, mono- and
polycrystalline, functional or defective; CC BY-NC-SA 4.0.
"""

import importlib.util
import pathlib

import numpy as np

from alexnet_tf.errors import UserError
from data.source import Item, Source

CLASS_NAMES = (
    "functional monocrystalline cell",
    "defective monocrystalline cell",
    "functional polycrystalline cell",
    "defective polycrystalline cell",
)
HELD_OUT = 0.2
TAKES = ()
_SPLIT_SEED = 0


def open_source(*_) -> Source:
    """Returns the demo source; the split is fixed: random, stratified by class."""
    package = importlib.util.find_spec("elpv_dataset")
    if package is None:
        raise UserError(
            "the demo pictures are not installed; run: pip install elpv-dataset"
        )
    root = pathlib.Path(package.submodule_search_locations[0]) / "data"
    with open(root / "labels.csv") as lines:
        rows = [line.split() for line in lines]
    labels = np.array([_label(float(row[1]), row[2]) for row in rows])
    splits = np.full(len(rows), "train", dtype=object)
    generator = np.random.default_rng(_SPLIT_SEED)
    for label in range(len(CLASS_NAMES)):
        members = generator.permutation(np.flatnonzero(labels == label))
        splits[members[: round(HELD_OUT * len(members))]] = "validation"
    items = [
        Item(pathlib.Path(row[0]).name, int(label), str(root / row[0]), split)
        for row, label, split in zip(rows, labels, splits, strict=True)
    ]
    return Source("elpv", CLASS_NAMES, [items], iter, set(splits), len(items))


def _label(defect_probability: float, cell_type: str) -> int:
    return 2 * (cell_type == "poly") + (defect_probability >= 0.5)

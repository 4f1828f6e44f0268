"""Pictures of the data as training sees them, drawn once a run."""

import collections
import dataclasses

import numpy as np

from alexnet_tf.config import Config
from alexnet_tf.evaluation import figures, mosaics
from alexnet_tf.pipeline.batches import read_pictures, training_batches
from alexnet_tf.pipeline.data_set import DataSet, PixelStatistics, Split
from alexnet_tf.pipeline.reading import shuffled_records

_PICTURES, _VERSIONS = 4, 8  # of which augmented versions are shown, and how many
_MOSAIC = 32  # pictures of a training batch


def augmented_versions(data_set: DataSet, config: Config) -> np.ndarray:
    """The first training pictures, each beside its augmented versions.

    Returns:
        uint8 `(height, width, 3)`: a row for each picture, itself on the left.
    """
    split = _first_records(data_set.splits["train"], _PICTURES)
    few = dataclasses.replace(data_set, splits={"train": split})
    number = split.num_examples
    # In each of as many epochs every picture comes once, as another version.
    statistics = _statistics(data_set, config)
    images, _ = next(iter(_augmented(few, config, number * _VERSIONS, statistics)))
    order = shuffled_records(few, "train", config.seed, 0, ids_only=True)
    versions = collections.defaultdict(list)
    for (_, (record_id, _)), image in zip(order, images.numpy(), strict=False):
        versions[int(record_id)].append(image)
    originals = read_pictures(few, "train", np.arange(number), images.shape[1])
    ordered = np.stack([versions[i] for i in range(number)])
    return mosaics.lay_beside(originals, ordered)


def training_batch(data_set: DataSet, config: Config) -> bytes:
    """A PNG of augmented training pictures with their classes."""
    statistics = _statistics(data_set, config)
    images, labels = next(iter(_augmented(data_set, config, _MOSAIC, statistics)))
    images, labels = images.numpy()[:, ::2, ::2], labels.numpy()
    good = labels >= 0
    names = [mosaics.wrap(data_set.class_names[i], 16) for i in labels[good]]
    return mosaics.encode_png(mosaics.lay_out_captioned(images[good], names, columns=8))


def class_counts(data_set: DataSet) -> bytes:
    """A PNG of how many pictures each class has for training and validation."""
    counts = {
        name: np.array(data_set.splits[name].class_counts)
        for name in ("train", "validation")
    }
    title = "pictures a class"
    figure = figures.draw_class_counts(counts, data_set.class_names, title)
    return mosaics.encode_png(figure)


def _statistics(data_set: DataSet, config: Config) -> PixelStatistics | None:
    """What PCA colours need, of the whole training split."""
    if config.recipe.color != "pca":
        return None
    return data_set.statistics()


def _augmented(data_set: DataSet, config: Config, number: int, statistics):
    recipe = dataclasses.replace(config.recipe, global_batch_size=number)
    return training_batches(data_set, recipe, seed=config.seed, statistics=statistics)


def _first_records(split: Split, number: int) -> Split:
    """The first records of a split as a split of their own."""
    ends = np.minimum([*split.first_ids, split.num_examples], number)
    lengths = tuple(np.diff(ends).tolist())
    return dataclasses.replace(split, shard_lengths=lengths)

"""Pictures of the data as training sees them, drawn once a run."""

import collections
import dataclasses

import numpy as np

from alexnet_tf.config import Config
from alexnet_tf.evaluation import figures, mosaics
from alexnet_tf.pipeline.batches import read_pictures, training_batches
from alexnet_tf.pipeline.data_set import DataSet, Split, parse_record
from alexnet_tf.pipeline.reading import read_all, shuffled_records
from alexnet_tf.pipeline.statistics import PixelStatistics, pixel_statistics

_PICTURES, _VERSIONS = 4, 8  # of which augmented versions are shown, and how many
_MOSAIC = 32  # pictures of a training batch
_COUNTED = 5_000  # records of a split, at most, whose classes are counted


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
    order = shuffled_records(split, config.seed, 0, ids_only=True)
    versions = collections.defaultdict(list)
    for (_, (record_id, _)), image in zip(order, images.numpy(), strict=False):
        versions[int(record_id)].append(image)
    originals = read_pictures(few, "train", np.arange(number), images.shape[1])
    ids = [int(record_id) for record_id, _ in read_all(split, ids_only=True)]
    return mosaics.lay_beside(originals, np.stack([versions[i] for i in ids]))


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
    counts, is_part = {}, False
    for name in ("train", "validation"):
        split = data_set.splits[name]
        part = _first_records(split, _COUNTED)
        is_part |= part.num_examples < split.num_examples
        labels = read_all(part).map(lambda _, record: parse_record(record, data_set)[1])
        labels = np.array(list(labels.ignore_errors().as_numpy_iterator()), int)
        known = labels[(labels >= 0) & (labels < data_set.num_classes)]
        counts[name] = np.bincount(known, minlength=data_set.num_classes)
    title = "pictures a class"
    if is_part:
        title += f", of the first {_COUNTED:,} of a split"
    figure = figures.draw_class_counts(counts, data_set.class_names, title)
    return mosaics.encode_png(figure)


def _statistics(data_set: DataSet, config: Config) -> PixelStatistics | None:
    """What PCA colours need, of the whole training split."""
    if config.recipe.color != "pca":
        return None
    return pixel_statistics(data_set, config.recipe.image_size)


def _augmented(data_set: DataSet, config: Config, number: int, statistics):
    recipe = dataclasses.replace(config.recipe, global_batch_size=number)
    return training_batches(data_set, recipe, seed=config.seed, statistics=statistics)


def _first_records(split: Split, number: int) -> Split:
    """The first records of a split as a split of their own."""
    ends = np.minimum([*split.first_ids, split.num_examples], number)
    lengths = tuple(np.diff(ends).tolist())
    return dataclasses.replace(split, shard_lengths=lengths)

"""The thousand classes of ImageNet (ILSVRC 2012): their ids, their names, their order.

The label of a class is its index here: the classes are in the order of their synset
ids. The lists come from TensorFlow Datasets, which is imported where one is asked for.
"""

import functools

from alexnet_tf.class_names import take_first_words

NUM_CLASSES = 1000


@functools.cache
def synsets() -> tuple[str, ...]:
    """Returns the WordNet id of each class, such as "n01440764"."""
    return tuple(_read_list("labels.txt"))


@functools.cache
def synonyms() -> tuple[str, ...]:
    """Returns all words for each class, such as "tench, Tinca tinca"."""
    from tensorflow_datasets.datasets.siscore import labels

    return tuple(labels.IMAGENET_LABELS_LIST)


@functools.cache
def class_names() -> tuple[str, ...]:
    """Returns a readable name for each class, all different: its first word.

    Two classes are cranes, and two are maillots: the second of them has all its words.
    """
    return take_first_words(synonyms())


@functools.cache
def validation_labels() -> tuple[int, ...]:
    """Returns the labels of the validation pictures 1 to 50,000."""
    label_of = {synset: label for label, synset in enumerate(synsets())}
    return tuple(label_of[synset] for synset in _read_list("validation_labels.txt"))


def _read_list(name: str) -> list[str]:
    import tensorflow_datasets as tfds

    directory = tfds.core.tfds_path("datasets/imagenet2012")
    return directory.joinpath(name).read_text().split()

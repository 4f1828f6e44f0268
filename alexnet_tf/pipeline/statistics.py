"""What training needs to know of the pixels: their mean and how their colours vary."""

import dataclasses

import numpy as np
from absl import logging

from alexnet_tf.errors import UserError
from alexnet_tf.pipeline.data_set import DataSet, Split
from alexnet_tf.pipeline.decoding import frame_size
from alexnet_tf.pipeline.examples import decode_in_order
from alexnet_tf.pipeline.measurements import describe_files, measured_once

MAX_IMAGES = 20_000


@dataclasses.dataclass(frozen=True)
class PixelStatistics:
    """Statistics of the training pictures as training's frame shows them.

    Attributes:
        mean_image: float32 `(frame, frame, 3)`, RGB in 0..255.
        mean_color: float64 `(3,)`, RGB in 0..255, of all pixels.
        color_eigenvalues: float64 `(3,)`, of the covariance of all pixels' RGB,
            descending, in squared units of 0..255.
        color_eigenvectors: float64 `(3, 3)`; column i belongs to eigenvalue i.
        num_images: Pictures that were measured.
    """

    mean_image: np.ndarray
    mean_color: np.ndarray
    color_eigenvalues: np.ndarray
    color_eigenvectors: np.ndarray
    num_images: int


def pixel_statistics(data_set: DataSet, image_size: int = 224) -> PixelStatistics:
    """Measures the training pictures in one pass over the records, once.

    All of up to 20,000 pictures are measured; of more, 20,000 from all shards, as large
    a part of each. The mean of a pixel then has a standard error of its standard
    deviation over √20,000: about 0.5, and no more than 0.9, of 255. The results are
    kept in a file beside the data, or else in the user's cache.

    Args:
        data_set: The data.
        image_size: Height and width of the network's images, pixels; with the data, it
            determines the frame. What the network subtracts is the central window of
            this size.

    Raises:
        UserError: There is no training split, or no picture in it can be decoded.
    """
    if "train" not in data_set.splits:
        raise UserError(
            f"{data_set.data_dir} has no split train, but {', '.join(data_set.splits)}"
        )
    split = data_set.splits["train"]
    frame = frame_size(data_set, image_size)
    measured_on = {
        "files": describe_files(data_set.data_dir, split.filenames),
        "shard_lengths": split.shard_lengths,
        "frame": frame,
        "fit": data_set.fit,
        "max_images": MAX_IMAGES,
    }
    facts = measured_once(
        data_set.data_dir,
        "statistics",
        measured_on,
        lambda: _measure(data_set, _sample(split), frame),
    )
    num_images = int(facts.pop("num_images"))
    return PixelStatistics(**facts, num_images=num_images)


def _sample(split: Split) -> Split:
    """The first records of every shard, as large a part of each, `MAX_IMAGES` at most.

    The first ones are as good as any, since a shard's records are in random order.
    """
    total = split.num_examples
    number = min(total, MAX_IMAGES)
    ends = [first * number // max(1, total) for first in (*split.first_ids, total)]
    lengths = tuple(np.diff(ends).tolist())
    return dataclasses.replace(split, shard_lengths=lengths)


def _measure(data_set: DataSet, sample: Split, frame: int) -> dict[str, np.ndarray]:
    total = data_set.splits["train"].num_examples
    logging.info(
        "Measuring the pixels of %d of %d pictures, once.", sample.num_examples, total
    )
    sums = np.zeros((frame, frame, 3))
    products = np.zeros((3, 3))
    num_images = 0
    sampled = dataclasses.replace(data_set, splits={"train": sample})
    chunks = decode_in_order(sampled, "train", frame, frame)
    for images, labels in chunks.prefetch(2).as_numpy_iterator():
        images = images[labels >= 0]
        num_images += len(images)
        sums += images.sum(axis=0, dtype=np.uint32)
        for image in images:
            products += _color_products(image)
    if not num_images:
        raise UserError(f"no training picture in {data_set.data_dir} can be decoded")
    mean_image = sums / num_images
    products /= num_images * frame**2
    variance = products.trace() / 3 - np.square(mean_image).mean()
    logging.info(
        "The mean image is that of %d of %d pictures; a pixel's standard error is "
        "%.2f of 255.",
        num_images,
        total,
        0.0 if num_images == total else np.sqrt(variance / num_images),
    )
    return {
        "mean_image": mean_image.astype(np.float32),
        "num_images": np.array(num_images),
        **_principal_colors(mean_image.mean(axis=(0, 1)), products),
    }


def _color_products(image: np.ndarray) -> np.ndarray:
    """The sum over the pixels of the outer product of RGB with itself, exactly."""
    # Of whole numbers: the product of two vectors by BLAS wakes all cores for little.
    planes = [image[..., channel].astype(np.int64) for channel in range(3)]
    return np.array([[(one * other).sum() for other in planes] for one in planes])


def _principal_colors(mean: np.ndarray, products: np.ndarray) -> dict[str, np.ndarray]:
    eigenvalues, vectors = np.linalg.eigh(products - np.outer(mean, mean))
    eigenvalues, vectors = eigenvalues[::-1].clip(0), vectors[:, ::-1]
    # The sign of an eigenvector is arbitrary: make its largest component positive.
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), range(3)])
    return {
        "mean_color": mean,
        "color_eigenvalues": eigenvalues,
        "color_eigenvectors": vectors,
    }

"""A split decoded once and kept in memory, where an image can be had in any order."""

import contextlib
import dataclasses
import os

import tensorflow as tf
from absl import logging

from alexnet_tf.errors import UserError

_CGROUPS, _OWN_CGROUPS = "/sys/fs/cgroup", "/proc/self/cgroup"


@dataclasses.dataclass(frozen=True)
class MemoryCache:
    """Decoded images in memory.

    Attributes:
        images: uint8 `(n, image_size, image_size, 3)`, by the ids of their records.
        labels: int32 `(n,)`, -1 for a bad record.
    """

    images: tf.Tensor
    labels: tf.Tensor

    @classmethod
    def load(
        cls, chunks: tf.data.Dataset, number: int, image_size: int, split: str
    ) -> "MemoryCache":
        """Decodes a split.

        Args:
            chunks: Its images and labels, batched, by their ids.
            number: How many there are.
            image_size: Height and width of the images, pixels.
            split: Name of the split, for the error.
        """
        check_memory(number, image_size, split)
        labels, start = [], 0
        with tf.init_scope(), tf.device("CPU"):
            # Filled in its place: to concatenate the parts would take twice as much.
            images = tf.Variable(tf.zeros([number, image_size, image_size, 3], "uint8"))
            for part, part_labels in chunks:
                images[start : start + len(part)].assign(part)
                labels.append(part_labels)
                start += len(part)
            return cls(images.read_value(), tf.concat(labels, axis=0))

    def crop(
        self, record_id: tf.Tensor, corner: tf.Tensor, size: int
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the crop, uint8 `(size, size, 3)`, and the label, an int64 scalar."""
        begin = tf.concat([[tf.cast(record_id, tf.int32)], corner, [0]], axis=0)
        crop = tf.slice(self.images, begin, [1, size, size, 3])
        return crop[0], tf.cast(tf.gather(self.labels, record_id), tf.int64)


def check_memory(num_images: int, size: int, split: str) -> None:
    """Says how much memory images will take; refuses what cannot fit."""
    needed, limit = num_images * size * size * 3 / 2**30, memory_limit() / 2**30
    what = f"{needed:.2f} GiB for the {num_images:,} decoded images of {split}"
    if needed > limit:
        raise UserError(f"the cache needs {what}, of {limit:.2f}; go without it")
    logging.info("caching in memory %s", what)


def memory_limit() -> int:
    """Bytes that this process may have: the machine's, or those of its container."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError), open(_OWN_CGROUPS) as file:
        for line in file:
            number, controllers, group = line.rstrip("\n").split(":", 2)
            if number == "0":  # version 2
                root, name = _CGROUPS, "memory.max"
            elif "memory" in controllers.split(","):
                root, name = f"{_CGROUPS}/memory", "memory.limit_in_bytes"
            else:
                continue
            # Those above it limit it, too; in a container only the root may be there.
            parts = group.strip("/").split("/")
            for end in range(len(parts) + 1):
                path = "/".join([root, *parts[:end], name])
                with contextlib.suppress(OSError, ValueError), open(path) as limit:
                    limits.append(int(limit.read()))  # or "max"
    return min(limits)

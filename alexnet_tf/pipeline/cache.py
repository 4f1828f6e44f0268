"""A split decoded once and kept in memory, where an image can be had in any order."""

import contextlib
import os
import pathlib

import tensorflow as tf
from absl import logging

from alexnet_tf.errors import UserError

_CGROUPS = pathlib.Path("/sys/fs/cgroup")
_OWN_CGROUPS = pathlib.Path("/proc/self/cgroup")


def load_images(
    batches: tf.data.Dataset, number: int, image_size: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes a split into memory.

    Args:
        batches: Its images and labels, batched, by the ids of their records; those that
            fill the last batch up are left out.
        number: How many images there are.
        image_size: Height and width of the images, pixels.

    Returns:
        uint8 images `(number, image_size, image_size, 3)`, and int32 labels
        `(number,)`, -1 for a bad record.

    Raises:
        UserError: They take more memory than there is.
    """
    needed, limit = number * image_size**2 * 3 / 2**30, memory_limit() / 2**30
    what = f"{needed:.2f} GiB for {number:,} decoded images"
    if needed > limit:
        raise UserError(f"--cache needs {what}, and has {limit:.2f}: train without it")
    logging.info("caching in memory %s", what)
    all_labels, start = [], 0
    with tf.init_scope(), tf.device("CPU"):
        # Filled in its place: to concatenate the parts would take twice as much.
        images = tf.Variable(tf.zeros([number, image_size, image_size, 3], "uint8"))
        for part, labels in batches:
            images[start : start + len(part)].assign(part[: number - start])
            all_labels.append(labels[: number - start])
            start += len(part)
        return images.read_value(), tf.concat(all_labels, axis=0)


def memory_limit() -> int:
    """Bytes that this process may have: the machine's, or those of its container."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError):  # there are control groups on Linux alone
        for line in _OWN_CGROUPS.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if not controllers:  # version 2
                root, name = _CGROUPS, "memory.max"
            elif "memory" in controllers.split(","):
                root, name = _CGROUPS / "memory", "memory.limit_in_bytes"
            else:
                continue
            # Groups above it limit it, too; in a container only the root may be there.
            own = root / group.strip("/")
            for path in (own, *own.parents):
                with contextlib.suppress(OSError, ValueError):  # it may be "max"
                    limits.append(int((path / name).read_text()))
    return min(limits)

"""What happened to every picture: counts, statistics, rejections, duplicates."""

import collections
import sqlite3
from collections.abc import Sequence

import numpy as np

from alexnet_tf.records import principal_components
from data.transcode import Record


class Report:
    """Takes one `Record` after another; its memory does not grow with their number.

    Attributes:
        counts: Stored pictures by (split, label).
        conversions: Number of pictures by kind of conversion.
        rejected: `(name, reason)` of the pictures left out.
        num_bytes: Of the stored pictures.
    """

    def __init__(self, class_names: Sequence[str], image_size: int):
        self._class_names = class_names
        self._num_pixels = image_size**2
        self.counts = collections.Counter()
        self.conversions = collections.Counter()
        self.rejected = []
        self.num_bytes = 0
        self._pixel_sum = np.zeros(3)
        self._pixel_products = np.zeros((3, 3))
        self._num_pictures = 0
        self._digests = sqlite3.connect("")  # a temporary file, gone with the process
        self._digests.execute("CREATE TABLE pictures (digest, split, name)")

    def add(self, record: Record) -> None:
        """Counts one picture."""
        if record.rejected:
            self.rejected.append((record.name, record.rejected))
            return
        self.counts[record.split, record.label] += 1
        self.conversions.update(record.conversions)
        self.num_bytes += record.num_bytes
        self._digests.execute(
            "INSERT INTO pictures VALUES (?, ?, ?)",
            (record.digest, record.split, record.name),
        )
        if record.split == "train":
            self._num_pictures += 1
            self._pixel_sum += record.pixel_sum
            self._pixel_products += record.pixel_products

    def statistics(self) -> dict:
        """Returns the RGB mean, 0..255, and the principal components of the covariance.

        Over all stored pixels of the training split, before JPEG compression.
        """
        num_pixels = self._num_pictures * self._num_pixels
        mean = self._pixel_sum / num_pixels
        covariance = self._pixel_products / num_pixels - np.outer(mean, mean)
        eigenvalues, eigenvectors = principal_components(covariance)
        return {
            "image_mean": mean.round(6).tolist(),
            "color_eigenvalues": eigenvalues.round(6).tolist(),
            "color_eigenvectors": eigenvectors.round(9).tolist(),
        }

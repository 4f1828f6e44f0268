"""What several workers tell each other: whether to stop, what they are at, how fast.

A worker computes as the others do only while it has the same settings, data, weights
and step. Nothing in TensorFlow checks that: it would average the gradients of different
networks, and say nothing. All calls are made by all workers at the same point, and do
nothing where there is one.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from alexnet_tf.errors import UserError

_ROLES = ("chief", "worker")  # in the order in which TensorFlow counts them
_LAGS = 1.5  # times what the others need


class Workers:
    """The workers that train together.

    Args:
        strategy: The devices; of several workers a `MultiWorkerMirroredStrategy`.

    Attributes:
        names: What the cluster calls them: "chief 0", "worker 0", …
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        self._strategy, self.names = strategy, ["worker 0"]
        if strategy.extended._in_multi_worker_mode():
            cluster = json.loads(os.environ["TF_CONFIG"])["cluster"]
            sizes = {role: len(cluster.get(role, ())) for role in _ROLES}
            self.names = [f"{role} {i}" for role in sizes for i in range(sizes[role])]

    @property
    def are_several(self) -> bool:
        """Whether there is more than one."""
        return len(self.names) > 1

    def gather(self, values: np.ndarray) -> np.ndarray:
        """Takes float64 `(n,)` from every worker; gives all `(workers, n)` to each."""
        if not self.are_several:
            return np.asarray(values)[np.newaxis]
        rows = self._gather(tf.constant(values, tf.float64)).numpy()
        return rows[:: len(rows) // len(self.names)]  # a worker's replicas say the same

    @tf.function
    def _gather(self, values: tf.Tensor) -> tf.Tensor:
        rows = self._strategy.run(lambda: values[tf.newaxis])
        return self._strategy.gather(rows, axis=0)

    def any(self, is_true: bool) -> bool:
        """Whether it is true on any worker."""
        return bool(self.gather(np.array([float(is_true)])).any())

    def check_equal(self, values: Mapping[str, object], advice: str) -> None:
        """Checks that all workers have the same values.

        Args:
            values: By the name of what they are.
            advice: What to do where they differ.

        Raises:
            UserError: On all workers; names what differs.
        """
        rows = self.gather(np.array([_number(value) for value in values.values()]))
        differs = (rows != rows[0]).any(axis=0)
        names = [name for name, is_odd in zip(values, differs, strict=True) if is_odd]
        if names:
            raise UserError(
                f"the {len(self.names)} workers do not have the same "
                f"{', '.join(names)} (this one: {values[names[0]]}): {advice}"
            )


def _number(value: object) -> float:
    """A hash of a value, as a whole number that a float64 holds exactly."""
    digest = hashlib.sha256(repr(value).encode()).digest()
    return float(int.from_bytes(digest[:6]))


def find_slow_worker(names: Sequence[str], seconds: np.ndarray) -> str | None:
    """Names a worker for which the others wait.

    Args:
        names: The names of the workers.
        seconds: float64 `(workers,)`, what each needed for the same steps, without
            waiting for the others.

    Returns:
        A line; None where no worker needs half as much again as the others do.
    """
    slowest = int(np.argmax(seconds))
    others = float(np.median(np.delete(seconds, slowest))) if len(names) > 1 else np.inf
    if seconds[slowest] <= _LAGS * others:
        return None
    return (
        f"{names[slowest]} is slow, and the others wait for it: it needs "
        f"{seconds[slowest] / others:.1f} times as long for its steps as they do"
    )

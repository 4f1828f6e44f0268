"""What workers tell each other, as far as one process can show it."""

import json

import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf.errors import UserError
from alexnet_tf.training.cluster import Workers, _number, find_slow_worker

NAMES = ["chief 0", "worker 0", "worker 1"]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([1.0, 1.4, 1.0], ""),
        ([1.0, 1.0, 1.6], "worker 1 is slow, and the others wait for it: it needs 1.6"),
        ([2.0, 1.0, 1.0], "chief 0 is slow, and the others wait for it: it needs 2.0"),
        ([1.0, 3.0], "worker 0 is slow, and the others wait for it: it needs 3.0"),
        ([5.0], ""),
    ],
)
def test_a_worker_for_which_the_others_wait_is_named(seconds, expected):
    line = find_slow_worker(NAMES[: len(seconds)], np.array(seconds)) or ""
    assert line.startswith(expected)
    assert bool(line) == bool(expected)


class _Several(Workers):
    """Workers of which the others have other values."""

    def __init__(self, *others):
        self.names, self._others = NAMES[: 1 + len(others)], others

    def gather(self, values):
        return np.stack([values, *self._others])


def test_workers_that_differ_are_told_in_what():
    values = {"step": 4, "seed": "a", "data": (1, 2)}
    with pytest.raises(UserError) as caught:
        _Several([_number(4), 0.0, 0.0]).check_equal(values, "give all the same")
    assert str(caught.value) == (
        "the 2 workers do not have the same seed, data (this one: a): give all the same"
    )
    _Several([_number(4)]).check_equal({"step": 4}, "")
    assert _Several([0.0], [1.0]).any(False)
    assert not _Several([0.0], [0.0]).any(False)


def test_one_process_is_one_worker_and_a_cluster_has_names(monkeypatch):
    strategy = tf.distribute.get_strategy()
    one = Workers(strategy)
    assert not one.are_several
    assert one.gather(np.array([1.0, 2.0])).tolist() == [[1.0, 2.0]]
    one.check_equal({"step": 3}, "")
    cluster = {"worker": ["b:1", "c:1"], "chief": ["a:1"]}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster}))
    extended = type(strategy.extended)
    monkeypatch.setattr(extended, "_in_multi_worker_mode", lambda _: True)
    assert Workers(strategy).names == NAMES

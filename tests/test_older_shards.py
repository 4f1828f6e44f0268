"""What the labels of others' shards mean."""

import pytest

from alexnet_tf import imagenet
from alexnet_tf.errors import UserError
from data.sources import older_shards

SYNSETS = imagenet.synsets()
IMAGENET = imagenet.class_names()
FLOWERS = ("daisy", "dandelion", "rose", "sunflower", "tulip")


@pytest.mark.parametrize(
    ("classes", "given", "expected"),
    [
        # ImageNet's names, where synsets or texts agree with them.
        ([(i, "", SYNSETS[i]) for i in (3, 999)], {}, (IMAGENET, 0)),
        ([(i + 1, "", SYNSETS[i]) for i in range(9, 19)], {}, (IMAGENET, 1)),
        ([(2, "goldfish", "")], {}, (IMAGENET, 1)),
        ([(1, "goldfish, Carassius auratus", "")], {}, (IMAGENET, 0)),
        ([(0, "", ""), (1, "goldfish", "")], {}, (IMAGENET, 0)),
        # The records' own names.
        ([(i + 1, name, "") for i, name in enumerate(FLOWERS)], {}, (FLOWERS, 1)),
        ([(i, "", name) for i, name in enumerate(FLOWERS)], {}, (FLOWERS, 0)),
        (
            [(i + 7, name, "") for i, name in enumerate(FLOWERS)],
            {"label_offset": 7},
            (FLOWERS, 7),
        ),
        # A subset of ImageNet with labels of its own.
        ([(0, "", SYNSETS[7]), (1, "", SYNSETS[3])], {}, ((SYNSETS[7], SYNSETS[3]), 0)),
        # No names, but a thousand classes.
        ([(i, "", "") for i in (0, 5, 999)], {}, (IMAGENET, 0)),
        ([(i, "", "") for i in (1, 5, 1000)], {}, (IMAGENET, 1)),
        # Given names.
        ([(0, "x", ""), (4, "x", "")], {"class_names": FLOWERS}, (FLOWERS, 0)),
        ([(1, "", ""), (5, "", "")], {"class_names": FLOWERS}, (FLOWERS, 1)),
        (
            [(1, "", ""), (4, "", "")],
            {"class_names": FLOWERS, "label_offset": 1},
            (FLOWERS, 1),
        ),
    ],
)
def test_what_labels_mean(classes, given, expected):
    found = older_shards.find_classes(dict.fromkeys(classes, 5), **given)
    assert (found.names, found.offset) == expected
    assert found.are_imagenets == (expected[0] == IMAGENET)


@pytest.mark.parametrize(
    ("classes", "given", "message"),
    [
        ([(i, "", "") for i in range(1, 6)], {}, r"labels 1\.\.5.*--class_names"),
        ([(0, "", ""), (1000, "", "")], {}, r"labels 0\.\.1000"),
        ([(1, "daisy", ""), (3, "rose", "")], {}, r"labels 1\.\.3"),
        ([(1, "daisy", ""), (2, "daisy", "")], {}, r"labels 1\.\.2"),
        ([(1, "daisy", ""), (1, "rose", "")], {}, r"labels 1\.\.1"),
        ([(2, "daisy", ""), (3, "rose", "")], {}, r"--label_offset=N"),
        ([(10**12, "daisy", "")], {}, r"labels 1000000000000"),
        ([(1, "", ""), (4, "", "")], {"class_names": FLOWERS}, "may count from 0 or"),
        ([(0, "", ""), (5, "", "")], {"class_names": FLOWERS}, "5 class names do not"),
    ],
)
def test_labels_that_nobody_explains(classes, given, message):
    with pytest.raises(UserError, match=message):
        older_shards.find_classes(dict.fromkeys(classes, 5), **given)


def test_one_wrong_record_does_not_change_what_labels_mean():
    classes = {(i + 1, "", SYNSETS[i]): 10 for i in range(100)} | {(7, "", "n1"): 1}
    assert older_shards.find_classes(classes).offset == 1

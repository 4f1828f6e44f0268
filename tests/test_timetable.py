"""What is due after which step, as arithmetic."""

import dataclasses

import pytest

from alexnet_tf.config import Config
from alexnet_tf.recipes import RECIPES
from alexnet_tf.training.timetable import Timetable


def make(num_examples=150, batch=32, step=0, images=None, epochs=3.0, **settings):
    recipe = dataclasses.replace(
        RECIPES["paper"], global_batch_size=batch, num_epochs=epochs
    )
    config = Config(recipe, "", ("a", "b"), num_examples, **settings)
    return Timetable(config, step, step * batch if images is None else images)


def steps_where(is_due, last=20, *arguments):
    return [step for step in range(last + 1) if is_due(step, *arguments)]


def test_epochs_and_steps():
    timetable = make(epochs=2.5)  # 150 images, 32 a step
    assert timetable.last_step == 12
    assert timetable.epoch(12) == 12 * 32 / 150
    assert timetable.first_step_of(1) == 5
    assert timetable.last_epoch == 2.5
    assert make(train_steps=7).last_step == 7
    assert make(train_steps=7).last_epoch == 7 * 32 / 150
    assert [timetable.describe_epoch(s) for s in (4, 5, 6, 10)] == [
        *("0.85", "1", "1.28", "2")
    ]


def test_a_checkpoint_changes_nothing_of_what_is_due():
    whole = make(1000, 7, checkpoint_every=9)
    for start in (1, 50, 142, 143, 144, 428):
        later = make(1000, 7, start, checkpoint_every=9)
        assert later.last_step == whole.last_step == 429
        for step in range(start, 429):
            assert later.next_stop(step, 10) == whole.next_stop(step, 10)
            for name in ("is_validation_due", "is_record_due"):
                assert getattr(later, name)(step) == getattr(whole, name)(step)
            assert later.is_checkpoint_due(step, 0) == whole.is_checkpoint_due(step, 0)


@pytest.mark.parametrize(("before", "after"), [(4, 16), (16, 4), (32, 30)])
def test_a_batch_that_changes_keeps_the_images_that_were_seen(before, after):
    """In mid-epoch: what was trained counts for what it was."""
    step = 70 if before == 4 else 12
    images = step * before
    timetable = make(150, after, step, images, epochs=8.0)
    assert timetable.epoch(step) == images / 150
    missing = 8 * 150 - images
    assert timetable.last_step == step + -(-missing // after)
    assert (
        timetable.epoch(timetable.last_step - 1)
        < 8
        <= timetable.epoch(timetable.last_step)
    )
    validations = steps_where(timetable.is_validation_due, timetable.last_step)
    later = [s for s in validations if s > step]
    assert len(later) == 8 - images // 150  # each epoch that is left ends once
    # More epochs than were asked for: it ends where it is.
    assert make(150, after, step, images, epochs=1.0).last_step == step


def test_when_to_validate():
    assert steps_where(make().is_validation_due) == [5, 10, 15, 19]
    assert make().last_step == 15
    assert steps_where(make(epochs=2.5).is_validation_due, 12) == [5, 10, 12]
    every = make(validate_every=4, train_steps=10)
    assert steps_where(every.is_validation_due, 10) == [4, 8, 10]
    assert [every.next_stop(step, 100) for step in (0, 5, 8)] == [4, 8, 10]


def test_checkpoints_come_before_validations_by_steps_and_by_the_clock():
    assert steps_where(make().is_checkpoint_due, 15, 9.9) == [5, 10, 15]
    by_steps = make(checkpoint_every=4).is_checkpoint_due
    assert steps_where(by_steps, 15, 0) == [0, 4, 5, 8, 10, 12, 15]
    assert steps_where(make().is_checkpoint_due, 4, 10.0) == [0, 1, 2, 3, 4]
    never = make(checkpoint_minutes=0.0)
    assert steps_where(never.is_checkpoint_due, 4, 1e9) == []


@pytest.mark.parametrize(
    ("epoch", "expected"),  # both in steps
    [(30, [30, 60, 90]), (60, [60, 120]), (120, [50, 120, 170]), (250, [50, 100])],
)
def test_no_training_record_is_of_a_few_steps(epoch, expected):
    timetable, step, records = make(32 * epoch, epochs=4.0), 0, []
    while len(records) < len(expected):
        step = timetable.next_stop(step, 50)
        if timetable.is_record_due(step):
            records.append(step)
    assert records == expected

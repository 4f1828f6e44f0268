"""What is due when: arithmetic on steps, images and settings, and nothing else.

A step is an update of the weights. Images are what training has seen of them, and so
they count the epochs: a run may go on with another batch, and then its steps are worth
another number of images. So a timetable begins at the (step, images) of a checkpoint
and counts on from there by today's batch. Whatever is asked of it is a pure function:
an interrupted run does the same at the same steps as one that was not.
"""

import dataclasses
import math

from alexnet_tf.config import Config

LOG_EVERY = 50  # steps between two training records of an epoch


@dataclasses.dataclass(frozen=True)
class Timetable:
    """What is due after which step of a run.

    Attributes:
        config: What was asked for.
        start_step: Steps done where this timetable begins.
        start_images: Training images seen by then.
    """

    config: Config
    start_step: int = 0
    start_images: int = 0

    def images(self, step: int) -> int:
        """Training images seen after `step` steps."""
        new_steps = step - self.start_step
        return self.start_images + new_steps * self.config.recipe.global_batch_size

    def epoch(self, step: int) -> float:
        """Epochs done after `step` steps; a fraction counts."""
        return self.images(step) / self.config.num_train_examples

    def describe_epoch(self, step: int) -> str:
        """As people count: "1" at the end of the first epoch; a fraction within one."""
        is_end = math.floor(self.epoch(step)) > math.floor(self.epoch(step - 1))
        return str(int(self.epoch(step))) if is_end else f"{self.epoch(step):.2f}"

    def first_step_of(self, epoch: float) -> int:
        """The first step that begins when `epoch` epochs are done."""
        missing = epoch * self.config.num_train_examples - self.start_images
        return self.start_step - int(-missing // self.config.recipe.global_batch_size)

    @property
    def last_step(self) -> int:
        """The step after which training ends, however well it goes."""
        if self.config.train_steps is not None:
            return self.config.train_steps
        return max(self.start_step, self.first_step_of(self.config.recipe.num_epochs))

    @property
    def last_epoch(self) -> float:
        """The epoch at which a learning rate that falls to 0 is 0."""
        if self.config.train_steps is not None:
            return self.epoch(self.config.train_steps)
        return self.config.recipe.num_epochs

    def epoch_around(self, step: int) -> tuple[int, int]:
        """The first step of the epoch that goes on after `step`, and its end."""
        epoch = math.floor(self.epoch(step))
        end = max(step + 1, self.first_step_of(epoch + 1))
        return self.first_step_of(epoch), min(end, self.last_step)

    def is_validation_due(self, step: int) -> bool:
        """Every `validate_every` steps, or else after each epoch; and at the end."""
        if step == 0:
            return False
        if every := self.config.validate_every:
            is_time = step % every == 0
        else:
            is_time = math.floor(self.epoch(step)) > math.floor(self.epoch(step - 1))
        return is_time or step == self.last_step

    def is_record_due(self, step: int) -> bool:
        """With a validation, and every `LOG_EVERY` steps where much is left till it."""
        start, end = self.epoch_around(step)
        is_far = end - step >= LOG_EVERY // 2
        is_time = (step - start) % LOG_EVERY == 0 and is_far
        return is_time or self.is_validation_due(step)

    def is_checkpoint_due(self, step: int, minutes: float) -> bool:
        """Before a validation, every `checkpoint_every` steps, and by the clock.

        Args:
            step: Steps done.
            minutes: Time since the last checkpoint.
        """
        every, limit = self.config.checkpoint_every, self.config.checkpoint_minutes
        by_step = bool(every) and step % every == 0
        by_clock = limit > 0 and minutes >= limit
        return by_step or by_clock or self.is_validation_due(step)

    def next_stop(self, step: int, steps_per_loop: int) -> int:
        """The next step after which the loop has to come back to Python."""
        config, (start, end) = self.config, self.epoch_around(step)
        intervals = (config.validate_every, config.checkpoint_every)
        return min(
            step + steps_per_loop,
            step + LOG_EVERY - (step - start) % LOG_EVERY,
            end,
            *((step // every + 1) * every for every in intervals if every),
        )

"""What a run says about itself: TensorBoard, metrics.jsonl, the terminal."""

import json
import os
import sys
import time

import tensorflow as tf
from absl import logging
from tqdm import tqdm

_SCALARS = (
    "cross_entropy",
    "l2",
    "top_1_error",
    "top_5_error",
    "learning_rate",
    "images_per_second",
    "input_wait",
)


class MetricsLog:
    """Writes each record to `metrics.jsonl` and to TensorBoard.

    Args:
        model_dir: Directory of the run.
        metrics_file: Path of `metrics.jsonl`.
        step: Step that training goes on from; records of later steps, which an
            interrupted run left, are removed.
    """

    def __init__(self, model_dir: str, metrics_file: str, step: int):
        self._metrics_file = metrics_file
        self._writers = {
            split: tf.summary.create_file_writer(os.path.join(model_dir, split))
            for split in ("train", "validation")
        }
        self._truncate(step)

    def _truncate(self, step: int) -> None:
        if not os.path.exists(self._metrics_file):
            return
        with open(self._metrics_file, encoding="utf-8") as file:
            # A line without its end was being written when the run was killed.
            lines = [line for line in file if line.endswith("\n")]
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        with open(self._metrics_file + ".tmp", "w", encoding="utf-8") as file:
            file.writelines(kept)
        os.replace(self._metrics_file + ".tmp", self._metrics_file)

    def write(self, split: str, step: int, epoch: float, **scalars: float) -> None:
        """Writes one record.

        Args:
            split: "train" or "validation".
            step: Steps done.
            epoch: Epochs done, a fraction counts.
            **scalars: Values by name; those of `_SCALARS` go to the file, all to
                TensorBoard.
        """
        record = {"step": step, "epoch": round(epoch, 4), "split": split}
        record |= {name: scalars[name] for name in _SCALARS if name in scalars}
        with open(self._metrics_file, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        with self._writers[split].as_default(step=step):
            for name, value in scalars.items():
                tf.summary.scalar(name, value)
        self._writers[split].flush()


class Progress:
    """One progress line on a terminal; plain lines at intervals elsewhere.

    Args:
        num_steps: Steps of the whole training.
        step: Step that it goes on from.
        seconds: Between two lines where the output is no terminal.
    """

    def __init__(self, num_steps: int, step: int, seconds: float = 30.0):
        self._num_steps, self._seconds = num_steps, seconds
        self._last_line = time.monotonic()
        self._bar = None
        if sys.stderr.isatty() and logging.level_info():
            self._bar = tqdm(
                total=num_steps,
                initial=step,
                dynamic_ncols=True,
                bar_format="{desc} step {n}/{total} |{bar:12}| {postfix} "
                "{remaining} left",
            )

    def update(self, step: int, epoch: str, **shown: str) -> None:
        """Shows where training is.

        Args:
            step: Steps done.
            epoch: "3/8".
            **shown: Values by the names to show them with.
        """
        text = "  ".join(f"{name} {value}" for name, value in shown.items())
        if self._bar is not None:
            self._bar.set_description_str(f"epoch {epoch}", refresh=False)
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step - self._bar.n)
        elif time.monotonic() - self._last_line >= self._seconds:
            self._last_line = time.monotonic()
            logging.info("epoch %s  step %d/%d  %s", epoch, step, self._num_steps, text)

    def line(self, text: str) -> None:
        """Prints a line that stays, above the progress line."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            logging.info("%s", text)

    def close(self) -> None:
        """Ends the progress line."""
        if self._bar is not None:
            self._bar.close()

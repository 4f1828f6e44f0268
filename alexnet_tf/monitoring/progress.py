"""Where training is, on the terminal."""

import sys
import time

from absl import logging
from tqdm import tqdm

_BOLD, _PLAIN = "\033[1m", "\033[0m"


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
        self._bar, self._has_header = None, False
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

    def row(self, is_best: bool = False, **columns: str) -> None:
        """Prints a row of the table of epochs, after the table's head.

        Args:
            is_best: Whether to make it stand out on a terminal.
            **columns: Values by the names of the columns, the same in every row.
        """
        widths = [max(len(name), 9) for name in columns]
        if not self._has_header:
            names = (name.replace("_", " ") for name in columns)
            self.line("  ".join(map(str.rjust, names, widths)))
            self._has_header = True
        text = "  ".join(map(str.rjust, columns.values(), widths))
        self.line(f"{_BOLD}{text}{_PLAIN}" if is_best and self._bar else text)

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

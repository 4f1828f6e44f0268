"""Where training is, on the terminal, in a notebook, or line by line in a file."""

import sys
import time
import warnings

from absl import logging
from tqdm import tqdm

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # in a notebook it misses widgets: not needed here
    from tqdm.contrib import DummyTqdmFile

_BOLD, _PLAIN = "\033[1m", "\033[0m"


class Progress:
    """A progress bar on a terminal and in a notebook; lines at intervals elsewhere.

    Whatever is logged meanwhile stands above the bar.

    Args:
        num_steps: Steps of the whole training.
        step: Step that it goes on from.
        seconds: Between two lines where there is no bar.
    """

    def __init__(self, num_steps: int, step: int, seconds: float = 30.0):
        self._seconds = seconds
        self._last_line = time.monotonic()
        self._bar, self._widths = None, []
        self._out = sys.stdout if is_notebook() else sys.stderr
        if logging.level_info() and (sys.stderr.isatty() or is_notebook()):
            self._bar = tqdm(
                total=num_steps,
                initial=step,
                desc="compiling",
                bar_format="{desc} |{bar}| {remaining} left",
                file=self._out,
                dynamic_ncols=True,
                leave=False,
            )
            # tqdm's own way to have a stream's text stand above its bar.
            self._handler = logging.get_absl_handler().python_handler
            self._stream = self._handler.stream
            self._handler.stream = DummyTqdmFile(self._out)

    def update(self, step: int, text: str) -> None:
        """Shows where training is.

        Args:
            step: Steps done.
            text: What to show, such as "epoch 3/8 step 20/100 loss 1.5".
        """
        if self._bar is not None:
            if self._bar.desc == "compiling":
                # The first steps compile, and say nothing of the time that is left.
                self._bar.initial = self._bar.n = self._bar.last_print_n = step
                self._bar.start_t = self._bar.last_print_t = time.time()
            self._bar.set_description_str(text, refresh=False)
            self._bar.update(step - self._bar.n)
        elif time.monotonic() - self._last_line >= self._seconds:
            self._last_line = time.monotonic()
            logging.info("%s", text)

    def row(self, is_best: bool = False, **columns: str) -> None:
        """Prints a row of the table of epochs, after the table's head.

        Args:
            is_best: Whether to make it stand out on a terminal.
            **columns: Values by the names of the columns, the same in every row.
        """
        if not self._widths:
            names = [
                name.replace("_", " ").replace("validation", "val") for name in columns
            ]
            pairs = zip(names, columns.values(), strict=True)
            self._widths = [max(len(name), len(value), 5) for name, value in pairs]
            self.line("  ".join(map(str.rjust, names, self._widths)))
        text = "  ".join(map(str.rjust, columns.values(), self._widths))
        is_bold = is_best and self._bar is not None and sys.stderr.isatty()
        self.line(f"{_BOLD}{text}{_PLAIN}" if is_bold else text)

    def line(self, text: str) -> None:
        """Prints a line that stays, above the bar."""
        if self._bar is not None:
            self._bar.write(text, file=self._out)
        else:
            logging.info("%s", text)

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._handler.stream = self._stream
            self._bar.close()


def is_notebook() -> bool:
    """Whether this runs in a notebook, whose output takes a bar as a terminal does."""
    return "ipykernel" in sys.modules

"""Where training is, on the terminal."""

import os
import sys
import time

from absl import logging
from tqdm import tqdm

_BOLD, _PLAIN = "\033[1m", "\033[0m"
_WIDE = 105  # columns from which on the table has whole names
_UNTOLD = 80  # columns of a terminal that does not tell
_SHORT_NAMES = {"images": "", "waiting": "wait", "rate": "lr"}


class Progress:
    """One progress line on a terminal; plain lines at intervals elsewhere.

    Whatever is logged meanwhile stands above the progress line.

    Args:
        num_steps: Steps of the whole training.
        step: Step that it goes on from.
        seconds: Between two lines where the output is no terminal.
    """

    def __init__(self, num_steps: int, step: int, seconds: float = 30.0):
        self._num_steps, self._seconds = num_steps, seconds
        self._last_line = time.monotonic()
        self._bar, self._widths = None, []
        if sys.stderr.isatty() and logging.level_info():
            self._bar = _Bar(num_steps, step)
            self._handler = logging.get_absl_handler().python_handler
            self._stream, self._handler.stream = self._handler.stream, _AboveBar()

    def update(self, step: int, epoch: str, **shown: str) -> None:
        """Shows where training is.

        Args:
            step: Steps done.
            epoch: "3/8".
            **shown: Values by the names to show them with.
        """
        if self._bar is not None:
            self._bar.show(step, epoch, shown)
        elif time.monotonic() - self._last_line >= self._seconds:
            self._last_line = time.monotonic()
            text = "  ".join(f"{name} {value}" for name, value in shown.items())
            logging.info("epoch %s  step %d/%d  %s", epoch, step, self._num_steps, text)

    def row(self, is_best: bool = False, **columns: str) -> None:
        """Prints a row of the table of epochs, after the table's head.

        Args:
            is_best: Whether to make it stand out on a terminal.
            **columns: Values by the names of the columns, the same in every row.
        """
        if not self._widths:
            names = [name.replace("_", " ") for name in columns]
            if _columns() < _WIDE:
                names = [name.replace("validation", "val") for name in names]
            pairs = zip(names, columns.values(), strict=True)
            self._widths = [max(len(name), len(value), 5) for name, value in pairs]
            self.line("  ".join(map(str.rjust, names, self._widths)))
        text = "  ".join(map(str.rjust, columns.values(), self._widths))
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
            self._handler.stream = self._stream
            self._bar.close()


class _Bar(tqdm):
    """The progress line, in the longest form that the terminal is wide enough for."""

    def __init__(self, num_steps: int, step: int):
        self._is_compiling = True
        self._forms = [f"step {step}/{num_steps} |{{bar}}| compiling"]
        super().__init__(total=num_steps, initial=step, nrows=24)

    @property
    def format_dict(self) -> dict:
        """What tqdm formats; the bar takes the columns that the text leaves."""
        values = super().format_dict | {"ncols": _columns() - 1}
        for form in self._forms:
            values["bar_format"] = form
            shortest = self.format_meter(**values | {"ncols": None})
            if len(shortest) <= values["ncols"]:
                break
        return values

    def show(self, step: int, epoch: str, shown: dict[str, str]) -> None:
        full = " ".join(f"{name} {value.strip()}" for name, value in shown.items())
        short = " ".join(
            f"{_SHORT_NAMES.get(name, name)} {value.strip()}".strip()
            for name, value in shown.items()
        )
        steps = f"{step}/{self.total}"
        self._forms = [
            f"epoch {epoch} step {steps} |{{bar}}| {full} {{remaining}} left",
            f"epoch {epoch} {steps} |{{bar}}| {short} {{remaining}} left",
            f"epoch {epoch} {steps} {short} {{remaining}} left",
            f"{epoch} {steps} {short} {{remaining}}",
        ]
        if self._is_compiling:  # which says nothing of the time that is left
            self._is_compiling = False
            self.n = self.initial = self.last_print_n = step
            self.start_t = self.last_print_t = self._time()
            self.refresh()
        self.update(step - self.n)


class _AboveBar:
    """A stream whose text stands above the progress line, not glued to it."""

    def write(self, text: str) -> None:
        with tqdm.external_write_mode(file=sys.stderr):
            sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or _UNTOLD
    except (OSError, ValueError):
        return _UNTOLD

"""SIGINT, SIGTERM, SIGHUP: the first ends a program in order, the second at once.

A program takes the signals in its first line (`handle`) and keeps them to its end. A
library takes none: in a notebook everything is as Python has it. Before and after its
work the first signal ends a program at once. While it works (`working`), the first one
raises `Interrupted` in the main thread, so that what is half done is tidied up. A
training loop (`stop_requests`) asks instead, and ends between two steps. A signal that
whoever started the program had it ignore (`nohup`) stays ignored.

A second one must end a process that is deep in TensorFlow, too, where no handler of
Python's runs. So a thread reads the numbers that the interpreter writes to a pipe for
each signal.
"""

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

EXIT_INTERRUPTED = 75  # running the same command again goes on
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
_STOPS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]


class Interrupted(KeyboardInterrupt):
    """A signal asks the program to end."""


class _State:
    """What the first signal does, and which signals came.

    Attributes:
        mode: What the first signal does: "end" the process, "raise" `Interrupted`, or
            let the work "ask"; "raised" once it was raised.
        received: Numbers of the signals that the main thread knows of.
        code: Exit code of a program that was interrupted; None for 130 or 143.
        done_code: Exit code of a program whose work is done; None before.
        terminal: File descriptor to write lines to.
        work: What is still done after the first signal, in the mode "ask".
    """

    mode = "end"
    received: tuple[int, ...] = ()
    code: int | None = None
    done_code: int | None = None
    terminal: int | None = None
    work = "this step"


def handle(code: int | None = None) -> None:
    """Takes the signals until the process ends; the first line of a program.

    A standard stream that is closed becomes the null device first: the next file that
    is opened would get its number, and what a library prints.

    Args:
        code: Exit code of a program that was interrupted, such as `EXIT_INTERRUPTED`;
            None for 130 or 143, or what was given before.
    """
    _State.code = code or _State.code
    if _State.terminal is not None:
        return
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdout = sys.stdout or open(1, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w")  # noqa: SIM115
    _State.terminal = os.dup(2)
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    _take_signals()
    threading.Thread(target=_watch, args=(readable,), daemon=True).start()
    # While the interpreter is taken down, no handler of Python's is left.
    atexit.register(_set_handlers, signal.SIG_IGN)
    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(after_in_child=_forget)


def _take_signals() -> None:
    for signum in _STOPS:
        if signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, _receive)


def _set_handlers(handler) -> None:
    for signum in _STOPS:
        if signal.getsignal(signum) == _receive:
            signal.signal(signum, handler)


def _forget() -> None:
    """In a forked child: signals do again what they do by default."""
    signal.set_wakeup_fd(-1)
    _set_handlers(signal.SIG_DFL)


def _receive(signum: int, _) -> None:
    """Runs in the main thread, as soon as it is at Python's code."""
    _State.received += (signum,)
    if _State.mode == "raise":
        _State.mode = "raised"
        raise Interrupted


def _watch(readable: int) -> None:
    """Ends the process at the second signal, whatever the main thread does."""
    count = 0
    while True:
        signum = os.read(readable, 1)[0]
        count += signum in _STOPS
        if count > 1:
            os._exit(_exit_code(signum))
        if count and _State.mode == "ask":
            say(f"stopping after {_State.work}; once more to stop at once")
        elif count and _State.mode == "end":
            if _State.done_code is not None:
                os._exit(_State.done_code)
            os._exit(report(signum))


def _exit_code(signum: int) -> int:
    """130 after SIGINT, 143 after SIGTERM, which a closed terminal's SIGHUP means."""
    return 128 + (signal.SIGINT if signum == signal.SIGINT else signal.SIGTERM)


def say(text: str) -> None:
    """Writes a line to the terminal; safe in a handler, below a progress bar."""
    terminal = 2 if _State.terminal is None else _State.terminal
    start = "\n" if os.isatty(terminal) else ""
    with contextlib.suppress(OSError):
        os.write(terminal, f"{start}{text}\n".encode(errors="replace"))


def report(signum: int | None = None) -> int:
    """Reports that the program was interrupted, in one line; returns its exit code."""
    is_going_on = _State.code == EXIT_INTERRUPTED
    say("interrupted" + "; run the same command again to go on" * is_going_on)
    first = signum or next(iter(_State.received), signal.SIGINT)
    return _State.code or _exit_code(first)


def finish(code: int) -> None:
    """From now on a signal ends the process with `code`: its work is done."""
    _State.done_code = code


@contextlib.contextmanager
def working() -> Iterator[None]:
    """Inside, the first signal raises `Interrupted` in the main thread."""
    _State.mode = "raise"
    try:
        if _State.received:  # a moment ago
            _receive(_State.received[0], None)
        yield
    finally:
        if _State.mode == "raise":
            _State.mode = "end"


def was_raised() -> bool:
    """Whether a signal interrupted the work, even if the exception became another."""
    return _State.mode == "raised"


@contextlib.contextmanager
def stop_requests(work: str = "this step") -> Iterator[Callable[[], bool]]:
    """Inside, the first signal of a program raises nothing: the work asks.

        with stop_requests() as is_stop_requested:
            while not is_stop_requested():
                train_step()

    Args:
        work: What is still done then, for the line that says so.

    Yields:
        Whether a signal has come. Where it was not asked after one came, the signal is
        raised at the end.
    """
    was_answered = False

    def is_stop_requested() -> bool:
        nonlocal was_answered
        was_answered |= bool(_State.received)
        return was_answered

    old_mode, _State.mode, _State.work = _State.mode, "ask", work
    if _State.terminal is not None:  # TensorFlow displaces handlers
        _take_signals()
    try:
        yield is_stop_requested
    finally:
        _State.mode = old_mode
    if _State.received and not was_answered:
        _State.mode = "raised"
        raise Interrupted


@contextlib.contextmanager
def starting_processes() -> Iterator[None]:
    """Inside, new processes are started that leave a terminal's signals to this one.

    Ctrl-C and a closed terminal go to every process of a program. Those started here do
    not take them; their parent ends them.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    blocked = set(_STOPS) - {signal.SIGTERM}
    old = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)

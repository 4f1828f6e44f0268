"""SIGINT, SIGTERM, SIGHUP: the first ends a program in order, the second at once.

A program handles them from its first line to its end (`handle`). Before and after its
work the first one, too, ends it at once. While it works (`working`), the first one
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
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_RAISE_AGAIN = 0.05  # seconds after an exception that was lost


class Interrupted(KeyboardInterrupt):
    """A signal asks the program to end."""


def _exit_code(signum: int) -> int:
    """130 after SIGINT, 143 after SIGTERM, which a closed terminal's SIGHUP means."""
    return 128 + (signal.SIGTERM if signum == signal.SIGHUP else signum)


class _Signals:
    """What signals do in this process, and which came.

    Attributes:
        received: The numbers of those that came, oldest first.
        mode: What the first one does: "end", "raise" or "ask".
        end: Called by the first one in the mode "end", with its number.
        code: Exit code of an interrupted program; None for 130 or 143.
        terminal: The file descriptor to write lines to.
        was_raised: Whether `Interrupted` was raised.
    """

    def __init__(self):
        self.received: list[int] = []
        self.mode = "end"
        self.end: Callable[[int], None] = lambda signum: None
        self.code: int | None = None
        self.terminal = 2
        self.was_raised = False
        self._handled: list[int] = []
        self._is_installed = self._is_taken = False
        self._unsaid = threading.Lock()

    def install(self) -> Callable[[], None]:
        """Takes the signals over; returns what gives them back."""
        if self._is_installed or (
            threading.current_thread() is not threading.main_thread()
        ):
            return lambda: None
        readable, writable = os.pipe()
        os.set_blocking(writable, False)
        old_pipe = signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
        self._handled = [s for s in _STOPS if signal.getsignal(s) != signal.SIG_IGN]
        old = {signum: signal.signal(signum, self._handle) for signum in self._handled}
        old[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._raise)
        old_hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        threading.Thread(target=self._watch, args=(readable,), daemon=True).start()
        self._is_installed = True

        def restore() -> None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for signum, handler in old.items():
                signal.signal(signum, handler)
            signal.set_wakeup_fd(old_pipe)
            sys.unraisablehook = old_hook
            os.close(writable)  # ends the thread
            self.received, self.was_raised, self._handled = [], False, []
            self._is_installed = self._is_taken = False
            self._unsaid = threading.Lock()

        return restore

    def ignore(self) -> None:
        """While the interpreter is taken down, where no handler of its own is left."""
        for signum in self._handled:
            signal.signal(signum, signal.SIG_IGN)

    def forget(self) -> None:
        """In a forked child: signals do again what they do by default."""
        if self._is_installed:
            signal.set_wakeup_fd(-1)
            for signum in self._handled:
                signal.signal(signum, signal.SIG_DFL)

    def _watch(self, readable: int) -> None:
        """Ends the process at the second signal, whatever the main thread does."""
        count = 0
        while byte := os.read(readable, 1):
            signum = byte[0]
            if signum not in _STOPS:
                continue
            count += 1
            if count > 1:
                os._exit(_exit_code(signum))
            if self.mode == "end" and not self._is_taken:
                self.end(signum)
            elif self.mode == "ask":
                self._say_stopping()
        os.close(readable)

    def _handle(self, signum, frame) -> None:
        del frame
        if self.received:  # before the thread has come to it
            os._exit(_exit_code(signum))
        self.received.append(signum)
        self._is_taken = self.mode != "end"
        if self.mode == "ask":
            self._say_stopping()
        self._raise()

    def _say_stopping(self) -> None:
        """Once, in whichever thread it is first."""
        if self._unsaid.acquire(blocking=False):
            say("stopping after this step; once more to stop at once")

    def _raise(self, *_) -> None:
        if self.mode == "raise":
            self.was_raised = True
            raise Interrupted

    def _unraisable(self, unraisable) -> None:
        """Where an exception is lost (in a weak reference's callback): once more."""
        if isinstance(unraisable.exc_value, Interrupted):
            signal.setitimer(signal.ITIMER_REAL, _RAISE_AGAIN)
        else:
            sys.__unraisablehook__(unraisable)


_signals = _Signals()
atexit.register(_signals.ignore)  # the first that registers is the last to run
os.register_at_fork(after_in_child=_signals.forget)


def say(text: str) -> None:
    """Writes a line to the terminal; safe in a handler, below a progress bar."""
    start = "\n" if os.isatty(_signals.terminal) else ""
    with contextlib.suppress(OSError):
        os.write(_signals.terminal, f"{start}{text}\n".encode(errors="replace"))


@contextlib.contextmanager
def saying_to(descriptor: int) -> Iterator[None]:
    """Inside, lines go to a file descriptor instead of the standard error."""
    _signals.terminal = descriptor
    try:
        yield
    finally:
        _signals.terminal = 2


def handle(code: int | None = None) -> None:
    """Takes the signals over until the process ends; the first line of a program.

    A standard stream that is closed becomes the null device first: the next file that
    is opened would get its number, and what a library prints.

    Args:
        code: Exit code of a program that was interrupted, such as `EXIT_INTERRUPTED`;
            None for 130 or 143, or what was given before.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdout = sys.stdout or open(1, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w")  # noqa: SIM115
    _signals.install()
    _signals.code = code or _signals.code
    _signals.end = lambda signum: os._exit(report(signum))


def finish(code: int) -> None:
    """From now on a signal ends the process with `code`: its work is done."""
    _signals.end = lambda signum: os._exit(code)


def report(signum: int | None = None) -> int:
    """Says that the program was interrupted, in one line; returns its exit code."""
    go_on = (
        "; run the same command again to go on"
        if _signals.code == EXIT_INTERRUPTED
        else ""
    )
    say(f"interrupted{go_on}")
    received = [signum] if signum else _signals.received
    return _signals.code or _exit_code((received or [signal.SIGINT])[0])


@contextlib.contextmanager
def working() -> Iterator[None]:
    """Inside, the first signal raises `Interrupted` in the main thread."""
    _signals.mode = "raise"
    try:
        yield
    finally:
        _signals.mode = "end"


def was_raised() -> bool:
    """Whether a signal interrupted the work, even if the exception became another."""
    return _signals.was_raised


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Inside, the first signal raises nothing: the work asks, and ends by itself.

    A second one ends the process at once. It works with and without `handle`.

        with stop_requests() as is_stop_requested:
            while not is_stop_requested():
                train_step()

    Yields:
        Whether a signal has come. Where it was not asked after one came, the signal is
        raised at the end.
    """
    restore, old_mode = _signals.install(), _signals.mode
    _signals.mode = "ask"
    was_answered = False

    def is_stop_requested() -> bool:
        nonlocal was_answered
        was_answered |= bool(_signals.received)
        return was_answered

    try:
        yield is_stop_requested
    finally:
        is_late = bool(_signals.received) and not was_answered
        _signals.mode = old_mode
        restore()
    if is_late:
        raise Interrupted


@contextlib.contextmanager
def starting_processes() -> Iterator[None]:
    """Inside, new processes are started that leave a terminal's signals to this one.

    Ctrl-C and a closed terminal go to every process of a program. Those started here do
    not take them; their parent ends them.
    """
    blocked = {signal.SIGINT, signal.SIGHUP}
    old = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)

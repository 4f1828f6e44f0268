"""What the scripts share: flags, one-line errors, exit codes, a quiet TensorFlow."""

import contextlib
import logging as stdlib_logging
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator

from absl import flags, logging

from alexnet_tf.errors import UserError

EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 75


def run(
    main: Callable[..., int | None],
    define_flags: Callable[[], None],
    check: Callable[[flags.FlagValues, list[str]], object] | None = None,
) -> None:
    """Parses the command line, runs `main`, and exits the process.

    Args:
        main: Takes the parsed flags; returns the exit code, None for 0.
        define_flags: Defines the script's flags.
        check: Takes the flags and the other arguments before TensorFlow, which takes
            seconds to import, is; raises `flags.Error` or `UserError`. What it returns
            is the second argument of `main`. None where only flags are allowed.
    """
    define_flags()
    flags.DEFINE_bool("help", False, "Show this help.", short_name="h")
    values, checked = _parse(check)
    _configure_logging()
    try:
        with _quiet_imports(logging.level_debug()):
            import tensorflow  # noqa: F401
        sys.exit(main(values, *checked))
    except (UserError, OSError) as error:
        if logging.level_debug():
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_ERROR)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _parse(check) -> tuple[flags.FlagValues, list]:
    values = flags.FLAGS
    values.set_default("verbosity", logging.INFO)
    if {"--help", "-h"} & set(sys.argv[1:]):  # whatever else is missing
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as for "--help | head"
        print(sys.modules["__main__"].__doc__, values.main_module_help(), sep="\n")
        sys.exit(0)
    try:
        extra = values(sys.argv)[1:]
        if extra and not check:
            raise flags.Error(f"unexpected argument {extra[0]!r}")
        return values, [check(values, extra)] if check else []
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_ERROR)
    except flags.Error as error:
        message = " ".join(str(error).removeprefix("FATAL Flags").split())
        print(f"error: {message}\nsee: {sys.argv[0]} --help", file=sys.stderr)
        sys.exit(EXIT_USAGE)


def _configure_logging() -> None:
    logging.use_absl_handler()
    handler = logging.get_absl_handler()
    handler.setFormatter(None)  # no prefix of date and thread
    if not logging.level_debug():  # the libraries' own remarks
        handler.addFilter(
            lambda record: (
                record.levelno > stdlib_logging.INFO
                or "site-packages" not in record.pathname
            )
        )


@contextlib.contextmanager
def _quiet_imports(verbose: bool) -> Iterator[None]:
    """Keeps TensorFlow's start-up lines off the terminal, unless importing fails.

    Some of them are written before its own log level is read, so the file descriptor
    is what has to be redirected.
    """
    if verbose:
        yield
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.simplefilter("ignore")
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(terminal, kept.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)

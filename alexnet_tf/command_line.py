"""What the scripts share: flags, one-line errors, exit codes, a quiet TensorFlow."""

import contextlib
import dataclasses
import difflib
import errno
import io
import logging as stdlib_logging
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import textwrap
import traceback
import typing
from collections.abc import Callable, Collection, Iterator, Sequence

try:
    from absl import flags, logging
except ModuleNotFoundError:
    sys.exit(
        "error: the packages of requirements.txt are not installed in "
        f"{sys.executable}: run make .venv/installed and use .venv/bin/python, or "
        "pip install -r requirements.txt"
    )

from alexnet_tf import files, programs, signals
from alexnet_tf.errors import UserError, escape
from alexnet_tf.paths import expand, is_remote
from alexnet_tf.recipes import RECIPES
from alexnet_tf.settings import Limits, settings_of
from alexnet_tf.starting import import_tensorflow

EXIT_ERROR, EXIT_USAGE = 1, 2
# What would steer a terminal, but for bold type. Names of classes may hold anything.
_STEERING = re.compile(
    "\x1b(?!\\[[01]m)|[\0-\b\v\f\x0e-\x1a\x1c-\x1f\x7f-\x9f]"
    "|[\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)


# Flags.

_KINDS = {"int": "N", "float": "X", "bool": "", "path": "PATH", "numbers": "X,X,…"}
_expert_flags: set[str] = set()


class _PathParser(flags.ArgumentParser):
    """A path, as `expand` takes it; looked for where it is to exist."""

    def __init__(self, exists: bool):
        self._exists = exists

    def parse(self, argument: str) -> str:
        path = expand(argument)
        if self._exists and not is_remote(path) and not os.path.lexists(path):
            raise UserError(f"there is no {path}: give a path that exists")
        return path

    def flag_type(self) -> str:
        return "path"


class _ChoiceParser(flags.ArgumentParser):
    """One of some words; the first where the flag stands alone, None for `--noflag`."""

    def __init__(self, choices: list[str]):
        self.enum_values = choices

    def parse(self, argument: str) -> str | None:
        argument = {"true": self.enum_values[0], "false": None}.get(argument, argument)
        if argument not in (None, *self.enum_values):
            raise ValueError(f"must be one of {', '.join(self.enum_values)}")
        return argument


class _FieldParser(flags.ArgumentParser):
    """The value of a setting: of its type, in its limits."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self.enum_values = limits.choices
        self.syntactic_help = "" if limits.kind is str else str(limits)

    def parse(self, argument: str) -> object:
        limits = self._limits
        if limits.is_optional and argument.lower() == "none":
            return None
        try:
            parts = argument.split(",") if limits.is_tuple else [argument]
            values = [limits.kind(part.strip()) for part in parts]
        except ValueError:
            raise ValueError(f"must be {limits}") from None
        value = tuple(values) if limits.is_tuple else values[0]
        if not limits.allow(value):
            raise ValueError(f"must be {limits}")
        return value

    def flag_type(self) -> str:
        return "numbers" if self._limits.is_tuple else self._limits.kind.__name__


def define_path(
    name: str,
    default: str | list[str] | None,
    help: str,
    *,
    exists: bool = False,
    many: bool = False,
    required: bool = False,
    expert: bool = False,
) -> None:
    """Defines a flag that takes a path: `~` is expanded, also in `--flag=~/x`.

    Args:
        name: The name of the flag.
        default: Its value where nobody gives one.
        help: What it is for.
        exists: Whether a local path that does not exist is a mistake.
        many: Whether it can be given again; its value is a list.
        required: Whether it must be given.
        expert: Whether only `--helpfull` shows it.
    """
    parser = _PathParser(exists)
    if many:
        flags.DEFINE_multi(parser, flags.ArgumentSerializer(), name, default, help)
    else:
        flags.DEFINE(parser, name, default, help)
    if required:
        flags.register_validator(name, lambda value: value is not None, "give it")
    if expert:
        mark_expert(name)


def define_choice(name: str, choices: list[str], help: str) -> None:
    """Defines a flag that may stand alone: `--flag`, for the first of its choices."""
    flag = flags.Flag(_ChoiceParser(choices), None, name, None, help, boolean=True)
    flags.DEFINE_flag(flag)


def define_weights_flags() -> None:
    """Defines what stands for a run: weights that others published."""
    define_path(
        "init_weights",
        None,
        "Instead of a run: published weights (Caffe's, the ONNX zoo's, torchvision's, "
        "bvlc_alexnet.npy) or a .keras file.",
    )
    names = ["auto", *RECIPES]
    help = "Whose weights they are, where the file does not tell."
    flags.DEFINE_enum("recipe", "auto", names, help)
    define_path(
        "class_names",
        None,
        "Names of the classes of these weights, one a line, where the file does not "
        "tell them and they are not ImageNet's.",
        exists=True,
    )
    mark_expert("recipe", "class_names")


def check_source(values: flags.FlagValues) -> None:
    """Checks that not both a run and published weights are given."""
    if values.init_weights is not None:
        if values.model_dir is not None:
            raise flags.Error("give --model_dir or --init_weights, not both")
        if values["checkpoint"].present:
            raise flags.Error("--checkpoint is one of a run, not of --init_weights")
    for name in ("recipe", "class_names"):
        if values[name].present and values.init_weights is None:
            raise flags.Error(f"--{name} is that of --init_weights: give them too")


def mark_expert(*names: str) -> None:
    """Has only `--helpfull` show some flags."""
    _expert_flags.update(names)


def define_flags_from(
    dataclass: type,
    describe_default: Callable[[dataclasses.Field], str] | None = None,
    leave_out: Collection[str] = (),
) -> None:
    """Defines a flag for each setting of a dataclass.

    The flag has the field's name and type: bool, int, float, str, a tuple of one of
    them (given with commas), or one of these with `| None`, which `none` gives. The
    flag itself has no default: see `given_flags`.

        @dataclasses.dataclass
        class Recipe:
            momentum: float = setting(0.9, "The momentum of the update.", lower_bound=0)

    Args:
        dataclass: The class.
        describe_default: What the help says of a field's default; by default its value.
        leave_out: Names of fields that get no flag.
    """
    hints = typing.get_type_hints(dataclass)
    fields = (f for f in settings_of(dataclass) if f.name not in leave_out)
    for field in fields:
        described = (describe_default or _describe_default)(field)
        help = field.metadata["help"] + (f" Default: {described}." if described else "")
        limits = Limits(hints[field.name], field.metadata)
        if field.metadata.get("path"):
            define_path(field.name, None, help)
        elif limits.kind is bool:
            flags.DEFINE_boolean(field.name, None, help)
        else:
            flags.DEFINE(_FieldParser(limits), field.name, None, help)
        if field.metadata.get("expert"):
            mark_expert(field.name)


def given_flags(values: flags.FlagValues, *dataclasses: type) -> dict[str, object]:
    """The values that the user gave for the fields of dataclasses, by their names."""
    names = [field.name for each in dataclasses for field in settings_of(each)]
    given = [name for name in names if name in values and values[name].present]
    return {name: values[name].value for name in given}


def _describe_default(field: dataclasses.Field) -> str:
    is_missing = field.default in (None, dataclasses.MISSING)
    return "" if is_missing else describe_value(field.default)


def describe_value(value: object) -> str:
    """A value as it is given on the command line."""
    if isinstance(value, list | tuple):
        return ",".join(map(describe_value, value))
    if isinstance(value, float):
        return f"{value:g}"
    names = {True: "yes", False: "no", None: "none"}
    return names[value] if value is None or isinstance(value, bool) else str(value)


def format_help(about: str, names: Sequence[str], everything: bool = False) -> str:
    """The help of a script: its docstring and its flags.

    Args:
        about: The docstring.
        names: Names of the flags, in the order to show them in.
        everything: Whether to show the expert flags, too.
    """
    columns = min(shutil.get_terminal_size().columns, 100) - 1
    lines = [programs.as_typed(about).strip(), "", "Flags:"]
    shown = [name for name in names if everything or name not in _expert_flags]
    for flag in (flags.FLAGS[name] for name in shown):
        choices = getattr(flag.parser, "enum_values", None)
        type_name = flag.flag_type().removeprefix("multi ")
        value = "|".join(map(str, choices or [_KINDS.get(type_name, "TEXT")]))
        if flag.boolean:
            lines.append(
                f"  --{flag.name}[={value}]" if choices else f"  --[no]{flag.name}"
            )
        else:
            lines.append(f"  --{flag.name}={value}")
        # Without absl's list of choices, and what it says of flags given again.
        text = re.sub(r"^<\S+>: |;\s+repeat this option .*", "", flag.help)
        if flag.parser.syntactic_help and not flag.boolean and not choices:
            text += f" ({flag.parser.syntactic_help})"
        if flag.default not in (None, False, []):
            text += f" Default: {describe_value(flag.default)}."
        indent = " " * 6
        lines += textwrap.wrap(
            text, columns, initial_indent=indent, subsequent_indent=indent
        )
    if hidden := len(names) - len(shown):
        lines += ["", f"and {hidden} more for experts: --helpfull"]
    return "\n".join(lines)


def command(*words: str) -> str:
    """A command line to print, quoted for a shell.

    Args:
        *words: A program of this environment ("python", "tensorboard") and its
            arguments. A script of ours becomes a console command where one runs.
    """
    line = programs.as_typed(shlex.join(words))
    environment = os.path.relpath(os.path.dirname(sys.executable))
    if environment.startswith(".."):  # not this project's own
        return line
    return shlex.quote(os.path.join(environment, "")) + line


# The program from its first line to its end.


def run(
    main: Callable[..., int | None],
    define_flags: Callable[[], None],
    check: Callable[[flags.FlagValues, list[str]], object] | None = None,
    *,
    tensorflow: bool = True,
) -> None:
    """Runs a script as this process, with the arguments of this process, and exits.

    A script calls `signals.handle` in its first line. The arguments are those of
    `execute`.
    """
    signals.handle()
    sys.stdout, sys.stderr = _Terminal(sys.stdout), _Terminal(sys.stderr)
    if os.isatty(2) and not os.get_terminal_size(2).columns:
        # tqdm would show nothing on 0 columns and rows.
        os.environ.update(TQDM_NCOLS="80", TQDM_NROWS="24")
    code = execute(sys.argv, main, define_flags, check, tensorflow=tensorflow)
    signals.finish(code)
    sys.exit(code)


class _Terminal(io.TextIOWrapper):
    """A standard stream. What would steer a terminal is written as an escape."""

    def __init__(self, stream: io.TextIOWrapper):
        """Takes the stream's place; a name that cannot be encoded is escaped, too."""
        super().__init__(
            stream.buffer,
            stream.encoding,
            errors="backslashreplace",
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        self._stream = stream  # would close the file if nobody kept it

    def write(self, text: str) -> int:
        """Writes; returns the number of characters."""
        with _even_closed():
            super().write(_STEERING.sub(lambda match: ascii(match[0])[1:-1], text))
        return len(text)

    def flush(self) -> None:
        """Flushes."""
        with _even_closed():
            super().flush()


@contextlib.contextmanager
def _even_closed() -> Iterator[None]:
    """Inside, what a closed terminal does not take any more is lost, and no error."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise


def execute(
    argv: Sequence[str],
    main: Callable[..., int | None],
    define_flags: Callable[[], None],
    check: Callable[[flags.FlagValues, list[str]], object] | None = None,
    *,
    tensorflow: bool = True,
) -> int:
    """Parses a command line and runs a script in this process.

    Whatever happens ends in one line: the traceback of what nobody foresaw goes to a
    file that the line names; `--verbosity=1` shows it.

    Args:
        argv: The name of the script and its arguments.
        main: Takes the parsed flags; returns the exit code, None for 0.
        define_flags: Defines the script's flags.
        check: Takes the flags and the other arguments before TensorFlow, which takes
            seconds to import, is; raises `flags.Error` or `UserError`. What it returns
            is the second argument of `main`. None where only flags are allowed.
        tensorflow: Whether the program needs TensorFlow.

    Returns:
        The exit code.
    """
    others = set(flags.FLAGS)
    _expert_flags.clear()
    try:
        define_flags()
        own = [name for name in flags.FLAGS if name not in others]
        asked = {word.lstrip("-") for word in argv[1:] if word.startswith("-")}
        if asked & {"help", "h", "helpfull"}:  # whatever else is missing
            about = sys.modules[main.__module__].__doc__ or ""
            print(format_help(about, own, "helpfull" in asked), flush=True)
            return 0
        values, arguments = flags.FLAGS, _parse(argv, accepts_others=check is not None)
        _configure_logging()
        if tensorflow and any("://" in word for word in argv):
            import_tensorflow(logging.level_debug())  # the check looks at a remote path
        checked = [check(values, arguments)] if check else []
        if tensorflow:
            import_tensorflow(logging.level_debug())
        with signals.working():
            code = main(values, *checked) or 0
            sys.stdout.flush()
            return code
    except Exception as error:
        return _report(error, argv)
    except KeyboardInterrupt:
        sys.stderr.flush()  # the end of a progress bar comes before the line
        return signals.report()
    finally:
        for name in set(flags.FLAGS) - others:
            delattr(flags.FLAGS, name)


def _parse(argv: Sequence[str], accepts_others: bool) -> list[str]:
    """Parses the flags; returns what is no flag."""
    flags.FLAGS.set_default("verbosity", logging.INFO)
    if "log_dir" in flags.FLAGS:  # of absl, which writes no log here
        del flags.FLAGS.log_dir  # people mean --model_dir
    others = flags.FLAGS(argv)[1:]
    if others and not accepts_others:
        raise flags.Error(f"unexpected argument {others[0]!r}")
    return others


def _configure_logging() -> None:
    logging.use_absl_handler()
    handler = logging.get_absl_handler()
    handler.python_handler.stream = sys.stderr
    handler.setFormatter(None)  # no prefix of date and thread
    handler.filters = [] if logging.level_debug() else [is_for_people]


def is_for_people(record: stdlib_logging.LogRecord) -> bool:
    """Leaves out the remarks of other libraries, wherever this package lies."""
    rooms = (os.path.join(programs.find_directory(), n) for n in ("data", "serving"))
    ours = (os.path.dirname(__file__), *rooms)
    return record.levelno > stdlib_logging.INFO or record.pathname.startswith(ours)


# How a program ends.


def _report(error: Exception, argv: Sequence[str]) -> int:
    """Says in one line what happened; returns the exit code."""
    if isinstance(error, BrokenPipeError):  # as for "predict.py … | head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    if signals.was_raised() and not isinstance(error, UserError):
        return signals.report()  # a library made another error of it
    if logging.level_debug():
        traceback.print_exception(error)
    if isinstance(error, flags.Error):
        line = escape(_describe_flags_error(error))
        print(f"error: {line} (--help shows the flags)", file=sys.stderr)
        return EXIT_USAGE
    line = str(error) if isinstance(error, UserError) else files.explain(error)
    line = line or _describe_unforeseen(error, argv)
    print(f"error: {programs.as_typed(line)}", file=sys.stderr)
    return EXIT_ERROR


def _describe_flags_error(error: flags.Error) -> str:
    if not isinstance(error, flags.UnrecognizedFlagError):
        return " ".join(str(error).replace("=None:", ":").split())
    given = error.flagname
    scores = {name: _likeness(given, name) for name in flags.FLAGS}
    best = max(scores.values())
    meant = [name for name in sorted(scores, key=len) if scores[name] == best]
    if not best:
        meant = difflib.get_close_matches(given, flags.FLAGS, cutoff=0.75)
    hint = " or ".join(f"--{name}" for name in meant[:2])
    return f"there is no flag --{given}" + (f": did you mean {hint}?" if hint else "")


def _likeness(given: str, name: str) -> int:
    """How many words of what was given, or initials, a flag's name has."""
    words, parts = name.split("_"), given.split("_")
    if given == "".join(word[:1] for word in words):  # as in --lr
        return len(words)
    beginnings = {word[:length] for word in words for length in range(3, len(word))}
    return len({*words, *beginnings} & {*parts})


def _describe_unforeseen(error: Exception, argv: Sequence[str]) -> str:
    message = escape(" ".join(str(error).rsplit("}} ", 1)[-1].split()))[:200]
    line = f"{type(error).__name__}: {message}"
    if "OOM when allocating" in message:
        line = "out of memory: give a smaller batch size"
    text = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="alexnet-", suffix=".txt", delete=False, errors="replace"
        ) as file:
            file.write(f"{shlex.join(argv)}\nPython {sys.version}\n\n{text}")
    except OSError:
        return f"{line}\n{text}"
    return f"{line} (its traceback is in {file.name})"

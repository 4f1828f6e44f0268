"""The programs of this package: scripts in a checkout, console commands elsewhere.

In a checkout the scripts and `data/` lie beside the package; a wheel has them inside
it, in `_programs/`, so that nobody's site-packages gets a `data` or a `train`. A
console command does what Python does with a script: their directory comes first on
`sys.path`, and the module runs as `__main__`.
"""

import contextlib
import os
import re
import runpy
import sys
from collections.abc import Iterator

# The module that each console command runs.
COMMANDS = {
    "alexnet-train": "train",
    "alexnet-eval": "eval",
    "alexnet-predict": "predict",
    "alexnet-export": "export",
    "alexnet-compare": "compare",
    "alexnet-features": "features",
    "alexnet-prepare": "data.prepare",
    "alexnet-check": "data.check",
    "alexnet-serve": "serving.server",
}
_RUNNING = "ALEXNET_TF_PROGRAM"  # in the environment of a program and its workers
_is_console_command = False


def find_directory() -> str:
    """The directory of the scripts: in a wheel that of the package's `_programs`."""
    package = os.path.dirname(os.path.abspath(__file__))
    inside = os.path.join(package, "_programs")
    return inside if os.path.isdir(inside) else os.path.dirname(package)


def is_running() -> bool:
    """Whether this process is a program of this package, or works for one."""
    name, _ = os.path.splitext(os.path.basename(sys.argv[0]))
    file = getattr(sys.modules["__main__"], "__file__", None) or ""
    module, _ = os.path.splitext(os.path.relpath(file or ".", find_directory()))
    is_program = name in COMMANDS or module.replace("/", ".") in COMMANDS.values()
    if is_program:
        os.environ[_RUNNING] = "1"
    return bool(os.environ.get(_RUNNING))


@contextlib.contextmanager
def starting_workers() -> Iterator[None]:
    """Inside, new processes are started that `is_running` is true of."""
    old = os.environ.setdefault(_RUNNING, "")
    os.environ[_RUNNING] = "1"
    try:
        yield
    finally:
        os.environ[_RUNNING] = old


def main() -> None:
    """Runs the script of the console command that was typed."""
    global _is_console_command
    _is_console_command = True
    name, _ = os.path.splitext(os.path.basename(sys.argv[0]))
    sys.path.insert(0, find_directory())
    runpy.run_module(COMMANDS[name], run_name="__main__", alter_sys=True)


def as_typed(text: str) -> str:
    """A text with `python train.py` as `alexnet-train` where such a command runs."""
    if not _is_console_command:
        return text
    for name, module in COMMANDS.items():
        script = re.escape(module.replace(".", "/") + ".py")
        pattern = rf"\bpython (-m {re.escape(module)}|(\S*/)?{script})(?![\w.])"
        text = re.sub(pattern, name, text)
    return text

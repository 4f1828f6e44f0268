"""What the scripts share: flags, one line for every end, signals."""

import dataclasses
import os
import pathlib
import pty
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import types

import pytest
from absl import flags, logging

from alexnet_tf import command_line, starting

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPTS = [*(path.stem for path in ROOT.glob("*.py")), "data.prepare", "data.check"]
START = """
'''Tries things.'''
import dataclasses, gc, os, sys, time, weakref
from alexnet_tf import command_line, signals
from alexnet_tf.command_line import flags
from alexnet_tf.errors import UserError

@dataclasses.dataclass
class Recipe:
    name: str = "paper"
    momentum: float = dataclasses.field(
        default=0.9, metadata={"help": "Of the rule.", "upper_bound": 1}
    )
    groups: int | None = dataclasses.field(
        default=2, metadata={"help": "Towers.", "choices": (1, 2)}
    )
    lrn_bias: float = dataclasses.field(
        default=2.0, metadata={"help": "k.", "expert": True}
    )

def define_flags():
    command_line.define_path("data_dir", None, "Data.", exists=True)
    command_line.define_path("model_dir", "runs/x", "Run.")
    flags.DEFINE_integer("num_epochs", 3, "Epochs.", lower_bound=1)
    flags.DEFINE_integer("global_batch_size", 128, "Pictures.")
    flags.DEFINE_float("learning_rate", 0.1, "Rate.")
    flags.DEFINE_enum("color", "pca", ["pca", "none"], "Colour.")
    command_line.define_flags_from(Recipe)

def ready():
    print("ready", flush=True)

"""
END = "\ncommand_line.run(main, define_flags, tensorflow=False)\n"
END_WITH_TENSORFLOW = "\ncommand_line.run(main, define_flags)\n"
FAST = "def main(values):\n    print('did it')\n"


class Program:
    """A script in a file, to be run as people run ours."""

    def __init__(self, tmp_path, capsys):
        self.path, self._capsys = tmp_path / "program.py", capsys
        self._environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(tmp_path),
            "COLUMNS": "80",
        }

    def start(self, code, *arguments, end=END, **environment):
        """Starts it, to end with `end`."""
        self.path.write_text(START.lstrip() + code + end)
        return subprocess.Popen(
            [sys.executable, str(self.path), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="surrogateescape",
            cwd=self.path.parent,
            env=self._environment | environment,
        )

    def run(self, code, *arguments):
        """Runs it inside this process; returns its exit code, output and errors."""
        module = types.ModuleType("program")
        sys.modules["program"] = module
        exec(compile(START.lstrip() + code, str(self.path), "exec"), vars(module))
        argv = [str(self.path), *map(str, arguments)]
        self._capsys.readouterr()
        code = command_line.execute(
            argv, module.main, module.define_flags, tensorflow=False
        )
        logging.get_absl_handler().python_handler.stream = sys.__stderr__
        return code, *self._capsys.readouterr()


@pytest.fixture
def program(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("ALEXNET_TF_PROGRAM", "1")  # without TensorFlow
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    logging.set_verbosity(logging.INFO)  # another test may have left another
    for name in {"saved_model"} & set(flags.FLAGS):  # a library's, never parsed
        delattr(flags.FLAGS, name)
    return Program(tmp_path, capsys)


# Flags of dataclasses.


@dataclasses.dataclass(frozen=True)
class Settings:
    """A field of every kind that can be a flag."""

    class_names: tuple[str, ...] = ()  # no help: no flag
    epochs: float = dataclasses.field(
        default=90, metadata={"help": "Epochs.", "lower_bound": 0, "upper_bound": 1000}
    )
    groups: int = dataclasses.field(
        default=2, metadata={"help": "Towers.", "choices": (1, 2)}
    )
    color: str = dataclasses.field(
        default="pca", metadata={"help": "Colour.", "choices": ("pca", "none")}
    )
    lrn: bool = dataclasses.field(default=True, metadata={"help": "Normalise."})
    drops: tuple[float, ...] = dataclasses.field(
        default=(25, 51), metadata={"help": "Epochs.", "lower_bound": 1}
    )
    steps: int | None = dataclasses.field(
        default=None, metadata={"help": "Steps.", "lower_bound": 1, "expert": True}
    )
    until: float | None = dataclasses.field(default=67, metadata={"help": "Epoch."})
    start: str | None = dataclasses.field(
        default=None, metadata={"help": "File.", "path": True}
    )


def parse(*arguments, dataclass=Settings, monkeypatch=None):
    """What the flags of a dataclass give for some arguments."""
    values = flags.FlagValues()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flags, "DEFINE", in_values(flags.DEFINE, values))
        patch.setattr(flags, "DEFINE_boolean", in_values(flags.DEFINE_boolean, values))
        command_line.define_flags_from(dataclass)
    values(["program", *arguments])
    return command_line.given_flags(values, dataclass)


def in_values(define, values):
    return lambda *args, **kwargs: define(*args, **kwargs, flag_values=values)


def test_only_what_was_given_counts():
    assert parse() == {}
    given = parse("--epochs=2.5", "--groups=1", "--nolrn", "--drops=20, 40")
    assert given == {"epochs": 2.5, "groups": 1, "lrn": False, "drops": (20.0, 40.0)}
    assert isinstance(given["groups"], int)
    assert dataclasses.replace(Settings(), **given).drops == (20, 40)
    # What is given as the default is given, too.
    assert parse("--epochs=90", "--lrn", "--color=none") == {
        "epochs": 90.0,
        "lrn": True,
        "color": "none",
    }


def test_a_field_may_be_a_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert parse("--start=~/weights.npy") == {"start": "/home/somebody/weights.npy"}


def test_none_is_a_value_where_it_may_be():
    assert parse("--steps=none", "--until=None") == {"steps": None, "until": None}
    assert parse("--steps=7") == {"steps": 7}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--epochs=x", "--epochs=x: must be a number from 0 to 1000"),
        ("--epochs=-1", "must be a number from 0 to 1000"),
        ("--epochs=1001", "must be a number from 0 to 1000"),
        ("--epochs=nan", "must be a number from 0 to 1000"),
        ("--until=inf", "must be a number, or none"),
        ("--until=1e300", "must be a number, or none"),
        ("--epochs=none", "must be a number from 0 to 1000"),
        ("--groups=3", "must be 1 or 2"),
        ("--groups=1.5", "must be 1 or 2"),
        ("--color=red", "must be pca or none"),
        ("--steps=0", "must be a whole number of at least 1, or none"),
        ("--steps=1.5", "must be a whole number of at least 1, or none"),
        (f"--steps={2**63}", "must be a whole number of at least 1, or none"),
        ("--drops=20,0.5", "must be a number or several with commas of at least 1"),
        ("--drops=20,", "must be a number or several with commas"),
        ("--lrn=perhaps", "boolean"),
        ("--class_names=a", "class_names"),
    ],
)
def test_bad_values(argument, message):
    with pytest.raises(flags.Error, match=re.escape(message)):
        parse(argument)


def test_help_shows_what_people_use(program):
    code, output, errors = program.run(FAST, "--help", "--no_such_flag")
    assert (code, errors) == (0, "")
    assert output.startswith("Tries things.\n")
    assert output.index("--data_dir=PATH") < output.index("--num_epochs=N")
    assert "Of the rule. Default: 0.9. (a number of at most 1)" in output
    assert "Epochs. (a positive integer) Default: 3." in " ".join(output.split())
    assert "--color=pca|none\n      Colour. Default: pca.\n" in output
    assert "--groups=1|2\n      Towers. Default: 2.\n" in output
    assert "--lrn_bias" not in output
    assert "and 1 more for experts: --helpfull" in output
    assert max(map(len, output.splitlines())) < 80
    _, output, _ = program.run(FAST, "--helpfull")
    assert "--lrn_bias=X\n      k. Default: 2. (a number)" in output
    assert "experts" not in output


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("--epochs=3", "there is no flag --epochs: did you mean --num_epochs?"),
        ("--lr=3", "there is no flag --lr: did you mean --learning_rate?"),
        ("--batch_size=3", "did you mean --global_batch_size?"),
        ("--learning_rat=3", "did you mean --learning_rate?"),
        ("--data=x", "did you mean --data_dir?"),
        ("--gbs=3", "did you mean --global_batch_size?"),
        ("--log_dir=x", "did you mean --data_dir or --model_dir?"),
        ("--xyzzy", "there is no flag --xyzzy (--help shows the flags)\n"),
        ("--num_epochs=0", "--num_epochs"),
        ("--momentum=2", "flag --momentum=2: must be a number of at most 1"),
        ("picture.jpg", "unexpected argument 'picture.jpg'"),
    ],
)
def test_mistyped_flags(program, argument, hint):
    code, output, errors = program.run(FAST, argument)
    assert (code, output) == (2, "")
    assert errors.startswith("error: ")
    assert hint in errors
    assert errors.endswith(" (--help shows the flags)\n")
    assert len(errors.splitlines()) == 1


# Paths.


def test_paths_are_expanded_everywhere(program, tmp_path, monkeypatch):
    (tmp_path / "home" / "my data[1]").mkdir(parents=True)
    code = """
def main(values):
    print(values.data_dir, values.model_dir)
"""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    arguments = "--data_dir=~/my data[1]", "--model_dir", "file:///x/y"
    _, output, _ = program.run(code, *arguments)
    assert output == f"{tmp_path}/home/my data[1] /x/y\n"
    _, output, _ = program.run(code, "--model_dir=~")
    assert output == f"None {tmp_path}/home\n"
    _, output, _ = program.run(code, "--model_dir=gs://bucket/run")
    assert output == "None gs://bucket/run\n"
    mistakes = {
        "--data_dir=~/my data1": "there is no .*/home/my data1: give a path",
        "--data_dir=": "is no path",
        "--model_dir=~nobody_at_all/x": "there is no such user",
        "--model_dir=gs://b/x*": "give a remote path without",
        "--model_dir=" + os.fsdecode(b"\xff"): "only names in UTF-8",
    }
    for argument, message in mistakes.items():
        code_, _, errors = program.run(code, argument)
        assert code_ == 2
        assert re.search(message, errors)
        assert len(errors.splitlines()) == 1


def test_printed_commands_can_be_pasted(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = ["python", "predict.py", "--saved_model=a b[1];'$x", "~/x y.jpg"]
    assert shlex.split(command_line.command(*words)) == words
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    line = command_line.command("python", "train.py", "--data_dir=x")
    assert line == ".venv/bin/python train.py --data_dir=x"


# One line for every end.


def test_user_errors_and_disks(program):
    for raised, line in {
        "UserError('give another')": "error: give another\n",
        "OSError(28, 'x', '/d/y')": "error: cannot write /d/y: No space left on device;"
        " free some space and run the same command again\n",
        "flags.Error('needs --x')": "error: needs --x (--help shows the flags)\n",
    }.items():
        code, _, errors = program.run(f"def main(values):\n    raise {raised}\n")
        assert code == (2 if "flags" in raised else 1)
        assert errors.startswith(line)
        assert "Traceback" not in errors
    user_error = "def main(values):\n    raise UserError('x')\n"
    assert "Traceback" in program.run(user_error, "--verbosity=1")[2]


def test_unforeseen_error_is_one_line_and_a_file(program, tmp_path):
    failing = "def main(values):\n    {}['lost\\nkey']\n"
    code, _, errors = program.run(failing, "--num_epochs=7")
    assert code == 1
    assert len(errors.splitlines()) == 1
    path = re.search(r"\(its traceback is in (.*)\)$", errors.strip())[1]
    assert errors.startswith("error: KeyError: ")
    text = pathlib.Path(path).read_text()
    assert "in main" in text
    assert "--num_epochs=7" in text
    assert pathlib.Path(path).parent == tmp_path
    code, _, errors = program.run(failing, "--verbosity=1")
    assert code == 1
    assert "Traceback" in errors


def test_closed_pipe_is_quiet(program):
    process = program.start(
        "def main(values):\n    ready()\n    time.sleep(.1)\n    print('x' * 10**6)\n"
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 128 + signal.SIGPIPE
    assert process.stderr.read() == ""


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_no_file_gets_the_number_of_a_closed_stream(program, closed):
    """What libraries print to the standard error would be written into it."""
    code = """
def main(values):
    print("output")
    print("errors", file=sys.stderr)
    with open("file", "w") as file:
        return 10 + file.fileno()
"""
    program.path.write_text(START.lstrip() + code + END)
    ended = subprocess.run(
        ["sh", "-c", f'exec "$0" "$1" {closed}', sys.executable, program.path],
        capture_output=True,
        text=True,
        cwd=program.path.parent,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert ended.returncode > 12, ended.stderr
    assert ended.stderr == ("errors\n" if closed == ">&-" else "")


def test_without_the_packages():
    """As with the system's Python: one line that says what to install."""
    for script in SCRIPTS:
        ended = subprocess.run(
            [sys.executable, "-S", "-m", script],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert ended.returncode == 1
        assert len(ended.stderr.splitlines()) == 1
        assert "pip install -r requirements.txt" in ended.stderr


def test_environment_of_keras(program, tmp_path):
    """What would make another network, or none, of ours."""
    (tmp_path / "keras.json").write_text(
        '{"floatx": "float16", "image_data_format": "channels_first", '
        '"epsilon": 0.5, "backend": "torch"}'
    )
    code = """
def main(values):
    import keras, tensorflow as tf
    c = keras.config
    print(c.backend(), c.floatx(), c.image_data_format(), c.epsilon())
    print(tf.keras is not None, os.environ.get("TF_CONFIG"))
    print(keras.layers.Conv2D(3, 3)(tf.zeros((1, 9, 8, 2))).shape)
"""
    process = program.start(
        code,
        end=END_WITH_TENSORFLOW,
        KERAS_BACKEND="jax",
        KERAS_HOME=str(tmp_path),
        TF_USE_LEGACY_KERAS="1",
        TF_CONFIG="",
    )
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert output.splitlines() == [
        "tensorflow float32 channels_last 1e-07",
        "True None",
        "(1, 7, 6, 3)",
    ]
    assert errors == "KERAS_BACKEND=jax is not used: this is TensorFlow\n"


def test_where_threads_run_out_tensorflow_is_not_started(monkeypatch):
    """It would abort; `files.explain` makes one line of the error."""
    left, start = iter(range(20)), threading.Thread.start

    def start_few(thread):
        if next(left, None) is None:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_few)
    monkeypatch.delitem(sys.modules, "tensorflow")
    with pytest.raises(RuntimeError, match="start new thread"):
        starting.import_tensorflow()
    assert "tensorflow" not in sys.modules


def test_training_begins_without_matplotlib():
    """Keras would import it; pictures are drawn later, and then it is there."""
    code = (
        "import gc, sys\n"
        "from alexnet_tf.starting import import_tensorflow\n"
        "import_tensorflow()\n"
        "import alexnet_tf.training.training, alexnet_tf.predicting\n"
        "assert 'matplotlib' not in sys.modules\n"
        "assert gc.isenabled()\n"
        "import alexnet_tf.evaluation.figures\n"
        "assert 'matplotlib' in sys.modules\n"
    )
    environment = os.environ | {"ALEXNET_TF_PROGRAM": "1", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert not ended.returncode, ended.stderr


def test_terminal_says_at_once_that_it_starts(program, tmp_path):
    """Where TensorFlow, here one that takes its time, is imported."""
    (tmp_path / "keras.py").write_text("import time; time.sleep(60)")
    program.path.write_text(START.lstrip() + FAST + END_WITH_TENSORFLOW)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(program.path)],
        stderr=theirs,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )
    with open(ours, closefd=True) as terminal:
        assert terminal.readline() == "starting TensorFlow\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert [terminal.readline() for _ in range(2)] == ["\n", "interrupted\n"]
    os.close(theirs)


def test_a_closed_terminal_ends_a_training_in_order(program):
    """What it prints afterwards is lost, and no error."""
    code = ASKING.replace("steps += 1", "print('step', steps, file=sys.stderr)")
    program.path.write_text(START.lstrip() + code + END)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(program.path)],
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    os.close(theirs)
    assert b"ready" in os.read(ours, 4096)
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    assert process.wait(30) == 75


def test_a_terminal_that_does_not_tell_its_width_has_bars(program):
    body = "def main(values):\n    from tqdm import tqdm\n    list(tqdm('ab'))\n"
    program.path.write_text(START.lstrip() + body + END)
    ours, theirs = pty.openpty()  # 0 columns, as of some containers
    process = subprocess.Popen(
        [sys.executable, str(program.path)],
        stderr=theirs,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.wait(30) == 0
    assert b"100%|" in os.read(ours, 4096)
    os.close(ours)
    os.close(theirs)


# Signals.

STOPS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)]
WORKING = """
from alexnet_tf import files
def main(values):
    with files.replacing("out", ["a"]) as temporary:
        os.mkdir(temporary)
        ready()
        while True:
            time.sleep(60)
"""
STUCK = """
def main(values):
    try:
        ready()
        time.sleep(60)
    finally:
        print("tidying", flush=True)
        time.sleep(60)
"""
# Deep in a library that holds the interpreter's attention: no handler of Python's runs.
DEEP = """
import ctypes
def main(values):
    sleep = ctypes.CDLL(None).sleep
    ready()
    sleep(60)
"""
STARTING = """
def main(values):
    pass
class Slow:
    def __init__(self, *_):
        try:
            ready()
            time.sleep(60)
        except BaseException:  # as the import of a library may do
            time.sleep(60)
"""
ASKING = """
def main(values):
    with signals.stop_requests() as is_stop_requested:
        ready()
        steps = 0
        while not is_stop_requested():
            time.sleep(0.01)
            steps += 1
        time.sleep(0.5)  # a checkpoint takes its time, in which the line is written
        print("saved", flush=True)
    return 75
"""
ENDING = """
def main(values):
    pass
class Last:
    def __del__(self, write=os.write, clock=time.monotonic):  # after atexit
        write(1, b"ready\\n")
        end = clock() + 0.5
        while clock() < end:
            pass
sys.modules["last"] = Last()
"""
LATE = """
def main(values):
    with signals.stop_requests():
        ready()
        while not signals._State.received:  # the last step; nobody asks any more
            time.sleep(0.01)
    print("evaluating", flush=True)
    time.sleep(60)
"""


def stop(process, *signums):
    assert process.stdout.readline() == "ready\n"
    for signum in signums:
        process.send_signal(signum)
        if len(signums) > 1:
            assert process.stdout.readline() == "tidying\n" or signum == signums[-1]
    output, errors = process.communicate(timeout=30)
    assert "Traceback" not in errors
    return process.returncode, output, errors


@pytest.mark.parametrize(("signum", "code"), STOPS)
def test_one_signal_ends_a_program(program, tmp_path, signum, code):
    ended = stop(program.start(WORKING), signum)
    assert ended == (code, "", "interrupted\n")
    assert os.listdir(tmp_path) == ["program.py"]


def test_documented_code_of_a_training(program):
    said = "interrupted; run the same command again to go on\n"
    end = "\nsignals.handle(signals.EXIT_INTERRUPTED)" + END
    for signum, _ in STOPS:
        assert stop(program.start(WORKING, end=end), signum) == (75, "", said)


def test_signal_while_a_program_starts(program):
    """A library that swallows exceptions while it is imported does not swallow it."""
    end = "\ncommand_line.run(main, define_flags, Slow, tensorflow=False)\n"
    for signum, code in STOPS[:2]:
        assert stop(program.start(STARTING, end=end), signum) == (
            code,
            "",
            "interrupted\n",
        )


@pytest.mark.parametrize(("signum", "code"), STOPS)
def test_second_signal_ends_it_at_once(program, signum, code):
    assert stop(program.start(STUCK), signal.SIGINT, signum) == (code, "", "")


def test_two_signals_in_a_library(program):
    process = program.start(DEEP)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) in (130, 143)


@pytest.mark.parametrize("signum", [signum for signum, _ in STOPS])
def test_signal_while_the_interpreter_ends(program, signum):
    """No handler of Python's is left then, and the exit code is settled."""
    assert stop(program.start(ENDING), signum)[0] == 0


def test_signals_that_are_ignored_stay_so(program):
    """As with `nohup`: a closed terminal ends neither the program nor its children."""
    code = """
import signal, warnings
warnings.simplefilter("ignore")  # Python 3.12 warns of a fork beside a thread
signal.signal(signal.SIGHUP, signal.SIG_IGN)
def main(values):
    if not os.fork():
        print(signal.getsignal(signal.SIGHUP).name, flush=True)
        os._exit(0)
    os.wait()
    ready()
    time.sleep(60)
"""
    process = program.start(code)
    assert process.stdout.readline() == "SIG_IGN\n"
    process.send_signal(signal.SIGHUP)
    assert stop(process, signal.SIGINT) == (130, "", "interrupted\n")


def test_training_asks(program):
    for signum, _ in STOPS:
        code, output, errors = stop(program.start(ASKING), signum)
        assert (code, output) == (75, "saved\n")
        assert errors == "stopping after this step; once more to stop at once\n"


def test_signal_that_nobody_asked_about_is_not_lost(program):
    code, output, errors = stop(program.start(LATE), signal.SIGTERM)
    assert (code, output) == (143, "")
    assert errors.endswith("interrupted\n")


def test_a_library_takes_no_signal_and_gives_keras_its_layers():
    """In a notebook or a test everything stays as Python and others have it.

    Keras comes second: `test_keras.py` loads a network where it is there first.
    """
    signums = [*(signum for signum, _ in STOPS), signal.SIGALRM]
    code = f"""
import os, signal, sys, threading, alexnet_tf, alexnet_tf.command_line
from alexnet_tf import signals
before = [signal.getsignal(signum) for signum in {[int(s) for s in signums]}]
with signals.stop_requests() as is_stop_requested:
    assert not is_stop_requested()
    handlers = [signal.getsignal(signum) for signum in {[int(s) for s in signums]}]
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        print("interrupted")
assert handlers == before == [signal.default_int_handler, 0, 0, 0], (before, handlers)
assert signal.set_wakeup_fd(-1) == -1
assert threading.active_count() == 1
assert sys.unraisablehook is sys.__unraisablehook__
import keras
print(*sorted(n for n in keras.saving.get_custom_objects() if "alexnet_tf>" in n))
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.stderr == ""
    assert ended.stdout.split() == [
        "interrupted",
        "alexnet_tf>Dropout",
        "alexnet_tf>GroupedConv2D",
        "alexnet_tf>InputNormalization",
        "alexnet_tf>LocalResponseNormalization",
        "alexnet_tf>SpatialResponseNormalization",
    ]


def test_forked_children_have_their_own_signals(program):
    """A pool that ends its forked workers is not told to end itself."""
    code = """
import warnings
warnings.simplefilter("ignore")  # Python 3.12 warns of a fork beside a thread
def main(values):
    child = os.fork()
    if not child:
        time.sleep(60)
    time.sleep(0.1)
    os.kill(child, 15)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    ready()
    time.sleep(60)
"""
    process = program.start(code)
    assert process.stdout.readline() == "-15\n"
    assert stop(process, signal.SIGINT) == (130, "", "interrupted\n")


def test_workers_leave_ctrl_c_to_their_parent(program):
    """Ctrl-C goes to every process of a terminal; only the parent says something."""
    code = """
import subprocess
def main(values):
    with signals.starting_processes():
        worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print(worker.pid, flush=True)
    try:
        ready()
        worker.wait()
    finally:
        print(worker.poll(), flush=True)
        worker.kill()
"""
    process = program.start(code)
    worker = int(process.stdout.readline())
    os.kill(worker, signal.SIGINT)
    os.kill(worker, signal.SIGHUP)
    assert stop(process, signal.SIGINT) == (130, "None\n", "interrupted\n")


@pytest.mark.parametrize("script", SCRIPTS)
def test_signal_in_the_first_imports_of_the_scripts(tmp_path, script):
    """While the first library is being imported, the handler is there."""
    (tmp_path / "absl.py").write_text(
        "import time\nprint('ready', flush=True)\ntime.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    code, output, errors = stop(process, signal.SIGINT)
    assert (code, output) == (75 if script in ("train", "features") else 130, "")
    assert len(errors.splitlines()) == 1
    assert errors.startswith("interrupted")


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_of_every_script(script):
    """Without TensorFlow, whatever else is missing, in columns that fit."""
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", script, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Flags:" in ended.stdout
    assert max(map(len, ended.stdout.splitlines())) < 88
    assert "tensorflow" not in ended.stderr
    assert len(re.findall("^  --", ended.stdout, flags=re.MULTILINE)) < 30
    paths = r"^  --(?:\w+_dir|input|output\w*|saved_model|checkpoint)=(?!PATH)"
    assert not re.findall(paths, ended.stdout, flags=re.MULTILINE)


def test_nothing_that_is_printed_steers_a_terminal(program):
    """Whatever a data set or a class is called."""
    code = """
from absl import logging
name = "a\\x1b]0;title\\x07b\\x9b31m\\u202ec"
def main(values):
    print(name, "\\x1b[1mbold\\x1b[0m", "é")
    print("error", name, file=sys.stderr)
    logging.warning("logged %s", name)
    raise UserError(f"no such\\n{name}")
"""
    process = program.start(code)
    output, errors = process.communicate()
    plain = r"a\x1b]0;title\x07b\x9b31m\u202ec"
    assert output == f"{plain} \x1b[1mbold\x1b[0m é\n"
    lines = [f"error {plain}", f"logged {plain}", rf"error: no such\n{plain}"]
    assert errors.splitlines() == lines

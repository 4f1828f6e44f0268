"""What preparation does to its output: two at once, signals, full disks, old files."""

import contextlib
import dataclasses
import errno
import io
import os
import pathlib
import resource
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from alexnet_tf import files
from alexnet_tf.errors import UserError
from alexnet_tf.paths import LOCK_FILE
from alexnet_tf.pipeline.data_set import open_data_set
from data import prepare as prepare_module
from data import workers
from data.check import check
from data.prepare import prepare
from data.transcode import Options

ROOT = pathlib.Path(__file__).resolve().parent.parent
SMALL = Options(image_size=16)


def make(root, number=4, size=8):
    """Writes pictures of noise in two classes."""
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(number):
            pixels = generator.integers(0, 256, (8, 8, 3)).astype(np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(pixels).resize((size, size)).save(buffer, "BMP")
            (root / name / f"{i}.bmp").write_bytes(buffer.getvalue())
    return root


def run(source, output, overwrite=False, num_workers=0, **options):
    prepare(
        source="folder",
        input=str(source),
        output=str(output),
        options=dataclasses.replace(SMALL, **options),
        num_workers=num_workers,
        overwrite=overwrite,
    )


def start(source, output, *flags, **kwargs):
    command = [sys.executable, "-m", "data.prepare", "--source=folder"]
    command += [f"--input={source}", f"--output={output}", *flags]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def contents(directory):
    return {
        path.relative_to(directory): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != LOCK_FILE
    }


@pytest.mark.parametrize("output", ["in", "in/cat", "in/new", ".", "link"])
def test_output_that_would_replace_the_input(tmp_path, output):
    source = make(tmp_path / "in")
    (tmp_path / "link").symlink_to(source)
    before = contents(tmp_path)
    with pytest.raises(UserError, match="overlaps the input"):
        run(source, tmp_path / output, overwrite=True)
    assert contents(tmp_path) == before


def test_what_preparation_did_not_write_stays(tmp_path):
    source, output = make(tmp_path / "in"), tmp_path / "out"
    output.mkdir()
    (output / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match=r"out holds thesis\.txt, which this program"):
        run(source, output, overwrite=True)
    (output / "thesis.txt").unlink()
    run(source, output, num_shards=2)
    with pytest.raises(UserError, match="--overwrite"):
        run(source, output)
    (source / "cat" / "0.bmp").unlink()
    photos = make(tmp_path / "photos")
    (output / "photos").symlink_to(photos)
    (output / "nested").mkdir()
    (output / "nested" / "events").write_text("of a run")
    with pytest.raises(UserError, match=r"out holds nested/events, which"):
        run(source, output, overwrite=True)
    (output / "nested" / "events").unlink()
    (output / "nested").rmdir()
    with pytest.raises(UserError, match=r"out holds photos, which"):
        run(source, output, overwrite=True)
    (output / "photos").unlink()
    run(source, output, overwrite=True)
    assert sum(s.num_examples for s in open_data_set(str(output)).splits.values()) == 7
    assert len(list(output.glob("*.tfrecord-*"))) == 2  # the four old ones have gone


def test_output_through_a_link(tmp_path):
    source = make(tmp_path / "in")
    (tmp_path / "disk" / "data").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "data")
    for _ in range(2):
        run(source, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out").is_symlink()
    assert check(str(tmp_path / "disk" / "data")) == []


def test_brackets_in_a_path_are_no_pattern(tmp_path):
    source = make(tmp_path / "in [1]")
    run(source, tmp_path / "out[0.01]*")
    assert check(str(tmp_path / "out[0.01]*")) == []


def test_a_failure_leaves_the_old_data_set(tmp_path):
    source, output = make(tmp_path / "in"), tmp_path / "out"
    run(source, output)
    before = contents(tmp_path)
    (source / "cat" / "bad.bmp").write_bytes(b"no picture")
    with pytest.raises(UserError, match="1 pictures cannot be used"):
        run(source, output, overwrite=True, max_errors=0)
    (source / "cat" / "bad.bmp").unlink()
    assert contents(tmp_path) == before


def test_locked_output(tmp_path):
    source = make(tmp_path / "in")
    with (
        contextlib.suppress(FileNotFoundError),  # it writes nothing
        files.replacing(str(tmp_path / "out"), ["metadata.json"]),
        pytest.raises(UserError, match=rf"written by process {os.getpid()} on "),
    ):
        run(source, tmp_path / "out")
    assert os.listdir(tmp_path) == ["in"]


def test_workers_without_shared_memory(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor", refuse)
    with pytest.raises(UserError, match=r"/dev/shm .*Read-only.*--num_workers=0"):
        run(make(tmp_path / "in"), tmp_path / "out", num_workers=1)


def test_two_at_once(tmp_path):
    source, output = make(tmp_path / "in", 20), tmp_path / "out"
    both = [start(source, output, "--num_workers=1") for _ in range(2)]
    errors = {process.communicate()[1]: process.returncode for process in both}
    assert sorted(errors.values()) == [0, 1]
    (error,) = [text for text, code in errors.items() if code]
    assert "Traceback" not in error
    last = error.splitlines()[-1]
    assert "is being written by process" in last or "has a data set" in last
    assert check(str(output)) == []
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]


def children(pid):
    """Returns the processes that the threads of a process have started."""
    try:
        threads = list(pathlib.Path(f"/proc/{pid}/task").iterdir())
        lines = [(thread / "children").read_text() for thread in threads]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(child) for line in lines for child in line.split()]


def is_alive(pid):
    try:
        status = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rsplit(") ", 1)[1][0] != "Z"


def wait_for(condition, process):
    while not (found := condition()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    return found


@pytest.mark.parametrize(
    ("signum", "code"),
    [("SIGINT", 130), ("SIGTERM", 143), ("SIGKILL", -9)],
)
def test_a_signal_ends_it(tmp_path, signum, code):
    signum = getattr(signal, signum)
    source = make(tmp_path / "in", 3, size=256)
    for i in range(3, 3000):
        (source / "cat" / f"{i}.bmp").symlink_to(source / "cat" / "0.bmp")
    process = start(source, tmp_path / "out", start_new_session=True)
    wait_for(lambda: len(children(process.pid)) > 2, process)  # and the tracker
    pids = children(process.pid)
    if signum == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, signum)  # as a terminal does
    error = process.communicate(timeout=30)[1]
    assert process.returncode == code, error
    if signum != signal.SIGKILL:  # no one can tell a process that is just starting
        assert "Traceback" not in error
    deadline = time.monotonic() + 10
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(is_alive, pids))
    if signum == signal.SIGKILL:
        with pytest.raises(UserError, match="no data set in"):
            open_data_set(str(tmp_path / "out"))
        (source / "cat" / "0.bmp").unlink()  # and all links to it
        run(source, tmp_path / "out")
        assert check(str(tmp_path / "out")) == []
        assert sorted(os.listdir(tmp_path)) == ["in", "out"]
    else:
        assert error.splitlines()[-1].startswith("interrupted")
        assert "leaked" not in error
        assert os.listdir(tmp_path) == ["in"]


def test_full_disk(tmp_path):
    source = make(tmp_path / "in", 20, size=128)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))

    flags = ("--encoding=raw", "--num_workers=1")
    process = start(source, tmp_path / "out", *flags, preexec_fn=limit)
    _, error = process.communicate()
    assert process.returncode == 1
    assert "Traceback" not in error
    assert "File too large; free some space" in error.splitlines()[-1]
    assert os.listdir(tmp_path) == ["in"]


def test_output_where_nothing_can_be_written(tmp_path):
    source = make(tmp_path / "in")
    (tmp_path / "file").write_text("")
    for output in ("/proc/self/out", tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(UserError) as error:
            run(source, output)
        assert str(output) in str(error.value)
        assert "\n" not in str(error.value)


def test_a_worker_that_was_killed():
    with pytest.raises(UserError, match="a worker was killed"):
        list(workers.in_workers(_Killed(), range(100), 1))


def test_as_many_processes_as_a_container_has_cores(tmp_path, monkeypatch):
    limit = tmp_path / "cpu.max"
    monkeypatch.setattr(workers, "_CORES_OF_CGROUP", str(limit))
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for content, cores in {
        "max 100000": 8,
        "250000 100000": 2,
        "5000 100000": 1,
    }.items():
        limit.write_text(content)
        assert workers._num_cores() == cores
    limit.unlink()
    assert workers._num_cores() == 8


@pytest.mark.parametrize("is_file", [True, False])
def test_a_script_needs_no_guard(tmp_path, is_file):
    source, output = make(tmp_path / "in"), tmp_path / "out"
    script = tmp_path / "script.py"
    script.write_text(
        "from data.prepare import prepare\n"
        f"prepare(source='folder', input={str(source)!r}, output={str(output)!r})\n"
    )
    with open(script) as file:
        ended = subprocess.run(
            [sys.executable, script if is_file else "-"],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=file,
            capture_output=True,
            text=True,
        )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("8 pictures") == 1
    assert "Traceback" not in ended.stderr
    assert check(str(output)) == []


class _Killed:
    def __call__(self, items):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("folder", "program"), [("train", "train.py"), ("test", "eval.py")]
)
def test_next_step_can_be_typed(tmp_path, folder, program):
    make(tmp_path / "pictures" / folder, 2)
    output = tmp_path / "it's; a data set"
    run(tmp_path / "pictures", output)
    words = shlex.split(prepare_module._next_steps(str(output)))
    assert (words[0], words[2]) == ("next:", program)
    assert f"--data_dir={output}" in words

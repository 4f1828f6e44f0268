"""Nothing of a person's is lost: outputs, locks, paths, full disks."""

import contextlib
import errno
import functools
import json
import os
import pathlib
import re
import signal
import stat
import subprocess

import pytest
import tensorflow as tf
from helpers import NOT_UTF8, ODD_NAMES, python, tree

from alexnet_tf import files
from alexnet_tf.errors import UserError
from alexnet_tf.paths import (
    LOCK_FILE,
    list_names,
)

ROOT = pathlib.Path(__file__).resolve().parent.parent
os.umask(UMASK := os.umask(0))


def write_tree(directory, contents):
    for name, content in contents.items():
        path = pathlib.Path(directory, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def tree_but_locks(directory):
    content = tree(directory)
    return {name: content[name] for name in content if LOCK_FILE not in name}


@contextlib.contextmanager
def file_limit(num_bytes):
    """Lets no file grow beyond some bytes, as a disk does that gets full."""
    import resource

    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


# Fresh names.


def test_two_processes_never_share_a_fresh_directory(tmp_path):
    code = "print(*[files.make_fresh_directory(sys.argv[1]) for _ in range(50)])"
    processes = [python(code, tmp_path / "run[1]") for _ in range(2)]
    made = [name for p in processes for name in p.communicate()[0].split()]
    assert len(made) == 100
    assert len(set(made)) == 100
    assert set(made) == {str(path) for path in tmp_path.iterdir()}
    assert made.count(str(tmp_path / "run[1]")) == 1


# Reading what others made.


def test_only_files_that_end_are_read(tmp_path):
    (tmp_path / "a").write_bytes(b"four")
    os.mkfifo(tmp_path / "pipe")
    assert files.read_whole(str(tmp_path / "a"), 4) == b"four"
    for path, message in {
        "a": "larger than 0 MiB",
        "pipe": "not a regular file",
        "/dev/zero": "not a regular file",
        ".": "not a regular file",
        "missing": "No such file",
    }.items():
        with pytest.raises(UserError, match=message):
            files.read_whole(str(tmp_path / path), 3)
    remote = "ram://test_only_files_that_end_are_read/a"
    tf.io.write_file(remote, b"four")
    assert files.read_whole(remote, 4) == b"four"
    with pytest.raises(UserError, match="larger than"):
        files.read_whole(remote, 3)


# Writing files.


def test_writing_text_and_bytes(tmp_path):
    path = tmp_path / "made" / "eval.json"
    with files.writing(str(path)) as file:
        file.write('{"class": "é\n\udcff"}')
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == '{"class": "é\n?"}'.encode()
    with files.writing(str(path), "wb") as file:
        file.write(b"\xff")
    assert path.read_bytes() == b"\xff"
    with pytest.raises(ZeroDivisionError), files.writing(str(path)) as file:
        file.write(str(1 / 0))
    assert path.read_bytes() == b"\xff"
    assert os.listdir(path.parent) == ["eval.json"]
    with files.writing("ram://test_writing/eval.json") as file:
        json.dump({"a": 1}, file)
    assert remote_tree("ram://test_writing") == {"eval.json": '{"a": 1}'}


def test_permissions_stay(tmp_path):
    path, new = tmp_path / "private", tmp_path / "new"
    path.touch(0o600)
    write_tree(tmp_path / "out", {"known": "", "inner/a": ""})
    (tmp_path / "out").chmod(0o700)
    (tmp_path / "out" / "inner" / "a").chmod(0o640)
    for each in (path, new):
        with files.writing(str(each)) as file:
            file.write("text")
    with files.replacing(str(tmp_path / "out"), ["known", "inner/a", "b"]) as temporary:
        write_tree(temporary, {"known": "", "inner/a": "", "b": ""})
    modes = {
        name: stat.S_IMODE((tmp_path / name).stat().st_mode)
        for name in ("private", "new", "out", "out/inner/a", "out/b")
    }
    usual = 0o666 & ~UMASK
    assert modes == {
        "private": 0o600,
        "new": usual,
        "out": 0o700,
        "out/inner/a": 0o640,
        "out/b": usual,
    }


def test_a_link_is_replaced_and_not_followed(tmp_path):
    """As a downloaded run may have them for files that a program writes."""
    (tmp_path / "bashrc").write_text("mine")
    run = tmp_path / "run"
    run.mkdir()
    (run / "per_class.csv").symlink_to("../bashrc")
    with files.writing(str(run / "per_class.csv")) as file:
        file.write("new")
    assert tree(tmp_path) == {"bashrc": "mine", "run/per_class.csv": "new"}


def test_own_directories_are_no_links(tmp_path):
    names = ["config.json", "train/events.#", "saved_model/assets/labels.txt"]
    run, mine = tmp_path / "run", tmp_path / "mine"
    write_tree(run, {"config.json": "", "train/events.1": ""})
    mine.mkdir()
    (tmp_path / "link").symlink_to(run)
    files.check_no_links(str(tmp_path / "link"), names)
    (run / "saved_model").symlink_to(mine)
    with pytest.raises(UserError, match="run/saved_model is a link: remove it"):
        files.check_no_links(str(run), names)
    (run / "saved_model").unlink()
    for name in (".saved_model.unfinished", ".x.unfinished/x"):
        write_tree(run, {".x.unfinished/a": ""})
        (run / name).symlink_to(mine)
        (output,) = re.findall(r"\w+(?=\.unf)", name)
        with pytest.raises(UserError, match=f"{name} is a link: remove it"):
            files.replacing(str(run / output), ["a"]).__enter__()
    (run / LOCK_FILE).symlink_to(mine / "new")
    with pytest.raises(OSError, match="symbolic"):
        files.lock(str(run)).__enter__()
    assert list(mine.iterdir()) == []


# Replacing directories.


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_behind_when_it_fails(tmp_path, stop):
    def write_and_stop(path, name):
        with files.replacing(str(path), ["a", "b"]) as temporary:
            write_tree(temporary, {name: "half"})
            raise stop

    write_tree(tmp_path / "out", {"a": "old"})
    for path in (tmp_path / "out", tmp_path / "new" / "deep"):
        with pytest.raises(stop):
            write_and_stop(path, "b")
    assert tree(tmp_path) == {"out/a": "old"}
    assert os.listdir(tmp_path / "new") == []


def test_nothing_is_lost_when_nothing_was_written(tmp_path):
    write_tree(tmp_path / "out", {"a": "old"})
    with (
        pytest.raises(FileNotFoundError),
        files.replacing(str(tmp_path / "out"), ["a"]),
    ):
        pass
    assert tree(tmp_path) == {"out/a": "old"}


NAMES = [
    "saved_model.pb",
    "variables/variables.data-#-of-#",
    "assets/labels.txt",
    "train/events.*.v2",
]


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "labels.txt",
        "assets/photo.jpg",
        "variables/variables.data-mine",
        "variables/variables.data-00000-of-00001.txt",
        "train/events.md",
        "other/saved_model.pb",
        ".lock",
    ],
)
def test_a_directory_with_a_file_of_a_person_is_refused(tmp_path, name):
    out = tmp_path / "out"
    ours = {
        "saved_model.pb": "old",
        "variables/variables.data-00000-of-00001": "old",
        "assets/labels.txt": "old",
        "train/events.my-computer.17.v2": "",
    }
    write_tree(out, ours)
    files.check_ours(str(out), NAMES)
    write_tree(out, {name: "mine"})
    before = tree(tmp_path)
    with pytest.raises(UserError, match=f"out holds {re.escape(name)}, which this"):
        files.check_ours(str(out), NAMES)
    with pytest.raises(UserError, match=f"out holds {re.escape(name)}, which this"):
        files.replacing(str(out), NAMES).__enter__()
    assert tree(tmp_path) == before


def test_a_file_that_a_person_adds_meanwhile_is_kept(tmp_path):
    out = tmp_path / "out"
    write_tree(out, {"a": "old"})
    replacing = files.replacing(str(out), ["a"])
    write_tree(replacing.__enter__(), {"a": "new"})
    write_tree(out, {"notes": "mine"})
    with pytest.raises(UserError, match="holds notes"):
        replacing.__exit__(None, None, None)
    assert tree(tmp_path) == {"out/a": "old", "out/notes": "mine"}


def test_without_its_first_file_a_directory_is_a_persons(tmp_path):
    """Such as a folder with somebody's `eval.json`, given as the one of a report."""
    write_tree(tmp_path / "mine", {"eval.json": "mine"})
    with pytest.raises(UserError, match=r"mine holds eval\.json, which this"):
        files.check_ours(str(tmp_path / "mine"), ["index.html", "eval.json"])
    for name in ("empty", "missing"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        files.check_ours(str(tmp_path / name), ["index.html"])


@pytest.mark.parametrize("name", ["train", "fc7.npy"])
def test_a_link_is_none_of_our_files(tmp_path, name):
    """What is written into a file through a link would reach somebody's own."""
    write_tree(tmp_path / "run", {"config.json": ""})
    (tmp_path / "run" / name).symlink_to(tmp_path / "mine")
    names = ["config.json", "train/events.#", "*.npy"]
    with pytest.raises(UserError, match=f"run holds {name}, which this"):
        files.check_ours(str(tmp_path / "run"), names)


def test_the_directory_that_a_person_names_may_be_a_link(tmp_path):
    write_tree(tmp_path / "disk" / "data", {"a": "old"})
    (tmp_path / "data").symlink_to(pathlib.Path("disk", "data"))
    (tmp_path / "dangling").symlink_to(pathlib.Path("disk", "later"))
    for name in ("data", "dangling"):
        with files.replacing(str(tmp_path / name), ["a"]) as temporary:
            assert os.path.basename(temporary) in ("data", "later")
            write_tree(temporary, {"a": "new"})
        assert (tmp_path / name).is_symlink()
    assert tree(tmp_path / "disk") == {"data/a": "new", "later/a": "new"}


def test_a_directory_does_not_take_the_place_of_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file: give the name of a directory"):
        files.replacing(str(tmp_path / "file"), ["a"]).__enter__()
    assert tree(tmp_path) == {"file": "mine"}


@pytest.mark.parametrize("name", [*ODD_NAMES, NOT_UTF8])
def test_names_are_no_patterns(tmp_path, name):
    write_tree(tmp_path / "xa", {"checkpoints/ckpt-1": "another run"})
    directory = tmp_path / name
    names = ["checkpoints/ckpt-#", "checkpoints/keep"]
    with files.replacing(str(directory), names) as temporary:
        write_tree(temporary, {"checkpoints/ckpt-1": "", "checkpoints/keep": ""})
    with files.lock(str(directory)):
        assert list_names(str(directory)) == ["checkpoints"]
    files.remove_written(str(directory), names[:1])
    assert tree_but_locks(directory) == {"checkpoints/keep": ""}
    assert tree(tmp_path / "xa") == {"checkpoints/ckpt-1": "another run"}


KILLED = """
with files.replacing(sys.argv[1], ["a"]) as temporary:
    os.mkdir(temporary)
    open(temporary + "/half", "w").close()
    if sys.argv[2] == "between":  # the two moves
        os.rename(sys.argv[1], temporary + ".old")
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("where", ["writing", "between"])
def test_killed_replacement_is_tidied_up_by_the_next(tmp_path, where):
    """And not by one of another directory, whose name begins alike."""
    out, other = tmp_path / "photos", tmp_path / "photos.v2"
    write_tree(other, {"a": "old"})
    process = python(KILLED, other, where)
    assert process.stdout.readline() == "ready\n"
    with (
        pytest.raises(UserError, match=f"written by process {process.pid} on"),
        files.replacing(str(other), ["a"]),
    ):
        pass
    process.kill()
    process.communicate()
    left = tree(tmp_path)
    with files.replacing(str(out), ["a"]) as temporary:
        write_tree(temporary, {"a": "new"})
    assert tree(tmp_path) == {**left, "photos/a": "new"}
    with pytest.raises(ZeroDivisionError), files.replacing(str(other), ["a"]):
        1 / 0  # noqa: B018
    assert tree(tmp_path) == {"photos/a": "new", "photos.v2/a": "old"}
    assert sorted(os.listdir(tmp_path)) == ["photos", "photos.v2"]


def test_two_processes_write_one_file_at_once(tmp_path):
    """What stays is whole at every moment, and of one of them."""
    code = """
for i in range(100):
    with files.writing(sys.argv[1]) as file:
        file.write(sys.argv[2] * 20000)
"""
    path = tmp_path / "eval.json"
    path.write_text("a" * 20000)
    processes = [python(code, path, letter) for letter in "ab"]
    while any(process.poll() is None for process in processes):
        assert path.read_text() in ("a" * 20000, "b" * 20000)
    assert [process.communicate()[1] for process in processes] == ["", ""]
    assert os.listdir(tmp_path) == ["eval.json"]


def test_full_disk_leaves_the_old(tmp_path):
    path = tmp_path / "eval.json"
    path.write_text("old")
    with (
        pytest.raises(UserError) as caught,
        file_limit(1000),
        files.disk_errors(),
        files.writing(str(path)) as file,
    ):
        file.write("x" * 100_000)
    line = f"cannot write {path}: File too large; free some space"
    assert str(caught.value).startswith(line)
    with (
        pytest.raises(UserError, match=r"^cannot write \S+/out: File too large; free"),
        file_limit(1000),
        files.disk_errors(),
        files.replacing(str(tmp_path / "out"), ["a"]) as temporary,
    ):
        write_tree(temporary, {"a": "x" * 100_000})
    assert tree(tmp_path) == {"eval.json": "old"}


# Removing.


def test_only_what_was_written_is_removed(tmp_path):
    mine = {
        "notes.txt": "",
        "inner/config.json": "a nested run",
        "inner/checkpoints/ckpt-1.index": "",
        "checkpoints/notes.txt": "",
        "events.mine/notes.txt": "",
        "train/photos/events.jpg": "",
        "other/.keep": "",
    }
    ours = {
        "config.json": "",
        "checkpoints/ckpt-1.index": "",
        "checkpoints/best/ckpt-1.index": "",
        "train/events.out": "",
        "validation/events.out": "",
    }
    run = tmp_path / "run"
    write_tree(run, mine | ours)
    outside = tmp_path / "photos"
    write_tree(outside, {"config.json": ""})
    (run / "checkpoints" / "link").symlink_to(outside)
    names = ["config.json", "checkpoints/ckpt-#.index", "checkpoints/best/ckpt-#.index"]
    names += ["train/events.*", "validation/events.out", "checkpoints/link/config.json"]
    files.remove_written(str(run), names)
    assert tree(run) == mine | {"checkpoints/link": str(outside)}
    assert not (run / "validation").exists()
    assert not (run / "checkpoints" / "best").exists()
    assert tree(outside) == {"config.json": ""}
    files.remove_written(str(tmp_path / "missing"), names)


# Checks before the work begins.


def test_output_may_not_be_an_input(tmp_path):
    write_tree(tmp_path / "out" / "pictures", {"a.jpg": ""})
    (tmp_path / "link").symlink_to(tmp_path / "out")
    out, pictures = tmp_path / "out", tmp_path / "out" / "pictures"
    for output, given in (
        (out, pictures),
        (out, out),
        (pictures, out),
        (pictures / "new", pictures),
        (tmp_path / "link", pictures),
        (tmp_path / "link" / "new", out),
    ):
        with pytest.raises(UserError, match="overlaps the input"):
            files.check_output(str(output), [str(given)], what="--output")
    files.check_output(str(tmp_path / "outside"), [str(out), "gs://b/out"])
    files.check_output(str(tmp_path / "out.v2"), [str(out)])
    with pytest.raises(UserError, match="overlaps the input"):
        files.check_output(str(tmp_path), ["/"])
    check, picture = functools.partial(files.check_output_file, mark=b""), "a.jpg"
    picture = str(pictures / picture)
    with pytest.raises(UserError, match="overlaps the input"):
        check(picture, [picture], what="--output")
    check(str(pictures / "page.html"), [picture], what="--output")


def test_output_of_the_wrong_kind(tmp_path):
    write_tree(tmp_path, {"file": "mine"})
    with pytest.raises(UserError, match=r"--output=\S+/file is a file"):
        files.check_output(str(tmp_path / "file"), what="--output")
    with pytest.raises(UserError, match="is a directory, a link or a device: give the"):
        files.check_output_file(str(tmp_path), what="--output", mark=b"")
    with pytest.raises(UserError, match="Not a directory; give another path"):
        files.check_output(str(tmp_path / "file" / "out"), what="--output")
    with pytest.raises(UserError, match="is a mount point"):
        files.replacing("/sys", ["kernel/*"]).__enter__()
    files.check_output(str(tmp_path / "made" / "later"))
    assert tree(tmp_path) == {"file": "mine"}
    assert os.listdir(tmp_path) == ["file"]


def test_output_that_another_program_wrote(tmp_path):
    write_tree(
        tmp_path, {"ours": "head ours tail", "mine": "a photograph", "empty": ""}
    )
    check = functools.partial(files.check_output_file, what="--x", mark=b"ours")
    with pytest.raises(UserError, match=r"/mine is a file of another program"):
        check(str(tmp_path / "mine"))
    for name in ("ours", "empty", "new"):
        check(str(tmp_path / name))
    with pytest.raises(UserError, match="/dev/null is a directory, a link or a device"):
        check("/dev/null")
    (tmp_path / "link").symlink_to("ours")
    with pytest.raises(UserError, match="/link is a directory, a link or a device"):
        check(str(tmp_path / "link"))
    (tmp_path / "link").unlink()
    assert len(tree(tmp_path)) == 3


def test_remote_output_without_a_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="scheme 'nofs' not implemented"):
        files.check_output_file("nofs://page.html", what="--output_html", mark=b"")
    assert os.listdir() == []


def test_output_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=r"^--output=/proc/x/y: \S+: No such"):
        files.check_output("/proc/x/y", what="--output")
    with file_limit(1000), pytest.raises(UserError, match="free some space"):
        files.check_output(str(tmp_path / "out"))
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_directory(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied; give another place"):
        files.check_output(str(tmp_path / "out"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("ro", "Read-only file system; give"),
        ("size=64k", "No space left on device; fr"),
    ],
)
def test_mounted_places(tmp_path, option, message):
    command = ["mount", "-t", "tmpfs", "-o", option, "none", str(tmp_path)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("cannot mount here")
    try:
        with pytest.raises(UserError, match=message):
            files.check_output(str(tmp_path / "out"))
        assert os.listdir(tmp_path) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


# Two at once.

LOCKING = """
from alexnet_tf.errors import UserError
try:
    with files.lock(sys.argv[1]):
        print("locked", flush=True)
        sys.stdin.read()
except UserError as error:
    print(error, flush=True)
"""


def test_lock_names_its_owner_and_ends_with_it(tmp_path):
    directory = tmp_path / "run[1]"
    owner = python(LOCKING, directory, stdin=subprocess.PIPE)
    assert owner.stdout.readline() == "locked\n"
    with pytest.raises(UserError) as caught, files.lock(str(directory)):
        pass
    message = str(caught.value)
    assert message.startswith(f"{directory} is being written by process ")
    assert f"process {owner.pid} on " in message
    assert len(message.splitlines()) == 1
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    assert (directory / LOCK_FILE).exists()  # what the kill left
    with files.lock(str(directory)):
        assert str(os.getpid()) in (directory / LOCK_FILE).read_text()


def test_lock_is_nothing_that_a_directory_holds(tmp_path):
    (tmp_path / "old").mkdir()
    with files.lock(str(tmp_path / "old")):
        assert list_names(str(tmp_path / "old")) == []
    files.check_ours(str(tmp_path / "old"), ["a"])


def test_directory_that_a_lock_made_goes_while_it_is_empty(tmp_path):
    with files.lock(str(tmp_path / "empty")):
        pass
    with files.lock(str(tmp_path / "full")):
        (tmp_path / "full" / "a").write_text("")
    (tmp_path / "own").mkdir()
    with files.lock(str(tmp_path / "own")):
        pass
    assert sorted(os.listdir(tmp_path)) == ["full", "own"]


def test_only_one_of_many_processes_replaces_a_directory(tmp_path):
    """Each counts up a number without any other care; no count is lost."""
    code = """
from alexnet_tf.errors import UserError
done = 0
while done < 100:
    try:
        with files.replacing(sys.argv[1], ["number"]) as temporary:
            os.mkdir(temporary)
            with open(sys.argv[1] + "/number") as file:
                number = int(file.read())
            with open(temporary + "/number", "w") as file:
                file.write(str(number + 1))
        done += 1
    except UserError:
        pass
"""
    write_tree(tmp_path / "out", {"number": "0"})
    processes = [python(code, tmp_path / "out") for _ in range(3)]
    assert [process.communicate()[1] for process in processes] == [""] * 3
    assert tree(tmp_path) == {"out/number": "300"}
    assert os.listdir(tmp_path) == ["out"]


def test_lock_on_a_full_disk(tmp_path):
    with file_limit(0), files.lock(str(tmp_path)):
        assert (tmp_path / LOCK_FILE).read_text() == ""
        with pytest.raises(UserError, match="by another process: wait"):
            files.lock(str(tmp_path)).__enter__()


def test_lock_follows_a_link_to_nothing(tmp_path):
    (tmp_path / "link").symlink_to("later")
    with files.lock(str(tmp_path / "link")):
        assert (tmp_path / "later" / LOCK_FILE).exists()


# What a file system refuses.


def test_explain_is_one_line_with_what_to_do():
    for code in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ENOENT, errno.EIO, 5):
        line = files.explain(OSError(code, os.strerror(code), "/data/x"))
        assert line.splitlines() == [line]
        assert "/data/x" in line
        assert os.strerror(code) in line
        assert "; " in line
    reason = "No usable temporary directory found in ['/tmp']"  # of `tempfile`
    line = files.explain(FileNotFoundError(errno.ENOENT, reason))
    assert line == f"{reason}; give one that can be written: TMPDIR=DIRECTORY"
    line = files.explain(RuntimeError("can't start new thread"))
    assert line.startswith("can't start new thread; raise the limit of processes")
    assert files.explain(ValueError("x")) is None
    assert files.explain(tf.errors.InvalidArgumentError(None, None, "shape")) is None
    out_of_memory = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")
    assert files.explain(out_of_memory) is None


def test_errors_of_tensorflow_are_explained(tmp_path):
    (tmp_path / "file").touch()
    big = tf.train.Checkpoint(value=tf.Variable(tf.zeros(10_000)))
    cases = {
        "cannot write /dev/full: No space left on device; free": lambda: write(
            "/dev/full"
        ),
        "/proc/x/y: No such file or directory; give another path": lambda: write(
            "/proc/x/y"
        ),
        "Not a directory; give another path": lambda: write(f"{tmp_path}/file/x"),
        "File too large; free some space": lambda: big.save(str(tmp_path / "ckpt")),
        "scheme 'nofs' not implemented": lambda: write("nofs://a/b"),
    }

    def write(path):
        with tf.io.gfile.GFile(path, "w") as file:
            file.write("x")

    for message, act in cases.items():
        with pytest.raises(UserError) as caught, files.disk_errors(), file_limit(1000):
            act()
        assert message in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


def test_disk_errors_lets_others_pass():
    with pytest.raises(UserError, match=r"^mine$"), files.disk_errors("--output=x"):
        raise UserError("mine")
    with pytest.raises(ZeroDivisionError), files.disk_errors():
        1 / 0  # noqa: B018
    with (
        pytest.raises(UserError, match=r"^--output=x: y: Not a directory; give"),
        files.disk_errors("--output=x"),
    ):
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), "y")


# Remote directories, by TensorFlow's own file system in memory.


def remote_tree(directory):
    return {
        f"{folder.rstrip('/')}/{file}".removeprefix(f"{directory}/"): tf.io.read_file(
            f"{folder.rstrip('/')}/{file}"
        )
        .numpy()
        .decode()
        for folder, _, names in tf.io.gfile.walk(directory)
        for file in names
    }


def write_remote(directory, contents):
    for name, content in contents.items():
        tf.io.gfile.makedirs(os.path.dirname(f"{directory}/{name}"))
        tf.io.write_file(f"{directory}/{name}", content)


def test_remote_outputs(caplog, monkeypatch):
    root = "ram://test_remote_outputs"
    names = ["saved_model.pb", "variables/v.index", "variables/v.data-#"]
    old = {"saved_model.pb": "old", "variables/v.index": "", "variables/v.data-1": ""}
    write_remote(f"{root}/out", old)
    files.check_output(f"{root}/out", [f"{root}/data"])
    with pytest.raises(UserError, match="overlaps the input"):
        files.check_output(f"{root}/out", [f"{root}/out/data/"])
    with pytest.raises(UserError, match="scheme 'nofs' not implemented"):
        files.check_output("nofs://bucket/out")
    copied, upload = [], files._upload
    monkeypatch.setattr(
        files, "_upload", lambda path, to: (copied.append(to), upload(path, to))
    )
    with files.replacing(f"{root}/out", names) as temporary:
        write_tree(temporary, {"saved_model.pb": "new", "variables/v.data-2": "new"})
        assert remote_tree(f"{root}/out") == old
    new = {"saved_model.pb": "new", "variables/v.data-2": "new"}
    assert remote_tree(root) == {f"out/{name}": new[name] for name in new}
    assert copied == [f"{root}/out/variables/v.data-2", f"{root}/out/saved_model.pb"]
    with pytest.raises(ZeroDivisionError), files.replacing(f"{root}/out", names) as to:
        write_tree(to, {"saved_model.pb": str(1 / 0)})
    assert remote_tree(root) == {f"out/{name}": new[name] for name in new}
    for text in ("mine, and longer", "mine"):  # nothing of the longer one stays
        with files.writing(f"{root}/out/notes.txt") as file:
            file.write(text)
    with pytest.raises(UserError, match=r"out holds notes\.txt"):
        files.replacing(f"{root}/out", names).__enter__()
    assert list_names(f"{root}/out") == ["notes.txt", "saved_model.pb", "variables"]
    files.remove_written(f"{root}/out", names)
    assert remote_tree(root) == {"out/notes.txt": "mine"}
    assert list_names(f"{root}/out") == ["notes.txt"]
    with files.lock(f"{root}/out"):
        assert "no lock on ram://" in caplog.text


def test_no_tensorflow_for_local_paths(tmp_path):
    code = """
with files.writing(sys.argv[1] + "/a"):
    pass
files.check_output(sys.argv[1] + "/b", ["gs://c"])
with files.lock(sys.argv[1]):
    files.remove_written(sys.argv[1], ["a"])
print(json.dumps([name for name in ("tensorflow", "numpy") if name in sys.modules]))
"""
    process = python("import json\n" + code, tmp_path)
    output, errors = process.communicate()
    assert not errors
    assert json.loads(output) == []

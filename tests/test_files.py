"""Nothing of a person's is lost: outputs, locks, paths, full disks."""

import contextlib
import errno
import functools
import json
import os
import pathlib
import signal
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


def write_tree(directory, contents):
    for name, content in contents.items():
        path = pathlib.Path(directory, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


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
        ".": "Is a directory",
        "missing": "No such file",
    }.items():
        with pytest.raises(UserError, match=message):
            files.read_whole(str(tmp_path / path), 3)
    remote = "ram://test_only_files_that_end_are_read/a"
    tf.io.write_file(remote, b"four")
    assert files.read_whole(remote, 4) == b"four"
    with pytest.raises(UserError, match="larger than"):
        files.read_whole(remote, 3)


# Replacing.


def test_file_is_replaced_only_when_it_is_complete(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    with files.replacing(str(path)) as temporary:
        assert temporary.endswith("/page.html")
        pathlib.Path(temporary).write_text("new")
        assert path.read_text() == "old"
    assert tree(tmp_path) == {"page.html": "new"}


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
    with files.writing("ram://test_writing/eval.json") as file:
        json.dump({"a": 1}, file)
    assert remote_tree("ram://test_writing") == {"eval.json": '{"a": 1}'}


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_behind_when_it_fails(tmp_path, stop):
    def write_and_stop(path, name):
        with files.replacing(str(path)) as temporary:
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
    with pytest.raises(FileNotFoundError), files.replacing(str(tmp_path / "out")):
        pass
    assert tree(tmp_path) == {"out/a": "old"}


def test_what_a_person_put_into_a_directory_stays(tmp_path):
    """In the new directory, wherever it lay, as it was."""
    out = tmp_path / "out"
    old = {
        "saved_model.pb": "old",
        "variables/variables.index": "old",
        "variables/notes.txt": "mine",
        "notes.txt": "mine",
        "other/saved_model.pb": "another export",
    }
    write_tree(out, old)
    (out / "link").symlink_to("/nowhere")
    (out / "data").symlink_to(tmp_path)
    (out / "empty").mkdir()
    (out / LOCK_FILE).touch()
    new = {"saved_model.pb": "new", "model_card.json": "new"}
    with files.replacing(
        str(out), ["saved_model.pb", "variables/variables.*", "assets/*"]
    ) as temporary:
        write_tree(temporary, new)
    del old["variables/variables.index"]
    assert tree(out) == {**old, **new, "link": "/nowhere", "data": str(tmp_path)}
    assert (out / "empty").is_dir()
    assert os.listdir(tmp_path) == ["out"]


def test_links_are_followed(tmp_path):
    write_tree(tmp_path / "disk" / "data", {"a": "old"})
    (tmp_path / "disk" / "file").write_text("old")
    for name in ("data", "file"):
        (tmp_path / name).symlink_to(pathlib.Path("disk", name))
    (tmp_path / "dangling").symlink_to(pathlib.Path("disk", "later"))
    with files.replacing(str(tmp_path / "data"), ["a"]) as temporary:
        write_tree(temporary, {"b": "new"})
    for name in ("file", "dangling"):
        with files.replacing(str(tmp_path / name)) as temporary:
            pathlib.Path(temporary).write_text("new")
    assert tree(tmp_path / "disk") == {"data/b": "new", "file": "new", "later": "new"}
    assert all((tmp_path / n).is_symlink() for n in ("data", "file", "dangling"))


def test_file_and_directory_do_not_take_each_others_place(tmp_path):
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(UserError, match="is not: give another name"),
        files.replacing(str(tmp_path / "file")) as temporary,
    ):
        os.mkdir(temporary)
    write_tree(tmp_path / "directory", {"a": "mine"})
    with (
        pytest.raises(UserError, match="is not: give another name"),
        files.replacing(str(tmp_path / "directory")) as temporary,
    ):
        pathlib.Path(temporary).write_text("")
    assert tree(tmp_path) == {"file": "mine", "directory/a": "mine"}


@pytest.mark.parametrize("name", [*ODD_NAMES, NOT_UTF8])
def test_names_are_no_patterns(tmp_path, name):
    write_tree(tmp_path / "xa", {"checkpoints/ckpt-1": "another run"})
    directory = tmp_path / name
    with files.replacing(str(directory)) as temporary:
        write_tree(temporary, {"checkpoints/ckpt-1": "", "checkpoints/keep": ""})
    with files.lock(str(directory), "the run"):
        assert list_names(str(directory)) == ["checkpoints"]
    files.remove_written(str(directory), ["checkpoints/ckpt-*"])
    assert tree(directory) == {"checkpoints/keep": ""}
    assert tree(tmp_path / "xa") == {"checkpoints/ckpt-1": "another run"}


KILLED = """
with files.replacing(sys.argv[1]) as temporary:
    os.mkdir(temporary)
    open(temporary + "/half", "w").close()
    if sys.argv[2] == "between":  # the two moves
        os.rename(sys.argv[1], temporary + ".old")
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("where", ["writing", "between"])
def test_killed_replacement_is_tidied_up_by_the_next(tmp_path, where):
    out = tmp_path / "out[1]"
    write_tree(out, {"a": "old"})
    process = python(KILLED, out, where)
    assert process.stdout.readline() == "ready\n"
    left = [name for name in os.listdir(tmp_path) if name != "out[1]"]
    assert len(left) == 1
    if where == "writing":  # what a living process writes is left alone
        with files.replacing(str(out)) as temporary:
            write_tree(temporary, {"b": "new"})
        assert sorted(os.listdir(tmp_path)) == sorted([*left, "out[1]"])
    process.kill()
    process.communicate()
    with files.replacing(str(out)) as temporary:
        write_tree(temporary, {"c": "newer"})
    assert os.listdir(tmp_path) == ["out[1]"]
    expected = {"a": "old", "c": "newer"}
    assert tree(out) == (expected | {"b": "new"} if where == "writing" else expected)


def test_two_processes_replace_one_file_at_once(tmp_path):
    """What stays is whole at every moment, and of one of them."""
    code = """
for i in range(100):
    with files.replacing(sys.argv[1]) as temporary, open(temporary, "w") as file:
        file.write(sys.argv[2] * 20000)
"""
    path = tmp_path / "eval.json"
    path.write_text("a" * 20000)
    processes = [python(code, path, letter) for letter in "ab"]
    while any(process.poll() is None for process in processes):
        assert path.read_text() in ("a" * 20000, "b" * 20000)
    assert [process.communicate()[1] for process in processes] == ["", ""]
    assert os.listdir(tmp_path) == ["eval.json"]


def test_two_processes_replace_one_directory_at_once(tmp_path):
    """Neither fails, and what a person put there is still there at the end."""
    code = """
for i in range(100):
    with files.replacing(sys.argv[1], ["shard*"]) as temporary:
        os.mkdir(temporary)
        open(f"{temporary}/shard-{i}-{sys.argv[2]}", "w").close()
"""
    write_tree(tmp_path / "out", {"notes.txt": "mine"})
    processes = [python(code, tmp_path / "out", letter) for letter in "ab"]
    assert [process.communicate()[1] for process in processes] == ["", ""]
    assert os.listdir(tmp_path) == ["out"]
    left = tree(tmp_path / "out")
    assert left in [{"notes.txt": "mine", f"shard-99-{x}": ""} for x in "ab"]


def test_full_disk_leaves_the_old(tmp_path):
    path = tmp_path / "eval.json"
    path.write_text("old")
    with (
        pytest.raises(UserError) as caught,
        file_limit(1000),
        files.disk_errors(),
        files.replacing(str(path)) as temporary,
    ):
        pathlib.Path(temporary).write_text("x" * 100_000)
    assert "File too large; free some space" in str(caught.value)
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
    names = ["config.json", "events.*", "checkpoints/ckpt-*"]
    names += ["checkpoints/best/ckpt-*"]
    names += ["train/events.*", "validation/events.*", "checkpoints/link/*"]
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
        with pytest.raises(UserError, match="would overwrite the input"):
            files.check_output(str(output), [str(given)], what="--output")
    files.check_output(str(tmp_path / "outside"), [str(out), "gs://b/out"])
    picture = pictures / "a.jpg"
    os.link(picture, tmp_path / "same.jpg")
    for output in (picture, tmp_path / "same.jpg"):
        with pytest.raises(UserError, match="would overwrite the input"):
            files.check_output(str(output), [str(picture)], kind="file")
    files.check_output(str(pictures / "page.html"), [str(picture)], kind="file")
    files.check_output(str(out), [str(pictures)], replaced=False)
    with pytest.raises(UserError, match="would overwrite the input"):
        files.check_output(str(out), [str(out)], replaced=False)


def test_output_of_the_wrong_kind(tmp_path):
    write_tree(tmp_path, {"file": "mine"})
    with pytest.raises(UserError, match=r"--output=\S+/file is a file"):
        files.check_output(str(tmp_path / "file"), what="--output")
    with pytest.raises(UserError, match="is a directory: give the name of a file"):
        files.check_output(str(tmp_path), kind="file")
    with pytest.raises(UserError, match="Not a directory; give a path without a file"):
        files.check_output(str(tmp_path / "file" / "out"), what="--output")
    with pytest.raises(UserError, match="is a mount point"):
        files.check_output("/proc")
    files.check_output(str(tmp_path / "made" / "later"))
    assert tree(tmp_path) == {"file": "mine"}
    assert os.listdir(tmp_path) == ["file"]


def test_output_that_another_program_wrote(tmp_path):
    write_tree(
        tmp_path, {"ours": "head ours tail", "mine": "a photograph", "empty": ""}
    )
    check = functools.partial(files.check_output, kind="file", mark=b"ours")
    with pytest.raises(UserError, match=r"/mine is a file of another program"):
        check(str(tmp_path / "mine"))
    for name in ("ours", "empty", "new"):
        check(str(tmp_path / name))
    with pytest.raises(UserError, match="/dev/null is a device"):
        check("/dev/null")
    assert len(tree(tmp_path)) == 3


def test_remote_output_without_a_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="scheme 'nofs' not implemented"):
        files.check_output("nofs://page.html", kind="file")
    assert os.listdir() == []


def test_output_that_cannot_be_written(tmp_path):
    for replaced in (True, False):
        with pytest.raises(UserError, match=r"^--output=/proc/x/y: cannot use|No such"):
            files.check_output("/proc/x/y", what="--output", replaced=replaced)
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
    with files.lock(sys.argv[1], "the run"):
        print("locked", flush=True)
        sys.stdin.read()
except UserError as error:
    print(error, flush=True)
"""


def test_lock_names_its_owner_and_ends_with_it(tmp_path):
    directory = tmp_path / "run[1]"
    owner = python(LOCKING, directory, stdin=subprocess.PIPE)
    assert owner.stdout.readline() == "locked\n"
    with pytest.raises(UserError) as caught, files.lock(str(directory), "the run"):
        pass
    message = str(caught.value)
    assert message.startswith(f"the run in {directory} is being written by process ")
    assert f"process {owner.pid} on " in message
    assert len(message.splitlines()) == 1
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    assert (directory / LOCK_FILE).exists()  # what the kill left
    with files.lock(str(directory), "the run"):
        assert str(os.getpid()) in (directory / LOCK_FILE).read_text()
    assert not (directory / LOCK_FILE).exists()
    assert directory.exists()


def test_lock_leaves_nothing_behind(tmp_path):
    with files.lock(str(tmp_path / "new"), "the run"):
        assert list_names(str(tmp_path / "new")) == []
    assert os.listdir(tmp_path) == []
    with files.lock(str(tmp_path / "new"), "the run"):
        write_tree(tmp_path / "new", {"a": ""})
    assert tree(tmp_path) == {"new/a": ""}


def test_children_do_not_keep_the_lock(tmp_path):
    """A worker process that outlives the program does not hold it."""
    with files.lock(str(tmp_path), "the run"):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with files.lock(str(tmp_path), "the run"):
            pass
    finally:
        child.kill()
        child.wait()


def test_only_one_of_many_processes_is_in_a_lock(tmp_path):
    """Each counts up a number without any other care; no count is lost."""
    code = """
from alexnet_tf.errors import UserError
done = 0
while done < 100:
    try:
        with files.lock(sys.argv[1], "x"):
            with open(sys.argv[2]) as file:
                number = int(file.read())
            with open(sys.argv[2], "w") as file:
                file.write(str(number + 1))
            done += 1
    except UserError:
        pass
"""
    (tmp_path / "number").write_text("0")
    arguments = tmp_path / "run", tmp_path / "number"
    processes = [python(code, *arguments) for _ in range(3)]
    assert [process.communicate()[1] for process in processes] == [""] * 3
    assert (tmp_path / "number").read_text() == "300"


def test_lock_of_a_replaced_directory(tmp_path):
    """As a preparation does it: the lock is in the directory that goes away."""
    with files.lock(str(tmp_path / "out"), "the data set"):
        with files.replacing(str(tmp_path / "out")) as temporary:
            write_tree(temporary, {"a": "new"})
        assert tree(tmp_path) == {"out/a": "new"}
    assert tree(tmp_path) == {"out/a": "new"}


def test_lock_follows_a_link_to_nothing(tmp_path):
    (tmp_path / "link").symlink_to("later")
    with files.lock(str(tmp_path / "link"), "the run"):
        assert (tmp_path / "later" / LOCK_FILE).exists()
    assert tree(tmp_path) == {"link": "later"}


def test_lock_of_another_is_not_taken_away(tmp_path):
    """Who takes the place of a directory that was moved away locks the new one."""
    run = str(tmp_path / "run")
    with files.lock(run, "the run"):
        os.rename(run, tmp_path / "moved")
        owner = python(LOCKING, run, stdin=subprocess.PIPE)
        assert owner.stdout.readline() == "locked\n"
    with pytest.raises(UserError, match=f"process {owner.pid} on"):
        files.lock(run, "the run").__enter__()
    owner.communicate()


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
    assert line == f"{reason}; give a path that exists"
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
        "/proc/x/y: No such file or directory; give": lambda: write("/proc/x/y"),
        "Not a directory; give a path": lambda: write(f"{tmp_path}/file/x"),
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


def test_remote_outputs(caplog):
    root = "ram://test_remote_outputs"
    old = {"saved_model.pb": "old", "variables/variables.index": "", "notes.txt": "me"}
    write_remote(f"{root}/out", old)
    files.check_output(f"{root}/out", [f"{root}/data"])
    with pytest.raises(UserError, match="would overwrite the input"):
        files.check_output(f"{root}/out", [f"{root}/out/data/"])
    with pytest.raises(UserError, match="scheme 'nofs' not implemented"):
        files.check_output("nofs://bucket/out")
    names = ["saved_model.pb", "variables/*"]
    with files.replacing(f"{root}/out", names) as temporary:
        write_remote(temporary, {"saved_model.pb": "new", "variables/v.data": "new"})
        assert remote_tree(f"{root}/out") == old
    new = {"saved_model.pb": "new", "variables/v.data": "new", "notes.txt": "me"}
    assert remote_tree(root) == {f"out/{name}": new[name] for name in new}
    with files.replacing(f"{root}/out/eval.json") as temporary:
        tf.io.write_file(temporary, "{}")
    assert remote_tree(f"{root}/out") == {**new, "eval.json": "{}"}
    with (
        pytest.raises(tf.errors.NotFoundError),
        files.replacing(f"{root}/out") as temporary,
    ):
        write_remote(temporary, {"saved_model.pb": tf.io.read_file(f"{root}/missing")})
    assert remote_tree(f"{root}/out") == {**new, "eval.json": "{}"}
    assert list_names(f"{root}/out") == [
        "eval.json",
        "notes.txt",
        "saved_model.pb",
        "variables",
    ]
    files.remove_written(f"{root}/out", [*names, "eval.json"])
    assert remote_tree(root) == {"out/notes.txt": "me"}
    assert list_names(f"{root}/out") == ["notes.txt"]
    with files.lock(f"{root}/out", "the run"):
        assert "no lock on ram://" in caplog.text


def test_no_tensorflow_for_local_paths(tmp_path):
    code = """
with files.replacing(sys.argv[1] + "/a") as temporary, open(temporary, "w"):
    pass
files.check_output(sys.argv[1] + "/b", ["gs://c"])
with files.lock(sys.argv[1], "x"):
    files.remove_written(sys.argv[1], ["a"])
print(json.dumps([name for name in ("tensorflow", "numpy") if name in sys.modules]))
"""
    process = python("import json\n" + code, tmp_path)
    output, errors = process.communicate()
    assert not errors
    assert json.loads(output) == []

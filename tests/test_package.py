"""The metadata of the package, and its console commands."""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import tomllib

import pytest
from absl import logging

import alexnet_tf
from alexnet_tf import command_line, programs

ROOT = pathlib.Path(__file__).resolve().parent.parent
with open(ROOT / "pyproject.toml", "rb") as file:
    PYPROJECT = tomllib.load(file)
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
# What a checkout installs at once; `pip install` leaves it to those who ask for it.
IN_CHECKOUT = ("demo", "dev", "serving", "warmup")
TESTS_ALONE = {"onnxscript"}  # need it, to write files as others do


def versions(lines, operator):
    """The version of each package in lines such as `numpy==2.4.6  # why`."""
    pairs = [line.split("#")[0].strip().split(operator) for line in lines]
    return {p[0]: tuple(map(int, p[1].split(".")[:3])) for p in pairs if len(p) > 1}


def test_what_is_tested_is_within_the_lower_bounds():
    at_once = [line for extra in IN_CHECKOUT for line in EXTRAS[extra]]
    files = {"requirements.txt": PROJECT["dependencies"] + at_once}
    for extra in set(EXTRAS) - {*IN_CHECKOUT}:
        files[f"requirements-{extra}.txt"] = EXTRAS[extra]
    for name, lines in files.items():
        pinned = versions((ROOT / name).read_text().splitlines(), "==")
        bounds = versions(lines, ">=")
        assert pinned.keys() - TESTS_ALONE == bounds.keys(), name
        assert all(pinned[package] >= bounds[package] for package in bounds), name


def test_every_folder_of_code_is_in_the_wheel():
    folders = [path.parent for path in ROOT.glob("alexnet_tf/**/__init__.py")]
    expected = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    for folder in ("", ".data", ".data.sources", ".serving"):
        expected.add(f"alexnet_tf._programs{folder}")
    setuptools = PYPROJECT["tool"]["setuptools"]
    assert set(setuptools["packages"]) == expected
    assert setuptools["package-dir"] == {"alexnet_tf._programs": "."}
    for package, patterns in setuptools["package-data"].items():
        for pattern in patterns:
            folder = package.removeprefix("alexnet_tf._programs.").replace(".", "/")
            assert list((ROOT / folder).glob(pattern))


def test_every_script_is_a_console_command():
    scripts = {path.stem for path in ROOT.glob("*.py")}
    others = {"data.prepare", "data.check", "serving.server"}
    assert set(programs.COMMANDS.values()) == scripts | others
    for module in programs.COMMANDS.values():
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file()
    assert PROJECT["scripts"] == dict.fromkeys(
        programs.COMMANDS, "alexnet_tf.programs:main"
    )


def run(folder, name, *arguments, package=ROOT):
    """Runs a console command as pip writes it, from another directory."""
    command = folder / name
    command.write_text("from alexnet_tf.programs import main\nmain()\n")
    return subprocess.run(
        [sys.executable, command, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(package), "COLUMNS": "80"},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("name", sorted({*programs.COMMANDS} - {"alexnet-serve"}))
def test_console_commands_speak_of_console_commands(name, tmp_path):
    said = run(tmp_path, name, "--help").stdout
    assert f"\n{name}" in said.replace("    ", "")
    assert "Flags:" in said
    assert "python" not in said


def test_a_wrong_flag_of_a_console_command_is_one_line(tmp_path):
    wrong = run(tmp_path, "alexnet-train", "--no_such_flag")
    assert wrong.returncode == 2
    assert wrong.stderr == (
        "error: there is no flag --no_such_flag (--help shows the flags)\n"
    )


def test_scripts_are_printed_as_console_commands_where_one_runs(monkeypatch):
    text = (
        "python train.py --x; python -m data.check; python /p/_programs/train.py --y; "
        "python retrain.py; python -m data.checks; python data/prepare.py"
    )
    assert programs.as_typed(text) == text
    monkeypatch.setattr(programs, "_is_console_command", True)
    assert programs.as_typed(text) == (
        "alexnet-train --x; alexnet-check; alexnet-train --y; "
        "python retrain.py; python -m data.checks; alexnet-prepare"
    )


def test_an_unforeseen_error_of_a_console_command_is_one_line(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(programs, "_is_console_command", True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    logging.set_verbosity(logging.INFO)  # another test may have left another
    assert command_line._report(KeyError("lost"), ["train.py"]) == 1
    assert capsys.readouterr().err.startswith("error: KeyError: 'lost' (its traceback")


def test_the_server_says_what_it_needs(tmp_path):
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError(name='uvicorn')")
    done = run(tmp_path, "alexnet-serve", f"--saved_model={tmp_path}")
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is no uvicorn: pip install ")
    assert len(done.stderr.splitlines()) == 1


def test_installed_scripts_are_inside_the_package(tmp_path):
    """As the wheel has them: nothing beside `alexnet_tf`."""
    package = tmp_path / "site" / "alexnet_tf"
    package.mkdir(parents=True)
    for path in ROOT.glob("alexnet_tf/*"):
        (package / path.name).symlink_to(path)
    (package / "programs.py").unlink()
    (package / "programs.py").write_text((ROOT / "alexnet_tf/programs.py").read_text())
    (package / "_programs").mkdir()
    for name in ("train.py", "data"):
        (package / "_programs" / name).symlink_to(ROOT / name)
    for number in range(20):
        folder = tmp_path / "in" / f"class {number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = bytes(number for _ in range(768))
        (folder / f"{number}.ppm").write_bytes(b"P6 16 16 255 " + pixels)
    arguments = ("--source=folder", "--input=in", "--output=out", "--num_workers=2")
    done = run(tmp_path, "alexnet-prepare", *arguments, package=package.parent)
    assert done.returncode == 0, done.stderr
    assert "next: alexnet-train --data_dir=out" in done.stdout
    assert "20 pictures" in done.stdout


def test_public_names_are_completed():
    assert dir(alexnet_tf) == alexnet_tf.__all__


def test_versions_agree():
    version = alexnet_tf.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"^## (\S+)", changes, re.MULTILINE)[1] == version
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert PROJECT["license"] == "Apache-2.0"
    assert PROJECT["requires-python"] == ">=3.11,<3.14"

"""Installs the package in an environment elsewhere, and uses it there.

    python tests/install_and_run.py

`make package-test` runs it. It needs a package index, some minutes and 3 GB in the
directory for temporary files.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import venv

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIBRARY = """
import importlib.util, glob, elpv_dataset, alexnet_tf
for name in ("data", "train", "eval", "predict", "serving"):
    assert importlib.util.find_spec(name) is None, name
folder = elpv_dataset.__path__[0] + "/data/images/"
(prediction,) = alexnet_tf.load("runs/demo").predict_pictures([folder + "cell0001.png"])
assert prediction.error is None and len(prediction.classes) == 4, prediction
"""


def run(*words: str | os.PathLike, code: int = 0) -> str:
    """Runs a program that must end with a code; returns all that it printed."""
    print("$", *words, flush=True)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(words, text=True, env=environment, **pipes)
    print(done.stdout)
    if done.returncode != code:
        sys.exit(f"exit code {done.returncode}, expected {code}")
    return done.stdout


def main() -> None:
    """Builds a wheel, installs it, and trains, evaluates, predicts and prepares."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        ignored = shutil.ignore_patterns(".*", "runs", "build", "*.egg-info")
        shutil.copytree(ROOT, "source", ignore=ignored)
        venv.create("environment", with_pip=True)
        programs = pathlib.Path(folder, "environment", "bin")
        python = programs / "python"
        run(python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", "wheel", "./source")
        shutil.rmtree("source")
        (wheel,) = pathlib.Path("wheel").glob("*.whl")
        run(python, "-m", "pip", "install", "-q", wheel)
        said = run(programs / "alexnet-train", code=1)  # the demo's data are an extra
        assert said.splitlines()[-1].endswith("run: pip install elpv-dataset")
        run(python, "-m", "pip", "install", "-q", f"{wheel}[demo]")

        small = ["--train_steps=3", "--width=0.1", "--global_batch_size=32"]
        said = run(programs / "alexnet-train", *small)
        for line in (
            "the run is in runs/demo",
            "recipe small for 4 classes",
            "epoch  ",
        ):
            assert line in said, line
        assert "alexnet-eval --model_dir=" in said
        assert "alexnet-train --data_dir=PICTURES" in said
        run(python, "-c", LIBRARY)
        cells = programs.parent.glob("lib/*/site-packages/elpv_dataset/data/images/*")
        cells = sorted(cells)
        said = run(programs / "alexnet-predict", "--saved_model=runs/demo", cells[0])
        assert "%" in said
        run(programs / "alexnet-eval", "--model_dir=runs/demo", "--report_dir=report")
        run(programs / "alexnet-compare", "runs/demo")
        run(programs / "alexnet-check", "--data_dir=runs/demo_data")
        for number, name in enumerate(("one", "two")):
            os.makedirs(f"pictures/{name}")
            for cell in cells[20 * number :][:20]:
                shutil.copy(cell, f"pictures/{name}")
        prepare = [programs / "alexnet-prepare", "--source=folder", "--input=pictures"]
        said = run(*prepare, "--output=data", "--num_workers=2")
        assert "next: environment/bin/alexnet-train --data_dir=data" in said
    print("the installed package works")


if __name__ == "__main__":
    main()

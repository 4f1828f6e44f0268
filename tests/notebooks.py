"""The notebooks are run from top to bottom, on less than they show: minutes."""

import os
import pathlib
import sys

import nbclient
import nbformat
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# In place of what the cells with the tag "parameters" set.
LESS = {
    "alexnet_line_by_line": "epochs, size = 1, 96",
    "your_own_photographs": "settings = {'width': 0.1, 'num_epochs': 1.0}",
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_to_its_end(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    path_of_programs = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path_of_programs)
    for script in ROOT.glob("*.py"):  # the notebooks start some of them
        (tmp_path / script.name).symlink_to(script)
    directory = tmp_path / "notebooks"
    directory.mkdir()
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", ()):
            cell.source += "\n" + LESS[path.stem]
    resources = {"metadata": {"path": str(directory)}}
    nbclient.NotebookClient(notebook, timeout=1200, resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 3
    text = "".join(output.get("text", "") for output in outputs)
    assert "Traceback" not in text
    assert os.listdir(directory) == []

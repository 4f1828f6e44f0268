"""What can be seen of the notebooks without running them; `make notebook-test` does."""

import ast
import json
import pathlib

import pytest

import alexnet_tf

NOTEBOOKS = pathlib.Path(__file__).resolve().parent.parent / "notebooks"


@pytest.mark.parametrize(
    "path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda p: p.stem
)
def test_a_notebook_has_no_outputs_and_asks_for_what_there_is(path):
    cells = [
        c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"
    ]
    assert len(cells) >= 8
    for cell in cells:
        assert (cell["outputs"], cell["execution_count"]) == ([], None)
        lines = "".join(cell["source"]).splitlines()
        code = "\n".join(line for line in lines if not line.startswith(("%", "!")))
        for node in ast.walk(ast.parse(code)):
            if (
                isinstance(node, ast.Attribute)
                and ast.unparse(node.value) == "alexnet_tf"
            ):
                assert node.attr in alexnet_tf.__all__
    tags = [tag for cell in cells for tag in cell["metadata"].get("tags", ())]
    assert tags == ["parameters"]

"""The notebook of examples/, run from the first cell to the last in a kernel of this Python."""

import ast
import os
from pathlib import Path

import nbformat
import pytest
from installed_trl import trl_or_skip
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples/zipr1.ipynb"


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell) -> str:
    streams = [output for output in cell.outputs if output.output_type == "stream"]
    return "".join(output.text for output in streams if output.name == "stdout")


def value(cell) -> dict:
    """What the last line of a cell shows, by its MIME type."""
    return next(one.data for one in cell.outputs if one.output_type == "execute_result")


def test_it_is_committed_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.outputs or cell.execution_count for cell in code_cells(notebook))


@pytest.mark.slow
def test_each_cell_shows_what_it_promises(tmp_path):
    trl_or_skip()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    client.execute(env=os.environ | environment)  # an assertion in a cell that fails is raised
    question, answer, picture, written, own, table, steps = code_cells(notebook)
    assert printed(question) == "What colour is the triangle? Expected: red\n"
    assert "image/png" in value(question) and "image/png" in value(picture)
    assert printed(answer) == "red\n" and "<svg" in value(answer)["text/html"]
    assert (tmp_path / "mine.py").exists() and "Writing mine.py" in printed(written)
    assert value(own)["text/plain"].startswith("Trace(token_ratio=[0.")
    rows = [line.split(" | ") for line in printed(table).splitlines() if line.startswith("|")]
    assert [row[0] for row in rows[2:]] == ["| full", "| zipvl", "| mine.py:TextAndHalf"]
    ratios = ast.literal_eval(value(steps)["text/plain"])
    assert len(ratios) == 2 and all(0.3 < ratio < 1 for ratio in ratios)

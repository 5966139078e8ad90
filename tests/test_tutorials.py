"""The tutorials run from their first cell to their last."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

TUTORIALS = sorted(Path(__file__).parents[1].glob("docs/tutorials/*.ipynb"))


@pytest.mark.long
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=3_000, resources=resources).execute()
    said = [
        output.get("text", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]
    assert said
    assert not [text for text in said if "rllib: error" in text]


@pytest.mark.unit
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_it_was_run_in_order_before_it_was_committed(path):
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(o.output_type == "error" for cell in cells for o in cell.outputs)

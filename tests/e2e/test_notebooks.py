"""The notebooks of `examples/` run from the first cell to the last, and are stored without outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "examples").glob("*.ipynb"))
MADE = {
    "look-at-a-data-set": "data/pairs/scenes.parquet",
    "quickstart": "data/pairs/scenes.parquet",
    "train-on-labels": "run/policy/pytorch_lora_weights.safetensors",
    "whole-method": "run/policy/pytorch_lora_weights.safetensors",
    "write-an-objective": "run-hinge/policy/pytorch_lora_weights.safetensors",
}
"""A file that each notebook makes."""


def test_every_notebook_is_listed() -> None:
    assert [path.stem for path in NOTEBOOKS] == sorted(MADE)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_is_stored_without_outputs(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert all(cell.outputs for cell in cells)
    assert (tmp_path / MADE[path.stem]).exists()

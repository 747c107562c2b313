"""The notebooks of `examples/` run from the first cell to the last, and are stored without outputs."""

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

pytestmark = pytest.mark.long

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


SMALL = {"num_train_steps": 2, "eval_every": 1, "eval_images_per_prompt": 2}
"""Options of the notebooks' trainings that their tests make smaller."""


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelManager]:
    """One kernel for all notebooks: what it imports takes most of their time."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    yield manager
    manager.shutdown_kernel(now=True)


def smaller(source: str) -> str:
    """Return a cell that trains for 2 steps and evaluates 2 images a prompt."""
    for option, value in SMALL.items():
        source = re.sub(rf"({option}\W+)[1-9][0-9]*", rf"\g<1>{value}", source)
    return source


@pytest.mark.parametrize("full", [False, pytest.param(True, id="full", marks=pytest.mark.slow)])
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_is_stored_without_outputs(
    path: Path, full: bool, kernel: KernelManager, tmp_path: Path
) -> None:
    """Each starts in an empty namespace and folder; only `make test-slow` trains as long as it is written."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)
    for cell in cells if not full else []:
        cell.source = smaller(cell.source)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(f"%reset -f\n%cd -q {tmp_path}"))
    NotebookClient(notebook, timeout=300, km=kernel).execute()
    assert all(cell.outputs for cell in cells)
    assert (tmp_path / MADE[path.stem]).exists()

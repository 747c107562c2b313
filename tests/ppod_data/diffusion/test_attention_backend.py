"""diffusers' variable for the kernels of attention: obeyed and recorded, or refused in one line before any work."""

import json
from pathlib import Path

import numpy as np
import pytest

from ppod_data.dataset.dataset import Dataset
from tests.support.command import run
from tests.support.pipelines import save_tiny_flux_pipeline

OPTIONS = ("--prompt", "a cat", "--num-images-per-prompt", 2, "--num-inference-steps", 3)


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_flux_pipeline(tmp_path_factory.mktemp("models") / "flux")


@pytest.mark.long
def test_the_named_kernels_are_used_and_recorded(flux: Path, tmp_path: Path) -> None:
    log_probs = []
    for backend in ("native", "_native_math"):
        done = run(*("gen", backend, "--model", flux, *OPTIONS), cwd=tmp_path, DIFFUSERS_ATTN_BACKEND=backend)
        assert done.code == 0, done.stderr
        recorded = json.loads((tmp_path / backend / "environment" / "000000.json").read_text())
        assert recorded["attention_backend"] == backend
        rows = Dataset.open(tmp_path / backend).samples(["log_probs"]).to_pylist()
        log_probs.append(np.array([row["log_probs"][0] for row in rows]))
    difference = np.abs(log_probs[1] - log_probs[0]).max()
    assert 0 < difference < 1e-5


@pytest.mark.parametrize(
    ("backend", "problem"), [("bogus", "AttentionBackendName"), ("sage", "install `sageattention")]
)
def test_kernels_that_cannot_be_used_are_one_line(
    backend: str, problem: str, flux: Path, tmp_path: Path
) -> None:
    failed = run("gen", "data", "--model", flux, *OPTIONS, cwd=tmp_path, DIFFUSERS_ATTN_BACKEND=backend)
    assert failed.code == 2
    error = failed.one_error()
    assert error.startswith(f"DIFFUSERS_ATTN_BACKEND is {backend!r}, and diffusers says: ")
    assert problem in error
    assert not (tmp_path / "data").exists()

"""Each benchmark says what it claims, and the cheap ones run."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(BENCHMARKS.glob("bench_*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_names_its_claim_and_bound(script: Path) -> None:
    text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    assert text.startswith("Claim:")
    assert "at most" in text or "at least" in text
    page = (BENCHMARKS.parent / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert script.name in page


@pytest.mark.long
def test_the_cheapest_benchmark_runs() -> None:
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "bench_size.py", "--quick"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "bytes" in done.stdout

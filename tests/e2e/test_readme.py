"""The README's check: what it runs is what the README prints, and once, slowly, all of it."""

import subprocess
import sys

import pytest

from tests.support.readme_check import ROOT, readme_blocks, stated

README = (ROOT / "README.md").read_text("utf-8")


def test_the_check_runs_every_command_of_the_readme() -> None:
    install, use, example = readme_blocks(README)
    assert install == ["pip install .", "make install && source .venv/bin/activate"]
    assert [line.split()[0] for line in use] == [
        "ppod-gen",
        "ppod-score",
        "ppod-pair",
        "ppod-train",
        "ppod-train",
    ]
    assert "train(" in example and "compare(" in example
    assert all(value > 0 for value in stated(README))


@pytest.mark.slow
def test_a_newcomer_s_readme_works_as_printed() -> None:
    """Download and install everything anew: minutes, and gigabytes."""
    command = [sys.executable, "-m", "tests.support.readme_check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

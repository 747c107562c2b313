"""The real commands, each in a fresh process, killed at some of their writes, syncs and renames and run again."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path

import pytest
from ppod_cli import pair

from tests.support.command import REPOSITORY, call, run
from tests.support.faults import visible
from tests.support.tables import add_scores
from tests.support.toy import make_dataset
from tests.support.training import compared

Step = tuple[str, Sequence[int], Sequence[object]]
"""A command, at which of its operations it dies, one time after the other, and its arguments."""


def killed(number: int, command: str, *arguments: object, cwd: Path) -> None:
    """Run a command that must die at its `number`-th operation."""
    folders = os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "cli")))
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.kill", str(number), command, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": folders},
    )
    assert done.returncode == -signal.SIGKILL, (number, command, done.stderr)


def done(place: Path, steps: Sequence[Step], *, kill: bool) -> None:
    """Do all commands in the folder `place`; with `kill` each after its deaths."""
    for command, numbers, arguments in steps:
        for number in numbers if kill else ():
            killed(number, command, *arguments, cwd=place)
        result = run(command, *arguments, cwd=place)
        assert result.code == 0, result.stderr


@pytest.mark.long
def test_pairing_killed_in_a_fresh_process_is_finished_by_the_next(tmp_path: Path) -> None:
    steps: list[Step] = [("pair", (6,), ("rank", "data", "--reward", "a", "--strategy", "all"))]
    for name in ("whole", "killed"):
        add_scores(make_dataset(tmp_path / name / "data"), "a", [0, 1, 2, 3, 4, 5])
    [(_, _, words)] = steps
    with chdir(tmp_path / "whole"):
        assert call(pair.app, *words).code == 0
    done(tmp_path / "killed", steps, kill=True)
    assert visible(tmp_path / "killed") == visible(tmp_path / "whole")


@pytest.mark.slow
def test_the_whole_way_killed_in_fresh_processes_ends_in_the_same_bytes(tmp_path: Path) -> None:
    small = ("--num-images-per-prompt", 4, "--num-inference-steps", 4, "--images-per-shard", 4)
    train = ("--num-train-steps", 4, "--pairs-per-step", 2, "--eval-every", 2, "--checkpoint-every", 2)
    few = ("--eval-images-per-prompt", 4, "--drift-samples", 2)
    steps: list[Step] = [
        ("gen", (5, 30, 11), ("data", "--prompt", "a cat", "--prompt", "a dog", *small)),
        ("score", (3, 20), ("data", "--reward", "scenes")),
        ("pair", (2, 10), ("rank", "data", "--reward", "scenes", "--strategy", "all")),
        ("train", (1, 25, 40, 47), ("offline", "data", "--pairs", "scenes", "--out", "run", *train, *few)),
    ]
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        done(tmp_path / name, steps, kill=name == "killed")
    assert visible(tmp_path / "killed" / "data") == visible(tmp_path / "whole" / "data")
    runs = [compared(tmp_path / name / "run") for name in ("whole", "killed")]
    assert all(found.pop("report.html") for found in runs)  # it shows times
    assert runs[0] == runs[1]

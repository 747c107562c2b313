"""Killed, or out of space, at any write, sync or rename: run again, the files are those of an undisturbed run."""

import errno
import fcntl
import os
import random
import shutil
import tempfile
import time
from pathlib import Path

import pytest
from ppod_cli.app.errors import explain

from ppod_data.dataset.dataset import Dataset
from ppod_data.dataset.exclusions import exclude
from ppod_data.diffusion.models.model import DiffusionModel
from tests.support.durable_data import (
    SHARED,
    STAGES,
    Case,
    Work,
    before,
    fill_everywhere,
    finished,
    kill_everywhere,
    make_others,
    make_stages,
    make_works,
)
from tests.support.faults import OTHER, temporaries, visible

pytestmark = pytest.mark.long

STRIDE = 29
"""Of the writes; `make torture` takes every one."""


@pytest.fixture(autouse=True)
def one_user(cache_folder: Path, user_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same person as in the shared fixtures: an import hashes annotators with the person's own key."""
    monkeypatch.setenv("XDG_DATA_HOME", str(user_folder))


@pytest.fixture(scope="module")
def works(tiny_model: DiffusionModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Work]:
    """What each command does to a folder."""
    return make_works(tiny_model, tmp_path_factory.mktemp("labels"))


@pytest.fixture(scope="module")
def stages(works: dict[str, Work], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The data set after each command; "" is before all."""
    return make_stages(works, tmp_path_factory.mktemp("stages"))


@pytest.mark.parametrize("stage", STAGES)
def test_killed_anywhere_and_run_again(
    works: dict[str, Work], stages: dict[str, Path], tmp_path: Path, stage: str
) -> None:
    assert kill_everywhere(works[stage], before(stages, stage), stages[stage], tmp_path, STRIDE) > 1


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_anywhere_and_run_again(
    works: dict[str, Work], stages: dict[str, Path], tmp_path: Path, stage: str
) -> None:
    assert fill_everywhere(works[stage], before(stages, stage), stages[stage], tmp_path, STRIDE) > 1


@pytest.fixture(scope="module")
def others(
    tiny_model: DiffusionModel,
    stages: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Case]:
    """The commands beside the way of one data set."""
    return make_others(tiny_model, stages, tmp_path_factory.mktemp("others"))


@pytest.mark.parametrize(
    "name", ["log-probs", "agreement", "exclude", "label", "push", "pull", "export", "pair export", "merge"]
)
def test_the_other_commands_killed_anywhere_and_run_again(
    others: dict[str, Case], tmp_path: Path, name: str
) -> None:
    case = others[name]
    how = {"check": case.check, "result": finished}
    assert kill_everywhere(case.work, case.start, case.end, tmp_path, STRIDE, **how) > 0


def test_a_full_disk_is_said_in_words() -> None:
    message, code = explain(OSError(28, "No space left on device", "data/x"), "ppod-gen", "")
    assert code == 1 and "no space left at data/x: free space and run the same command again" in message


def test_two_workers_on_one_shard_at_once(
    works: dict[str, Work], stages: dict[str, Path], tmp_path: Path
) -> None:
    """Four processes make, score, pair, import and combine the same data set at the same time."""
    root = tmp_path / "data"
    for stage in SHARED:
        children = []
        for _ in range(4):
            child = os.fork()
            if child == 0:
                code = OTHER
                try:
                    works[stage](root)
                    code = 0
                finally:
                    os._exit(code)
            children.append(child)
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
        assert visible(root) == visible(stages[stage])
        assert temporaries(root) == []


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_stops_no_command(
    works: dict[str, Work],
    stages: dict[str, Path],
    others: dict[str, Case],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    root = tmp_path / "data"
    for stage in STAGES:
        works[stage](root)
    assert visible(root) == visible(stages[STAGES[-1]])
    shutil.copytree(others["exclude"].end, tmp_path / "again")
    for name in ("exclude", "label"):
        others[name].work(tmp_path / "again")
    assert exclude(tmp_path / "again", Dataset.open(root).spec, [], ["a dog"], "asked for") == 1


def test_a_clock_that_jumps_changes_no_byte(
    works: dict[str, Work], stages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chooser = random.Random(0)
    monkeypatch.setattr(time, "time", lambda: chooser.uniform(-1e9, 1e11))
    monkeypatch.setattr(time, "time_ns", lambda: chooser.randrange(2**62))
    root = tmp_path / "data"
    for stage in STAGES:
        works[stage](root)
        for path in root.rglob("*"):
            os.utime(path, (chooser.uniform(0, 4e9), chooser.uniform(0, 4e9)))
    assert visible(root) == visible(stages[STAGES[-1]])


def test_a_read_only_folder_can_be_read_and_says_so_when_written(
    works: dict[str, Work], stages: dict[str, Path]
) -> None:
    """In a child without root's rights; nothing is left behind."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        root = Path(place) / "data"
        shutil.copytree(stages["gen"], root)
        for path in [root, *root.rglob("*")]:
            os.chmod(path, 0o555 if path.is_dir() else 0o444)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                if os.geteuid() == 0:
                    os.setgid(65534)
                    os.setuid(65534)
                assert Dataset.open(root).samples(["seed"]).num_rows == 4
                works["score"](root)
            except PermissionError as error:
                said, exit_code = explain(error, "ppod-score", "")
                code = 0 if said.startswith("no permission at ") and exit_code == 1 else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert visible(root) == visible(stages["gen"])
        for path in [root, *root.rglob("*")]:
            os.chmod(path, 0o755)

"""A command that finds everything done writes nothing: no file and no folder changes."""

import shutil
from pathlib import Path

import pytest
from ppod_cli import data as data_app
from ppod_cli import gen, pair, score

from tests.cli.conftest import GEN, PROMPTS, Made
from tests.support.command import call


def state(root: Path) -> dict[str, tuple[int, int, int]]:
    """What a write would change, temporary files included: they change their folder's time."""
    paths = [root, *root.rglob("*")]
    stats = {str(path.relative_to(root)): path.stat() for path in paths}
    return {name: (found.st_ino, found.st_mtime_ns, found.st_size) for name, found in stats.items()}


@pytest.fixture
def done(made: Made, tmp_path: Path) -> Path:
    """A copy of the data set after all of its commands."""
    root = tmp_path / "data"
    shutil.copytree(made.data, root)
    assert call(data_app.app, "card", root).code == 0
    return root


def test_gen_again(done: Path) -> None:
    before = state(done)
    prompts = [word for text in PROMPTS for word in ("--prompt", text)]
    assert call(gen.app, done, *prompts, *GEN).code == 0
    assert state(done) == before


def test_score_again(done: Path) -> None:
    before = state(done)
    assert call(score.app, done).code == 0
    assert state(done) == before


def test_card_again(done: Path) -> None:
    before = state(done)
    assert call(data_app.app, "card", done).code == 0
    assert state(done) == before


def test_rank_again(done: Path) -> None:
    before = state(done)
    assert call(pair.app, "rank", done, "--strategy", "all").code == 0
    after = state(done)
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} <= {"pairs"}

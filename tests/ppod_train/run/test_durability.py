"""Training killed, or out of space, at any write, sync, rename or removal: run again, it ends in the same bytes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.durable_data import fill_everywhere, kill_everywhere
from tests.support.durable_run import check_run, make_run, make_training
from tests.support.training import compared

pytestmark = pytest.mark.long

STRIDE = 60
"""Of the writes, and a third of it of the other operations; `make torture` takes every one."""


@pytest.fixture(scope="module")
def train(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], None]:
    return make_training(tiny_pipeline, tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def undisturbed(train: Callable[[Path], None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(train, tmp_path_factory.mktemp("runs") / "undisturbed")


@pytest.mark.parametrize("strike", [kill_everywhere, fill_everywhere])
def test_struck_anywhere_and_run_again(
    train: Callable[[Path], None], undisturbed: Path, tmp_path: Path, strike: Callable[..., int]
) -> None:
    """Policy, metrics, evaluations, checkpoints and records; all but times and the tracker's files."""
    (tmp_path / "none").mkdir()
    assert (
        strike(train, tmp_path / "none", undisturbed, tmp_path, STRIDE, check=check_run, result=compared) > 3
    )

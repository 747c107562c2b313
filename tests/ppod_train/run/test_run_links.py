"""A run that is resumed in a stranger's folder leaves what links in it point to as it is."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ppod_data.errors import ConfigError
from ppod_data.storage import real_folders
from ppod_data.storage.folders import new_folder, remove_folder
from ppod_train.library.hub import push_policy
from ppod_train.run.exclusive import only_run, remove_leftovers
from tests.support.durable_run import make_run, make_training
from tests.support.faults import in_child
from tests.support.toy import files

LINKS = ("checkpoints", "evals", "evals/step-000000", "policy", "tensorboard", "checkpoints/step-000002")


@pytest.fixture(scope="module")
def train(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], None]:
    """The training of a run, for a process of its own."""
    return make_training(tiny_pipeline, tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def stopped(train: Callable[[Path], None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that goes on from its second step, with what a killed process left."""
    out = make_run(train, tmp_path_factory.mktemp("runs") / "run")
    shutil.rmtree(out / "checkpoints" / "step-000003")
    for name in (".policy.tmp", ".policy.old", "checkpoints/.step-000003.tmp", "evals/.step-000003.old"):
        (out / name).mkdir()
        (out / name / "half").write_text("half")
    return out


def linked(stopped: Path, place: Path) -> Iterator[tuple[Path, Path]]:
    """Copies of the run, each with one folder that is a link; and the folder that it points to."""
    for number, name in enumerate(LINKS):
        out, victim = place / f"{number}" / "run", place / f"{number}" / "victim"
        shutil.copytree(stopped, out)
        (out / name).rename(victim)
        (out / name).symlink_to(victim)
        yield out, victim


def test_a_run_folder_with_a_linked_folder_is_refused(stopped: Path, tmp_path: Path) -> None:
    for out, victim in linked(stopped, tmp_path):
        before = files(out), files(victim)
        with pytest.raises(ConfigError, match="a link, which is not followed"), only_run(out):
            pytest.fail("began its work")
        assert (files(out), files(victim)) == before


def test_the_writes_of_a_run_refuse_links_themselves(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the look before the work does not find them."""
    monkeypatch.setattr(real_folders, "links_below", lambda root: iter(()))
    for out, victim in linked(stopped, tmp_path):
        before = files(victim)
        for work in (
            lambda out=out: remove_leftovers(out),
            lambda out=out: remove_folder(out / "evals" / "step-000002"),
            lambda out=out: remove_folder(out / "policy"),
        ):
            try:
                work()
            except ConfigError as error:
                assert "a link, which is not followed" in str(error)
        assert files(victim) == before


def test_files_of_a_run_that_are_links_are_replaced_or_refused(
    train: Callable[[Path], None], stopped: Path, tmp_path: Path
) -> None:
    out, victim = tmp_path / "run", tmp_path / "victim"
    shutil.copytree(stopped, victim)
    for path in [path for path in victim.rglob("*") if path.is_file()]:
        link = out / path.relative_to(victim)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    before = files(victim)
    in_child(lambda: train(out))
    assert files(victim) == before


def test_a_new_folder_takes_no_links_place(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "mine").write_text("mine")
    for name in ("policy", ".policy.tmp", ".policy.old"):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / name).symlink_to(victim)
        refused = pytest.raises(ConfigError, match="a link, which is not followed")
        with refused, new_folder(tmp_path / "run" / "policy") as folder:
            (folder / "new").write_text("new")
        assert files(victim) == {"mine": b"mine"}
        shutil.rmtree(tmp_path / "run")


def test_a_policy_with_a_link_is_not_uploaded(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("PRIVATE")
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "notes.txt").symlink_to("../key")
    with pytest.raises(ConfigError, match=r"notes.txt: a link, which is not followed"):
        push_policy(tmp_path / "policy", "somebody/policy")

"""A sealed data set is checked with sha256sum alone, and its base never changes again."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ppod_data.errors import ConfigError, DamagedError, PpodError
from ppod_data.format.shards import ShardWriter, is_sealed
from ppod_data.format.sums import read_sums, seal_table
from ppod_data.integrity.seal import seal
from ppod_data.integrity.verify import verify
from ppod_data.pairs.rank import rank
from ppod_data.scoring.score import score
from ppod_data.storage.files import is_being_written, temporary_beside
from tests.support.damage import Brightness, make_whole
from tests.support.nfs import lock_as_on_nfs
from tests.support.toy import files, flip, make_dataset, make_sample, make_spec, write_shard


def sha256sum(folder: Path, name: str) -> int:
    return subprocess.run(["sha256sum", "--strict", "-c", name], cwd=folder, capture_output=True).returncode


def test_every_seal_is_accepted_by_sha256sum_and_notices_a_change(tmp_path: Path) -> None:
    root = make_whole(tmp_path / "data", sealed=True).root
    seals = [path for path in root.rglob("*") if path.name == "SHA256SUMS" or path.suffix == ".sha256"]
    assert sorted(path.relative_to(root).as_posix() for path in seals) == [
        "SHA256SUMS",
        "labels/people.sha256",
        "log_probs/again/SHA256SUMS",
        "pairs/brightness.sha256",
        "pairs/people.sha256",
        "scores/brightness/SHA256SUMS",
    ]
    for path in seals:
        assert sha256sum(path.parent, path.name) == 0
        flip(path.parent / min(read_sums(path)), 20)
        assert sha256sum(path.parent, path.name) == 1


def test_the_seal_names_the_base_and_nothing_else(tmp_path: Path) -> None:
    root = make_whole(tmp_path / "data", sealed=True).root
    names = set(read_sums(root / "SHA256SUMS"))
    assert names == {
        name for name in files(root) if name.split("/")[0] in ("ppod.json", "samples", "trajectories")
    }


def test_leftovers_are_removed_and_a_living_writer_s_file_is_not(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "data").root
    orphan = root / "trajectories" / "000000-0123456789abcdef.tar"
    stale = root / "samples" / ".000000.parquet.tmp-1-0123abcd"
    mine = root / "samples" / "notes.txt"
    for path in (orphan, stale, mine):
        path.write_bytes(b"x")
    with temporary_beside(root / "samples" / "000001.parquet") as temporary:
        assert is_being_written(temporary) and not is_being_written(stale)
        with pytest.raises(PpodError, match="a process is writing this file"):
            seal(root)
        assert orphan.exists() and stale.exists() and not is_sealed(root)
    done = seal(root)
    assert done.removed == (stale.relative_to(root).as_posix(), orphan.relative_to(root).as_posix())
    assert mine.exists() and not orphan.exists() and not stale.exists()


def test_the_lock_of_a_killed_writer_ends_with_it(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with temporary_beside(tmp_path / "x"):
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    [left] = tmp_path.iterdir()
    assert not is_being_written(left)


@pytest.mark.parametrize("mode", [0o644, 0o444])
def test_on_nfs_a_killed_writer_stops_no_seal_but_a_living_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    root = make_dataset(tmp_path / "data").root
    lock_as_on_nfs(monkeypatch)
    child = os.fork()
    if child == 0:
        with temporary_beside(root / "samples" / "000002.parquet") as left:
            left.chmod(mode)
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    with (
        temporary_beside(root / "samples" / "000003.parquet"),
        pytest.raises(PpodError, match=r"000003.*a process is writing this file"),
    ):
        seal(root)
    [removed] = seal(root).removed
    assert removed.startswith("samples/.000002.parquet.tmp-")


def test_missing_shards_are_refused_unless_asked_for(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "data").root
    part = root / "samples" / "000001.parquet"
    part.unlink()
    with pytest.raises(
        ConfigError, match="1 of 2 shards are not generated yet: run ppod-gen again, or give --incomplete"
    ):
        seal(root)
    assert seal(root, incomplete=True).num_missing_shards == 1
    assert len(list((root / "trajectories").iterdir())) == 1, "the tar of the missing shard is an orphan"
    assert {finding.kind for finding in verify(root, read_data=1).findings} == {"incomplete"}


def test_a_sealed_data_set_takes_no_more_shards(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "data").root
    (root / "samples" / "000001.parquet").unlink()
    seal(root, incomplete=True)
    before = files(root)
    with pytest.raises(ConfigError, match=r"remove SHA256SUMS, generate the others with ppod-gen"):
        write_shard(root, make_spec(), 1)
    assert files(root) == before


def test_a_seal_while_a_shard_is_made_stops_its_commit(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "data").root
    (root / "samples" / "000001.parquet").unlink()
    shutil.copytree(root, tmp_path / "sealed")
    seal(tmp_path / "sealed", incomplete=True)
    with pytest.raises(ConfigError, match="sealed"), ShardWriter(root, 1) as writer:
        for index in (4, 5):
            writer.add(make_sample(make_spec(), index))
        shutil.copy(tmp_path / "sealed" / "SHA256SUMS", root / "SHA256SUMS")


def test_sealing_twice_changes_nothing(tmp_path: Path) -> None:
    root = make_whole(tmp_path / "data", sealed=True).root
    before = files(root)
    assert seal(root).was_sealed
    assert files(root) == before


@pytest.mark.parametrize("folder", ["samples", "trajectories"])
def test_damage_is_not_sealed(tmp_path: Path, folder: str) -> None:
    root = make_dataset(tmp_path / "data").root
    path = sorted((root / folder).iterdir())[0]
    flip(path, path.stat().st_size // 2)
    with pytest.raises(DamagedError, match=path.name):
        seal(root)
    assert not is_sealed(root)


def test_a_folder_that_is_a_link_is_not_cleaned(tmp_path: Path) -> None:
    """A stranger's link could lead to another data set, whose tars nobody here names."""
    root = make_dataset(tmp_path / "data").root
    other = make_dataset(tmp_path / "other").root
    shutil.rmtree(root / "trajectories")
    (root / "trajectories").symlink_to(other / "trajectories")
    before = files(other)
    with pytest.raises(ConfigError, match="a link, which is not followed"):
        seal(root)
    assert files(other) == before


def test_scores_and_pairs_may_be_added_to_a_sealed_data_set(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    seal(dataset.root)
    base = (dataset.root / "SHA256SUMS").read_bytes()
    score(dataset, Brightness(), name="brightness")
    rank(dataset, reward="brightness", name="brightness")
    assert (dataset.root / "SHA256SUMS").read_bytes() == base
    assert verify(dataset.root, read_data=1).findings == []


def test_a_table_is_sealed_by_the_worker_that_makes_its_last_part(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    seal_file = dataset.root / "scores" / "brightness" / "SHA256SUMS"
    score(dataset, Brightness(), name="brightness", rank=0, world_size=2)
    assert not seal_file.exists()
    score(dataset, Brightness(), name="brightness", rank=1, world_size=2)
    assert seal_file.exists()
    before = seal_file.read_bytes()
    score(dataset, Brightness(), name="brightness")
    assert seal_file.read_bytes() == before


def test_a_damaged_part_never_gets_a_new_seal(tmp_path: Path) -> None:
    dataset = make_whole(tmp_path / "data", sealed=True)
    folder = dataset.root / "scores" / "brightness"
    before = (folder / "SHA256SUMS").read_bytes()
    flip(folder / "000001.parquet", 100)
    assert seal_table(folder, dataset.spec) is False
    assert (folder / "SHA256SUMS").read_bytes() == before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "0" * 64 + "  a",
        "0" * 63 + "  a\n",
        "0" * 64 + " a\n",
        "0" * 64 + "  ../../etc/passwd\n",
        "0" * 64 + "  /etc/passwd\n",
        "0" * 64 + "  samples/../../x\n",
        "A" * 64 + "  a\n",
        "0" * 64 + "  a\n" + "1" * 64 + "  a\n",
        "0" * 64 + "  b\n" + "1" * 64 + "  a\n",
        "ä",
    ],
)
def test_a_seal_of_a_stranger_names_files_here_only(tmp_path: Path, text: str) -> None:
    (tmp_path / "SHA256SUMS").write_text(text)
    with pytest.raises(DamagedError, match="SHA256SUMS"):
        read_sums(tmp_path / "SHA256SUMS")

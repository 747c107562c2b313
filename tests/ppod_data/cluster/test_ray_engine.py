"""Shards on a real Ray cluster of two small nodes: whoever dies, every shard comes out, once."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ppod_data.cluster.jobs import GenerateJob
from ppod_data.cluster.ray_engine import RayCluster, connected, map_shards
from ppod_data.dataset.dataset import create
from ppod_data.errors import ConfigError, NonFiniteError, PpodError
from ppod_data.support.progress import SILENT
from tests.support.progress import Watch
from tests.support.ray_cluster import SmallCluster, Squares, small_cluster
from tests.support.toy import make_spec

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def cluster() -> Iterator[SmallCluster]:
    with small_cluster(num_nodes=2) as made:
        yield made


@pytest.fixture(scope="module")
def device(cluster: SmallCluster) -> Iterator[str]:
    """This process as its driver."""
    with connected(RayCluster(address=cluster.address)) as place:
        yield place


def ran(job: Squares, shards: Any, device: str) -> tuple[dict[int, int], list[str], int]:
    """({shard: its square}, what was said of losses, the number of processes that were prepared)."""
    said: list[str] = []
    done = list(map_shards(job, shards, device=device, progress=Watch({"say": said.append})))
    assert len(dict(done)) == len(done), "a shard came twice"
    processes = len(list(job.folder.glob("prepared-*")))
    return {shard: square for shard, (square, _) in done}, said, processes


def test_every_shard_comes_once_from_two_workers(device: str, tmp_path: Path) -> None:
    assert device == "cpu"
    drawn = iter(range(12))
    assert ran(Squares(tmp_path, together=2), drawn, device) == ({n: n**2 for n in range(12)}, [], 2)


def test_no_shards_need_no_worker(device: str, tmp_path: Path) -> None:
    assert ran(Squares(tmp_path), [], device) == ({}, [], 0)


def test_no_more_shards_are_drawn_than_workers_can_take(device: str, tmp_path: Path) -> None:
    """A million shards are never a million tasks."""
    drawn: list[int] = []

    def shards() -> Iterator[int]:
        for shard in range(1_000_000):
            drawn.append(shard)
            yield shard

    done = map_shards(Squares(tmp_path, together=2), shards(), device=device)
    for num_done in range(1, 6):
        next(done)
        assert len(drawn) <= num_done + 2 * 2 + 1
    done.close()


def test_workers_that_are_killed_cost_the_shard_in_hand(device: str, tmp_path: Path) -> None:
    done, said, _ = ran(Squares(tmp_path, deadly=(2, 3)), range(8), device)
    assert done == {n: n**2 for n in range(8)}
    assert sorted(said) == [f"a Ray worker died with shard {n}: another one takes its place" for n in (2, 3)]


@pytest.mark.slow
def test_a_shard_that_kills_every_worker_ends_the_run(device: str, tmp_path: Path) -> None:
    with pytest.raises(PpodError, match=r"5 Ray workers died one after another with shard 1 .*run the same"):
        ran(Squares(tmp_path, poisoned=(1,)), [1], device)


def test_an_error_of_a_worker_is_ours(device: str, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"^shard 3 holds NaN: give --compute-dtype fp32$"):
        ran(Squares(tmp_path, refused=(3,)), range(8), device)


def test_a_worker_that_does_not_see_the_data_set_says_so(tmp_path: Path) -> None:
    spec = make_spec()
    create(tmp_path / "other", make_spec(seed=1))
    for folder in ("nowhere", "other"):
        with pytest.raises(
            ConfigError, match=f"node .* does not see .*{folder}: put the data set into a fold"
        ):
            GenerateJob(tmp_path / folder, spec).prepare("cpu", SILENT)


def test_a_worker_with_another_model_says_so(tiny_pipeline: Path, tmp_path: Path) -> None:
    spec = make_spec(model=str(tiny_pipeline))
    create(tmp_path, spec)
    with pytest.raises(ConfigError, match=r"another model than here .*, not ffffffff"):
        GenerateJob(tmp_path, spec).prepare("cpu", SILENT)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"address": "127.0.0.1:1"}, r"no Ray cluster at 127\.0\.0\.1:1 .*`ray start --head`"),
        ({"address": "127.0.0.1"}, "give auto, HOST:PORT or ray://HOST:PORT"),
        ({"device": "cuda:1"}, "Ray gives each worker its GPU"),
    ],
)
def test_what_is_no_cluster_is_refused_at_once(options: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named), connected(RayCluster(**options)):
        pass


def test_without_ray_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'ppod\[ray\]'"), connected(RayCluster()):
        pass

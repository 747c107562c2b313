"""Shards on processes of this machine: every shard comes once; errors and deaths of a process end the others."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ppod_data.cluster.local_engine import map_shards
from ppod_data.errors import NonFiniteError, WorkersError
from tests.support.progress import Watch
from tests.support.ray_cluster import Squares

TWO = ("cpu", "cpu")


def test_every_shard_comes_once_from_two_processes(tmp_path: Path) -> None:
    units: list[int] = []
    job = Squares(tmp_path, together=2)
    done = dict(map_shards(job, range(12), devices=TWO, progress=Watch({"advance": units.append})))
    assert {shard: square for shard, (square, _) in done.items()} == {n: n**2 for n in range(12)}
    assert len({pid for _, pid in done.values()}) == 2 and os.getpid() not in {
        pid for _, pid in done.values()
    }
    assert sum(units) == 12


def test_fewer_shards_than_processes_start_fewer(tmp_path: Path) -> None:
    assert len(dict(map_shards(Squares(tmp_path), [5], devices=TWO))) == 1
    assert dict(map_shards(Squares(tmp_path), [], devices=TWO)) == {}
    assert len(list(tmp_path.glob("prepared-*"))) == 1


def test_shards_are_drawn_when_a_process_is_free(tmp_path: Path) -> None:
    drawn: list[int] = []

    def shards() -> Iterator[int]:
        for shard in range(1_000_000):
            drawn.append(shard)
            yield shard

    done = map_shards(Squares(tmp_path), shards(), devices=TWO)
    next(done)
    next(done)
    assert len(drawn) <= 4
    done.close()


def ended(folder: Path) -> bool:
    """True if no process that was prepared is left."""
    pids = [int(path.name.split("-")[1]) for path in folder.glob("prepared-*")]
    return len(pids) == 2 and not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"refused": (3,)}, NonFiniteError, r"^shard 3 holds NaN: give --compute-dtype fp32$"),
        (
            {"deadly": (3,)},
            WorkersError,
            r"was killed by SIGKILL \(out of memory\?\) with shard 3: run the same",
        ),
    ],
)
def test_an_error_or_a_death_ends_every_process(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as raised:
        dict(map_shards(Squares(tmp_path, together=2, **options), range(8), devices=TWO))
    assert re.search(message, str(raised.value))
    assert ended(tmp_path)


def test_a_consumer_that_stops_ends_every_process(tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    done = map_shards(Squares(tmp_path, together=2), range(8), devices=TWO)
    next(done)
    done.close()
    assert ended(tmp_path)
    assert signal.getsignal(signal.SIGINT) is handler

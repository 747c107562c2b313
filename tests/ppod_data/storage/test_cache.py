"""The cache of trajectories from stores: the same bytes, asked for once, never too large, and harmless when spoilt."""

import fcntl
import hashlib
import multiprocessing
import os
import random
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from ppod_data.dataset import trajectory_reader
from ppod_data.dataset.dataset import Dataset, create
from ppod_data.dataset.torch_loader import Steps, Trajectories
from ppod_data.dataset.trajectory_reader import Reader
from ppod_data.errors import ConfigError, DamagedError, StoreError
from ppod_data.storage import object_store
from ppod_data.storage.cache import Cache, cache_of
from tests.support.store_server import CUT_BODY, ERROR, Request, Server
from tests.support.toy import flip, make_dataset, make_spec, write_shard

S3 = tuple[Server, str]


def content(number: int, nbytes: int = 1000) -> bytearray:
    return bytearray(hashlib.shake_256(str(number).encode()).digest(nbytes))


def sha256(data: bytearray) -> str:
    return hashlib.sha256(data).hexdigest()


def entries(folder: Path) -> dict[str, int]:
    return {
        f"{path.parent.name}{path.name}": path.stat().st_size
        for path in (folder / "trajectories" if (folder / "trajectories").exists() else folder).glob("??/*")
    }


def get(cache: Cache, number: int) -> bool:
    """Whether it was there."""
    fetched = []

    def fetch() -> bytearray:
        fetched.append(number)
        return content(number)

    assert cache.get(sha256(content(number)), 1000, fetch) == content(number)
    return not fetched


@settings(max_examples=50)
@given(numbers=st.lists(st.integers(0, 30), max_size=80), limit=st.integers(0, 12_000))
def test_it_gives_the_bytes_and_never_holds_more_than_its_limit(
    numbers: list[int], limit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = Cache(tmp_path_factory.mktemp("cache"), limit)
    for number in numbers:
        get(cache, number)
        assert sum(entries(cache.folder).values()) <= limit
        if limit >= 10_000:
            assert sha256(content(number)) in entries(cache.folder)


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10_000)
    for number in range(10):
        assert not get(cache, number)
        os.utime(cache._path(sha256(content(number))), (number, number))
    assert get(cache, 0)  # used now
    assert not get(cache, 10)  # does not fit: a tenth of the limit is made free, so 1 and 2 go
    kept = entries(tmp_path)
    assert [number for number in range(11) if sha256(content(number)) in kept] == [0, *range(3, 11)]


@pytest.mark.parametrize("spoil", ["flipped", "cut", "empty", "folder"])
def test_a_spoilt_entry_is_got_again(tmp_path: Path, spoil: str) -> None:
    cache = Cache(tmp_path, 10_000)
    get(cache, 0)
    path = cache._path(sha256(content(0)))
    data = path.read_bytes()
    path.unlink()
    if spoil == "folder":
        path.mkdir()
    else:
        path.write_bytes({"flipped": bytes([data[0] ^ 1]) + data[1:], "cut": data[:-1], "empty": b""}[spoil])
    assert not get(cache, 0)
    assert get(cache, 0) == (spoil != "folder")


@pytest.mark.parametrize("count", [b"", b"nonsense", b"0", b"99999999"])
def test_a_wrong_count_is_put_right(tmp_path: Path, count: bytes) -> None:
    cache = Cache(tmp_path, 5_000)
    for number in range(5):
        get(cache, number)
    (tmp_path / "bytes").write_bytes(count)
    for number in range(5, 25):
        get(cache, number)
    assert sum(entries(tmp_path).values()) <= 5_000 or count == b"0"
    assert int((tmp_path / "bytes").read_text()) <= 5_000


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not get(Cache(tmp_path / "file" / "cache", 10_000), 0)


def _use(folder: Path, seed: int, failed: "multiprocessing.Queue[int]") -> None:
    chooser, cache = random.Random(seed), Cache(folder, 8_000)
    for _ in range(300):
        get(cache, chooser.randrange(20))
        if (size := _size(folder)) > 8_000:
            failed.put(size)


def _size(folder: Path) -> int:
    """While nobody writes."""
    with (folder / "bytes").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return sum(path.stat().st_size for path in folder.glob("??/*"))


def test_several_processes_share_it(tmp_path: Path) -> None:
    """Each removes what another may be reading: every one gets its bytes."""
    context = multiprocessing.get_context("fork")
    failed: multiprocessing.Queue[int] = context.Queue()
    workers = [context.Process(target=_use, args=(tmp_path, seed, failed)) for seed in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert failed.empty()


def remote(url: str) -> Dataset:
    dataset = create(url, make_spec())
    for shard in range(dataset.spec.num_shards):
        write_shard(dataset.root, dataset.spec, shard)
    return dataset


def gets_of_tars(asked: list[tuple[Request, str]]) -> int:
    return sum(request.method == "GET" and request.key.endswith(".tar") for request, _ in asked)


def test_every_trajectory_is_asked_for_once(s3: S3, tmp_path: Path, cache_folder: Path) -> None:
    """By a loader with workers and without, in three epochs, and as from a folder to the bit."""
    server, url = s3
    ours, local = Trajectories(remote(url)), Trajectories(make_dataset(tmp_path / "data"))
    with server.failing(lambda request, count: None) as asked:
        for workers in (0, 2):
            steps = Steps(len(ours), batch_size=3, seed=1, last_step=6)
            loaders = (
                DataLoader(data, batch_sampler=steps, num_workers=number)
                for data, number in ((ours, workers), (local, 0))
            )
            for batch, other in zip(*loaders, strict=True):
                assert batch["sample_id"] == other["sample_id"]
                assert torch.equal(batch["latents"], other["latents"])
    assert gets_of_tars(asked) == 6 == len(entries(cache_folder))


def test_a_folder_is_not_cached_and_zero_switches_it_off(
    s3: S3, tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset(tmp_path / "data")
    Trajectories(dataset)[0]
    monkeypatch.setenv("PPOD_CACHE_GIB", "0")
    Trajectories(remote(s3[1]))[0]
    assert not cache_folder.exists()
    monkeypatch.setenv("PPOD_CACHE_GIB", "much")
    with pytest.raises(ConfigError, match="PPOD_CACHE_GIB=much: give the cache's size in GiB"):
        cache_of(object_store.StorePath(s3[1]))


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = object_store.StorePath("s3://bucket/data")
    assert cache_of(place) == Cache(tmp_path / "ppod-cache" / "trajectories", 10 * 2**30)
    monkeypatch.delenv("PPOD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_of(place) == Cache(tmp_path / "x" / "ppod" / "trajectories", 10 * 2**30)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("PPOD_CACHE_GIB", "0.5")
    assert cache_of(place) == Cache(Path.home() / ".cache" / "ppod" / "trajectories", 2**29)


def test_what_is_spoilt_in_the_cache_is_got_again(s3: S3, cache_folder: Path) -> None:
    server, url = s3
    trajectories = Trajectories(remote(url))
    expected = trajectories[0]["latents"]
    [entry] = (cache_folder / "trajectories").glob("??/*")
    flip(entry, 300)
    with server.failing(lambda request, count: None) as asked:
        assert torch.equal(trajectories[0]["latents"], expected)
    assert gets_of_tars(asked) == 1


def test_damage_in_the_store_is_told_and_not_kept(s3: S3, cache_folder: Path) -> None:
    dataset = remote(s3[1])
    [tar, *_] = (dataset.root / "trajectories").iterdir()
    data = tar.read_bytes()
    object_store.ask(tar, lambda store, place: store.pipe_file(place, bytes(len(data))))
    with pytest.raises(DamagedError, match="the file is damaged"):
        Trajectories(dataset)[0]
    assert not entries(cache_folder)


def test_reading_ahead_changes_nothing_but_when_requests_are_made(s3: S3, tmp_path: Path) -> None:
    server, url = s3
    dataset, local = remote(url), make_dataset(tmp_path / "data")
    ids = dataset.samples(["sample_id"])["sample_id"].to_pylist()
    ours, other = (Reader.of(one, one.trajectory_index(ids).to_pylist()) for one in (dataset, local))
    with server.failing(lambda request, count: None) as asked:
        for batch, following in (([0, 1, 2], [2, 5, 4]), ([5, 4, 2], [0, 3]), ([3], []), ([0, 0], [])):
            found = ours.read(batch)
            ours.expect(following)
            other.expect(following)
            for chain, same in zip(found, other.read(batch), strict=True):
                assert chain.sample_id == same.sample_id and torch.equal(chain.latents, same.latents)
    assert gets_of_tars(asked) == 6


def test_reading_ahead_is_bounded(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = remote(s3[1])
    rows = dataset.trajectory_index(dataset.samples(["sample_id"])["sample_id"].to_pylist()).to_pylist()
    monkeypatch.setattr(trajectory_reader, "_AHEAD", 2 * rows[0]["traj_nbytes"])
    reader = Reader.of(dataset, rows)
    reader.expect(range(6))
    assert list(reader._started) == [0, 1]
    reader.expect(range(1, 6))
    assert list(reader._started) == [1, 2]


@pytest.mark.parametrize("kind", [ERROR, CUT_BODY])
def test_an_error_is_that_of_the_item_that_is_asked_for(
    s3: S3, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """What is read ahead and never asked for has no error; the first in order is told."""
    server, url = s3
    dataset = remote(url)
    monkeypatch.setenv("PPOD_STORE_PATIENCE", "0")
    rows = dataset.trajectory_index(dataset.samples(["sample_id"])["sample_id"].to_pylist()).to_pylist()
    bad = {f"bytes={row['traj_offset']}-" for row in (rows[1], rows[2])}

    def fault(request: Request, count: int) -> str | None:
        first = rows[0]["traj_file"] in request.key
        return kind if first and any(request.range.startswith(one) for one in bad) else None

    reader = Reader.of(dataset, rows)
    with server.failing(fault):
        reader.expect(range(6))
        assert [chain.sample_id for chain in reader.read([0, 3])] == [
            rows[0]["sample_id"],
            rows[3]["sample_id"],
        ]
        reader.expect(range(6))
        with pytest.raises((StoreError, DamagedError)):
            reader.read([0, 2, 1])
        reader.expect([4, 5])
        assert len(reader.read([4, 5])) == 2
    assert len(reader.read(range(6))) == 6
    assert threading.active_count() < 40

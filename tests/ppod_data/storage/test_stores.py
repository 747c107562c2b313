"""Data sets in stores: the same bytes as in a folder, few requests, and nothing half-written whatever fails."""

import hashlib
import itertools
import multiprocessing
import os
import threading
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppod_data.dataset.dataset import Dataset, create
from ppod_data.dataset.exclusions import exclude, read_exclusions
from ppod_data.dataset.image_reader import read_images
from ppod_data.dataset.merge import expand, merge
from ppod_data.errors import ConfigError, DamagedError, StoreError
from ppod_data.format.shards import ShardWriter
from ppod_data.format.tables import SAMPLES, read_table
from ppod_data.inspect.card import write_card
from ppod_data.inspect.overview import overview
from ppod_data.integrity.purge import purge
from ppod_data.integrity.seal import seal
from ppod_data.integrity.verify import verify
from ppod_data.publish.transfer import pull, push
from ppod_data.storage import object_store
from ppod_data.storage.files import atomic_create, atomic_write, data_path, open_file, put_new, sha256_file
from ppod_data.storage.object_store import StorePath, put_over
from tests.support.store_server import (
    CONFLICT,
    CUT_ANSWER,
    CUT_BODY,
    CUT_UPLOAD,
    ERROR,
    HANG,
    SLOW_DOWN,
    Request,
    Server,
)
from tests.support.tables import add_pairs, add_scores
from tests.support.toy import files, make_dataset, make_sample, make_spec, write_shard

S3 = tuple[Server, str]


@pytest.fixture
def memory() -> StorePath:
    return object_store.store_path(f"memory://{uuid.uuid4().hex}/data")


@pytest.fixture(params=["memory", "s3"])
def place(request: pytest.FixtureRequest) -> StorePath:
    """A new place in a store."""
    if request.param == "memory":
        return request.getfixturevalue("memory")
    return object_store.store_path(request.getfixturevalue("s3")[1])


def stored(place: StorePath) -> dict[str, bytes]:
    return {name: (place / name).read_bytes() for name in place.listing()}


def at_once(work: Sequence[Callable[[], Any]]) -> None:
    threads = [threading.Thread(target=one) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def once(*kinds: str) -> Any:
    """Every request fails the first time, in these ways by turns; the second time it is answered."""
    turns = {True: itertools.count(), False: itertools.count()}

    def fault(request: Request, count: int) -> str | None:
        writes = request.method in ("PUT", "POST", "DELETE")
        possible = {CUT_UPLOAD: writes, CONFLICT: writes, CUT_BODY: not writes}
        fitting = [kind for kind in kinds if possible.get(kind, True)]
        return fitting[next(turns[writes]) % len(fitting)] if count == 0 and fitting else None

    return fault


def test_a_data_set_has_the_bytes_that_it_has_in_a_folder(place: StorePath, tmp_path: Path) -> None:
    """Made, scored, paired, described, sealed, taken down and purged."""
    for root in (place, tmp_path / "data"):
        dataset = create(root, make_spec())
        for shard in range(dataset.spec.num_shards):
            assert write_shard(root, dataset.spec, shard).committed
        add_scores(dataset, "a", [0, 1, 2, 3, 4, None])
        add_pairs(dataset, "people", [(1, 0), (4, 3)])
        write_card(root)
        done = seal(root)
        assert (done.num_files, done.removed) == (5, ())
        assert exclude(root, dataset.spec, [dataset.spec.shard_sample_ids(0)[1]], [], "asked") == 1
        purge(Dataset.open(root))
        write_card(root)
        report = verify(root, read_data=1.0)
        assert (report.findings, report.sealed) == ([], True)
    assert stored(place) == files(tmp_path / "data")
    ours, other = Dataset.open(tmp_path / "data"), Dataset.open(str(place))
    assert ours.samples().equals(other.samples()) and ours.pairs("people").equals(other.pairs("people"))
    sample = ours.samples(["sample_id"])["sample_id"][0].as_py()
    assert ours.trajectory(sample).latents.equal(other.trajectory(sample).latents)
    assert overview(ours) == overview(other)
    assert list(read_images(ours.root, ours.spec, [sample])) == list(
        read_images(other.root, other.spec, [sample])
    )


@settings(max_examples=20)
@given(
    parts=st.lists(st.sampled_from(["a", "b", ".c", "0.tar", "1.parquet"]), min_size=1, max_size=3),
    others=st.lists(
        st.text("ab.", min_size=1, max_size=3).filter(lambda name: set(name) != {"."}), max_size=4
    ),
)
def test_a_place_answers_as_a_folder_does(
    parts: list[str], others: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("folder")
    place = object_store.store_path(f"memory://{uuid.uuid4().hex}")
    for root in (folder, place):
        atomic_write(
            root.joinpath(*parts) if isinstance(root, Path) else StorePath("/".join([root.url, *parts])), b"x"
        )
        for name in others:
            atomic_write(root / "x" / name, name.encode())
    for pattern in ("*", "[!.]*", "*/", "[!.]*/", "*/*", "[!.]*/[!.]*.parquet", "*.tar"):
        folders = pattern.endswith("/")
        wanted = [path for path in folder.glob(pattern) if path.is_dir() == folders]
        found = [str(path).removeprefix(f"{place}/") for path in place.glob(pattern)]
        assert found == sorted(path.relative_to(folder).as_posix() for path in wanted), pattern
    for name in ("x", parts[0], "nothing", *(f"x/{name}" for name in others)):
        ours, theirs = folder / name, place / name
        assert (ours.exists(), ours.is_file(), ours.is_dir()) == (
            theirs.exists(),
            theirs.is_file(),
            theirs.is_dir(),
        )
        assert (ours.name, ours.stem, ours.suffix) == (theirs.name, theirs.stem, theirs.suffix)
    assert sorted(os.listdir(folder)) == [path.name for path in place.iterdir()]
    assert sorted(files(folder)) == list(place.listing())


READS = st.lists(st.tuples(st.integers(0, 3_100_000), st.integers(0, 900_000)), max_size=6)


@settings(max_examples=40)
@given(size=st.integers(0, 3_000_000), reads=READS)
def test_a_file_in_a_store_reads_as_one_on_disk(
    size: int, reads: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = hashlib.shake_256(str(size).encode()).digest(size)
    path = tmp_path_factory.mktemp("files") / "file"
    path.write_bytes(data)
    place = object_store.store_path(f"memory://{uuid.uuid4().hex}/file")
    atomic_write(place, data)
    with open_file(place) as theirs, open_file(path) as ours:
        for offset, count in reads:
            assert theirs.seek(offset) == ours.seek(offset)
            assert theirs.read(count) == ours.read(count)
            assert theirs.seek(-1, 1) == ours.seek(-1, 1) if ours.tell() else True
        assert theirs.seek(0, 2) == size and theirs.read() == b""
    assert sha256_file(place) == hashlib.sha256(data).hexdigest()


def test_what_is_committed_is_seen_at_once(place: StorePath) -> None:
    dataset = create(place, make_spec())
    assert dataset.missing_shards() == [0, 1]
    write_shard(place, dataset.spec, 1)
    assert dataset.missing_shards() == [0]
    write_shard(place, dataset.spec, 0)
    assert dataset.missing_shards() == [] and dataset.num_samples == 6


def test_of_two_workers_one_commits(place: StorePath) -> None:
    """Both have made the shard before either commits; on other hardware, so with other bytes."""
    spec = create(place, make_spec()).spec
    ready, writers = threading.Barrier(2), {}

    def work(salt: int) -> None:
        with ShardWriter(place, 0) as writer:
            for index in spec.shard_range(0):
                writer.add(make_sample(spec, index, salt))
            ready.wait()
        writers[salt] = writer

    at_once([partial(work, salt) for salt in (0, 1)])
    assert sorted(writer.committed for writer in writers.values()) == [False, True]
    assert len(list((place / "trajectories").iterdir())) == 1
    write_shard(place, spec, 1)
    assert verify(place, read_data=1.0).findings == []


def test_the_same_shard_twice_is_put_once(s3: S3) -> None:
    server, url = s3
    place = object_store.store_path(url)
    spec = create(place, make_spec()).spec
    barrier = threading.Barrier(2)

    def work() -> None:
        barrier.wait()
        write_shard(place, spec, 0)

    with server.failing(lambda request, count: None) as asked:
        at_once([work, work])
    puts = [status for request, status in asked if request.method == "PUT" and "samples" in request.key]
    assert puts.count("200") == 1 and set(puts) <= {"200", "412"}
    [tar] = (place / "trajectories").iterdir()
    named = read_table(place / "samples" / "000000.parquet", SAMPLES, ["traj_file"])["traj_file"].to_pylist()
    assert set(named) == {tar.name}


def test_nothing_is_replaced_by_a_create(place: StorePath) -> None:
    assert atomic_create(place / "file", b"first") is True
    assert atomic_create(place / "file", b"second") is False
    assert atomic_create(place / "file", b"first") is True  # it has these bytes, whoever wrote them
    assert (place / "file").read_bytes() == b"first"


def test_exclusions_of_two_at_once_are_all_kept(s3: S3) -> None:
    _, url = s3
    dataset = make_dataset_in(object_store.store_path(url))
    ids = dataset.spec.shard_sample_ids(0)
    exclude(dataset.root, dataset.spec, [ids[0]], [], "first")
    known = (object_store.store_path(url) / "exclusions.jsonl").version()
    exclude(dataset.root, dataset.spec, [ids[1]], [], "second")
    assert put_over(b"lost", object_store.store_path(url) / "exclusions.jsonl", known) is False
    at_once([partial(exclude, dataset.root, dataset.spec, [name], [], "at once") for name in ids[2:4]])
    assert {entry.id for entry in read_exclusions(dataset.root)} == set(ids[:4])


def make_dataset_in(place: StorePath, **changes: Any) -> Dataset:
    dataset = create(place, make_spec(**changes))
    for shard in range(dataset.spec.num_shards):
        write_shard(place, dataset.spec, shard)
    return dataset


def test_few_requests(s3: S3, tmp_path: Path) -> None:
    """Of a small table its size and its bytes; of a large one also its columns; of a trajectory one range."""
    server, url = s3
    place = object_store.store_path(url)
    dataset = make_dataset_in(place, num_images_per_prompt=96, images_per_shard=192, height=80, width=80)
    part = place / "samples" / "000000.parquet"
    assert part.stat().st_size > 3_000_000
    with server.failing(lambda request, count: None) as asked:
        table = read_table(part, SAMPLES, ["log_probs"])
    assert [request.method for request, _ in asked][:3] == ["HEAD", "GET", "GET"] and len(asked) <= 6
    with server.failing(lambda request, count: None) as asked:
        row = dataset.trajectory_index([dataset.spec.shard_sample_ids(0)[5]]).to_pylist()[0]
    assert table.num_rows == 192 and len(asked) <= 16
    with server.failing(lambda request, count: None) as asked:
        dataset.read_trajectory(row)
    assert [request.method for request, _ in asked] == ["GET"]
    first, last = map(int, asked[0][0].range.removeprefix("bytes=").split("-"))
    assert (first, last - first + 1) == (row["traj_offset"], row["traj_nbytes"])
    add_scores(dataset, "a", list(range(192)))
    with server.failing(lambda request, count: None) as asked:
        dataset.scores("a")
    reads = [request for request, _ in asked if request.key.endswith(".parquet")]
    assert [request.method for request in reads] == ["HEAD", "GET"]


def test_verifying_every_byte_reads_a_tar_once(s3: S3) -> None:
    server, url = s3
    root = make_dataset_in(object_store.store_path(url)).root
    seal(root)
    with server.failing(lambda request, count: None) as asked:
        report = verify(root, read_data=1.0)
    assert (report.findings, report.num_shards_read, report.sealed) == ([], 2, True)
    tars = [request.key for request, _ in asked if request.method == "GET" and request.key.endswith(".tar")]
    assert len(tars) == len(set(tars)) == 2


@pytest.mark.long
@pytest.mark.parametrize(
    "kinds", [[SLOW_DOWN, ERROR, CONFLICT], [CUT_UPLOAD, CUT_BODY], [CUT_ANSWER]], ids="-".join
)
def test_every_request_may_fail_once(s3: S3, tmp_path: Path, kinds: list[str]) -> None:
    server, url = s3
    place = object_store.store_path(url)
    with server.failing(once(*kinds)) as asked:
        dataset = make_dataset_in(place)
        write_card(place)
        seal(place)
        assert verify(place, read_data=1.0).findings == []
        assert dataset.samples().num_rows == 6
    assert {status for _, status in asked} >= set(kinds)
    make_dataset(tmp_path / "data")
    write_card(tmp_path / "data")
    seal(tmp_path / "data")
    assert stored(place) == files(tmp_path / "data")


def test_a_time_out_is_tried_again(s3: S3) -> None:
    server, url = s3
    place = object_store.store_path(url)
    spec = create(place, make_spec()).spec

    def fault(request: Request, count: int) -> str | None:
        return (
            HANG
            if count == 0 and request.key.endswith("000000.parquet") and request.method != "HEAD"
            else None
        )

    with server.failing(fault) as asked:
        assert write_shard(place, spec, 0).committed
        read_table(place / "samples" / "000000.parquet", SAMPLES, ["sample_id"])
    assert [request.method for request, status in asked if status == HANG] == ["PUT", "GET"]


@pytest.mark.parametrize(
    ("kind", "target"),
    [(SLOW_DOWN, "trajectories"), (CUT_UPLOAD, "samples"), (CUT_ANSWER, "samples"), (ERROR, "ppod.json")],
)
def test_a_store_that_fails_for_good_leaves_nothing_half_written(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, target: str
) -> None:
    """One clear line, nothing listed that is not whole; run again, it is as if nothing had been."""
    server, url = s3
    place = object_store.store_path(url)
    make_dataset(tmp_path / "data")
    monkeypatch.setenv("PPOD_STORE_PATIENCE", "0")
    if target != "ppod.json":
        create(place, make_spec())

    def fault(request: Request, count: int) -> str | None:
        return kind if request.method == "PUT" and target in request.key else None

    with (
        server.failing(fault),
        pytest.raises(StoreError, match="the store did not respond") as failed,
    ):
        make_dataset_in(place)
    assert str(failed.value).startswith(str(place)) and "\n" not in str(failed.value)
    there = stored(place)
    assert there.items() <= files(tmp_path / "data").items()
    assert kind == CUT_ANSWER or not [name for name in there if target in name]
    make_dataset_in(place)
    assert stored(place) == files(tmp_path / "data")


def test_an_upload_in_parts_that_fails_is_taken_back(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    server, url = s3
    data = os.urandom(11 << 20)
    (tmp_path / "large").write_bytes(data)
    place = object_store.store_path(url) / "large"
    monkeypatch.setattr(object_store, "_SMALL", 1 << 20)
    monkeypatch.setattr("s3fs.core.calculate_chunksize", lambda size, **options: 5 << 20)
    client = boto3.client("s3")

    def part_fails(request: Request, count: int) -> str | None:
        return ERROR if "partNumber=2" in request.query else None

    monkeypatch.setenv("PPOD_STORE_PATIENCE", "0")
    with server.failing(part_fails), pytest.raises(StoreError):
        object_store.put(tmp_path / "large", place)
    assert not place.exists() and "Uploads" not in client.list_multipart_uploads(Bucket="bucket")
    monkeypatch.delenv("PPOD_STORE_PATIENCE")

    lost: list[Request] = []

    def answer_is_lost(request: Request, count: int) -> str | None:
        if lost or request.method != "POST" or not request.query.startswith("uploadId"):
            return None
        lost.append(request)
        return CUT_ANSWER

    with server.failing(answer_is_lost) as asked:
        assert put_new(tmp_path / "large", place)
    assert CUT_ANSWER in {status for _, status in asked}
    assert place.read_bytes() == data
    assert put_new(tmp_path / "large", place) is True
    (tmp_path / "large").write_bytes(data[::-1])
    assert put_new(tmp_path / "large", place) is False


def test_damage_on_the_way_is_read_again_and_damage_in_the_store_is_told(
    memory: StorePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset_in(memory)
    [sample, *_] = dataset.spec.shard_sample_ids(0)
    store = fsspec.filesystem("memory")
    original, seen = type(store).cat_file, []

    def spoilt(self: Any, path: str, *arguments: Any, **options: Any) -> Any:
        data = bytearray(original(self, path, *arguments, **options))
        if path not in seen and len(data) > 100:
            seen.append(path)
            data[len(data) // 2] ^= 1
        return bytes(data)

    monkeypatch.setattr(type(store), "cat_file", spoilt)
    assert dataset.trajectory(sample).sample_id == sample
    assert len(seen) == 2
    monkeypatch.undo()
    [tar, *_] = (memory / "trajectories").iterdir()
    data = bytearray(tar.read_bytes())
    for place in range(0, len(data), 97):
        data[place] ^= 1
    atomic_write(tar, bytes(data))
    with pytest.raises(DamagedError, match=rf"{tar.name}: the file is damaged, found at sample {sample}"):
        dataset.trajectory(sample)
    tar.unlink()
    with pytest.raises(DamagedError, match="the file is missing"):
        dataset.trajectory(sample)
    assert next(finding.problem for finding in verify(memory).findings).startswith("is missing")


def test_a_young_orphan_stays_and_an_old_one_goes(memory: StorePath, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its part may be on the way: a store has no locks."""
    dataset = make_dataset_in(memory)
    orphan = memory / "trajectories" / f"000000-{'0' * 16}.tar"
    atomic_write(orphan, b"x")
    assert seal(memory, incomplete=True).removed == () and orphan.exists()
    assert [finding.kind for finding in verify(memory).findings] == ["leftover"]
    monkeypatch.setattr(object_store, "LONGEST_WRITE", 0.0)
    assert seal(memory).removed == (f"trajectories/{orphan.name}",)
    assert dataset.root == memory and verify(memory, read_data=1.0).findings == []


def test_copies_between_folders_and_stores(s3: S3, memory: StorePath, tmp_path: Path) -> None:
    _, url = s3
    dataset = make_dataset(tmp_path / "data")
    push(dataset, url)
    assert push(Dataset.open(url), str(memory)).num_copied == 5
    assert push(Dataset.open(url), str(memory)).num_copied == 0
    add_scores(Dataset.open(str(memory)), "a", [0, 1, 2, 3, 4, None])  # newer than the list of hashes
    write_card(memory)
    pull(str(memory), tmp_path / "back")
    pull(str(memory), data_path(url))
    copied = stored(memory)
    assert copied.pop(".SHA256SUMS")
    assert files(tmp_path / "back") == copied


def test_merged_data_sets_may_be_in_stores(memory: StorePath, tmp_path: Path) -> None:
    make_dataset(tmp_path / "data")
    make_dataset_in(memory, seed=1)
    merge(tmp_path / "both.json", [tmp_path / "data", memory])
    assert expand([tmp_path / "both.json"]) == [tmp_path / "data", memory]


def _read_in_child(dataset: Dataset, sample: str, answers: Any) -> None:
    answers.put(dataset.trajectory(sample).latents.sum().item())


def test_a_forked_process_reads_as_well(s3: S3) -> None:
    """As the workers of a DataLoader do."""
    dataset = make_dataset_in(object_store.store_path(s3[1]))
    [sample, *_] = dataset.spec.shard_sample_ids(1)
    expected = dataset.trajectory(sample).latents.sum().item()
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_read_in_child, args=(dataset, sample, answers))
    child.start()
    child.join(60)
    assert child.exitcode == 0 and answers.get() == expected


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nowhere://x/y", "check the URL, or give a folder"),
        ("https://host/x", "cannot be listed: get the data set as a folder"),
        ("gs://bucket/x", "pip install 'gcsfs'"),
        ("az://bucket/x", "pip install 'adlfs'"),
        ("s3://", "names no path in the store"),
    ],
)
def test_urls_that_name_no_store(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        data_path(url)


def test_the_hub_is_read_only(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"read-only.*ppod-data push"):
        object_store.put(tmp_path, StorePath("hf://datasets/owner/name/file"))


def test_a_bucket_that_is_not_there(s3: S3) -> None:
    with pytest.raises(ConfigError, match="there is no such bucket"):
        create("s3://another-bucket/data", make_spec())
    with pytest.raises(ConfigError, match="there is no such bucket"):
        Dataset.open("s3://another-bucket/data")


def test_without_credentials(s3: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StoreError, match="no credentials"):
        Dataset.open("s3://bucket/credentials/data")
    s3fs.S3FileSystem.clear_instance_cache()

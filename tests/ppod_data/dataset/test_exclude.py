"""What is taken down is in nothing that our readers give, at once; a purge takes it out of the files."""

import fcntl
import io
import os
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppod_data import Dataset
from ppod_data.dataset.exclusions import Exclusion, encode_exclusions, exclude, read_exclusions
from ppod_data.dataset.image_reader import read_images
from ppod_data.errors import ConfigError, DamagedError
from ppod_data.inspect.card import card_text
from ppod_data.integrity.purge import purge
from ppod_data.integrity.verify import verify
from ppod_data.pairs.rank import rank
from ppod_data.scoring.score import score
from ppod_data.storage.files import atomic_write
from tests.support.damage import Brightness, make_whole
from tests.support.faults import count_operations, killed_at, visible
from tests.support.nfs import lock_as_on_nfs
from tests.support.toy import files, make_dataset, make_spec, write_shard


def ids(dataset: Dataset) -> list[str]:
    found: list[str] = dataset.samples(["sample_id"])["sample_id"].to_pylist()
    return found


@pytest.fixture
def taken(tmp_path: Path) -> tuple[Dataset, str]:
    """A whole sealed data set, and the sample that was taken down from it."""
    dataset = make_whole(tmp_path / "data", sealed=True, excluded=False)
    name = ids(dataset)[1]
    assert exclude(dataset.root, dataset.spec, [name], [], "asked for") == 1
    return Dataset.open(dataset.root), name


def test_no_reader_gives_an_excluded_sample(taken: tuple[Dataset, str]) -> None:
    dataset, name = taken
    assert name not in ids(dataset) and len(ids(dataset)) == 5
    assert dataset.samples(["seed"]).column_names == ["seed"] and dataset.samples(["seed"]).num_rows == 5
    assert dataset.samples().num_rows == dataset.num_samples == 5
    for table in (dataset.scores("brightness"), dataset.log_probs("again")):
        assert name not in table["sample_id"].to_pylist() and table.num_rows == 5
    pairs = dataset.pairs("brightness")
    assert name not in [*pairs["chosen_id"].to_pylist(), *pairs["rejected_id"].to_pylist()]
    assert pairs.num_rows == 6 - 2
    for read in (dataset.trajectory, lambda one: dataset.trajectory_index([one])):
        with pytest.raises(ConfigError, match=rf"{name} is excluded \(asked for\)"):
            read(name)
    assert "5 images" in card_text(dataset) and "to be made" not in card_text(dataset)


def test_what_is_made_later_leaves_it_out_too(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    name = ids(dataset)[1]
    exclude(dataset.root, dataset.spec, [name], [], "asked for")
    dataset = Dataset.open(dataset.root)
    seen: list[int] = []

    class Counting(Brightness):
        def score(self, prompts: list[str], images: list[object]) -> list[float]:
            seen.append(len(images))
            return super().score(prompts, images)

    score(dataset, Counting(), name="brightness")
    assert sum(seen) == 5
    score(dataset, Counting(), name="brightness", retry_failed=True)
    assert sum(seen) == 5, "an excluded image is not tried again"
    assert rank(dataset, reward="brightness", name="b", strategy="all").num_pairs == 1 + 3
    assert verify(dataset.root, read_data=1).findings == []


def test_all_samples_of_a_prompt(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    kept_ids = ids(make_dataset(tmp_path / "same"))[3:]
    exclude(dataset.root, dataset.spec, [], [f" {dataset.spec.prompts[0]} "], "licence")
    kept = Dataset.open(dataset.root)
    assert ids(kept) == kept_ids
    score(kept, Brightness(), name="brightness")
    assert kept.scores("brightness").num_rows == 3
    assert "3 images" in card_text(kept)


def test_the_list_only_grows_and_keeps_the_first_reason(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    one, two = ids(dataset)[:2]
    exclude(dataset.root, dataset.spec, [one], [], "first")
    assert exclude(dataset.root, dataset.spec, [one, two, two], [], "second") == 1
    assert exclude(dataset.root, dataset.spec, [one], [], "third") == 0
    assert read_exclusions(dataset.root) == [
        Exclusion("sample_id", one, "first"),
        Exclusion("sample_id", two, "second"),
    ]


def test_many_at_once_lose_no_entry(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    children = []
    for name in ids(dataset):
        child = os.fork()
        if child == 0:
            try:
                exclude(dataset.root, dataset.spec, [name], [], "at once")
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    assert {entry.id for entry in read_exclusions(dataset.root)} == set(ids(dataset))


def test_on_nfs_an_exclusion_waits_for_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make_dataset(tmp_path / "data")
    first, second, third = ids(dataset)[:3]
    exclude(dataset.root, dataset.spec, [first], [], "x")
    lock_as_on_nfs(monkeypatch)
    with (dataset.root / "exclusions.jsonl").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        entries = read_exclusions(dataset.root)
        child = os.fork()
        if child == 0:
            try:
                exclude(dataset.root, dataset.spec, [second], [], "x")
            finally:
                os._exit(0)
        ended = 0
        for _ in range(20):  # without a lock the child ends in this time, and its entry is overwritten
            ended = ended or os.waitpid(child, os.WNOHANG)[0]
            time.sleep(0.05)
        entry = Exclusion("sample_id", third, "x")
        atomic_write(dataset.root / "exclusions.jsonl", encode_exclusions([*entries, entry]))
        fcntl.flock(file, fcntl.LOCK_UN)  # the child holds a copy of the file
    if not ended:
        os.waitpid(child, 0)
    assert [entry.id for entry in read_exclusions(dataset.root)] == [first, third, second]


@pytest.mark.parametrize("folder", [False, True])
def test_a_list_that_is_no_file_is_damage(tmp_path: Path, folder: bool) -> None:
    dataset = make_dataset(tmp_path / "data")
    path = dataset.root / "exclusions.jsonl"
    path.mkdir() if folder else os.mkfifo(path)
    with pytest.raises(DamagedError, match="not a regular file"):
        exclude(dataset.root, dataset.spec, ids(dataset)[:1], [], "x")


@pytest.mark.parametrize(
    ("samples", "prompts", "reason", "said"),
    [
        (["0" * 32], [], "x", "no sample '000"),
        (["../x"], [], "x", "no sample '../x'"),
        ([], ["a zebra"], "x", "no prompt 'a zebra'"),
        ([], ["a cat and a dog"], " ", "the reason is empty"),
        ([], ["a cat and a dog"], "a\nb", "control character U\\+000A"),
    ],
)
def test_what_cannot_be_excluded(
    tmp_path: Path, samples: list[str], prompts: list[str], reason: str, said: str
) -> None:
    dataset = make_dataset(tmp_path / "data")
    before = files(dataset.root)
    with pytest.raises(ConfigError, match=said):
        exclude(dataset.root, dataset.spec, samples, prompts, reason)
    assert files(dataset.root) == before


def test_every_flipped_bit_and_every_cut_of_the_list_is_refused(tmp_path: Path) -> None:
    entries = [Exclusion("sample_id", "0" * 32, "größer"), Exclusion("prompt_id", "1" * 32, "b")]
    whole = encode_exclusions(entries)
    path = tmp_path / "exclusions.jsonl"
    path.write_bytes(whole)
    assert read_exclusions(tmp_path) == entries
    damaged = [whole[:length] for length in range(len(whole))]
    damaged += [
        whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :]
        for place in range(len(whole))
        for bit in range(8)
    ]
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(DamagedError, match=r"exclusions\.jsonl"):
            read_exclusions(tmp_path)


@given(
    st.lists(st.tuples(st.sampled_from(["sample_id", "prompt_id"]), st.text(st.characters(codec="utf-8"))))
)
def test_any_reason_comes_back(
    tmp_path_factory: pytest.TempPathFactory, values: list[tuple[str, str]]
) -> None:
    from ppod_data.format.prompts import unprintable

    entries = [
        Exclusion(kind, f"{n:032x}", why) for n, (kind, why) in enumerate(values) if not unprintable(why)
    ]
    entries.append(Exclusion("sample_id", "f" * 32, "the last one"))
    root = tmp_path_factory.mktemp("list")
    (root / "exclusions.jsonl").write_bytes(encode_exclusions(entries))
    assert read_exclusions(root) == entries


def test_a_purge_removes_every_trace_but_the_prompt(taken: tuple[Dataset, str]) -> None:
    dataset, name = taken
    root = dataset.root
    image = dataset.root / "samples" / "000000.parquet"
    kept = {one: dataset.trajectory(one).latents.numpy().tobytes() for one in ids(dataset)}
    before = files(root)
    done = purge(dataset)
    assert (done.num_samples, done.num_rows, done.sealed_again) == (
        1,
        1 + 1 + 2 + (6 + 2),
        True,
    )  # with people's
    after = files(root)
    assert not any(name.encode() in data for file, data in after.items() if file != "exclusions.jsonl")
    for tar in (root / "trajectories").iterdir():
        with tarfile.open(fileobj=io.BytesIO(tar.read_bytes())) as opened:
            assert not any(name in member.name for member in opened)
    assert image.read_bytes() != before["samples/000000.parquet"]
    assert after["samples/000001.parquet"] == before["samples/000001.parquet"], (
        "other shards keep their bytes"
    )
    opened = Dataset.open(root)
    assert {one: opened.trajectory(one).latents.numpy().tobytes() for one in ids(opened)} == kept
    assert subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=root, capture_output=True).returncode == 0
    assert verify(root, read_data=1).findings == []
    assert purge(opened).num_samples == 0 and files(root) == after


def test_a_purged_shard_is_not_made_again(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    exclude(dataset.root, dataset.spec, ids(dataset)[:4], [], "a whole shard")
    purge(Dataset.open(dataset.root))
    before = files(dataset.root)
    assert write_shard(dataset.root, make_spec(), 0).committed is False
    assert files(dataset.root) == before
    opened = Dataset.open(dataset.root)
    assert opened.missing_shards() == [] and opened.num_samples == 2
    score(opened, Brightness(), name="brightness")
    assert "2 images" in card_text(opened) and verify(dataset.root, read_data=1).findings == []


def test_a_purge_killed_anywhere_is_finished_by_the_next(tmp_path: Path) -> None:
    import shutil

    start = make_whole(tmp_path / "start", sealed=True).root
    whole = tmp_path / "whole"
    shutil.copytree(start, whole)
    purge(Dataset.open(whole))
    shutil.copytree(start, tmp_path / "counted")
    seen = count_operations(lambda: purge(Dataset.open(tmp_path / "counted")), tmp_path / "log")
    points = [number for number, kind in enumerate(seen) if kind != "write"]
    for number in points[::2]:
        root = tmp_path / "data"
        shutil.copytree(start, root)
        killed_at(number, lambda root=root: purge(Dataset.open(root)))
        assert len(ids(Dataset.open(root))) == 5
        assert not verify(root, read_data=1).of("damaged"), number
        purge(Dataset.open(root))
        assert visible(root) == visible(whole), number
        shutil.rmtree(root)


def test_a_page_finds_images_that_a_purge_moved(tmp_path: Path) -> None:
    """Samples of the second row group are in the first one afterwards."""
    dataset = make_dataset(tmp_path / "data", num_images_per_prompt=40, images_per_shard=80)
    names = ids(dataset)
    exclude(dataset.root, dataset.spec, names[:3], [], "asked for")
    purge(Dataset.open(dataset.root))
    wanted = names[64:67]
    assert [name for name, _ in read_images(dataset.root, dataset.spec, wanted)] == wanted

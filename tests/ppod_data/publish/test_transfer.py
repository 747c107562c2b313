"""Push and pull: whole, checked, resumable, and never read as whole when half there."""

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from ppod_data.dataset.dataset import Dataset, create
from ppod_data.errors import ConfigError, DamagedError
from ppod_data.inspect.card import write_card
from ppod_data.integrity.seal import seal
from ppod_data.publish.transfer import commit_order, is_safe_name, published_names, pull, push
from tests.support.progress import Watch
from tests.support.tables import add_pairs, add_scores
from tests.support.toy import files, flip, make_dataset, make_sample, make_spec, write_shard


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    dataset = make_dataset(tmp_path / "data")
    add_scores(dataset, "a", [0, 1, 2, 3, 4, None])
    add_pairs(dataset, "people", [(1, 0), (4, 3)])
    write_card(dataset.root)
    return dataset


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A new place in a store."""
    if request.param == "file":
        yield f"file://{tmp_path}/store/place"
        return
    place = f"/{uuid.uuid4().hex}"
    yield f"memory:/{place}"
    store = fsspec.filesystem("memory")
    if store.exists(place):
        store.rm(place, recursive=True)


def stored(url: str) -> dict[str, bytes]:
    store, root = fsspec.core.url_to_fs(url)
    found = {name.removeprefix(root).lstrip("/"): store.cat_file(name) for name in store.find(root)}
    found.pop(".SHA256SUMS", None)  # the store's own
    return found


def names_in_order(operation: Any, *arguments: Any) -> list[str]:
    done: list[str] = []
    operation(*arguments, progress=Watch({"status": done.append}))
    return done


def test_there_and_back_are_the_same_bytes(dataset: Dataset, url: str, tmp_path: Path) -> None:
    done = push(dataset, url)
    assert stored(url) == files(dataset.root)
    assert (done.num_copied, done.nbytes) == (done.num_files, sum(map(len, files(dataset.root).values())))
    back = pull(url, tmp_path / "back")
    assert files(tmp_path / "back") == files(dataset.root)
    assert back.num_files == back.num_copied == done.num_files
    last = make_sample(dataset.spec, 5)
    assert Dataset.open(tmp_path / "back").trajectory(last.sample_id).prompt == last.prompt


def test_nothing_is_copied_twice(dataset: Dataset, url: str, tmp_path: Path) -> None:
    push(dataset, url)
    assert push(dataset, url).num_copied == 0
    pull(url, tmp_path / "back")
    assert pull(url, tmp_path / "back").num_copied == 0
    add_pairs(dataset, "people", [(2, 0)])
    assert push(dataset, url).num_copied == 1
    assert pull(url, tmp_path / "back").num_copied == 1
    assert files(tmp_path / "back") == files(dataset.root)


def test_a_copy_is_a_data_set_only_when_whole(dataset: Dataset, url: str, tmp_path: Path) -> None:
    """Stopped after any number of files: no ppod.json, and no part without its tar; run again, it is whole."""
    total = len(published_names(dataset))

    class Stop(Exception):
        pass

    def stop_after(count: int) -> Any:
        done: list[str] = []

        def on_file(name: str) -> None:
            done.append(name)
            if len(done) == count:
                raise Stop

        return Watch({"status": on_file})

    for count in range(1, total):
        with pytest.raises(Stop):
            push(dataset, url, progress=stop_after(count))
        there = stored(url)
        assert "ppod.json" not in there and not any("tmp" in name for name in there)
        with pytest.raises(ConfigError, match=r"no ppod\.json"):
            pull(url, tmp_path / "early")
    push(dataset, url)
    back = tmp_path / "back"
    for count in range(1, total):
        with pytest.raises(Stop):
            pull(url, back, progress=stop_after(count))
        with pytest.raises(ConfigError, match="not a ppod data set"):
            Dataset.open(back)
        parts = len(list(back.glob("samples/*.parquet")))
        assert not parts or len(list(back.glob("trajectories/*.tar"))) == 2
    pull(url, back)
    assert files(back) == files(dataset.root)


def test_the_order_is_that_of_commits(dataset: Dataset, url: str, tmp_path: Path) -> None:
    order = names_in_order(push, dataset, url)
    assert order[-1] == "ppod.json"
    folders = list(dict.fromkeys(name.split("/")[0] for name in order))
    assert folders == [
        "trajectories",
        "samples",
        "scores",
        "pairs",
        "README.md",
        "croissant.json",
        "ppod.json",
    ]
    assert names_in_order(pull, url, tmp_path / "back") == order[:-1]
    names = [
        "pairs/p.parquet",
        "exclude.json",
        "SHA256SUMS",
        "scores/a/SHA256SUMS",
        "scores/a/000000.parquet",
    ]
    assert commit_order(names) == [names[1], names[4], names[3], names[0], names[2]]


def test_what_is_no_part_of_the_data_set_stays_behind(dataset: Dataset, url: str) -> None:
    (dataset.root / "trajectories" / f"000000-{'0' * 16}.tar").write_bytes(b"an orphan")
    (dataset.root / "samples" / ".000009.parquet.tmp-1-ab").write_bytes(b"half")
    (dataset.root / ".cache").mkdir()
    (dataset.root / ".cache" / "x").write_bytes(b"")
    push(dataset, url)
    assert not [name for name in stored(url) if "0" * 16 in name or "/." in f"/{name}"]


def test_an_unfinished_data_set_grows_in_place(tmp_path: Path, url: str) -> None:
    dataset = create(tmp_path / "data", make_spec())
    write_shard(dataset.root, dataset.spec, 1)
    push(dataset, url)
    pull(url, tmp_path / "back")
    assert Dataset.open(tmp_path / "back").missing_shards() == [0]
    write_shard(dataset.root, dataset.spec, 0)
    push(dataset, url)
    pull(url, tmp_path / "back")
    assert files(tmp_path / "back") == files(dataset.root)


@pytest.mark.parametrize("pattern", ["trajectories/*.tar", "samples/*.parquet", "scores/a/*.parquet"])
def test_damage_in_the_store_is_found_and_not_kept(dataset: Dataset, tmp_path: Path, pattern: str) -> None:
    place = tmp_path / "store"
    push(dataset, f"file://{place}")
    path = sorted(place.glob(pattern))[0]
    flip(
        path, path.stat().st_size // 3
    )  # of the scores, this is in a page's header, which no page checksum covers
    with pytest.raises(DamagedError, match=path.name):
        pull(f"file://{place}", tmp_path / "back")
    name = path.relative_to(place)
    assert not (tmp_path / "back" / name).exists() and not (tmp_path / "back" / "ppod.json").exists()
    shutil.copy(dataset.root / name, path)
    pull(f"file://{place}", tmp_path / "back")
    assert files(tmp_path / "back") == files(dataset.root)


def test_sha256sums_are_checked(dataset: Dataset, tmp_path: Path) -> None:
    """Also of a file that carries no checksum of its own."""
    seal(dataset.root)
    push(dataset, f"file://{tmp_path}/store")
    pull(f"file://{tmp_path}/store", tmp_path / "back")
    assert files(tmp_path / "back") == files(dataset.root)
    readme = tmp_path / "store" / "README.md"
    written = readme.stat().st_mtime
    readme.write_bytes(b"changed")
    os.utime(readme, (written, written))  # as a disk does; what a command writes there is newer, and fine
    with pytest.raises(DamagedError, match=r"README\.md: its sha256 does not match SHA256SUMS"):
        pull(f"file://{tmp_path}/store", tmp_path / "again")


def test_a_bad_download_is_fetched_again(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first read of every tar is of other bytes."""
    from fsspec.implementations.memory import MemoryFileSystem

    url = f"memory://{uuid.uuid4().hex}"
    push(dataset, url)
    original, seen = MemoryFileSystem.cat_file, set()

    def spoilt(self: Any, path: str, *arguments: Any, **options: Any) -> Any:
        data = original(self, path, *arguments, **options)
        if path.endswith(".tar") and path not in seen:
            seen.add(path)
            return bytes([data[0] ^ 1]) + data[1:]
        return data

    monkeypatch.setattr(MemoryFileSystem, "cat_file", spoilt)
    pull(url, tmp_path / "back")
    assert len(seen) == 2 and files(tmp_path / "back") == files(dataset.root)


def test_damage_here_is_not_pushed(dataset: Dataset, url: str) -> None:
    path = sorted(dataset.root.glob("trajectories/*.tar"))[0]
    flip(path, 5000)
    with pytest.raises(DamagedError, match="its sha256 does not match its name"):
        push(dataset, url)
    assert "ppod.json" not in stored(url)


def test_another_data_set_is_not_overwritten(dataset: Dataset, url: str, tmp_path: Path) -> None:
    other = make_dataset(tmp_path / "other", seed=1)
    push(other, url)
    before = stored(url)
    with pytest.raises(ConfigError, match="holds another data set"):
        push(dataset, url)
    with pytest.raises(ConfigError, match="holds another data set"):
        pull(url, dataset.root)
    assert stored(url) == before


def test_a_shard_of_another_machine_is_not_replaced(dataset: Dataset, url: str, tmp_path: Path) -> None:
    push(dataset, url)
    other = create(tmp_path / "other", make_spec())
    write_shard(other.root, other.spec, 0, salt=1)
    with pytest.raises(ConfigError, match="another machine committed other bytes"):
        push(other, url)
    pull(url, tmp_path / "back")
    assert files(tmp_path / "back") == files(dataset.root)


BAD_NAMES = (
    *("../x", "/etc/passwd", "samples/../../x", ".ssh/x", "samples/.x", "a/b", "samples//x"),
    *("samples/x\\..\\y", "samples/a/b/c", "", "samples/x\n"),
)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_outside_the_folder_are_not_taken(name: str) -> None:
    assert not is_safe_name(name)


def test_files_of_strangers_are_not_taken(dataset: Dataset, tmp_path: Path) -> None:
    place = tmp_path / "store"
    push(dataset, f"file://{place}")
    (place / "evil").mkdir()
    (place / "evil" / "x.py").write_text("x")
    (place / ".hidden").write_text("x")
    pull(f"file://{place}", tmp_path / "back")
    assert files(tmp_path / "back") == files(dataset.root)


def test_places_that_are_none(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"check the URL"):
        push(dataset, "nowhere://x/y")
    with pytest.raises(ConfigError, match=r"no ppod\.json"):
        pull(f"file://{tmp_path}/nothing", tmp_path / "back")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("x")
    push(dataset, f"file://{tmp_path}/store")
    with pytest.raises(ConfigError, match=r"holds other files \(letter.txt\)"):
        pull(f"file://{tmp_path}/store", tmp_path / "mine")


@pytest.mark.parametrize("name", ["README.md", "croissant.json", "main.py"])
def test_files_of_another_project_are_not_overwritten(dataset: Dataset, tmp_path: Path, name: str) -> None:
    """Neither by a push nor by a pull, also where the data set has a file of the name."""
    push(dataset, f"file://{tmp_path}/store")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / name).write_text("notes of three years")
    for act in (lambda: push(dataset, f"file://{mine}"), lambda: pull(f"file://{tmp_path}/store", mine)):
        with pytest.raises(ConfigError, match=f"mine: holds other files \\({name}\\)"):
            act()
        assert files(mine) == {name: b"notes of three years"}

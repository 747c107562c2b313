"""Nothing is written, moved or removed through a link below the folder that was named."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ppod_data.errors import ConfigError, DamagedError
from ppod_data.storage.files import (
    atomic_create,
    atomic_write,
    data_path,
    local_path,
    publish,
    remove,
    rename,
)
from ppod_data.storage.real_folders import make_folder, open_in_place, refuse_linked_folders, remove_tree
from tests.support.faults import visible

WRITES: dict[str, Callable[[Path], object]] = {
    "atomic_write": lambda folder: atomic_write(folder / "file", b"new"),
    "atomic_create": lambda folder: atomic_create(folder / "other", b"new"),
    "deeper": lambda folder: atomic_write(folder / "a" / "b" / "file", b"new"),
    "rename": lambda folder: rename(folder / "file", folder / "moved"),
    "publish": lambda folder: publish(folder / "file", folder / "moved"),
    "remove": lambda folder: remove(folder / "file"),
    "remove_tree": lambda folder: remove_tree(folder / "inner"),
    "remove_tree itself": lambda folder: remove_tree(folder),
    "make_folder": lambda folder: make_folder(folder / "new"),
    "open_in_place": lambda folder: os.close(open_in_place(folder / "new")),
    "refuse_linked_folders": lambda folder: refuse_linked_folders(folder.parent),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_linked_folder_is_refused_and_its_target_is_as_before(tmp_path: Path, name: str) -> None:
    victim, root = tmp_path / "victim", tmp_path / "root"
    (victim / "inner").mkdir(parents=True)
    (victim / "file").write_bytes(b"mine")
    (victim / "inner" / "file").write_bytes(b"mine")
    root.mkdir()
    (root / "scores").symlink_to("../victim")
    before = visible(victim)
    with pytest.raises(ConfigError, match=r"scores: a link, which is not followed"):
        WRITES[name](root / "scores")
    assert visible(victim) == before
    assert sorted(os.listdir(victim)) == ["file", "inner"]


@pytest.mark.parametrize("name", ["atomic_write", "remove", "rename", "publish"])
def test_a_link_in_place_of_a_file_is_replaced_and_not_followed(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "file").symlink_to("../mine")
    WRITES[name](folder)
    assert (tmp_path / "mine").read_bytes() == b"mine"


def test_a_tree_is_removed_without_what_its_links_point_to(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_bytes(b"mine")
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "deep" / "link").symlink_to("../../victim")
    (tmp_path / "tree" / "file").symlink_to("../victim/file")
    remove_tree(tmp_path / "tree")
    assert not (tmp_path / "tree").exists() and (victim / "file").read_bytes() == b"mine"


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_only_regular_files_are_opened_in_place(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises((DamagedError, IsADirectoryError), match=r"regular|directory"):
        open_in_place(path)


def test_a_file_that_is_a_link_is_not_opened_in_place(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"secret")
    (tmp_path / "x").symlink_to("token")
    with pytest.raises(ConfigError, match=r"x: a link, which is not followed"):
        open_in_place(tmp_path / "x")


def test_links_in_a_path_that_the_user_named_are_resolved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "home").symlink_to("disk")
    monkeypatch.chdir(tmp_path)
    for path in (data_path("home/data"), data_path(Path("home/data")), local_path("home/data")):
        assert path == tmp_path / "disk" / "data"
        atomic_write(path / "file" if isinstance(path, Path) else path, b"x")
    assert data_path("disk/data") == Path("disk/data"), "a path without links stays as it was typed"
    assert data_path("../" + tmp_path.name + "/disk") == Path("..", tmp_path.name, "disk")


def test_an_error_names_the_whole_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError) as caught:
        atomic_write(tmp_path / "file" / "below" / "x", b"")
    assert caught.value.filename == str(tmp_path / "file")

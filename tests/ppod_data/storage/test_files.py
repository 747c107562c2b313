"""A file appears whole or not at all, and never under a name that belongs to another."""

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from ppod_data.errors import ConfigError, PpodError
from ppod_data.storage.files import (
    atomic_create,
    atomic_output,
    atomic_write,
    data_path,
    local_path,
    sha256_file,
)
from ppod_data.support.canonical_json import canonical_json


def test_atomic_write_replaces_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    atomic_write(path, b"old")
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["file"]


def test_atomic_create_never_replaces(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert atomic_create(path, b"first") is True
    assert atomic_create(path, b"second") is False
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


def test_an_error_while_writing_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_output(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("write", [atomic_write, atomic_create])
def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "file", b"data")
    assert os.listdir(tmp_path) == []


def test_data_is_synced_before_it_is_named_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace", "link"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *args, n=name, f=real, **options: (calls.append(n), f(*args, **options))[1]
        )
    atomic_write(tmp_path / "file", b"data")
    atomic_create(tmp_path / "other", b"data")
    assert calls == ["fsync", "replace", "fsync", "fsync", "link", "fsync"]


def test_no_hard_links_is_said_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, target: str, **options: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(PpodError, match=r"no hard links.*another disk"):
        atomic_create(tmp_path / "file", b"data")
    assert os.listdir(tmp_path) == []


def test_a_link_that_was_made_but_reported_as_there_counts_as_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def retransmitted(source: str, target: str, **options: Any) -> None:
        link(source, target, **options)
        raise FileExistsError

    monkeypatch.setattr(os, "link", retransmitted)
    assert atomic_create(tmp_path / "file", b"data") is True


@pytest.mark.parametrize(
    "url", ["s3://bucket/data", "gs://b", "hf://datasets/x/y", "https://host/x", "file:///x"]
)
def test_urls_are_refused_by_name_where_a_local_path_is_meant(url: str) -> None:
    for text in (url, Path(url)):  # as Path spells it: s3:/bucket/data
        with pytest.raises(
            ConfigError, match=r"must be a local file or folder, not a [a-z0-9]+:// URL: give a path"
        ):
            local_path(text)


def test_local_paths_pass() -> None:
    assert local_path("demo") == Path("demo")
    assert local_path("a:b/c") == Path("a:b/c")
    assert local_path("~/x") == Path.home() / "x" == data_path("~/x")
    assert data_path("file:///a/b") == Path("/a/b")


def test_canonical_json_is_one_text_for_one_value() -> None:
    assert canonical_json({"b": [1, 2.5, None, True], "a": "ä\n"}) == '{"a":"ä\\n","b":[1,2.5,null,true]}'
    with pytest.raises(ValueError):
        canonical_json(float("nan"))


def test_sha256_file_reads_in_pieces(tmp_path: Path) -> None:
    data = os.urandom(2_500_000)
    (tmp_path / "file").write_bytes(data)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(data).hexdigest()

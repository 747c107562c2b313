"""A file that the system does not let us read is not called damaged: nobody is told to remove it."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ppod_data import Dataset
from ppod_data.dataset.exclusions import read_exclusions
from ppod_data.format.tables import SAMPLES, SCORES, check_table, iter_rows, iter_table, read_table
from ppod_data.labels.files.records import read_tables
from ppod_data.labels.secret import _read
from ppod_data.publish.transfer import check_file
from ppod_data.storage.files import read_range, read_small, sha256_file
from ppod_data.storage.real_folders import naming
from ppod_data.storage.unreadable import raise_if_unreadable
from tests.support.damage import make_whole
from tests.support.refused import as_nobody, fail_to_read, open_files_left, public_folder
from tests.support.toy import make_dataset

PART, SCORE_PART = "samples/000000.parquet", "scores/brightness/000000.parquet"
READS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "manifest": ("ppod.json", Dataset.open),
    "table": (PART, lambda root: read_table(root / PART, SAMPLES, ["seed"])),
    "table in pieces": (PART, lambda root: list(iter_table(root / PART, SAMPLES, ["seed"]))),
    "rows": (PART, lambda root: list(iter_rows(root / PART, SAMPLES, ["seed"], "sample_id", {"x"}))),
    "checksums": (PART, lambda root: check_table(root / PART)),
    "scores": (SCORE_PART, lambda root: read_table(root / SCORE_PART, SCORES)),
    "pulled file": (PART, lambda root: check_file(root / PART, PART, {}, "hf://datasets/a/b")),
    "exclusions": ("exclusions.jsonl", read_exclusions),
    "file": ("ppod.json", lambda root: read_small(root / "ppod.json", 1 << 20)),
    "range": ("ppod.json", lambda root: read_range(root / "ppod.json", 0, 10)),
    "sha256": ("ppod.json", lambda root: sha256_file(root / "ppod.json")),
    "labels": (PART, lambda root: list(read_tables(root / PART))),
    "salt": ("ppod.json", lambda root: _read(root / "ppod.json")),
}


@pytest.mark.parametrize("read", READS)
def test_no_permission_is_said_with_the_file(read: str) -> None:
    name, act = READS[read]
    with public_folder() as folder:
        root = make_whole(folder / "data", sealed=False).root
        os.chmod(root / name, 0)
        code, line = as_nobody(lambda: act(root))
    assert (code, line) == (
        1,
        f"no permission at {root / name} (Permission denied): check the permissions, or give another folder",
    )


@pytest.mark.parametrize(
    "read", [read for read in READS if read != "labels"]
)  # pyarrow asks for the size alone
def test_a_disk_that_fails_is_said_with_the_file(tmp_path: Path, read: str) -> None:
    name, act = READS[read]
    root = make_whole(tmp_path / "data", sealed=False).root
    fail_to_read(root / name)
    with pytest.raises(OSError) as failed:
        act(root)
    assert (failed.value.errno, failed.value.filename) == (errno.EIO, str(root / name))


@pytest.mark.parametrize("left", [0, 1])
@pytest.mark.parametrize("read", ["table", "rows", "checksums"])
def test_too_many_open_files_are_no_damage_in_pyarrow_either(tmp_path: Path, read: str, left: int) -> None:
    name, act = READS[read]
    root = make_dataset(tmp_path / "data").root
    act(root)
    with open_files_left(left), pytest.raises(OSError) as failed:
        act(root)
    assert (failed.value.errno, failed.value.filename) == (errno.EMFILE, str(root / name))


@pytest.mark.parametrize(
    "error",
    [
        OSError("Couldn't deserialize thrift: don't know what type"),  # pyarrow, of a damaged footer
        FileNotFoundError(errno.ENOENT, "No such file or directory", "x"),
        IsADirectoryError(errno.EISDIR, "Is a directory", "x"),
        pa.ArrowInvalid("Parquet magic bytes not found in footer"),
        ValueError("x"),
    ],
)
def test_other_errors_are_left_to_the_reader(error: Exception) -> None:
    raise_if_unreadable(error, "x")


@pytest.mark.parametrize("code", ["EACCES", "EPERM", "EIO", "ESTALE", "EMFILE", "ENFILE"])
def test_a_refusal_keeps_the_name_that_it_has(code: str) -> None:
    number = getattr(errno, code)
    for name, said in ((None, "folder"), ("folder/file", "folder/file")):
        with pytest.raises(OSError) as refused:
            raise_if_unreadable(OSError(number, "text", name), Path("folder"))
        assert (refused.value.errno, refused.value.filename) == (number, said)


def test_a_read_is_named_and_a_message_without_a_number_stays() -> None:
    memory = os.open("/proc/self/mem", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="'a/b'"), naming(Path("a/b")):
            os.read(memory, 1)
    finally:
        os.close(memory)
    with pytest.raises(OSError) as failed, naming(Path("a/b")):
        raise OSError("the disk took 1 of 2 bytes")
    assert str(failed.value) == "the disk took 1 of 2 bytes"

"""A stored trajectory is the committed bytes, or an error that names the file and the sample."""

import os
from pathlib import Path
from typing import Any

import pytest

from ppod_data.errors import DamagedError
from ppod_data.format.shards import read_member
from ppod_data.format.tables import SAMPLES, read_table
from tests.support.toy import flip, make_sample, make_spec, write_shard

SPEC = make_spec()


def the_tar(root: Path) -> Path:
    [tar] = (root / "trajectories").iterdir()
    return tar


@pytest.fixture
def row(tmp_path: Path) -> dict[str, Any]:
    """The second sample's row of a committed shard in tmp_path."""
    write_shard(tmp_path, SPEC, 0)
    found: dict[str, Any] = read_table(tmp_path / "samples" / "000000.parquet", SAMPLES).to_pylist()[1]
    return found


def read(root: Path, row: dict[str, Any]) -> bytes:
    names = ("traj_file", "traj_offset", "traj_nbytes", "traj_sha256")
    return read_member(root, *(row[name] for name in names), sample_id=row["sample_id"])


def test_a_member_is_read_back(tmp_path: Path, row: dict[str, Any]) -> None:
    assert read(tmp_path, row) == make_sample(SPEC, 1).latents_safetensors


def test_a_flipped_bit_is_found_with_file_and_sample(tmp_path: Path, row: dict[str, Any]) -> None:
    tar = the_tar(tmp_path)
    flip(tar, row["traj_offset"] + row["traj_nbytes"] - 1)
    with pytest.raises(DamagedError) as error:
        read(tmp_path, row)
    assert str(tar) in str(error.value) and row["sample_id"] in str(error.value)
    assert "samples/000000.parquet" in str(error.value) and "ppod-gen" in str(error.value)


@pytest.mark.parametrize("length", ["offset", "inside", "boundary"])
def test_a_cut_tar_is_found(tmp_path: Path, row: dict[str, Any], length: str) -> None:
    tar = the_tar(tmp_path)
    end = {"offset": row["traj_offset"], "inside": row["traj_offset"] + 9, "boundary": 512 * 2}[length]
    os.truncate(tar, end)
    with pytest.raises(DamagedError, match=row["sample_id"]):
        read(tmp_path, row)


def test_a_missing_tar_is_said_to_be_missing(tmp_path: Path, row: dict[str, Any]) -> None:
    the_tar(tmp_path).unlink()
    with pytest.raises(DamagedError, match=r"is missing.*" + row["sample_id"]):
        read(tmp_path, row)


@pytest.mark.parametrize(
    "name",
    [
        "../ppod.json",
        "/etc/passwd",
        "000000.tar",
        "a/000000-0123456789abcdef.tar",
        "",
        "000000-0123456789abcdef.tar\n",
    ],
)
def test_a_table_cannot_name_a_file_outside_the_folder(
    tmp_path: Path, row: dict[str, Any], name: str
) -> None:
    with pytest.raises(DamagedError, match="which ppod never writes"):
        read(tmp_path, row | {"traj_file": name})


@pytest.mark.parametrize(
    "changes",
    [
        {"traj_offset": -1},
        {"traj_nbytes": -1},
        {"traj_nbytes": 2**62},
        {"traj_offset": 2**62},
        {"traj_nbytes": 0},
    ],
)
def test_a_table_cannot_ask_for_bytes_that_are_not_there(
    tmp_path: Path, row: dict[str, Any], changes: dict[str, int]
) -> None:
    with pytest.raises(DamagedError, match=row["sample_id"]):
        read(tmp_path, row | changes)

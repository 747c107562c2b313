"""A shard appears whole or not at all, whoever is killed and whatever the disk does."""

import errno
import hashlib
import io
import json
import os
import re
import resource
import signal
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppod_data.errors import NonFiniteError
from ppod_data.format.shards import Sample, ShardWriter, committed_shards, read_member, shard_committed
from ppod_data.format.tables import SAMPLES, read_table
from tests.support.toy import files, make_sample, make_spec, write_shard

SPEC = make_spec()
SAMPLES_OF_0 = [make_sample(SPEC, index) for index in SPEC.shard_range(0)]


def write(root: Path, samples: list[Sample] = SAMPLES_OF_0) -> ShardWriter:
    with ShardWriter(root, 0) as writer:
        for sample in samples:
            writer.add(sample)
    return writer


def part(root: Path) -> Path:
    return root / "samples" / "000000.parquet"


def tars(root: Path) -> list[Path]:
    return sorted((root / "trajectories").iterdir())


def test_a_shard_is_two_files_and_the_table_names_the_tar(tmp_path: Path) -> None:
    writer = write(tmp_path)
    assert writer.committed and shard_committed(tmp_path, 0) and committed_shards(tmp_path) == [0]
    [tar] = tars(tmp_path)
    assert tar.name == f"000000-{hashlib.sha256(tar.read_bytes()).hexdigest()[:16]}.tar"
    table = read_table(part(tmp_path), SAMPLES)
    assert set(table["traj_file"].to_pylist()) == {tar.name}
    assert sorted(files(tmp_path)) == ["samples/000000.parquet", f"trajectories/{tar.name}"]


def test_every_row_points_at_its_member(tmp_path: Path) -> None:
    write(tmp_path)
    for row, sample in zip(read_table(part(tmp_path), SAMPLES).to_pylist(), SAMPLES_OF_0, strict=True):
        data = (tmp_path / "trajectories" / row["traj_file"]).read_bytes()
        member = data[row["traj_offset"] : row["traj_offset"] + row["traj_nbytes"]]
        assert member == sample.latents_safetensors
        assert row["traj_sha256"] == hashlib.sha256(member).hexdigest()
        assert row["image"] == {"bytes": sample.image_bytes, "path": f"{sample.sample_id}.png"}
        assert row["image_sha256"] == hashlib.sha256(sample.image_bytes).hexdigest()
        for name in ("prompt", "timesteps", "stochastic", "log_probs", "step_index", "image_pixels_sha256"):
            assert row[name] == getattr(sample, name)


def test_the_tar_is_plain_and_says_nothing_of_time_and_host(tmp_path: Path) -> None:
    write(tmp_path)
    with tarfile.open(tars(tmp_path)[0]) as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == [
            f"{sample.sample_id}.{kind}" for sample in SAMPLES_OF_0 for kind in ("json", "safetensors")
        ]
        for member in members:
            assert member.isreg() and member.pax_headers == {}
            assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
        text = tar.extractfile(members[0])
        assert text is not None
        values = json.load(text)
    sample = SAMPLES_OF_0[0]
    assert values == {name: getattr(sample, name) for name in values}
    assert {"sample_id", "prompt", "image_index", "timesteps", "log_probs", "step_index"} <= values.keys()


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_a_second_writer_with_the_same_bytes_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path)
    before = files(tmp_path)
    assert write(tmp_path).committed is False
    assert files(tmp_path) == before


def test_two_writers_at_once_with_other_bytes_leave_the_first_alone(tmp_path: Path) -> None:
    other = [make_sample(SPEC, index, salt=1) for index in SPEC.shard_range(0)]
    with ShardWriter(tmp_path, 0) as slow:
        for sample in other:
            slow.add(sample)
        assert write(tmp_path).committed
        before = {name: data for name, data in files(tmp_path).items() if ".tmp-" not in name}
    assert slow.committed is False
    assert files(tmp_path) == before


def test_a_writer_that_loses_between_tar_and_table_removes_its_tar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = [make_sample(SPEC, index, salt=1) for index in SPEC.shard_range(0)]
    link = os.link

    def first_the_other(source: str, target: str, **options: Any) -> None:
        monkeypatch.setattr(os, "link", link)
        assert write(tmp_path, other).committed
        link(source, target, **options)

    monkeypatch.setattr(os, "link", first_the_other)
    assert write(tmp_path).committed is False
    [tar] = tars(tmp_path)
    assert set(read_table(part(tmp_path), SAMPLES)["traj_file"].to_pylist()) == {tar.name}


def test_an_exception_in_the_block_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path, 0) as writer:
        writer.add(SAMPLES_OF_0[0])
        assert len(files(tmp_path)) == 1
        raise KeyboardInterrupt
    assert files(tmp_path) == {} and not writer.committed


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_log_probability_that_is_no_number_stops_the_shard(tmp_path: Path, value: float) -> None:
    bad = replace(SAMPLES_OF_0[1], log_probs=[-1.0, value, -1.0, None])
    with pytest.raises(NonFiniteError, match=f"{bad.sample_id}: log-probability .* at step 1"):
        write(tmp_path, [SAMPLES_OF_0[0], bad])
    assert files(tmp_path) == {}


def fail_at(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[str], None]) -> list[str]:
    """Call `act` instead of the number-th of the calls that make data durable or give it a name."""
    calls: list[str] = []
    for name in ("fsync", "replace", "link"):
        real = getattr(os, name)

        def call(*args: Any, name: str = name, real: Callable[..., None] = real, **options: Any) -> None:
            calls.append(name)
            if len(calls) == number + 1:
                act(name)
            real(*args, **options)

        monkeypatch.setattr(os, name, call)
    return calls


COMMIT = ["fsync", "fsync", "replace", "fsync", "link", "fsync"]
"""Tar synced, table synced, tar named, its folder synced, table named, its folder synced."""


@pytest.mark.parametrize("number", range(len(COMMIT)))
def test_a_disk_error_at_any_point_of_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    write(tmp_path / "whole")
    root = tmp_path / "root"

    def full(name: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        calls = fail_at(patch, number, full)
        with pytest.raises(OSError, match="No space left"):
            write(root)
    assert calls == COMMIT[: number + 1]
    left = files(root)
    if number <= COMMIT.index("replace"):
        assert left == {}
    assert not any(".tmp-" in name for name in left)
    assert shard_committed(root, 0) == (number > COMMIT.index("link"))
    write(root)
    assert files(root) == files(tmp_path / "whole")


@pytest.mark.parametrize("number", range(len(COMMIT) + 1))
def test_killed_at_any_point_of_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    write(tmp_path / "whole")
    root = tmp_path / "root"
    child = os.fork()
    if child == 0:
        fail_at(monkeypatch, number, lambda name: os.kill(os.getpid(), signal.SIGKILL))
        write(root)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) == (number < len(COMMIT))
    if shard_committed(root, 0):
        assert number > COMMIT.index("link")
        table = read_table(part(root), SAMPLES)
        for row in table.to_pylist():
            names = ("traj_file", "traj_offset", "traj_nbytes", "traj_sha256")
            read_member(root, *(row[name] for name in names), sample_id=row["sample_id"])
    write(root)
    visible = {name: data for name, data in files(root).items() if ".tmp-" not in name}
    assert visible == files(tmp_path / "whole")


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """The kernel refuses the bytes (here by the limit on a file's size): an error, and nothing left."""
    root = tmp_path / "root"
    big = replace(SAMPLES_OF_0[0], latents_safetensors=os.urandom(300_000))
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        try:
            write(root, [big])
        except OSError as error:
            os._exit(7 if error.errno == errno.EFBIG else 8)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert files(root) == {}


def test_trajectories_go_to_the_disk_as_they_are_added(tmp_path: Path) -> None:
    latents = np.random.default_rng(0).bytes(3_000_000)
    with pytest.raises(RuntimeError), ShardWriter(tmp_path, 0) as writer:
        for count, sample in enumerate(SAMPLES_OF_0, start=1):
            writer.add(replace(sample, latents_safetensors=latents))
            assert sum(map(len, files(tmp_path).values())) > (count - 0.5) * len(latents)
        raise RuntimeError


def test_committed_shards_ignores_everything_else(tmp_path: Path) -> None:
    assert committed_shards(tmp_path) == []
    (tmp_path / "samples").mkdir()
    for name in ("000007.parquet", "000002.parquet", ".000003.parquet.tmp-1-aa", "x.parquet", "000001.csv"):
        (tmp_path / "samples" / name).write_bytes(b"")
    (tmp_path / "samples" / "1234567.parquet").write_bytes(b"")
    assert committed_shards(tmp_path) == [2, 7, 1234567]


def test_two_shards_written_in_turns_do_not_mix(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, 0) as one, ShardWriter(tmp_path, 1) as two:
        for a, b in zip(SAMPLES_OF_0, (make_sample(SPEC, 4), make_sample(SPEC, 5)), strict=False):
            one.add(a)
            two.add(b)
    assert committed_shards(tmp_path) == [0, 1]
    assert all(re.fullmatch(r"00000[01]-[0-9a-f]{16}\.tar", tar.name) for tar in tars(tmp_path))


def test_the_stream_of_the_tar_reads_to_its_end(tmp_path: Path) -> None:
    write_shard(tmp_path, SPEC, 0)
    with tarfile.open(fileobj=io.BytesIO(tars(tmp_path)[0].read_bytes()), mode="r|") as tar:
        assert len(list(tar)) == 2 * len(SAMPLES_OF_0)

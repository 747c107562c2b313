"""Shards: samples and their trajectories, in two files that are committed together.

The tar of the trajectories is written first, and its name holds its hash. The Parquet part, which names the tar
and every member's offset, length and sha256, is written second: this is the commit. A tar that no part names is
not part of the data set.
"""

import contextlib
import hashlib
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import pyarrow as pa

from ppod_data.errors import ConfigError, DamagedError, NonFiniteError, PpodError
from ppod_data.format.images import image_name
from ppod_data.format.tables import CHECKED_SAMPLES, SAMPLES, encode_table, part_name, read_table, shard_of
from ppod_data.storage.files import (
    DataPath,
    in_folder,
    is_being_written,
    publish,
    publish_new,
    read_range,
    remove,
    sync,
    temporary_beside,
)
from ppod_data.storage.range_reader import retry_damaged
from ppod_data.support.canonical_json import canonical_json

SUMS = "SHA256SUMS"
"""The seal of the manifest, samples and trajectories."""
PURGING = ".SHA256SUMS.purging"
"""The seal's name while a purge rewrites sealed shards. The data set stays sealed, and the purge writes a new seal."""
_BLOCK = 512
_ROW_GROUP = 64
TRAJ_FILE = re.compile(r"\d{6,}-[0-9a-f]{16}\.tar")
"""The name of a tar: its shard, and the first digits of its sha256."""
_BEGUN = re.compile(r"\.(\d{6,})\.tar\.tmp-")
_SAMPLE_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image with its recorded chain of T steps, ready to store."""

    sample_id: str
    prompt_id: str
    prompt: str
    image_index: int
    seed: int
    image_bytes: bytes
    """An image file: the generated PNG, or the given file."""
    image_pixels_sha256: str
    timesteps: list[int]
    """T scheduler timesteps, the noisiest first."""
    stochastic: list[bool]
    """T flags: the step has variance, and therefore a density."""
    log_probs: list[float | None]
    """T log-densities averaged over the latent's dimensions (nats); None for steps that are not stochastic."""
    step_index: list[int]
    """The steps, 0 to T - 1, whose latents are stored."""
    latents_safetensors: bytes
    flagged: bool | None = None
    """The verdict of a safety checker; None without one, in all samples of a data set or in none."""


class ShardWriter:
    """A writer that commits the samples of one shard together when its `with` block ends normally.

        with ShardWriter(root, shard) as writer:
            writer.add(sample)

    On an error no file is left, under the shard's name or any other. If another worker has committed the shard
    first, the commit does nothing. Trajectories are written to disk as they are added; only a row and an image
    a sample stay in memory. With `replace`, used by a purge, the new shard replaces the old one.
    """

    def __init__(self, root: DataPath, shard: int, *, replace: bool = False) -> None:
        """Prepare a writer of one shard."""
        self.committed = False
        """True after the block if this writer committed the shard, false if another worker was first."""
        self._root = root
        self._shard = shard
        self._replace = replace
        self._rows: list[dict[str, Any]] = []
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> Self:
        from webdataset import TarWriter

        with self._cleanup as cleanup:
            tar = self._root / "trajectories" / f"{self._shard:06d}.tar"
            self._temporary = cleanup.enter_context(temporary_beside(tar))
            self._file = _HashingFile(cleanup.enter_context(self._temporary.open("wb")))
            self._tar = TarWriter(self._file, user="", group="", encoder=False, mtime=0)
            self._cleanup = cleanup.pop_all()
        return self

    def add(self, sample: Sample) -> None:
        """Append a sample. Raises `NonFiniteError` for a log-probability that is NaN or infinite."""
        _check(sample)
        latents = sample.latents_safetensors
        text = canonical_json(_member(sample)) + "\n"
        self._tar.write({"__key__": sample.sample_id, "json": text.encode(), "safetensors": latents})
        padded = math.ceil(len(latents) / _BLOCK) * _BLOCK  # members are written in the order of their names
        self._rows.append(_row(sample) | {"traj_offset": self._tar.tarstream.offset - padded})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._cleanup:
            try:
                if error is None:
                    self._commit()
            finally:
                self._file.discard()
                self._tar.close()

    def _commit(self) -> None:
        assert self._rows, "a shard without samples"
        assert len({row["sample_id"] for row in self._rows}) == len(self._rows), "a sample twice in a shard"
        self._tar.close()
        self._file.sync()
        name = f"{self._shard:06d}-{self._file.sha256()[:16]}.tar"
        for row in self._rows:
            row["traj_file"] = name
        _check_offsets(self._temporary, self._rows)
        part = _part(self._root, self._shard)
        tar = self._root / "trajectories" / name
        with temporary_beside(part) as temporary:
            schema = CHECKED_SAMPLES if "flagged" in self._rows[0] else SAMPLES
            encode_table(temporary, pa.Table.from_pylist(self._rows, schema=schema), _ROW_GROUP)
            sync(temporary)
            if self._replace:
                publish(self._temporary, tar)
                publish(temporary, part)
                self.committed = True
            elif not part.exists():
                refuse_sealed(self._root)
                publish(self._temporary, tar)
                self.committed = publish_new(temporary, part)
        if not self.committed:
            self._remove_unless_named(tar)

    def _remove_unless_named(self, tar: DataPath) -> None:
        """Remove a tar that the committed part does not name: another worker's part is final."""
        named = read_table(_part(self._root, self._shard), SAMPLES, ["traj_file"])["traj_file"].to_pylist()
        if tar.name not in named:
            remove(tar)


class _HashingFile:
    """The writable file that a tar is streamed to, with the sha256 of the bytes written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file: BinaryIO | None = file
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Write `data` and add it to the hash."""
        if self._file is not None:
            self._file.write(data)
            self._digest.update(data)
        return len(data)

    def sync(self) -> None:
        """Flush the file to the disk."""
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())

    def sha256(self) -> str:
        """Return the sha256 of the bytes written."""
        return self._digest.hexdigest()

    def discard(self) -> None:
        """Ignore further writes: the file is about to be removed."""
        self._file = None


def is_sealed(root: DataPath) -> bool:
    """Return true if the manifest, samples and trajectories of the data set can no longer change."""
    return (root / SUMS).exists() or (root / PURGING).exists()


def refuse_sealed(root: DataPath) -> None:
    """Raise ConfigError if the data set is sealed: no shard may be added."""
    if is_sealed(root):
        raise ConfigError(
            f"{root}: sealed without all its shards: use it as it is, or remove {SUMS}, generate the others with "
            "ppod-gen and run ppod-data seal again"
        )


def shard_committed(root: DataPath, shard: int) -> bool:
    """Return true if the shard is complete: its Parquet part, which is written last, exists."""
    return _part(root, shard).exists()


def active_shards(root: DataPath) -> Callable[[int], bool]:
    """Return a predicate: is a live process writing this shard?

    It is based on one scan for locked temporary files, and only a scheduling hint. It is always false on object
    stores, which have no temporary files.
    """
    folder = root / "trajectories"
    begun: dict[int, list[DataPath]] = {}
    for name in os.listdir(folder) if isinstance(folder, Path) and folder.is_dir() else []:
        if match := _BEGUN.match(name):
            begun.setdefault(int(match[1]), []).append(folder / name)
    return lambda shard: any(is_being_written(path) for path in begun.get(shard, []))


def committed_shards(root: DataPath) -> list[int]:
    """Return the numbers of the complete shards, ascending."""
    return parts_in(root / "samples")


def parts_in(folder: DataPath, num_shards: int | None = None) -> list[int]:
    """Return the shards that have a part in a table's folder, ascending, from one listing of the folder.

    Shards beyond `num_shards` are left out. Every reader of parts starts here, so that files with other names,
    such as stray copies, are ignored.
    """
    if isinstance(folder, Path):
        names = os.listdir(folder) if folder.is_dir() else []
    else:
        names = [path.name for path in in_folder(folder)]
    shards = [shard for name in names if (shard := shard_of(name)) is not None]
    return sorted(shard for shard in shards if num_shards is None or shard < num_shards)


def read_member(
    root: DataPath, traj_file: str, offset: int, nbytes: int, sha256: str, *, sample_id: str
) -> bytearray:
    """Return the bytes of one trajectory, read at its offset and checked against its sha256. A tensor can share them.

    Raises `DamagedError`, naming the file and the sample, if the bytes differ from those committed.
    """
    if not TRAJ_FILE.fullmatch(traj_file):
        raise DamagedError(
            f"sample {sample_id} names the trajectory file {traj_file!r}, which ppod never writes"
        )
    path = root / "trajectories" / traj_file

    def read() -> bytearray:
        data = bytearray()
        with contextlib.suppress(FileNotFoundError):
            data = read_range(path, offset, nbytes)
        if hashlib.sha256(data).hexdigest() != sha256:
            problem = "is damaged" if path.exists() else "is missing"
            raise DamagedError(
                f"{path}: the file {problem}, found at sample {sample_id}: get it again, or remove "
                f"samples/{part_name(int(traj_file.split('-')[0]))} and run ppod-gen to generate this shard again"
            )
        return data

    return retry_damaged(path, read)


def _part(root: DataPath, shard: int) -> DataPath:
    return root / "samples" / part_name(shard)


def _check(sample: Sample) -> None:
    assert _SAMPLE_ID.fullmatch(sample.sample_id), (
        "a sample_id is 32 hex digits: webdataset splits names at a dot"
    )
    assert len(sample.timesteps) == len(sample.stochastic) == len(sample.log_probs)
    for step, (stochastic, value) in enumerate(zip(sample.stochastic, sample.log_probs, strict=True)):
        assert stochastic == (value is not None), "a step has a log-probability exactly if it is stochastic"
        if value is not None and not math.isfinite(value):
            raise NonFiniteError(
                f"sample {sample.sample_id}: log-probability {value} at step {step}: try --compute-dtype "
                "fp32 or bf16; nothing of this shard was written"
            )


def _member(sample: Sample) -> dict[str, Any]:
    """Return a sample's JSON member of the tar, for readers of the stream without the tables."""
    return {
        "sample_id": sample.sample_id,
        "prompt_id": sample.prompt_id,
        "prompt": sample.prompt,
        "image_index": sample.image_index,
        "seed": sample.seed,
        "image_pixels_sha256": sample.image_pixels_sha256,
        "timesteps": sample.timesteps,
        "stochastic": sample.stochastic,
        "log_probs": sample.log_probs,
        "step_index": sample.step_index,
    }


def _row(sample: Sample) -> dict[str, Any]:
    """Return a sample's row of the table."""
    checked = {} if sample.flagged is None else {"flagged": sample.flagged}
    return (
        _member(sample)
        | checked
        | {
            "image": {"bytes": sample.image_bytes, "path": image_name(sample.sample_id, sample.image_bytes)},
            "image_sha256": hashlib.sha256(sample.image_bytes).hexdigest(),
            "traj_nbytes": len(sample.latents_safetensors),
            "traj_sha256": hashlib.sha256(sample.latents_safetensors).hexdigest(),
        }
    )


def _check_offsets(tar: Path, rows: list[dict[str, Any]]) -> None:
    """Read every member back at its offset before the rows are committed."""
    with tar.open("rb") as file:
        for row in rows:
            data = os.pread(file.fileno(), row["traj_nbytes"], row["traj_offset"])
            if hashlib.sha256(data).hexdigest() != row["traj_sha256"]:
                raise PpodError(f"{tar}: the disk returned other bytes than were written: check the disk")

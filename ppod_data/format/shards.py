"""Shards: how samples and their trajectories become two files that appear together.

The tar of the trajectories is written first and named by its content; the Parquet part that names it, and
every member's offset, length and sha256, is written second, and is the commit. A tar that no part names does
not exist.
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
from ppod_data.storage.range_reader import read_again
from ppod_data.support.canonical_json import canonical_json

SUMS = "SHA256SUMS"
"""The seal of the manifest, samples and trajectories."""
PURGING = ".SHA256SUMS.purging"
"""The seal's name while a purge rewrites sealed shards: the data set stays closed, and is sealed again at its end."""
_BLOCK = 512
_ROW_GROUP = 64
TRAJ_FILE = re.compile(r"\d{6,}-[0-9a-f]{16}\.tar")
"""The name of a tar: its shard, and the first digits of its sha256."""
_BEGUN = re.compile(r"\.(\d{6,})\.tar\.tmp-")
_SAMPLE_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image with its recorded chain of T steps, ready to be stored."""

    sample_id: str
    prompt_id: str
    prompt: str
    image_index: int
    seed: int
    image_bytes: bytes
    """An image file: the PNG that was made, or the file that was given."""
    image_pixels_sha256: str
    timesteps: list[int]
    """T scheduler timesteps, the noisiest first."""
    stochastic: list[bool]
    """T flags: whether the step has variance, and so a density."""
    log_probs: list[float | None]
    """T log-densities averaged over the latent's dimensions (nats); None where not stochastic."""
    step_index: list[int]
    """The steps, 0 to T - 1, whose latents are stored."""
    latents_safetensors: bytes
    flagged: bool | None = None
    """What a safety checker said of the image; None where none ran, in all samples of a data set or in none."""


class ShardWriter:
    """Collects the samples of one shard and commits them together when the `with` block ends normally.

    On an error nothing stays behind, and nothing exists under the shard's name. Where another worker has
    committed the shard first, the commit does nothing. Trajectories go to the disk as they are added; what
    stays in memory is a row and an image a sample. With `replace`, a purge, the new shard takes the old one's place.
    """

    def __init__(self, root: DataPath, shard: int, *, replace: bool = False) -> None:
        self.committed = False
        """After the block: True where this writer made the shard, False where another was first."""
        self._root = root
        self._shard = shard
        self._replace = replace
        self._rows: list[dict[str, Any]] = []
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> Self:
        from webdataset import TarWriter

        with self._cleanup as cleanup:
            place = self._root / "trajectories" / f"{self._shard:06d}.tar"
            self._temporary = cleanup.enter_context(temporary_beside(place))
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
        """Another worker's part is final: a tar that it does not name will never be part of the data set."""
        named = read_table(_part(self._root, self._shard), SAMPLES, ["traj_file"])["traj_file"].to_pylist()
        if tar.name not in named:
            remove(tar)


class _HashingFile:
    """The writable file that a tar is streamed to; knows the sha256 of what went through."""

    def __init__(self, file: BinaryIO) -> None:
        self._file: BinaryIO | None = file
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        if self._file is not None:
            self._file.write(data)
            self._digest.update(data)
        return len(data)

    def sync(self) -> None:
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())

    def sha256(self) -> str:
        return self._digest.hexdigest()

    def discard(self) -> None:
        """Swallow what is still written: the file is about to be removed."""
        self._file = None


def is_sealed(root: DataPath) -> bool:
    """Whether the manifest, samples and trajectories of the data set in `root` never change again."""
    return (root / SUMS).exists() or (root / PURGING).exists()


def refuse_sealed(root: DataPath) -> None:
    """Raise ConfigError where the data set is sealed: no shard may be added."""
    if is_sealed(root):
        raise ConfigError(
            f"{root}: sealed without all its shards: use it as it is, or remove {SUMS}, make the rest with "
            "ppod-gen and run ppod-data seal again"
        )


def shard_committed(root: DataPath, shard: int) -> bool:
    """Whether the shard is complete: its Parquet part exists, which is written last."""
    return _part(root, shard).exists()


def look_who_works(root: DataPath) -> Callable[[int], bool]:
    """Look at the folder once; gives whether a living process seems to have a shard in hand: it holds a lock on a
    temporary file beside its tar.

    A hint for who looks for work; nothing relies on it. A store has no temporary files: there nobody is seen.
    """
    folder = root / "trajectories"
    begun: dict[int, list[DataPath]] = {}
    for name in os.listdir(folder) if isinstance(folder, Path) and folder.is_dir() else []:
        if match := _BEGUN.match(name):
            begun.setdefault(int(match[1]), []).append(folder / name)
    return lambda shard: any(is_being_written(path) for path in begun.get(shard, []))


def committed_shards(root: DataPath) -> list[int]:
    """The numbers of the complete shards, ascending."""
    return parts_in(root / "samples")


def parts_in(folder: DataPath, num_shards: int | None = None) -> list[int]:
    """The shards of which a table's folder has a part, ascending: one listing, and no file is asked for.

    `num_shards` leaves out what is beyond the data set's last shard. Every reader of parts starts here: a file with
    another name, such as a stray copy, is no part.
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
    """The bytes of one trajectory, read at its offset and checked against its sha256; a tensor can share them.

    Raises `DamagedError`, naming the file and the sample, where the bytes are not the committed ones.
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
            what = "is damaged" if path.exists() else "is missing"
            raise DamagedError(
                f"{path}: the file {what}, found at sample {sample_id}: get it again, or remove "
                f"samples/{part_name(int(traj_file.split('-')[0]))} and run ppod-gen to make this shard again"
            )
        return data

    return read_again(path, read)


def _part(root: DataPath, shard: int) -> DataPath:
    return root / "samples" / part_name(shard)


def _check(sample: Sample) -> None:
    assert _SAMPLE_ID.fullmatch(sample.sample_id), (
        "a sample_id is 32 hex digits: webdataset splits names at a dot"
    )
    assert len(sample.timesteps) == len(sample.stochastic) == len(sample.log_probs)
    for step, (stochastic, value) in enumerate(zip(sample.stochastic, sample.log_probs, strict=True)):
        assert stochastic == (value is not None), "a log-probability exactly where the step is stochastic"
        if value is not None and not math.isfinite(value):
            raise NonFiniteError(
                f"sample {sample.sample_id}: log-probability {value} at step {step}: try --compute-dtype "
                "fp32 or bf16; nothing of this shard was written"
            )


def _member(sample: Sample) -> dict[str, Any]:
    """What the tar alone tells about a sample, for readers of the stream without the tables."""
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
    """Read every member back where its row says that it is, before the row is committed."""
    with tar.open("rb") as file:
        for row in rows:
            data = os.pread(file.fileno(), row["traj_nbytes"], row["traj_offset"])
            if hashlib.sha256(data).hexdigest() != row["traj_sha256"]:
                raise PpodError(f"{tar}: the disk gave back other bytes than were written: check the disk")

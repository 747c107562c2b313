"""Checks that read every byte: images, whole tars, and sealed files."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Protocol

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import DamagedError, PpodError
from ppod_data.format.images import decode_image, image_name, pixels_sha256
from ppod_data.format.manifest import read_manifest
from ppod_data.format.spec import GenerationSpec
from ppod_data.format.tables import SAMPLES, check_table, part_name, read_table
from ppod_data.storage.files import DataPath, open_file, sha256_file
from ppod_data.storage.json_reader import parse_json
from ppod_data.storage.real_folders import naming
from ppod_data.storage.unreadable import raise_if_unreadable

_BLOCK = 512
_REGULAR = (b"0", b"\0")
_MAX_JSON = 64 << 20
_PIECE = 1 << 20
_MEMBER = (
    "sample_id",
    "prompt_id",
    "prompt",
    "image_index",
    "seed",
    "image_pixels_sha256",
    "timesteps",
    "stochastic",
    "log_probs",
    "step_index",
)

Problem = tuple[str, str | None, str]
"""(file, sample_id or None, description of the problem)."""


class _TarError(Exception):
    """A tar that does not hold two regular files a sample; the message says where."""


def read_shard(
    root: DataPath,
    spec: GenerationSpec,
    shard: int,
    rows: Sequence[Mapping[str, Any]],
    digests: dict[DataPath, str],
) -> Iterator[Problem]:
    """Yield the problems in the bytes of one shard, whose `rows` (without images) passed the structural checks.

    Adds the sha256 of every tar without problems to `digests`.
    """
    part = f"samples/{part_name(shard)}"
    try:
        check_table(root / part)
        table = read_table(
            root / part, SAMPLES, ["sample_id", "image", "image_sha256", "image_pixels_sha256"]
        )
    except DamagedError as error:
        yield part, None, str(error).removeprefix(f"{root / part}: ")
    else:
        for batch in table.to_batches(max_chunksize=64):
            for row in batch.to_pylist():
                if problem := _image_problem(spec, row):
                    yield part, row["sample_id"], problem
    dataset = Dataset(root=root, spec=spec, manifest={})
    for tar in dict.fromkeys(row["traj_file"] for row in rows):
        path, members = root / "trajectories" / tar, [row for row in rows if row["traj_file"] == tar]
        if not path.is_file():
            continue  # already reported with the structure
        try:
            if digest := _digest_of_whole(dataset, path, members):
                digests[path] = digest
            else:
                yield from _tar_problems(dataset, path, members)
        except DamagedError as error:
            yield f"trajectories/{tar}", None, str(error).removeprefix(f"{path}: ")


def read_sealed(
    folder: DataPath, sums: Mapping[str, str], known: Mapping[DataPath, str]
) -> Iterator[tuple[str, str, bool]]:
    """Yield (file, problem, file passes its own checks) for each file whose bytes differ from the sealed ones.

    Args:
        folder: the sealed folder.
        sums: the sha256 of each file in the seal.
        known: the sha256 of files that were already read.

    Raises:
        OSError: the system does not let this process read a file.
    """
    for name, digest in sums.items():
        try:
            actual = known.get(folder / name) or sha256_file(folder / name)
        except (OSError, DamagedError) as error:
            raise_if_unreadable(error, folder / name)
            yield name, f"cannot be read: {error}", False
            continue
        if actual != digest:
            problem = f"the sha256 of {name} is {actual[:16]}…, but the seal says {digest[:16]}…"
            yield name, problem, _passes_own_checks(folder / name, actual)


def _passes_own_checks(path: DataPath, sha256: str) -> bool:
    """Return true if the file's own checksums hold, so that the seal must be wrong."""
    if path.suffix == ".tar":
        return _is_named_by(path, sha256)
    try:
        return check_table(path) if path.suffix == ".parquet" else "sha256" in read_manifest(path.parent)[1]
    except PpodError:
        return False


def _image_problem(spec: GenerationSpec, row: Mapping[str, Any]) -> str | None:
    image = row["image"] or {}
    data = image.get("bytes") or b""
    if hashlib.sha256(data).hexdigest() != row["image_sha256"]:
        return "the image's bytes do not match its sha256"
    if image.get("path") != image_name(row["sample_id"], data):
        return f"the image is named {image.get('path')!r}"
    try:
        decoded = decode_image(data)
    except DamagedError as error:
        return str(error)
    if not spec.is_forward and decoded.size != (spec.width, spec.height):
        return f"the image is {decoded.width} x {decoded.height} pixels, but the spec says {spec.width} x {spec.height}"
    if pixels_sha256(decoded) != row["image_pixels_sha256"]:
        return "the image's pixels do not match image_pixels_sha256"
    return None


def _digest_of_whole(dataset: Dataset, path: DataPath, rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the sha256 of an intact tar, read once, or None for a damaged one."""
    with naming(path), open_file(path) as file:
        stream = _Hashed(file)
        try:
            for row in rows:
                dataset.check_location(row)
                size = _find_latents(stream, row)
                data = bytearray(stream.read(size))
                if hashlib.sha256(data).hexdigest() != row["traj_sha256"]:
                    return None
                dataset.decode(row, data)
                _check_padding(stream, size)
            _check_end(stream)
        except (DamagedError, _TarError, ValueError, RecursionError):
            return None
    return stream.sha256() if _is_named_by(path, stream.sha256()) else None


def _tar_problems(dataset: Dataset, path: DataPath, rows: Sequence[Mapping[str, Any]]) -> Iterator[Problem]:
    """Yield the problems of a tar: its hash, its trajectories at the table's offsets, and its members in order."""
    file = f"trajectories/{path.name}"
    if not _is_named_by(path, sha256_file(path)):
        yield file, None, "its bytes do not match the hash in its name"
    for row in rows:
        try:
            dataset.check_location(row)
            dataset.decode(row, dataset.read_member(row))
        except DamagedError as error:
            yield file, row["sample_id"], str(error).removeprefix(f"{path}: ")
    row = rows[0]
    try:
        with naming(path), open_file(path) as stream:
            for row in rows:
                size = _find_latents(stream, row)
                stream.seek(size, 1)
                _check_padding(stream, size)
            _check_end(stream)
    except (_TarError, ValueError, RecursionError) as error:
        yield file, row["sample_id"], f"the tar differs from the one written: {error}"


class _Stream(Protocol):
    """A readable stream with a position."""

    def read(self, size: int, /) -> bytes: ...

    def tell(self) -> int: ...


class _Hashed:
    """A file that is read from start to end, with its sha256."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        """Read up to `size` bytes and add them to the hash."""
        data = self._file.read(size)
        self._digest.update(data)
        return data

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    def sha256(self) -> str:
        """Return the sha256 of the bytes read."""
        return self._digest.hexdigest()


def _is_named_by(path: DataPath, sha256: str) -> bool:
    return sha256.startswith(path.stem.partition("-")[2])


def _find_latents(stream: _Stream, row: Mapping[str, Any]) -> int:
    """Move to a sample's latents after checking the members before them against its row. Return the latents' size."""
    size = _next_member(stream, f"{row['sample_id']}.json")
    if size > _MAX_JSON:
        raise _TarError(f"a json member of {size} bytes")
    if parse_json(_payload(stream, size)) != {name: row[name] for name in _MEMBER}:
        raise _TarError("the json member differs from the table")
    size = _next_member(stream, f"{row['sample_id']}.safetensors")
    if (stream.tell(), size) != (row["traj_offset"], row["traj_nbytes"]):
        raise _TarError("the latents are not at the table's offset")
    return size


def _check_padding(stream: _Stream, size: int) -> None:
    if stream.read(-size % _BLOCK).strip(b"\0"):
        raise _TarError("nonzero padding")


def _check_end(stream: _Stream) -> None:
    while piece := stream.read(_PIECE):
        if piece.strip(b"\0"):
            raise _TarError("data follows the last member")


def _next_member(stream: _Stream, name: str) -> int:
    """Return the size of the next member. Nothing is extracted: its name is only compared with `name`."""
    header = stream.read(_BLOCK)
    if len(header) < _BLOCK:
        raise _TarError(f"truncated before {name}")
    fields = header[:148] + b" " * 8 + header[156:]
    if header[257:263] != b"ustar\0" or int(header[148:156].strip(b"\0 "), 8) != sum(fields):
        raise _TarError(f"a damaged header instead of {name}")
    if header[156:157] not in _REGULAR or header[345:500].strip(b"\0"):
        raise _TarError(f"{name} is not a regular file")
    if header[:100].rstrip(b"\0") != name.encode():
        raise _TarError(f"another member instead of {name}")
    return int(header[124:136].strip(b"\0 "), 8)


def _payload(stream: _Stream, size: int) -> bytes:
    data = stream.read(math.ceil(size / _BLOCK) * _BLOCK)
    if data[size:].strip(b"\0") or len(data) < size:
        raise _TarError("nonzero padding, or truncated")
    return data[:size]

"""Checks that read every byte: images, tars from their first block to their last, and sealed files."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ppod_data.dataset import Dataset
from ppod_data.errors import DamagedError, PpodError
from ppod_data.files import DataPath, open_file, sha256_file
from ppod_data.images import decode_image, pixels_sha256
from ppod_data.manifest import read_manifest
from ppod_data.spec import GenerationSpec
from ppod_data.tables import SAMPLES, check_table, part_name, read_table

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
"""(file, sample_id or None, what is wrong)."""


class _TarError(Exception):
    """A tar that is not two regular files a sample; the text says where."""


def read_shard(
    root: DataPath, spec: GenerationSpec, shard: int, rows: Sequence[Mapping[str, Any]]
) -> Iterator[Problem]:
    """Problems in the bytes of one shard, whose `rows` (without images) passed the checks of structure."""
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
    for tar in dict.fromkeys(row["traj_file"] for row in rows):
        yield from _tar_problems(root, spec, tar, [row for row in rows if row["traj_file"] == tar])


def read_sealed(folder: DataPath, sums: Mapping[str, str]) -> Iterator[tuple[str, str, bool]]:
    """(file, problem, whether the file passes its own checks) of each file whose bytes are not the sealed ones."""
    for name, digest in sums.items():
        try:
            found = sha256_file(folder / name)
        except (OSError, DamagedError) as error:
            yield name, f"cannot be read: {error}", False
            continue
        if found != digest:
            problem = f"the sha256 of {name} is {found[:16]}…, and the seal says {digest[:16]}…"
            yield name, problem, _passes_own_checks(folder / name, found)


def _passes_own_checks(path: DataPath, sha256: str) -> bool:
    """Whether the file proves by itself that it is whole, so that the seal must be wrong."""
    if path.suffix == ".tar":
        return sha256.startswith(path.stem.partition("-")[2])
    try:
        return check_table(path) if path.suffix == ".parquet" else "sha256" in read_manifest(path.parent)[1]
    except PpodError:
        return False


def _image_problem(spec: GenerationSpec, row: Mapping[str, Any]) -> str | None:
    image = row["image"] or {}
    data = image.get("bytes") or b""
    if hashlib.sha256(data).hexdigest() != row["image_sha256"]:
        return "the image's bytes are not those of its sha256"
    if image.get("path") != f"{row['sample_id']}.png":
        return f"the image is named {image.get('path')!r}"
    try:
        decoded = decode_image(data)
    except DamagedError as error:
        return str(error)
    if decoded.size != (spec.width, spec.height):
        return f"the image is {decoded.width} x {decoded.height} pixels, and the spec says otherwise"
    if pixels_sha256(decoded) != row["image_pixels_sha256"]:
        return "the image's pixels are not those of image_pixels_sha256"
    return None


def _tar_problems(
    root: DataPath, spec: GenerationSpec, tar: str, rows: Sequence[Mapping[str, Any]]
) -> Iterator[Problem]:
    path, file = root / "trajectories" / tar, f"trajectories/{tar}"
    if not path.is_file():
        return  # told with the structure
    if not sha256_file(path).startswith(Path(tar).stem.partition("-")[2]):
        yield file, None, "its bytes are not those that its name says"
    dataset = Dataset(root=root, spec=spec, manifest=read_manifest(root)[1])
    for row in rows:
        try:
            dataset.read_trajectory(row)
        except DamagedError as error:
            yield file, row["sample_id"], str(error).removeprefix(f"{path}: ")
    row = rows[0]
    try:
        with open_file(path) as stream:
            for row in rows:
                _check_members(stream, row)
            while piece := stream.read(_PIECE):
                if piece.strip(b"\0"):
                    raise _TarError("there is more after the last member")
    except (_TarError, ValueError, RecursionError) as error:
        yield file, row["sample_id"], f"the tar is not as it was written: {error}"


def _check_members(stream: BinaryIO, row: Mapping[str, Any]) -> None:
    """Read the two members of a sample, which must stand next and say what its row says."""
    size = _next_member(stream, f"{row['sample_id']}.json")
    if size > _MAX_JSON:
        raise _TarError(f"a json member of {size} bytes")
    if json.loads(_payload(stream, size)) != {name: row[name] for name in _MEMBER}:
        raise _TarError("the json member says otherwise than the table")
    size = _next_member(stream, f"{row['sample_id']}.safetensors")
    if (stream.tell(), size) != (row["traj_offset"], row["traj_nbytes"]):
        raise _TarError("the latents are not where the table says")
    stream.seek(size, 1)
    if stream.read(-size % _BLOCK).strip(b"\0"):
        raise _TarError("padding that is not empty")


def _next_member(stream: BinaryIO, name: str) -> int:
    """The size of the member whose header is read next. Nothing is extracted: a name is only compared."""
    header = stream.read(_BLOCK)
    if len(header) < _BLOCK:
        raise _TarError(f"cut before {name}")
    fields = header[:148] + b" " * 8 + header[156:]
    if header[257:263] != b"ustar\0" or int(header[148:156].strip(b"\0 "), 8) != sum(fields):
        raise _TarError(f"a damaged header where {name} should be")
    if header[156:157] not in _REGULAR or header[345:500].strip(b"\0"):
        raise _TarError(f"no regular file where {name} should be")
    if header[:100].rstrip(b"\0") != name.encode():
        raise _TarError(f"another member where {name} should be")
    return int(header[124:136].strip(b"\0 "), 8)


def _payload(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(math.ceil(size / _BLOCK) * _BLOCK)
    if data[size:].strip(b"\0") or len(data) < size:
        raise _TarError("padding that is not empty, or a cut")
    return data[:size]

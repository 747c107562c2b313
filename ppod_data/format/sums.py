"""SHA256SUMS: seals of a table's folder and of a single file."""

import re
from collections.abc import Mapping

from ppod_data.errors import DamagedError
from ppod_data.format.shards import SUMS
from ppod_data.format.spec import GenerationSpec
from ppod_data.format.tables import check_table, is_table, part_name
from ppod_data.storage.files import (
    DataPath,
    atomic_update,
    matching,
    read_small,
    remove,
    sha256_file,
    sync,
    version_of,
)
from ppod_data.storage.range_reader import retry_damaged

TABLE_FOLDERS = ("scores", "log_probs")
FILE_FOLDERS = ("labels", "pairs")
_MAX_BYTES = 64 << 20
_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._/-]*)")


def seal_table(folder: DataPath, spec: GenerationSpec) -> bool:
    """Seal a table of scores or log-probabilities if all its parts exist undamaged. Return true if it is sealed.

    If a part is missing or fails its checksums, an older seal stays unchanged.
    """
    names = [part_name(shard) for shard in range(spec.num_shards)]
    while all((folder / name).exists() for name in names):
        before = [version_of(folder / name) for name in names]
        try:
            sums = {name: _checked_sha256(folder / name) for name in names}
        except DamagedError:
            return False
        path = folder / SUMS
        if not path.exists() or read_small(path, _MAX_BYTES) != encode_sums(sums):
            write_sums(path, sums)
        if before == [version_of(folder / name) for name in names]:
            return True
    return False


def seal_file(path: DataPath) -> None:
    """Write NAME.sha256 beside the table of labels or pairs NAME.parquet."""
    write_sums(file_seal(path), {path.name: _checked_sha256(path)})


def file_seal(path: DataPath) -> DataPath:
    """Return the path of the seal of the table of labels or pairs `path`."""
    return path.with_name(path.name.removesuffix(".parquet") + ".sha256")


def file_tables(root: DataPath) -> list[DataPath]:
    """Return the tables of labels, then those of pairs."""
    paths = [path for folder in FILE_FOLDERS for path in matching(root / folder, "[!.]*.parquet")]
    return [path for path in paths if is_table(path)]


def open_table(folder: DataPath) -> None:
    """Remove a table's seal before one of its parts is replaced."""
    if (folder / SUMS).exists():
        remove(folder / SUMS)
        sync(folder)


def read_sums(path: DataPath) -> dict[str, str]:
    """Return the sha256 of each name in a seal. Raises `DamagedError` for a line that ppod never writes."""
    return decode_sums(read_small(path, _MAX_BYTES), str(path))


def decode_sums(data: bytes, path: str) -> dict[str, str]:
    """Decode the bytes of a seal as `read_sums` does; `path` names it in errors."""
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        raise DamagedError(f"{path}: not a seal: get this file again") from error
    matches = [_LINE.fullmatch(line) for line in text.removesuffix("\n").split("\n")]
    names = [match[2] for match in matches if match]
    if len(names) != len(matches) or not text.endswith("\n") or names != sorted(set(names)):
        raise DamagedError(f"{path}: damaged: its lines are not those of a seal: get this file again")
    if unsafe := [name for name in names if ".." in name or "//" in name]:
        raise DamagedError(f"{path}: names {unsafe[0]!r}, which is outside the folder")
    return {match[2]: match[1] for match in matches if match}


def write_sums(path: DataPath, sums: Mapping[str, str]) -> None:
    """Write a seal atomically, unless the file holds these bytes."""
    atomic_update(path, encode_sums(sums))


def encode_sums(sums: Mapping[str, str]) -> bytes:
    """Return the bytes of a seal."""
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode()


def _checked_sha256(path: DataPath) -> str:
    """Return the file's sha256 if the file passes its own checksums. Raises DamagedError otherwise."""
    return retry_damaged(path, lambda: _check(path))


def _check(path: DataPath) -> str:
    try:
        digest = sha256_file(path)
    except FileNotFoundError as error:
        raise DamagedError(f"{path}: the file is missing: get it again") from error
    if path.suffix == ".tar" and digest[:16] != path.stem.partition("-")[2]:
        raise DamagedError(f"{path}: damaged, its bytes do not match the hash in its name: get it again")
    if path.suffix == ".parquet":
        check_table(path)
    return digest

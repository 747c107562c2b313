"""The seal: SHA256SUMS, in the form that `sha256sum -c` reads, of what will never change again.

The base of a data set (manifest, samples, trajectories) is sealed once, by `seal`, in the file SHA256SUMS. Each table
of scores or log-probabilities has a SHA256SUMS of its own, written when its last part is there; a table of labels or
pairs has NAME.sha256 beside it. Every seal is a pure function of the files that it names, so workers that write it at
the same time write the same bytes.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ppod_data.errors import ConfigError, DamagedError, PpodError
from ppod_data.files import (
    DataPath,
    atomic_update,
    data_path,
    in_folder,
    is_being_written,
    is_temporary,
    matching,
    name_below,
    read_small,
    remove,
    sha256_file,
    sync,
    version_of,
)
from ppod_data.manifest import MANIFEST, read_manifest
from ppod_data.ranges import read_again
from ppod_data.real_folders import refuse_linked_folders
from ppod_data.shards import PURGING, SUMS, TRAJ_FILE, committed_shards, is_sealed
from ppod_data.spec import GenerationSpec
from ppod_data.tables import SAMPLES, check_table, is_name, is_table, part_name, read_table

BASE_FOLDERS = ("samples", "trajectories")
TABLE_FOLDERS = ("scores", "log_probs")
"""Of tables with a part a shard."""
FILE_FOLDERS = ("labels", "pairs")
"""Of tables that are one file."""
_MAX_BYTES = 64 << 20
_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._/-]*)")


@dataclass(frozen=True, kw_only=True)
class SealSummary:
    """What `seal` did."""

    num_files: int
    """Files that SHA256SUMS names."""
    num_bytes: int
    removed: tuple[str, ...]
    """Leftovers of stopped processes, by their names in the folder."""
    was_sealed: bool
    num_missing_shards: int


def seal(
    root: DataPath, *, incomplete: bool = False, on_file: Callable[[str, int], None] = lambda name, size: None
) -> SealSummary:
    """Remove leftovers, check every file of the base, and write its SHA256SUMS; seal tables that lack a seal.

    Args:
        incomplete: seal also where shards are missing.
        on_file: called with the name and the size of every file of the base that was hashed.

    Raises:
        ConfigError: shards are missing, or a folder is a link to another place.
        DamagedError: a file is damaged or missing; nothing is sealed then.
        PpodError: another process is making shards.
    """
    root = data_path(root)
    spec, _ = read_manifest(root)
    refuse_linked_folders(root)
    shards = committed_shards(root)
    missing = spec.num_shards - len(shards)
    was_sealed = (root / SUMS).exists() and not (root / PURGING).exists()
    if missing and not incomplete and not is_sealed(root):
        raise ConfigError(
            f"{root}: {missing} of {spec.num_shards} shards are not made yet: run ppod-gen again, or give "
            "--incomplete to seal what is there for good"
        )
    if writing := [path for path in leftovers(root) if is_temporary(path) and is_being_written(path)]:
        raise PpodError(f"{writing[0]}: a process is writing this file: wait for it to end, then seal again")
    removed = tuple(remove_leftovers(root))
    seal_tables(root, spec)
    if was_sealed:
        sums = read_sums(root / SUMS)
        size = sum((root / name).stat().st_size for name in sums if (root / name).exists())
        return _summary(sums, size, removed, True, missing)
    sums, total = {}, 0
    for name in base_files(root):
        path = root / name
        sums[name] = _checked_sha256(path)
        size = path.stat().st_size
        on_file(name, size)
        total += size
    if list(sums) != base_files(root):
        raise PpodError(
            f"{root}: files appeared while it was sealed: wait for ppod-gen to end, then seal again"
        )
    write_sums(root / SUMS, sums)
    remove(root / PURGING)
    return _summary(sums, total, removed, False, missing)


def seal_table(folder: DataPath, spec: GenerationSpec) -> bool:
    """Seal a table of scores or log-probabilities that has all its parts, each of them undamaged.

    Where parts are missing, or one does not pass its own checksums, an older seal stays as it is. True: it is sealed.
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
    """The seal of the table of labels or pairs `path`."""
    return path.with_name(path.name.removesuffix(".parquet") + ".sha256")


def file_tables(root: DataPath) -> list[DataPath]:
    """The tables of labels, then those of pairs."""
    found = [path for kind in FILE_FOLDERS for path in matching(root / kind, "[!.]*.parquet")]
    return [path for path in found if is_table(path)]


def table_folders(root: DataPath) -> list[DataPath]:
    """The folders of tables of scores, then those of log-probabilities."""
    found = [path for kind in TABLE_FOLDERS for path in matching(root / kind, "[!.]*/")]
    return [path for path in found if is_name(path.name)]


def open_table(folder: DataPath) -> None:
    """Take a table's seal away, before one of its parts is replaced."""
    if (folder / SUMS).exists():
        remove(folder / SUMS)
        sync(folder)


def seal_tables(root: DataPath, spec: GenerationSpec) -> None:
    """Seal every complete table that has no seal yet."""
    for folder in table_folders(root):
        if not (folder / SUMS).exists():
            seal_table(folder, spec)
    for path in file_tables(root):
        if not file_seal(path).exists():
            seal_file(path)


def base_files(root: DataPath) -> list[str]:
    """The manifest, the samples' parts and the tars that they name, sorted."""
    parts = [f"samples/{part_name(shard)}" for shard in committed_shards(root)]
    return sorted([MANIFEST, *parts, *(f"trajectories/{name}" for name in named_tars(root))])


def named_tars(root: DataPath) -> set[str]:
    """The tars that the samples' parts name. Raises DamagedError for a name that ppod never gives."""
    names: set[str] = set()
    for shard in committed_shards(root):
        path = root / "samples" / part_name(shard)
        names |= set(read_table(path, SAMPLES, ["traj_file"])["traj_file"].to_pylist())
    if wrong := [name for name in names if name is None or not TRAJ_FILE.fullmatch(name)]:
        raise DamagedError(f"{root}: a part names the trajectory file {wrong[0]!r}, which ppod never writes")
    return names


def leftovers(root: DataPath) -> Iterator[DataPath]:
    """Temporary files, and tars that no part names: what stopped or slower processes left behind."""
    named = named_tars(root)
    folders = [root, *(root / name for name in (*BASE_FOLDERS, *FILE_FOLDERS, "environment"))]
    folders += [folder for kind in TABLE_FOLDERS for folder in matching(root / kind, "*/")]
    for folder in folders:
        for path in in_folder(folder):
            orphan = (
                folder.name == "trajectories" and TRAJ_FILE.fullmatch(path.name) and path.name not in named
            )
            if orphan or is_temporary(path):
                yield path


def remove_leftovers(root: DataPath, *, at_once: bool = False) -> Iterator[str]:
    """Remove `leftovers` that nobody is writing, giving their names.

    A store has no locks: there, what is younger than a day stays, unless `at_once` says that no other process writes.
    """
    for path in list(leftovers(root)):
        in_store = not isinstance(path, Path)
        if at_once or not ((in_store or is_temporary(path)) and is_being_written(path)):
            remove(path)
            sync(path.parent)
            yield name_below(root, path)


def read_sums(path: DataPath) -> dict[str, str]:
    """The sha256 of each name in a seal. Raises `DamagedError` for a line that ppod never writes."""
    return decode_sums(read_small(path, _MAX_BYTES), str(path))


def decode_sums(data: bytes, path: str) -> dict[str, str]:
    """`read_sums` of the bytes of a seal; `path` is how an error names it."""
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        raise DamagedError(f"{path}: no seal: get this file again") from error
    matches = [_LINE.fullmatch(line) for line in text.removesuffix("\n").split("\n")]
    names = [match[2] for match in matches if match]
    if len(names) != len(matches) or not text.endswith("\n") or names != sorted(set(names)):
        raise DamagedError(f"{path}: damaged: not the lines of a seal: get this file again")
    if unsafe := [name for name in names if ".." in name or "//" in name]:
        raise DamagedError(f"{path}: names {unsafe[0]!r}, which is outside the folder")
    return {match[2]: match[1] for match in matches if match}


def write_sums(path: DataPath, sums: Mapping[str, str]) -> None:
    """Write a seal, unless it is there; it appears whole or not at all."""
    atomic_update(path, encode_sums(sums))


def encode_sums(sums: Mapping[str, str]) -> bytes:
    """The bytes of a seal."""
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode()


def _checked_sha256(path: DataPath) -> str:
    """The file's sha256, if the file passes the checks that it carries itself. Raises DamagedError otherwise."""
    return read_again(path, lambda: _check(path))


def _check(path: DataPath) -> str:
    try:
        digest = sha256_file(path)
    except FileNotFoundError as error:
        raise DamagedError(f"{path}: the file is missing: get it again") from error
    if path.suffix == ".tar" and digest[:16] != path.stem.partition("-")[2]:
        raise DamagedError(f"{path}: damaged, the bytes are not those that its name says: get it again")
    if path.suffix == ".parquet":
        check_table(path)
    return digest


def _summary(
    sums: Mapping[str, str], num_bytes: int, removed: tuple[str, ...], was_sealed: bool, missing: int
) -> SealSummary:
    return SealSummary(
        num_files=len(sums),
        num_bytes=num_bytes,
        removed=removed,
        was_sealed=was_sealed,
        num_missing_shards=missing,
    )

"""The seal: SHA256SUMS, in the format of `sha256sum -c`, of files that never change again.

`seal` seals the base of a data set (manifest, samples, trajectories) once, in the file SHA256SUMS. Each table
of scores or log-probabilities has its own SHA256SUMS, written with its last part. A table of labels or pairs
has NAME.sha256 beside it. Every seal is a pure function of the files that it names, so concurrent workers write
the same bytes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ppod_data.errors import ConfigError, DamagedError, PpodError
from ppod_data.format.manifest import MANIFEST, read_manifest
from ppod_data.format.shards import PURGING, SUMS, TRAJ_FILE, committed_shards, is_sealed
from ppod_data.format.spec import GenerationSpec
from ppod_data.format.sums import (
    FILE_FOLDERS,
    TABLE_FOLDERS,
    _checked_sha256,
    file_seal,
    file_tables,
    read_sums,
    seal_file,
    seal_table,
    write_sums,
)
from ppod_data.format.tables import SAMPLES, is_name, part_name, read_table
from ppod_data.storage.files import (
    DataPath,
    data_path,
    in_folder,
    is_being_written,
    is_temporary,
    matching,
    name_below,
    remove,
    sync,
)
from ppod_data.storage.real_folders import refuse_linked_folders
from ppod_data.support.progress import SILENT, Progress

BASE_FOLDERS = ("samples", "trajectories")
"""Folders with one file a shard."""


@dataclass(frozen=True, kw_only=True)
class SealSummary:
    """The result of `seal`."""

    num_files: int
    """Files that SHA256SUMS names."""
    num_bytes: int
    removed: tuple[str, ...]
    """Leftovers of stopped processes, by their relative names."""
    was_sealed: bool
    num_missing_shards: int


def seal(root: DataPath, *, incomplete: bool = False, progress: Progress = SILENT) -> SealSummary:
    """Remove leftovers, check every file of the base, and write its SHA256SUMS. Tables without a seal are sealed too.

    Args:
        root: the data set.
        incomplete: seal even if shards are missing.
        progress: counts the files of the base.

    Raises:
        ConfigError: shards are missing, or a folder is a link.
        DamagedError: a file is damaged or missing; nothing is sealed.
        PpodError: another process is generating shards.
    """
    root = data_path(root)
    spec, _ = read_manifest(root)
    refuse_linked_folders(root)
    shards = committed_shards(root)
    missing = spec.num_shards - len(shards)
    was_sealed = (root / SUMS).exists() and not (root / PURGING).exists()
    if missing and not incomplete and not is_sealed(root):
        raise ConfigError(
            f"{root}: {missing} of {spec.num_shards} shards are not generated yet: run ppod-gen again, or give "
            "--incomplete to seal the existing shards for good"
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
    names = base_files(root)
    progress.start(len(names), "files")
    for name in names:
        path = root / name
        sums[name] = _checked_sha256(path)
        size = path.stat().st_size
        total += size
        progress.advance(1)
        progress.status(name)
    if list(sums) != base_files(root):
        raise PpodError(f"{root}: files appeared during sealing: wait for ppod-gen to end, then seal again")
    write_sums(root / SUMS, sums)
    remove(root / PURGING)
    return _summary(sums, total, removed, False, missing)


def table_folders(root: DataPath) -> list[DataPath]:
    """Return the folders of score tables, then those of log-probabilities."""
    paths = [path for folder in TABLE_FOLDERS for path in matching(root / folder, "[!.]*/")]
    return [path for path in paths if is_name(path.name)]


def seal_tables(root: DataPath, spec: GenerationSpec) -> None:
    """Seal every complete table that has no seal yet."""
    for folder in table_folders(root):
        if not (folder / SUMS).exists():
            seal_table(folder, spec)
    for path in file_tables(root):
        if not file_seal(path).exists():
            seal_file(path)


def base_files(root: DataPath) -> list[str]:
    """Return the manifest, the samples' parts and the tars that they name, sorted."""
    parts = [f"samples/{part_name(shard)}" for shard in committed_shards(root)]
    return sorted([MANIFEST, *parts, *(f"trajectories/{name}" for name in named_tars(root))])


def named_tars(root: DataPath) -> set[str]:
    """Return the tars that the samples' parts name. Raises DamagedError for a name that ppod never writes."""
    names: set[str] = set()
    for shard in committed_shards(root):
        path = root / "samples" / part_name(shard)
        names |= set(read_table(path, SAMPLES, ["traj_file"])["traj_file"].to_pylist())
    if wrong := [name for name in names if name is None or not TRAJ_FILE.fullmatch(name)]:
        raise DamagedError(f"{root}: a part names the trajectory file {wrong[0]!r}, which ppod never writes")
    return names


def leftovers(root: DataPath) -> Iterator[DataPath]:
    """Yield temporary files, and tars that no part names, left by stopped or slower processes."""
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
    """Remove `leftovers` that no process is writing, and yield their names.

    Object stores have no locks: files younger than a day stay there, unless `at_once` states that no process
    writes.
    """
    for path in list(leftovers(root)):
        in_store = not isinstance(path, Path)
        if at_once or not ((in_store or is_temporary(path)) and is_being_written(path)):
            remove(path)
            sync(path.parent)
            yield name_below(root, path)


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

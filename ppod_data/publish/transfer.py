"""A whole data set copied from one place to another, folders or stores that fsspec knows, checked on the way.

The order is that of the data set's own commits: trajectories before the part that names them, tables after samples,
and ppod.json, without which a folder is no data set, last. So a copy that stopped half-way is never read as whole; the
same call goes on with it. Every file is copied to this machine, checked, and only then gets its name. A store's copy
gets a list of all hashes, `.SHA256SUMS`, since page checksums of a table do not cover its headers.

A store is a stranger's: only names that ppod writes are taken from it.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError, DamagedError, PpodError
from ppod_data.format.manifest import MANIFEST, read_manifest, read_manifest_bytes
from ppod_data.format.shards import SUMS
from ppod_data.format.sums import encode_sums, read_sums
from ppod_data.format.tables import check_table
from ppod_data.integrity.seal import named_tars
from ppod_data.storage.files import (
    DataPath,
    atomic_write,
    data_path,
    in_folder,
    listing,
    open_file,
    publish,
    read_small,
    sha256_file,
    sizes_under,
    sync,
    temporary_beside,
)
from ppod_data.storage.object_store import Stat
from ppod_data.storage.range_reader import read_again
from ppod_data.storage.real_folders import linked, links_below, refuse_linked_folders
from ppod_data.support.progress import SILENT, Progress

_STORE_SUMS = ".SHA256SUMS"
_CHUNK = 1 << 20
_MAX_SUMS = 64 << 20
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_TAR = re.compile(r"trajectories/\d{6,}-([0-9a-f]{16})\.tar")
_FOLDERS = ("environment", "trajectories", "samples", "scores", "log_probs", "labels", "pairs")
_LAST = ("README.md", "croissant.json", SUMS, MANIFEST)


@dataclass(frozen=True, kw_only=True)
class TransferSummary:
    """What `push` or `pull` did."""

    num_files: int
    num_copied: int
    """Of them, copied now; the others were there, with the same bytes."""
    nbytes: int
    """Copied now."""


def push(dataset: Dataset, url: str, *, progress: Progress = SILENT) -> TransferSummary:
    """Copy the data set to the folder `url` of a store; orphaned tars and hidden files stay behind.

    Args:
        progress: counts files.

    Raises:
        ConfigError: a store that is not known or installed, or another data set at `url`.
        DamagedError: a file here is not what it says it is.
        StoreError: the store cannot be reached, or refuses.
    """
    source, target = dataset.root, data_path(url)
    _check_same_data_set(target, dataset)
    names, sizes = published_names(dataset), sizes_under(source)
    sealed = sealed_sums(source)
    hashes = {name: sha256_file(source / name) for name in names}
    found = sizes_under(target)
    there = {name for name in names if _is_there(source, target, name, sizes, found, {})}
    for name in names:  # before anything is copied
        if name.startswith("samples/") and name in found and name not in there:
            raise ConfigError(
                f"{url}/{name}: committed with other bytes, by another machine: push to a new place, or pull first"
            )
    progress.start(len(names), "files")
    for name in names:
        if name == MANIFEST:
            _write_sums(target / _STORE_SUMS, encode_sums(hashes))
        if name in there:
            progress.skip(1)
        else:
            _copy(source / name, target / name, name, sealed, sizes[name])
            progress.advance(1)
        progress.status(name)
    copied = [sizes[name] for name in names if name not in there]
    return TransferSummary(num_files=len(names), num_copied=len(copied), nbytes=sum(copied))


def pull(url: str, root: DataPath, *, progress: Progress = SILENT) -> TransferSummary:
    """Copy the data set at `url` of a store into `root`, a folder that is made, or an earlier copy of it.

    A file that arrives damaged is removed and fetched once more.

    Raises:
        ConfigError: no data set at `url`, or another one in `root`.
        DamagedError: a file is damaged in the store.
        StoreError: the store cannot be reached, or refuses.
    """
    root = data_path(root)
    source = data_path(url)
    manifest = _read_manifest(source, url)
    entries = listing(source)
    sizes = {name: entry.st_size for name, entry in entries.items() if is_safe_name(name)}
    names = commit_order(set(sizes) - {MANIFEST})
    check_own_folder(root, manifest, {name.split("/")[0] for name in names}, url)
    sums = _store_sums(source, entries) | sealed_sums(source)
    found = sizes_under(root)
    copied, total = 0, 0
    progress.start(len(names), "files")
    for name in names:
        if _is_there(source, root, name, sizes, found, sums):
            progress.skip(1)
        else:
            _copy(source / name, root / name, name, sums, sizes[name])
            copied, total = copied + 1, total + sizes[name]
            progress.advance(1)
        progress.status(name)
    if MANIFEST not in found:
        atomic_write(root / MANIFEST, manifest)
        copied, total = copied + 1, total + len(manifest)
    return TransferSummary(num_files=len(names) + 1, num_copied=copied, nbytes=total)


def published_names(dataset: Dataset) -> list[str]:
    """The files of the data set in the order of their commits, without tars that no part names.

    Raises:
        ConfigError: a link in the folder: what it points to may be private.
        DamagedError: a trajectory file is missing.
    """
    root = dataset.root
    for path in links_below(root):
        raise linked(path)
    named = {f"trajectories/{name}" for name in named_tars(root)}
    found = set(sizes_under(root))
    if missing := sorted(named - found):
        raise DamagedError(f"{root / missing[0]}: the file is missing: get it again")
    return commit_order(
        name
        for name in found
        if is_safe_name(name)
        and (name in named or not name.startswith("trajectories/"))
        and not (
            name.startswith("labels/") and name.endswith(".jsonl")
        )  # rejects and journals: this machine's
    )


def is_safe_name(name: str) -> bool:
    """Whether a relative name is of the form that ppod writes: no hidden file, nothing outside the folder."""
    parts = name.split("/")
    known = len(parts) == 1 or parts[0] in _FOLDERS
    return known and len(parts) <= 3 and all(_SAFE.fullmatch(part) for part in parts)


def commit_order(names: Iterable[str]) -> list[str]:
    """The names so that no file comes before one that it speaks of; other files of the top folder come first."""

    def key(name: str) -> tuple[int, int, str]:
        folder = name.split("/")[0]
        if folder in _FOLDERS:
            return 1 + _FOLDERS.index(folder), int(name.endswith(SUMS)), name
        return (1 + len(_FOLDERS) + _LAST.index(name) if name in _LAST else 0), 0, name

    return sorted(names, key=key)


def check_file(path: DataPath, name: str, sums: Mapping[str, str], where: str) -> None:
    """Check one file against what is known of it: its SHA256SUMS, the hash in a tar's name, a table's checksums.

    `where` is how an error names the file.

    Raises:
        DamagedError: it is another file, cut, or changed.
    """
    digest = sha256_file(path) if name in sums or _TAR.fullmatch(name) else ""
    if name in sums and digest != sums[name]:
        raise DamagedError(f"{where}: its sha256 is not that of {SUMS}: get this file again")
    if (match := _TAR.fullmatch(name)) and not digest.startswith(match[1]):
        raise DamagedError(f"{where}: its sha256 is not that of its name: get this file again")
    if name.endswith(".parquet"):
        try:
            check_table(path)
        except DamagedError as error:
            reason = str(error).removeprefix(f"{path}: ").rpartition(":")[0]
            raise DamagedError(f"{where}: {reason}: get this file again") from error


def sealed_sums(root: DataPath) -> dict[str, str]:
    """The hashes in a sealed folder's SHA256SUMS, by relative name; nothing where it is not sealed."""
    file = root / SUMS
    return read_sums(file) if file.exists() else {}


def _store_sums(root: DataPath, entries: Mapping[str, os.stat_result | Stat]) -> dict[str, str]:
    """The hashes that a push left; not of files that commands have written there since."""
    if _STORE_SUMS not in entries:
        return {}
    last = entries[_STORE_SUMS].st_mtime
    sums = read_sums(root / _STORE_SUMS)
    return {
        name: digest for name, digest in sums.items() if name in entries and entries[name].st_mtime <= last
    }


def _check_same_data_set(target: DataPath, dataset: Dataset) -> None:
    there = target / MANIFEST
    if there.exists() and read_manifest_bytes(there) != read_manifest_bytes(dataset.root / MANIFEST):
        raise ConfigError(f"{target}: another data set is there: push to a new place")


def check_own_folder(root: DataPath, manifest: bytes, expected: Collection[str], url: str) -> None:
    """Check that `root` is new, or a copy of the same data set; `expected` are the names of its top folder.

    Raises:
        ConfigError: it holds something else.
    """
    refuse_linked_folders(root)
    if root.exists() and not root.is_dir():
        raise ConfigError(f"{root}: a file is in the way: give the path of a new folder")
    if (root / MANIFEST).exists():
        if read_manifest_bytes(root / MANIFEST) != manifest:
            raise ConfigError(f"{root}: holds another data set than {url}: give a new folder")
        return
    others = [path.name for path in in_folder(root)]
    if strange := sorted(name for name in others if name not in expected and not name.startswith(".")):
        raise ConfigError(
            f"{root}: the folder holds other files ({strange[0]}): give a new or an empty folder"
        )


def _read_manifest(source: DataPath, url: str) -> bytes:
    """The manifest's bytes, of a data set that this ppod can open."""
    try:
        data = read_manifest_bytes(source / MANIFEST)
    except FileNotFoundError as error:
        raise ConfigError(f"{url}: not a ppod data set (no {MANIFEST}): check the URL") from error
    check_manifest(data, url)
    return data


def check_manifest(data: bytes, url: str) -> None:
    """`ConfigError` for a manifest that is none, or of a newer format; `DamagedError` for an edited one."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / MANIFEST).write_bytes(data)
        try:
            read_manifest(Path(folder))
        except PpodError as error:
            raise type(error)(f"{url}: {str(error).removeprefix(f'{folder}/')}") from error


def _is_there(
    source: DataPath,
    target: DataPath,
    name: str,
    sizes: Mapping[str, int],
    found: Mapping[str, int],
    sums: Mapping[str, str],
) -> bool:
    """Whether source and target hold the same file. A tar got its name after its check: name and size tell.

    sizes, found: of the files of source and target. sums: the source's hashes, where it is trusted with them.
    """
    if found.get(name) != sizes[name]:
        return False
    if _TAR.fullmatch(name):
        return True
    return (sums.get(name) or sha256_file(source / name)) == sha256_file(target / name)


def _write_sums(path: DataPath, data: bytes) -> None:
    """Left alone where it is the same."""
    if not path.exists() or read_small(path, _MAX_SUMS) != data:
        atomic_write(path, data)


def _copy(source: DataPath, target: DataPath, name: str, sums: Mapping[str, str], size: int) -> None:
    def fetch(temporary: Path) -> None:
        with open_file(source) as file, temporary.open("wb") as out:
            shutil.copyfileobj(file, out, _CHUNK)
        if temporary.stat().st_size != size:
            raise DamagedError(
                f"{source}: {temporary.stat().st_size} bytes arrived, not {size}: run it again"
            )
        check_file(temporary, name, sums, str(source))

    with temporary_beside(target) as temporary:
        read_again(source, lambda: fetch(temporary))
        sync(temporary)
        publish(temporary, target)

"""Copying of a whole data set between folders and object stores, with every file verified.

Files are copied in the order of the data set's own commits: trajectories before the part that names them,
tables after samples, and ppod.json, which marks a data set, last. A partial copy is therefore never read as
whole, and the same call resumes it. Every file is copied to this machine and verified before it is published. A
copy in an object store gets a list of all hashes, `.SHA256SUMS`, because page checksums of a table do not cover
its headers.

Object stores are untrusted: only names that ppod writes are copied from them.
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
from ppod_data.storage.range_reader import retry_damaged
from ppod_data.storage.real_folders import linked, links_below, refuse_linked_folders
from ppod_data.support.progress import SILENT, Progress

_STORE_SUMS = ".SHA256SUMS"
_CHUNK = 1 << 20
_MAX_SUMS = 64 << 20
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_TAR = re.compile(r"trajectories/\d{6,}-([0-9a-f]{16})\.tar")
_FOLDERS = ("environment", "trajectories", "samples", "scores", "log_probs", "labels", "pairs")
CARDS = {"README.md", "croissant.json"}
"""What a data set says of itself in words. Another project may have files of these names."""
_LAST = (*sorted(CARDS), SUMS, MANIFEST)


@dataclass(frozen=True, kw_only=True)
class TransferSummary:
    """The result of `push` or `pull`."""

    num_files: int
    num_copied: int
    """Files copied by this call; the others existed with the same bytes."""
    nbytes: int
    """Bytes copied by this call."""


def push(dataset: Dataset, url: str, *, progress: Progress = SILENT) -> TransferSummary:
    """Copy the data set to `url` in an object store, without orphaned tars and hidden files.

    Args:
        dataset: the data set.
        url: the target folder.
        progress: counts files.

    Raises:
        ConfigError: the store is unknown or its package missing, or `url` holds something else.
        DamagedError: a local file does not match its checksum.
        StoreError: the store cannot be reached, or refuses.
    """
    source, target = dataset.root, data_path(url)
    names, sizes = published_names(dataset), sizes_under(source)
    check_own_folder(target, read_manifest_bytes(source / MANIFEST), names, str(source))
    sealed = sealed_sums(source)
    hashes = {name: sha256_file(source / name) for name in names}
    target_sizes = sizes_under(target)
    present = {name for name in names if _is_present(source, target, name, sizes, target_sizes, {})}
    for name in names:  # check before anything is copied
        if name.startswith("samples/") and name in target_sizes and name not in present:
            raise ConfigError(
                f"{url}/{name}: another machine committed other bytes: push to a new folder, or pull first"
            )
    progress.start(len(names), "files")
    for name in names:
        if name == MANIFEST:
            _write_sums(target / _STORE_SUMS, encode_sums(hashes))
        if name in present:
            progress.skip(1)
        else:
            _copy(source / name, target / name, name, sealed, sizes[name])
            progress.advance(1)
        progress.status(name)
    copied = [sizes[name] for name in names if name not in present]
    return TransferSummary(num_files=len(names), num_copied=len(copied), nbytes=sum(copied))


def pull(url: str, root: DataPath, *, progress: Progress = SILENT) -> TransferSummary:
    """Copy the data set at `url` of an object store into `root`, which is created, or holds an earlier copy of it.

    A file that arrives damaged is removed and fetched once more.

    Args:
        url: the source folder.
        root: the target folder.
        progress: counts files.

    Raises:
        ConfigError: `url` holds no data set, or `root` another one.
        DamagedError: a file is damaged in the store.
        StoreError: the store cannot be reached, or refuses.
    """
    root = data_path(root)
    source = data_path(url)
    manifest = _read_manifest(source, url)
    entries = listing(source)
    sizes = {name: entry.st_size for name, entry in entries.items() if is_safe_name(name)}
    names = commit_order(set(sizes) - {MANIFEST})
    check_own_folder(root, manifest, names, url)
    sums = _store_sums(source, entries) | sealed_sums(source)
    target_sizes = sizes_under(root)
    copied, total = 0, 0
    progress.start(len(names), "files")
    for name in names:
        if _is_present(source, root, name, sizes, target_sizes, sums):
            progress.skip(1)
        else:
            _copy(source / name, root / name, name, sums, sizes[name])
            copied, total = copied + 1, total + sizes[name]
            progress.advance(1)
        progress.status(name)
    if MANIFEST not in target_sizes:
        atomic_write(root / MANIFEST, manifest)
        copied, total = copied + 1, total + len(manifest)
    return TransferSummary(num_files=len(names) + 1, num_copied=copied, nbytes=total)


def published_names(dataset: Dataset) -> list[str]:
    """Return the files of the data set in commit order, without tars that no part names.

    Raises:
        ConfigError: the folder holds a link, whose target may be private.
        DamagedError: a trajectory file is missing.
    """
    root = dataset.root
    for path in links_below(root):
        raise linked(path)
    named = {f"trajectories/{name}" for name in named_tars(root)}
    existing = set(sizes_under(root))
    if missing := sorted(named - existing):
        raise DamagedError(f"{root / missing[0]}: the file is missing: get it again")
    return commit_order(
        name
        for name in existing
        if is_safe_name(name)
        and (name in named or not name.startswith("trajectories/"))
        # Rejects and journals stay on this machine.
        and not (name.startswith("labels/") and name.endswith(".jsonl"))
    )


def is_safe_name(name: str) -> bool:
    """Return true for a relative name of the form that ppod writes: not hidden, and inside the folder."""
    parts = name.split("/")
    is_known = len(parts) == 1 or parts[0] in _FOLDERS
    return is_known and len(parts) <= 3 and all(_SAFE.fullmatch(part) for part in parts)


def commit_order(names: Iterable[str]) -> list[str]:
    """Sort names so that every file follows the files that it names. Other files of the top folder come first."""

    def key(name: str) -> tuple[int, int, str]:
        folder = name.split("/")[0]
        if folder in _FOLDERS:
            return 1 + _FOLDERS.index(folder), int(name.endswith(SUMS)), name
        return (1 + len(_FOLDERS) + _LAST.index(name) if name in _LAST else 0), 0, name

    return sorted(names, key=key)


def check_file(path: DataPath, name: str, sums: Mapping[str, str], where: str) -> None:
    """Verify one file by its SHA256SUMS, the hash in a tar's name, and a table's checksums. `where` names it in errors.

    Raises:
        DamagedError: it is another file, truncated, or changed.
    """
    digest = sha256_file(path) if name in sums or _TAR.fullmatch(name) else ""
    if name in sums and digest != sums[name]:
        raise DamagedError(f"{where}: its sha256 does not match {SUMS}: get this file again")
    if (match := _TAR.fullmatch(name)) and not digest.startswith(match[1]):
        raise DamagedError(f"{where}: its sha256 does not match its name: get this file again")
    if name.endswith(".parquet"):
        try:
            check_table(path)
        except DamagedError as error:
            reason = str(error).removeprefix(f"{path}: ").rpartition(":")[0]
            raise DamagedError(f"{where}: {reason}: get this file again") from error


def sealed_sums(root: DataPath) -> dict[str, str]:
    """Return the hashes in a sealed folder's SHA256SUMS by relative name; empty if it is not sealed."""
    file = root / SUMS
    return read_sums(file) if file.exists() else {}


def _store_sums(root: DataPath, entries: Mapping[str, os.stat_result | Stat]) -> dict[str, str]:
    """Return the hashes that a push wrote, except of files that were written since."""
    if _STORE_SUMS not in entries:
        return {}
    last = entries[_STORE_SUMS].st_mtime
    sums = read_sums(root / _STORE_SUMS)
    return {
        name: digest for name, digest in sums.items() if name in entries and entries[name].st_mtime <= last
    }


def check_own_folder(root: DataPath, manifest: bytes, names: Collection[str], source: str) -> None:
    """Check that `root` is new, or a copy of the data set at `source`, whose files have these `names`.

    Raises:
        ConfigError: it holds something else.
    """
    refuse_linked_folders(root)
    if root.exists() and not root.is_dir():
        raise ConfigError(f"{root}: a file of this name exists: give the path of a new folder")
    if (root / MANIFEST).exists():
        if read_manifest_bytes(root / MANIFEST) != manifest:
            raise ConfigError(f"{root}: holds another data set than {source}: give a new folder")
        return
    refuse_other_files(str(root), {path.name for path in in_folder(root)}, names)


def refuse_other_files(root: str, top: Collection[str], names: Collection[str]) -> None:
    """Check that a top folder without a manifest holds only the beginning of a copy.

    The cards are of a copy only if samples are there: a copy has them first.

    Args:
        root: the folder's name, for the message.
        top: the names in it.
        names: the data set's files.

    Raises:
        ConfigError: it holds something else, which the copy could overwrite.
    """
    expected = {name.split("/")[0] for name in names} - (set() if "samples" in top else CARDS)
    if unexpected := sorted(name for name in top if name not in expected and not name.startswith(".")):
        raise ConfigError(f"{root}: holds other files ({unexpected[0]}): choose a new or an empty one")


def _read_manifest(source: DataPath, url: str) -> bytes:
    """Return the manifest's bytes after checking that this ppod can open the data set."""
    try:
        data = read_manifest_bytes(source / MANIFEST)
    except FileNotFoundError as error:
        raise ConfigError(f"{url}: not a ppod data set (no {MANIFEST}): check the URL") from error
    check_manifest(data, url)
    return data


def check_manifest(data: bytes, url: str) -> None:
    """Check a manifest's bytes. Raises `ConfigError` for an invalid or newer one, `DamagedError` for an edited one."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / MANIFEST).write_bytes(data)
        try:
            read_manifest(Path(folder))
        except PpodError as error:
            raise type(error)(f"{url}: {str(error).removeprefix(f'{folder}/')}") from error


def _is_present(
    source: DataPath,
    target: DataPath,
    name: str,
    sizes: Mapping[str, int],
    target_sizes: Mapping[str, int],
    sums: Mapping[str, str],
) -> bool:
    """Return true if source and target hold the same file. A tar is named after verification: name and size suffice.

    Args:
        source: the source folder.
        target: the target folder.
        name: the file's relative name.
        sizes: sizes of the source's files.
        target_sizes: sizes of the target's files.
        sums: trusted hashes of the source.
    """
    if target_sizes.get(name) != sizes[name]:
        return False
    if _TAR.fullmatch(name):
        return True
    return (sums.get(name) or sha256_file(source / name)) == sha256_file(target / name)


def _write_sums(path: DataPath, data: bytes) -> None:
    """Write the sums unless they are unchanged."""
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
        retry_damaged(source, lambda: fetch(temporary))
        sync(temporary)
        publish(temporary, target)

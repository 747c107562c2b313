"""A whole data set copied to and from a store that fsspec knows (s3://, gs://, a folder, …), checked on the way.

The order is that of the data set's own commits: trajectories before the part that names them, tables after samples,
and ppod.json, without which a folder is no data set, last. So a copy that stopped half-way is never read as whole; the
same call goes on with it. Every file arrives under a temporary name, is read back, checked, and only then renamed.
The store's copy gets a list of all hashes, `.SHA256SUMS`, since page checksums of a table do not cover its headers.

A store is a stranger's: only names that ppod writes are taken from it.
"""

import hashlib
import re
import secrets
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ppod_data.dataset import Dataset
from ppod_data.errors import ConfigError, DamagedError, PpodError
from ppod_data.files import atomic_write, publish, sha256_file, sync, temporary_beside
from ppod_data.manifest import MANIFEST, read_manifest
from ppod_data.seal import decode_sums, encode_sums, named_tars, read_sums
from ppod_data.shards import SUMS
from ppod_data.tables import check_table

_STORE_SUMS = ".SHA256SUMS"
_CHUNK = 1 << 20
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


def push(
    dataset: Dataset, url: str, *, on_file: Callable[[str, int], None] = lambda name, size: None
) -> TransferSummary:
    """Copy the data set to the folder `url` of a store; orphaned tars and hidden files stay behind.

    Args:
        on_file: called with the name and size of every file that is done.

    Raises:
        ConfigError: a store that is not known or installed, or another data set at `url`.
        DamagedError: a file here is not what it says it is, or the store gives back other bytes than it was given.
    """
    store, root = _store(url)
    _check_same_data_set(store, root, dataset, url)
    names = published_names(dataset)
    copied, total = 0, 0
    sealed = local_sums(dataset.root)
    hashes = {name: sha256_file(dataset.root / name) for name in names}
    there = {name for name in names if _is_there(store, f"{root}/{name}", dataset.root / name, name, {})}
    for name in names:  # before anything is copied
        if name.startswith("samples/") and name not in there and store.exists(f"{root}/{name}"):
            raise ConfigError(
                f"{url}/{name}: committed with other bytes, by another machine: push to a new place, or pull first"
            )
    for name in names:
        path = dataset.root / name
        if name == MANIFEST:
            _put(store, f"{root}/{_STORE_SUMS}", encode_sums(hashes))
        if name not in there:
            check_file(path, name, sealed, str(path))
            _upload(store, path, f"{root}/{name}")
            copied, total = copied + 1, total + path.stat().st_size
        on_file(name, path.stat().st_size)
    return TransferSummary(num_files=len(names), num_copied=copied, nbytes=total)


def pull(
    url: str, root: Path, *, on_file: Callable[[str, int], None] = lambda name, size: None
) -> TransferSummary:
    """Copy the data set at `url` of a store into the folder `root`, which is made, or is an earlier copy of it.

    A file that arrives damaged is removed and fetched once more.

    Raises:
        ConfigError: no data set at `url`, or another one in `root`.
        DamagedError: a file is damaged in the store.
    """
    store, place = _store(url)
    manifest = _read_manifest(store, f"{place}/{MANIFEST}", url)
    found = {_relative(full, place): entry["size"] for full, entry in store.find(place, detail=True).items()}
    sizes = {name: int(size) for name, size in found.items() if name is not None and is_safe_name(name)}
    names = commit_order(set(sizes) - {MANIFEST})
    check_own_folder(root, manifest, {name.split("/")[0] for name in names}, url)
    sums: dict[str, str] = {}
    for name in (_STORE_SUMS, SUMS):
        if store.exists(f"{place}/{name}"):
            sums |= decode_sums(store.cat_file(f"{place}/{name}"), f"{url}/{name}")
    copied, total = 0, 0
    for name in names:
        if not _is_there(store, f"{place}/{name}", root / name, name, sums):
            for last_try in (False, True):
                try:
                    _download(store, f"{place}/{name}", root / name, name, sums, sizes[name])
                    break
                except DamagedError:
                    if last_try:
                        raise
            copied, total = copied + 1, total + sizes[name]
        on_file(name, sizes[name])
    if not (root / MANIFEST).exists():
        atomic_write(root / MANIFEST, manifest)
        copied, total = copied + 1, total + len(manifest)
    return TransferSummary(num_files=len(names) + 1, num_copied=copied, nbytes=total)


def published_names(dataset: Dataset) -> list[str]:
    """The files of the data set in the order of their commits, without tars that no part names."""
    root = dataset.root
    named = {f"trajectories/{name}" for name in named_tars(root)}
    found = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
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


def check_file(path: Path, name: str, sums: Mapping[str, str], where: str) -> None:
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


def local_sums(root: Path) -> dict[str, str]:
    """The hashes in a sealed folder's SHA256SUMS, by relative name; nothing where it is not sealed."""
    file = root / SUMS
    return read_sums(file) if file.exists() else {}


def _store(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        store, root = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise ConfigError(
            f"{url}: {error}: install what fsspec needs for this store, or check the URL"
        ) from error
    return store, root.rstrip("/")


def _relative(full: str, place: str) -> str | None:
    full, place = full.lstrip("/"), place.lstrip("/")
    return full[len(place) + 1 :] if full.startswith(f"{place}/") else None


def _check_same_data_set(store: Any, root: str, dataset: Dataset, url: str) -> None:
    store.invalidate_cache()
    if not store.exists(f"{root}/{MANIFEST}"):
        return
    if store.cat_file(f"{root}/{MANIFEST}") != (dataset.root / MANIFEST).read_bytes():
        raise ConfigError(f"{url}: another data set is there: push to a new place")


def check_own_folder(root: Path, manifest: bytes, expected: Collection[str], url: str) -> None:
    """Check that `root` is new, or a copy of the same data set; `expected` are the names of its top folder.

    Raises:
        ConfigError: it holds something else.
    """
    if root.exists() and not root.is_dir():
        raise ConfigError(f"{root}: a file is in the way: give the path of a new folder")
    if (root / MANIFEST).exists():
        if (root / MANIFEST).read_bytes() != manifest:
            raise ConfigError(f"{root}: holds another data set than {url}: give a new folder")
        return
    others = [path.name for path in root.iterdir()] if root.exists() else []
    if strange := sorted(name for name in others if name not in expected and not name.startswith(".")):
        raise ConfigError(
            f"{root}: the folder holds other files ({strange[0]}): give a new or an empty folder"
        )


def _read_manifest(store: Any, target: str, url: str) -> bytes:
    """The manifest's bytes, of a data set that this ppod can open."""
    store.invalidate_cache()
    try:
        data: bytes = store.cat_file(target)
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


def _is_there(store: Any, target: str, path: Path, name: str, sums: Mapping[str, str]) -> bool:
    """Whether store and folder hold the same file. A tar got its name after its check: name and size tell.

    `sums` are the store's hashes, where it is trusted to hold what it lists.
    """
    if not path.exists():
        return False
    try:
        size = store.info(target)["size"]
    except FileNotFoundError:
        return False
    if size != path.stat().st_size:
        return False
    if _TAR.fullmatch(name):
        return True
    if name in sums:
        return sums[name] == sha256_file(path)
    with store.open(target, "rb") as file:
        return _sha256(file) == sha256_file(path)


def _put(store: Any, target: str, data: bytes) -> None:
    """A small file, left alone where it is the same."""
    if not store.exists(target) or store.cat_file(target) != data:
        store.pipe_file(target, data)


def _upload(store: Any, path: Path, target: str) -> None:
    folder, name = target.rsplit("/", 1)
    store.makedirs(folder, exist_ok=True)
    temporary = f"{folder}/.{name}.tmp-{secrets.token_hex(8)}"
    try:
        store.put_file(str(path), temporary)
        with store.open(temporary, "rb") as file:
            if _sha256(file) != sha256_file(path):
                raise DamagedError(f"{target}: the store gave back other bytes than it was given: push again")
        store.mv(temporary, target)
    finally:
        store.invalidate_cache()
        if store.exists(temporary):
            store.rm(temporary)


def _download(store: Any, target: str, path: Path, name: str, sums: Mapping[str, str], size: int) -> None:
    with temporary_beside(path) as temporary:
        with store.open(target, "rb") as source, temporary.open("wb") as file:
            while piece := source.read(_CHUNK):
                file.write(piece)
        if temporary.stat().st_size != size:
            raise DamagedError(f"{target}: {temporary.stat().st_size} bytes arrived, not {size}: pull again")
        check_file(temporary, name, sums, target)
        sync(temporary)
        publish(temporary, path)


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while piece := file.read(_CHUNK):
        digest.update(piece)
    return digest.hexdigest()

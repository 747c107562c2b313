"""Atomic writes, and the sha256 of files, in a local folder or an object store.

    atomic_write(root / "ppod.json", data)

Every local write uses a temporary name in the same folder, flush, fsync, rename (or hard link, if an existing
file must not be replaced), and fsync of the folder. A temporary name starts with a dot and has no data suffix,
so that readers ignore it. Its writer holds a lock on it, which ends with the process: an unlocked temporary
file is a leftover. For an object store (ppod_data.storage.object_store) the file is written to a local
temporary folder, then uploaded.
"""

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from ppod_data.errors import ConfigError, DamagedError, PpodError
from ppod_data.storage import object_store
from ppod_data.storage.object_store import StorePath
from ppod_data.storage.range_reader import open_object
from ppod_data.storage.real_folders import move, naming, real_folder, remove_file, settled

DataPath: TypeAlias = Path | StorePath
"""A path in a local folder or in an object store."""
AnyPath: TypeAlias = str | os.PathLike[str] | StorePath
"""A path as users give it: a path, or a URL such as `s3://bucket/data`."""

_CHUNK = 1 << 20
_URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_URL_AS_PATH = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):/")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_TEMPORARY = re.compile(r"\..+\.tmp-\d+-[0-9a-f]{8}")
_POINTER = b"version https://git-lfs.github.com/spec/"
_POINTER_BYTES = 1024
"""The longest pointer that Git LFS writes."""
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


def data_path(text: AnyPath) -> DataPath:
    """Return the path that `text` names: local with its links resolved, or in an object store such as s3://bucket.

    Raises:
        ConfigError: the store is unknown, or its package is not installed.
    """
    if isinstance(text, StorePath):
        return text
    if not isinstance(text, str):
        return settled(Path(text))
    if (url := _URL.match(text)) is None:
        return settled(Path(text).expanduser())
    if url[1].lower() in ("file", "local"):
        return settled(Path(text[url.end() :]))
    return object_store.store_path(text)


def local_path(text: str | Path) -> Path:
    """Return the local path that `text` names, its links resolved.

    Raises:
        ConfigError: `text` is a URL, also in the spelling of `Path`.
    """
    if url := _URL_AS_PATH.match(str(text)):
        raise ConfigError(f"{text}: must be a local file or folder, not a {url[1]}:// URL: give a path")
    return settled(Path(text).expanduser())


def below(folder: Path, *names: str) -> Path:
    """Join names that come from data, such as untrusted ids, to a path below `folder`.

    Raises:
        DamagedError: a name is empty, hidden, or holds a slash or a control character.
    """
    for name in names:
        if _PLAIN.fullmatch(name) is None:
            raise DamagedError(f"{name[:60]!r} cannot name a file: get the table that holds it again")
    return folder.joinpath(*names)


@contextlib.contextmanager
def temporary_beside(path: DataPath) -> Iterator[Path]:
    """Yield a new, empty, locked file in `path`'s folder; remove it at the end. The folder is created if needed.

    For a path in an object store, the file is in a local temporary folder.
    """
    if not isinstance(path, Path):
        with tempfile.TemporaryDirectory(prefix="ppod-") as folder:
            (Path(folder) / path.name).touch()
            yield Path(folder) / path.name
        return
    name = f".{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"
    with real_folder(path.parent, make=True) as folder:
        with naming(path):
            descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
        try:
            with contextlib.suppress(OSError):  # some network file systems have no locks
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield path.with_name(name)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
            os.close(descriptor)


def is_temporary(path: DataPath) -> bool:
    """Return true for a name made by `temporary_beside`."""
    return _TEMPORARY.fullmatch(path.name) is not None


def is_being_written(temporary: DataPath) -> bool:
    """Return true if a live process may be writing the file, on this machine or another that shares the folder."""
    if not isinstance(temporary, Path):
        return temporary.age() < object_store.LONGEST_WRITE
    try:
        descriptor = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:  # a shared lock: NFS grants an exclusive one only on a file that is open for writing
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # locked, or no locks on this file system: assume a writer
        return True
    finally:
        os.close(descriptor)
    return False


def open_file(path: DataPath, access: int = os.O_RDONLY) -> io.BufferedReader:
    """Open a regular file for reading. Pipes and devices are refused, because their data may never end.

    Args:
        path: the file.
        access: `os.O_RDWR` for a lock that needs write access, of a local file.

    Raises:
        DamagedError: `path` is not a regular file, or is a Git LFS pointer.
        OSError: as `open` does.
    """
    if not isinstance(path, Path):
        return open_object(path)
    descriptor = os.open(path, access | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DamagedError(f"{path}: not a regular file: get it again")
        if status.st_size <= _POINTER_BYTES:
            with naming(path):
                head = os.pread(descriptor, len(_POINTER), 0)
            refuse_pointer(path, head)
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def refuse_pointer(path: Path, head: bytes) -> None:
    """Raise `DamagedError` if `head`, the first bytes of a file, are those of a Git LFS pointer.

    A clone made without Git LFS holds pointers instead of the files.
    """
    if head.removeprefix(b"\xef\xbb\xbf").startswith(_POINTER):
        raise DamagedError(
            f"{path}: a Git LFS pointer, not the file itself: run git lfs pull in the clone, or download the file"
        )


def refuse_pointer_file(path: Path) -> None:
    """Raise `DamagedError` if the local file is a Git LFS pointer. For libraries that open files themselves."""
    with open_file(path):
        pass


def read_range(path: DataPath, offset: int, nbytes: int) -> bytearray:
    """Return `nbytes` bytes of a file from `offset`, or no bytes if the file is shorter.

    Raises `OSError` as `open` does.
    """
    data = bytearray()
    if not 0 <= offset < offset + nbytes:
        return data
    if not isinstance(path, Path):
        return bytearray(object_store.read_range(path, offset, offset + nbytes))
    with naming(path), open_file(path) as file:
        if offset + nbytes <= os.fstat(file.fileno()).st_size:  # check before allocating memory
            data = bytearray(nbytes)
            file.seek(offset)
            file.readinto(data)
    return data


def read_small(path: DataPath, limit: int) -> bytes:
    """Return the bytes of a small file. Raises `DamagedError` above `limit` bytes."""
    with naming(path), open_file(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise DamagedError(f"{path}: more than {limit:,} bytes: not a file that ppod wrote")
    return data


@contextlib.contextmanager
def atomic_output(path: DataPath) -> Iterator[Path]:
    """Yield a temporary path to write to. It replaces `path` on a normal exit and is removed on an error."""
    with temporary_beside(path) as temporary:
        yield temporary
        sync(temporary)
        publish(temporary, path)


def atomic_write(path: DataPath, data: bytes) -> None:
    """Write `data` to `path`, replacing an existing file. Readers see the old bytes or the new ones."""
    with atomic_output(path) as temporary:
        temporary.write_bytes(data)


def atomic_update(path: DataPath, data: bytes) -> bool:
    """Write `data` to `path` unless the file already holds these bytes. Return true if written."""
    try:
        if read_small(path, len(data)) == data:
            return False
    except (OSError, DamagedError):
        pass
    atomic_write(path, data)
    return True


def atomic_create(path: DataPath, data: bytes) -> bool:
    """Write `data` to `path` unless it exists. Return true if written, false if another file was first."""
    with temporary_beside(path) as temporary:
        temporary.write_bytes(data)
        sync(temporary)
        return publish_new(temporary, path)


def replace(path: DataPath, data: bytes, version: str) -> bool:
    """Write `data` to `path`. In an object store, return false if the object is no longer `version`."""
    if not isinstance(path, Path):
        return object_store.put_over(data, path, version)
    atomic_write(path, data)
    return True


def publish(temporary: Path, path: DataPath) -> None:
    """Rename a finished, synced temporary file to `path`, replacing an existing file, durably."""
    if not isinstance(path, Path):
        object_store.put(temporary, path)
        return
    move(temporary, path)
    sync(path.parent)


def publish_new(temporary: Path, path: DataPath) -> bool:
    """Name a finished, synced temporary file `path`, unless that name exists. Return false if it does.

    In an object store, return true if the existing object holds the same bytes: after a lost response, its
    writer is unknown.

    Raises:
        PpodError: the file system has no hard links. Renaming could replace another worker's file.
    """
    if not isinstance(path, Path):
        return put_new(temporary, path)
    try:
        with real_folder(path.parent), naming(path):  # plain paths are safe: the random name is not shared
            os.link(temporary, path)
    except FileExistsError:
        return os.path.samestat(
            os.lstat(temporary), os.lstat(path)
        )  # NFS may report its own link as existing
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        raise PpodError(
            f"{path.parent}: no hard links on this file system ({error.strerror}), which commits need: "
            "generate the data set on another disk, then copy it here"
        ) from error
    sync(path.parent)
    return True


def put_new(file: Path, path: StorePath) -> bool:
    """Copy a local file to an object store unless an object exists there. Return true if `path` then holds these bytes.

    An upload whose response was lost therefore counts as successful.
    """
    try:
        object_store.create(file, path)
    except FileExistsError:
        return _holds(path, file)
    return True


def _holds(path: StorePath, file: Path) -> bool:
    if not path.is_file() or path.stat().st_size != file.stat().st_size:
        return False
    with open_object(path) as stored, file.open("rb") as local:
        return hashlib.file_digest(stored, "sha256").digest() == hashlib.file_digest(local, "sha256").digest()


def rename(path: DataPath, target: DataPath) -> None:
    """Rename a small file durably. In an object store both names exist for a moment."""
    if isinstance(path, Path) and isinstance(target, Path):
        move(path, target)
        sync(target.parent)
    else:
        atomic_write(target, path.read_bytes())
        remove(path)


def remove(path: DataPath) -> None:
    """Remove a file, or a link without its target. A missing file is not an error."""
    if isinstance(path, Path):
        remove_file(path)
    else:
        path.unlink(missing_ok=True)


def in_folder(folder: DataPath) -> list[DataPath]:
    """Return the paths in a folder, sorted; an empty list for a missing folder."""
    if not isinstance(folder, Path):
        return list(folder.iterdir())
    return [folder / name for name in sorted(os.listdir(folder))] if folder.is_dir() else []


def matching(folder: DataPath, pattern: str) -> list[DataPath]:
    """Return the matches of `Path.glob` in a folder, sorted."""
    return [*folder.glob(pattern)] if not isinstance(folder, Path) else [*sorted(folder.glob(pattern))]


def listing(folder: DataPath) -> dict[str, os.stat_result | object_store.Stat]:
    """Return the size and time of every file below a folder, by its relative name."""
    if not isinstance(folder, Path):
        return {**folder.listing()}
    return dict(_walk(folder, "")) if folder.is_dir() else {}


def _walk(folder: Path | str, start: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the files below a folder by name, prefixed with `start`. Each folder is listed once."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, f"{start}{entry.name}/")
            elif entry.is_file():
                yield start + entry.name, entry.stat()


def sizes_under(folder: DataPath) -> dict[str, int]:
    """Return the size of every file below a folder, by its relative name."""
    return {name: status.st_size for name, status in listing(folder).items()}


def name_below(folder: DataPath, path: DataPath) -> str:
    """Return the name of `path` relative to `folder`, with slashes."""
    if isinstance(folder, Path) and isinstance(path, Path):
        return path.relative_to(folder).as_posix()
    start, name = f"{folder}/", str(path)
    assert name.startswith(start), f"{path} is not in {folder}"
    return name[len(start) :]


def version_of(path: DataPath) -> tuple[object, ...]:
    """Return a value that changes when the file is replaced."""
    if not isinstance(path, Path):
        return (path.version(),)
    status = os.stat(path)
    return status.st_ino, status.st_mtime_ns


def sync(path: DataPath) -> None:
    """Flush the file, or the folder's names, at `path` to the disk. Object stores need no flush."""
    if not isinstance(path, Path):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: DataPath) -> str:
    """Return the sha256 of a file's bytes, 64 hex digits. Reads 1 MiB at a time."""
    digest = hashlib.sha256()
    with naming(path), open_file(path) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()

"""Files that appear whole or not at all, and the hashes that name them: in a local folder, or in a store.

The recipe for every local write: a temporary name in the same folder, flush, fsync, rename (or hard link, where an
existing file must not be replaced), fsync of the folder. A temporary name starts with a dot and has no known
suffix, so no reader takes what a killed process left behind for data. Its writer holds a lock on it, which ends with
the process: what is not locked was left behind. In a store (ppod_data.storage.object_store) a file is made in a local
temporary folder and then put.
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
"""A place in a local folder, or in a store."""
AnyPath: TypeAlias = str | os.PathLike[str] | StorePath
"""A place as users give it: a path, or a URL such as `s3://bucket/data`."""

_CHUNK = 1 << 20
_URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_URL_AS_PATH = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):/")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_TEMPORARY = re.compile(r"\..+\.tmp-\d+-[0-9a-f]{8}")
_POINTER = b"version https://git-lfs.github.com/spec/"
_POINTER_BYTES = 1024
"""Git LFS never writes a longer pointer."""
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


def data_path(text: AnyPath) -> DataPath:
    """Return the folder that `text` names, its links resolved, or the place in a store, such as `s3://bucket/data`.

    Raises:
        ConfigError: a store that is not known, or whose package is missing.
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
    """The local path that `text` names, its links resolved.

    Raises:
        ConfigError: a URL, also as `Path` spells it.
    """
    if url := _URL_AS_PATH.match(str(text)):
        raise ConfigError(
            f"{text}: what is written here is a local file or folder, and not in {url[1]}://: give a path"
        )
    return settled(Path(text).expanduser())


def below(folder: Path, *names: str) -> Path:
    """The path of names that come from data, such as a stranger's ids, inside each other below `folder`.

    Raises:
        DamagedError: a name that is more than one plain name: empty, hidden, with a slash or a control character.
    """
    for name in names:
        if _PLAIN.fullmatch(name) is None:
            raise DamagedError(f"{name[:60]!r} cannot name a file: get the table that holds it again")
    return folder.joinpath(*names)


@contextlib.contextmanager
def temporary_beside(path: DataPath) -> Iterator[Path]:
    """Yield a new, empty file in `path`'s folder, which is made if needed; it is locked, and removed at the end.

    Of a path in a store, it is in a local temporary folder.
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
    """Whether the name is one that `temporary_beside` gives."""
    return _TEMPORARY.fullmatch(path.name) is not None


def is_being_written(temporary: DataPath) -> bool:
    """Whether a living process, here or on another machine that shares the folder, may be writing the file."""
    if not isinstance(temporary, Path):
        return temporary.age() < object_store.LONGEST_WRITE
    try:
        descriptor = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, or this file system has no locks: then nobody knows
        return True
    finally:
        os.close(descriptor)
    return False


def open_file(path: DataPath) -> io.BufferedReader:
    """`path` opened for reading, if it is a regular file: a pipe or a device could give bytes without an end.

    Raises `DamagedError` for anything else and for a Git LFS pointer, `OSError` as `open` does.
    """
    if not isinstance(path, Path):
        return open_object(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise DamagedError(f"{path}: no regular file: get it again")
        if found.st_size <= _POINTER_BYTES:
            refuse_pointer(path, os.pread(descriptor, len(_POINTER), 0))
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def refuse_pointer(path: Path, head: bytes) -> None:
    """Raise `DamagedError` if `head`, the first bytes of a file, are those of a Git LFS pointer.

    A clone without Git LFS holds such pointers in place of the files.
    """
    if head.removeprefix(b"\xef\xbb\xbf").startswith(_POINTER):
        raise DamagedError(
            f"{path}: a Git LFS pointer, not the file itself: run git lfs pull in the clone, or download the file"
        )


def refuse_pointer_file(path: Path) -> None:
    """Raise `DamagedError` if the local file is a Git LFS pointer, for libraries that open files themselves."""
    with open_file(path):
        pass


def read_range(path: DataPath, offset: int, nbytes: int) -> bytearray:
    """The bytes of a file from `offset` on; none where it does not have them all. `OSError` as `open` does."""
    data = bytearray()
    if not 0 <= offset < offset + nbytes:
        return data
    if not isinstance(path, Path):
        return bytearray(object_store.read_range(path, offset, offset + nbytes))
    with open_file(path) as file:
        if offset + nbytes <= os.fstat(file.fileno()).st_size:  # before memory is asked for
            data = bytearray(nbytes)
            file.seek(offset)
            file.readinto(data)
    return data


def read_small(path: DataPath, limit: int) -> bytes:
    """The bytes of a file that is known to be small. Raises `DamagedError` above `limit` bytes."""
    with open_file(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise DamagedError(f"{path}: more than {limit:,} bytes: no file that ppod wrote")
    return data


@contextlib.contextmanager
def atomic_output(path: DataPath) -> Iterator[Path]:
    """Yield a temporary path to write to; on a normal exit it replaces `path`, on an error it is removed."""
    with temporary_beside(path) as temporary:
        yield temporary
        sync(temporary)
        publish(temporary, path)


def atomic_write(path: DataPath, data: bytes) -> None:
    """Write `data` to `path`, replacing what is there. Readers see the old bytes or the new ones."""
    with atomic_output(path) as temporary:
        temporary.write_bytes(data)


def atomic_update(path: DataPath, data: bytes) -> bool:
    """Write `data` to `path` unless the file holds these bytes. True: written."""
    try:
        if read_small(path, len(data)) == data:
            return False
    except (OSError, DamagedError):
        pass
    atomic_write(path, data)
    return True


def atomic_create(path: DataPath, data: bytes) -> bool:
    """Write `data` to `path` unless it exists. True: written; False: another file was first."""
    with temporary_beside(path) as temporary:
        temporary.write_bytes(data)
        sync(temporary)
        return publish_new(temporary, path)


def replace(path: DataPath, data: bytes, version: str) -> bool:
    """Write `data` to `path`. False, in a store, where what is there is not `version` any more."""
    if not isinstance(path, Path):
        return object_store.put_over(data, path, version)
    atomic_write(path, data)
    return True


def publish(temporary: Path, path: DataPath) -> None:
    """Give a finished, synced temporary file the name `path`, replacing what is there, durably."""
    if not isinstance(path, Path):
        object_store.put(temporary, path)
        return
    move(temporary, path)
    sync(path.parent)


def publish_new(temporary: Path, path: DataPath) -> bool:
    """Give a finished, synced temporary file its name. False where another file has the name already.

    In a store, True where the name has these bytes: an answer that was lost cannot tell who put them.

    Raises `PpodError` on a file system without hard links: renaming would replace another worker's file.
    """
    if not isinstance(path, Path):
        return put_new(temporary, path)
    try:
        with real_folder(path.parent), naming(path):  # the random name is nowhere else, so paths will do
            os.link(temporary, path)
    except FileExistsError:
        return os.path.samestat(os.lstat(temporary), os.lstat(path))  # NFS may report its own link as there
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        raise PpodError(
            f"{path.parent}: no hard links on this file system ({error.strerror}), which commits need: "
            "make the data set on another disk, then copy it here"
        ) from error
    sync(path.parent)
    return True


def put_new(file: Path, path: StorePath) -> bool:
    """Copy a local file to an object store unless an object exists there. Return true if `path` then holds these bytes.

    A put whose answer was lost therefore counts as done.
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
    """Give a small file another name, durably. In a store it has both names for a moment."""
    if isinstance(path, Path) and isinstance(target, Path):
        move(path, target)
        sync(target.parent)
    else:
        atomic_write(target, path.read_bytes())
        remove(path)


def remove(path: DataPath) -> None:
    """Remove a file; a link, and not what it points to. Nothing where there is none."""
    if isinstance(path, Path):
        remove_file(path)
    else:
        path.unlink(missing_ok=True)


def in_folder(folder: DataPath) -> list[DataPath]:
    """What is in a folder, sorted; nothing where there is no such folder."""
    if not isinstance(folder, Path):
        return list(folder.iterdir())
    return [folder / name for name in sorted(os.listdir(folder))] if folder.is_dir() else []


def matching(folder: DataPath, pattern: str) -> list[DataPath]:
    """What `Path.glob` finds in a folder, sorted."""
    return [*folder.glob(pattern)] if not isinstance(folder, Path) else [*sorted(folder.glob(pattern))]


def listing(folder: DataPath) -> dict[str, os.stat_result | object_store.Stat]:
    """Size and time of every file below a folder, by its name as seen from there."""
    if not isinstance(folder, Path):
        return {**folder.listing()}
    return dict(_walk(folder, "")) if folder.is_dir() else {}


def _walk(folder: Path | str, start: str) -> Iterator[tuple[str, os.stat_result]]:
    """The files below a folder, whose name begins with `start`: one listing of each folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, f"{start}{entry.name}/")
            elif entry.is_file():
                yield start + entry.name, entry.stat()


def sizes_under(folder: DataPath) -> dict[str, int]:
    """The size of every file below a folder, by its name as seen from there."""
    return {name: found.st_size for name, found in listing(folder).items()}


def name_below(folder: DataPath, path: DataPath) -> str:
    """The name of `path` as seen from `folder`, with slashes."""
    if isinstance(folder, Path) and isinstance(path, Path):
        return path.relative_to(folder).as_posix()
    start, name = f"{folder}/", str(path)
    assert name.startswith(start), f"{path} is not in {folder}"
    return name[len(start) :]


def version_of(path: DataPath) -> tuple[object, ...]:
    """Another value when the file is replaced."""
    if not isinstance(path, Path):
        return (path.version(),)
    found = os.stat(path)
    return found.st_ino, found.st_mtime_ns


def sync(path: DataPath) -> None:
    """Ask the disk to keep the bytes of the file, or the names in the folder, at `path`; a store has done so."""
    if not isinstance(path, Path):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: DataPath) -> str:
    """The sha256 of a file's bytes, 64 hex digits, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with open_file(path) as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()

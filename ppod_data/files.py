"""Local files that appear whole or not at all, and the hashes that name them.

The recipe for every write: a temporary name in the same folder, flush, fsync, rename (or hard link, where an
existing file must not be replaced), fsync of the folder. A temporary name starts with a dot and has no known
suffix, so no reader takes what a killed process left behind for data. Its writer holds a lock on it, which ends with
the process: what is not locked was left behind.
"""

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ppod_data.errors import ConfigError, DamagedError, PpodError

_CHUNK = 1 << 20
_URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_TEMPORARY = re.compile(r"\..+\.tmp-\d+-[0-9a-f]{8}")
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


def local_path(text: str) -> Path:
    """The path that `text` names, refusing URLs such as `s3://bucket/data` with `ConfigError`."""
    url = _URL.match(text)
    if url:
        raise ConfigError(
            f"{text}: only local folders are read and written here, not {url.group(1)}://: "
            "copy the data set with ppod-data pull and push"
        )
    return Path(text).expanduser()


@contextlib.contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """Yield a new, empty file in `path`'s folder, which is made if needed; it is locked, and removed at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
        os.close(descriptor)


def is_temporary(path: Path) -> bool:
    """Whether the name is one that `temporary_beside` gives."""
    return _TEMPORARY.fullmatch(path.name) is not None


def is_being_written(temporary: Path) -> bool:
    """Whether a living process, here or on another machine that shares the folder, may be writing the file."""
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


def open_file(path: Path) -> io.BufferedReader:
    """`path` opened for reading, if it is a regular file: a pipe or a device could give bytes without an end.

    Raises `DamagedError` for anything else, `OSError` as `open` does.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DamagedError(f"{path}: no regular file: get it again")
    return os.fdopen(descriptor, "rb")


def read_small(path: Path, limit: int) -> bytes:
    """The bytes of a file that is known to be small. Raises `DamagedError` above `limit` bytes."""
    with open_file(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise DamagedError(f"{path}: more than {limit:,} bytes: no file that ppod wrote")
    return data


@contextlib.contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; on a normal exit it replaces `path`, on an error it is removed."""
    with temporary_beside(path) as temporary:
        yield temporary
        sync(temporary)
        publish(temporary, path)


def atomic_write(path: Path, data: bytes) -> None:
    """Write `data` to `path`, replacing what is there. Readers see the old bytes or the new ones."""
    with atomic_output(path) as temporary:
        temporary.write_bytes(data)


def atomic_create(path: Path, data: bytes) -> bool:
    """Write `data` to `path` unless it exists. True: written; False: another file was first."""
    with temporary_beside(path) as temporary:
        temporary.write_bytes(data)
        sync(temporary)
        return publish_new(temporary, path)


def publish(temporary: Path, path: Path) -> None:
    """Rename a finished, synced temporary file to `path`, replacing what is there, durably."""
    os.replace(temporary, path)
    sync(path.parent)


def publish_new(temporary: Path, path: Path) -> bool:
    """Give a finished, synced temporary file its name. False where another file has the name already.

    Raises `PpodError` on a file system without hard links: renaming would replace another worker's file.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        return os.path.samefile(temporary, path)  # NFS may report a link that it made as already there
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        raise PpodError(
            f"{path.parent}: no hard links on this file system ({error.strerror}), which commits need: "
            "make the data set on another disk, then copy it here"
        ) from error
    sync(path.parent)
    return True


def sync(path: Path) -> None:
    """Ask the disk to keep the bytes of the file, or the names in the folder, at `path`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, 64 hex digits, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with open_file(path) as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def canonical_json(value: Any) -> str:
    """The one JSON text of a plain value: sorted keys, no spaces, letters unescaped, no NaN or infinity.

    Raises `ValueError` for NaN and infinity, `TypeError` for what JSON does not know.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)

"""Local files that appear whole or not at all, and the hashes that name them.

The recipe for every write: a temporary name in the same folder, flush, fsync, rename (or hard link, where an
existing file must not be replaced), fsync of the folder. A temporary name starts with a dot and has no known
suffix, so no reader takes what a killed process left behind for data.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ppod_data.errors import ConfigError, PpodError

_CHUNK = 1 << 20
_URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
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
    """Yield an unused path in `path`'s folder, which is made if needed; a file left there is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


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
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def canonical_json(value: Any) -> str:
    """The one JSON text of a plain value: sorted keys, no spaces, letters unescaped, no NaN or infinity.

    Raises `ValueError` for NaN and infinity, `TypeError` for what JSON does not know.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)

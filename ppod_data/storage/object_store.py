"""Paths in object stores that fsspec supports: s3://, gs://, az://, hf://, memory://.

    store_path("s3://bucket/data") / "ppod.json"

`StorePath` has the part of `pathlib.Path` that data sets need. It differs from fsspec in two ways: a failed
request never means "not found", and listings are not cached, so that a shard is visible as soon as it is
committed.

An upload makes an object appear whole or not at all, so no temporary name is needed. Creating an object only if
none exists uses the store's conditional put, if it has one: see the table in docs/stores.md. Requests are
retried with back-off and jitter after throttling, 5xx, time-outs and cut connections.
"""

import errno
import fnmatch
import math
import os
import random
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from ppod_data.errors import ConfigError, StoreError

LONGEST_WRITE = 24 * 3600.0
"""Seconds. A younger file may belong to an unfinished commit; object stores have no locks to tell."""
_EXTRAS = {"s3": "ppod[s3]", "s3a": "ppod[s3]", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
_WHOLE = {*_EXTRAS, "memory"}
"""Stores whose objects appear whole. In other stores a file is uploaded under a temporary name first."""
SERVED = {*_WHOLE, "hf", "file", "local"}
"""Schemes that untrusted files may name. The command line accepts any scheme that fsspec supports."""
_COMPUTED = {
    "reference",
    "filecache",
    "simplecache",
    "blockcache",
    "cached",
    "dir",
    "zip",
    "tar",
    "libarchive",
}
"""Schemes of fsspec that open another URL, or whose contents a file describes."""
_SMALL = 64 << 20
"""Bytes. Smaller objects are uploaded from memory."""
_PATIENCE = "PPOD_STORE_PATIENCE"
_WAITS = (0.1, 20.0)
"""Seconds: the longest wait before the first retry, doubled for each further one, and its limit."""
_TRANSIENT = {
    *(errno.EBUSY, errno.EIO, errno.EREMOTEIO, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED),
    *(errno.ECONNABORTED, errno.EPIPE, errno.ENETUNREACH, errno.EHOSTUNREACH),
}
_TRANSIENT_NAMES = {
    *("HTTPClientError", "ResponseParserError", "IncompleteRead"),  # botocore
    *("ClientConnectionError", "ClientPayloadError"),  # aiohttp
    *(
        "RequestException",
        "TransportError",
        "ServiceRequestError",
        "ServiceResponseError",
    ),  # httpx, Azure, others
}
_T = TypeVar("_T")


@dataclass(frozen=True, order=True)
class Stat:
    """Size and time of an object, with the names of `os.stat_result`."""

    st_size: int
    st_mtime: float
    """The time of writing, in seconds since 1970; infinity if the store does not report it."""

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> "Stat":
        """Convert an entry of fsspec, where each store names the time differently."""
        times = [
            entry.get(name) for name in ("LastModified", "last_modified", "mtime", "modified", "created")
        ]
        known = [time.timestamp() for time in times if isinstance(time, datetime)]
        return cls(int(entry["size"] or 0), known[0] if known else math.inf)


@dataclass(frozen=True, order=True)
class StorePath:
    """A path in an object store: `StorePath("s3://bucket/data") / "ppod.json"`. `store_path` checks URLs from users."""

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "StorePath":
        return StorePath(f"{self.url}/{name}")

    @property
    def scheme(self) -> str:
        """Return the URL's scheme in lower case, such as s3."""
        return self.url.partition("://")[0].lower()

    @property
    def name(self) -> str:
        """Return the last component."""
        return self.url.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """Return the last component without its suffix."""
        return Path(self.name).stem

    @property
    def suffix(self) -> str:
        """Return the last component's suffix, dot included."""
        return Path(self.name).suffix

    @property
    def parent(self) -> "StorePath":
        """Return the path without its last component."""
        return StorePath(self.url.rpartition("/")[0])

    def with_name(self, name: str) -> "StorePath":
        """Return the path with its last component replaced."""
        return self.parent / name

    def resolve(self) -> "StorePath":
        """Return the path itself: object stores have no links."""
        return self

    def absolute(self) -> "StorePath":
        """Return the path itself, which is always absolute."""
        return self

    def exists(self) -> bool:
        """Return true if an object or folder exists at the path."""
        return self._type() != ""

    def is_file(self) -> bool:
        """Return true if the path is an object."""
        return self._type() == "file"

    def is_dir(self) -> bool:
        """Return true if the path is a folder: objects exist below it."""
        return self._type() == "directory"

    def is_symlink(self) -> bool:
        """Return false: object stores have no links."""
        return False

    def stat(self) -> Stat:
        """Return the object's size and time. Raises FileNotFoundError if there is no object."""
        return Stat.of(self._info())

    def read_bytes(self) -> bytes:
        """Return the object's bytes."""
        data: bytes = ask(self, lambda store, name: store.cat_file(name))
        return data

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object. Raises FileNotFoundError if it is missing, unless `missing_ok`."""
        try:
            ask(self, lambda store, name: store.rm_file(name))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def iterdir(self) -> "Iterator[StorePath]":
        """Yield the paths in the folder, sorted by name; none for a missing folder."""
        try:
            children = ask(self, lambda store, name: store.ls(name, detail=False))
        except (FileNotFoundError, NotADirectoryError):
            children = []
        start = _name_in_store(self).strip("/") + "/"
        names = {str(name).strip("/") for name in children}
        yield from (self / name[len(start) :] for name in sorted(names) if name.startswith(start))

    def glob(self, pattern: str) -> "Iterator[StorePath]":
        """Yield the matching objects, or folders if `pattern` ends with a slash, as `Path.glob` does, without `**`."""
        patterns = pattern.rstrip("/").split("/")
        names = set()
        for name in self.listing():
            parts = name.split("/")
            matches = len(parts) > len(patterns) if pattern.endswith("/") else len(parts) == len(patterns)
            if matches and all(map(fnmatch.fnmatchcase, parts, patterns)):
                names.add("/".join(parts[: len(patterns)]))
        yield from (self / name for name in sorted(names))

    def listing(self) -> dict[str, Stat]:
        """Return every object below this path by its relative name, sorted by name."""
        objects = ask(self, lambda store, name: store.find(name, detail=True))
        start = _name_in_store(self).strip("/") + "/"
        entries = sorted((name.strip("/"), Stat.of(entry)) for name, entry in objects.items())
        return {name[len(start) :]: entry for name, entry in entries if name.startswith(start)}

    def version(self) -> str:
        """Return a text that changes when the object is replaced. Raises FileNotFoundError if there is no object."""
        info = self._info()
        return str(info.get("ETag") or sorted((key, str(value)) for key, value in info.items()))

    def age(self) -> float:
        """Return the seconds since the object was written; 0 if it is gone, or its time unknown."""
        try:
            return max(0.0, time.time() - self.stat().st_mtime)
        except FileNotFoundError:
            return 0.0

    def _type(self) -> str:
        try:
            return str(self._info()["type"])
        except FileNotFoundError:
            return ""

    def _info(self) -> Mapping[str, Any]:
        info: Mapping[str, Any] = ask(self, lambda store, name: store.info(name))
        return info


def store_path(url: str) -> StorePath:
    """Return the path in an object store that `url` names.

    Raises:
        ConfigError: the store is unknown, cannot be listed, or its package is not installed.
    """
    path = StorePath(url.rstrip("/"))
    if "::" in url or path.scheme in _COMPUTED:
        raise ConfigError(
            f"{url}: chained and computed URLs are not supported: give the folder, or the URL of the data set itself"
        )
    if path.scheme in ("http", "https"):
        raise ConfigError(f"{url}: a web server's files cannot be listed: get the data set as a folder")
    if not url.partition("://")[2].strip("/"):
        raise ConfigError(f"{url}: names no path in the store: write {path.scheme}://BUCKET/NAME")
    try:
        _store(path)
    except ImportError as error:
        package = _EXTRAS.get(path.scheme)
        reason = f"needs a package that is not installed: pip install '{package}'" if package else str(error)
        raise ConfigError(f"{url}: {path.scheme}:// {reason}") from error
    except ValueError as error:
        raise ConfigError(f"{url}: {error}: check the URL, or give a folder") from error
    return path


def ask(path: StorePath, request: Callable[[Any, str], _T]) -> _T:
    """Call `request` with the file system and the path's name there; retry transient errors.

    Raises:
        StoreError: the store cannot be reached, or refuses the request.
        OSError: an error about the object itself: FileNotFoundError, FileExistsError and the like.
    """
    end = time.monotonic() + float(os.environ.get(_PATIENCE, "60"))
    longest, limit = _WAITS
    while True:
        try:
            store, name = _store(path)
            return request(store, name)
        except Exception as error:
            wait = random.uniform(0, longest)
            if not _is_transient(error) or time.monotonic() + wait > end:
                translated = _translated(path, error)
                if translated is error:
                    raise
                raise translated from error
            time.sleep(wait)
            longest = min(2 * longest, limit)


def put(file: Path, path: StorePath) -> None:
    """Upload a local file to `path`, replacing an existing object. The object appears whole or not at all."""
    _check_writable(path)
    ask(path, lambda store, name: _write(store, file, name, path, "overwrite"))


def create(file: Path, path: StorePath) -> None:
    """Upload a local file to `path`. Raises FileExistsError if an object exists there."""
    _check_writable(path)
    ask(path, lambda store, name: _write(store, file, name, path, "create"))


def put_over(data: bytes, path: StorePath, known: str) -> bool:
    """Replace the version `known` of a small object. Return false if the object has changed.

    On S3 the check is atomic. On other stores a concurrent change can be lost.
    """
    _check_writable(path)
    if path.version() != known:
        return False
    only_known = {"IfMatch": known} if path.scheme in ("s3", "s3a") else {}
    try:
        ask(path, lambda store, name: store.pipe_file(name, data, **only_known))
    except FileExistsError:
        return path.read_bytes() == data
    return True


def read_range(path: StorePath, start: int, end: int) -> bytes:
    """Return the bytes from `start` to `end` in one request; fewer if the object is shorter."""
    try:
        return ask(path, lambda store, name: _as_bytes(store.cat_file(name, start=start, end=end)))
    except OSError as error:
        if _code(error) in ("InvalidRange", "416"):
            return b""
        raise


def read_ranges(path: StorePath, ranges: list[tuple[int, int]]) -> list[bytes]:
    """Return the bytes of several ranges, requested concurrently if the store supports it."""
    starts, ends = [start for start, _ in ranges], [end for _, end in ranges]
    ranges_data = ask(
        path, lambda store, name: store.cat_ranges([name] * len(ranges), starts, ends, on_error="raise")
    )
    return [_as_bytes(data) for data in ranges_data]


def _as_bytes(data: Any) -> bytes:
    return bytes(data) if not isinstance(data, bytes) else data


def _store(path: StorePath) -> tuple[Any, str]:
    """Return the fsspec file system of this process, and the path's name there."""
    import fsspec

    store, name = fsspec.core.url_to_fs(path.url, use_listings_cache=False)
    return store, str(name)


def _name_in_store(path: StorePath) -> str:
    return _store(path)[1]


def _check_writable(path: StorePath) -> None:
    if path.scheme == "hf":
        raise ConfigError(
            f"{path}: data sets on the Hub are read-only, because every file would be a commit of its own: work in "
            "a folder or another store, then run ppod-data push"
        )


def _write(store: Any, file: Path, target: str, path: StorePath, mode: str) -> None:
    if path.scheme in _WHOLE:
        if file.stat().st_size <= _SMALL:
            store.pipe_file(target, file.read_bytes(), mode=mode)
        else:
            store.put_file(str(file), target, mode=mode)
        return
    if mode == "create" and store.exists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path.url)
    folder, name = target.rsplit("/", 1)
    store.makedirs(folder, exist_ok=True)
    temporary = f"{folder}/.{name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        store.put_file(str(file), temporary)
        store.mv(temporary, target)
    finally:
        if store.exists(temporary):
            store.rm_file(temporary)


def _is_transient(error: Exception) -> bool:
    """Return true if a retry of the same request may succeed."""
    if isinstance(error, (TimeoutError, ConnectionError)) or _code(error) == "NoSuchUpload":
        return True  # NoSuchUpload: the upload had finished, but its response was lost
    # botocore's time-outs are OSErrors without a number.
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _TRANSIENT
    return not _TRANSIENT_NAMES.isdisjoint(ancestor.__name__ for ancestor in type(error).__mro__)


def _translated(path: StorePath, error: Exception) -> Exception:
    """Convert a store's error: Python's own for errors about the object, else a one-line StoreError."""
    reason = " ".join(str(error).split()) or type(error).__name__
    code = _code(error)
    if code == "PreconditionFailed" or isinstance(error, FileExistsError):
        return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path.url)
    if code == "NoSuchBucket":
        return ConfigError(f"{path}: there is no such bucket: create it, or check the URL")
    if code in ("InvalidRange", "416") or isinstance(
        error, (FileNotFoundError, NotADirectoryError, StoreError)
    ):
        return error
    if isinstance(error, ConfigError):
        return error
    if "Credentials" in type(error).__name__:
        return StoreError(
            f"{path}: no credentials for this store ({reason}): see docs/stores.md to set them up"
        )
    if isinstance(error, PermissionError):
        return StoreError(
            f"{path}: the store refuses ({reason}): check the credentials and their permissions"
        )
    if _is_transient(error):
        return StoreError(f"{path}: the store did not respond ({reason}): run the same command again")
    return StoreError(f"{path}: {type(error).__name__}: {reason}: check the URL and the store")


def _code(error: BaseException) -> str:
    """Return S3's own code of an error, from the exception that s3fs raises."""
    response = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""

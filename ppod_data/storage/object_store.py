"""Places in stores that fsspec knows: s3://, gs://, az://, hf://, memory://.

`StorePath` has the part of `pathlib.Path` that data sets need, with two differences from fsspec's own: that something
cannot be asked is never "not there", and no listing is cached, so that a shard is seen as soon as it is committed.

A put makes an object appear whole or not at all, so nothing needs a temporary name. "Only where there is none yet" is
the store's own conditional put, where it has one: docs/stores.md has a table. Every request is tried again, with
back-off and jitter, after throttling, 5xx, time-outs and cut connections.
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
"""Seconds: what is younger may belong to a commit that is under way; a store has no locks that would tell."""
_EXTRAS = {"s3": "ppod[s3]", "s3a": "ppod[s3]", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
_WHOLE = {*_EXTRAS, "memory"}
"""Stores whose objects appear whole: in others a file gets a temporary name first."""
SERVED = {*_WHOLE, "hf", "file", "local"}
"""Schemes that a file of a stranger may name; the command line may name others that fsspec knows."""
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
"""Bytes: up to here an object is put from memory."""
_PATIENCE = "PPOD_STORE_PATIENCE"
_WAITS = (0.1, 20.0)
"""Seconds: the longest wait before the second try, doubled for each further one, and its limit."""
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
    """What a store says of an object, by the names of `os.stat_result`."""

    st_size: int
    st_mtime: float
    """When it was written, in seconds since 1970; infinity where the store does not say."""

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> "Stat":
        """From what fsspec gives, where every store has a name of its own for the time."""
        times = [
            entry.get(name) for name in ("LastModified", "last_modified", "mtime", "modified", "created")
        ]
        known = [time.timestamp() for time in times if isinstance(time, datetime)]
        return cls(int(entry["size"] or 0), known[0] if known else math.inf)


@dataclass(frozen=True, order=True)
class StorePath:
    """A place in a store: `StorePath("s3://bucket/data") / "ppod.json"`. `store_path` checks what users give."""

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "StorePath":
        return StorePath(f"{self.url}/{name}")

    @property
    def scheme(self) -> str:
        return self.url.partition("://")[0].lower()

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def stem(self) -> str:
        return Path(self.name).stem

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix

    @property
    def parent(self) -> "StorePath":
        return StorePath(self.url.rpartition("/")[0])

    def with_name(self, name: str) -> "StorePath":
        return self.parent / name

    def resolve(self) -> "StorePath":
        return self

    def absolute(self) -> "StorePath":
        return self

    def exists(self) -> bool:
        return self._type() != ""

    def is_file(self) -> bool:
        return self._type() == "file"

    def is_dir(self) -> bool:
        return self._type() == "directory"

    def is_symlink(self) -> bool:
        return False

    def stat(self) -> Stat:
        """Raises FileNotFoundError where there is no object."""
        return Stat.of(self._info())

    def read_bytes(self) -> bytes:
        data: bytes = ask(self, lambda store, place: store.cat_file(place))
        return data

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            ask(self, lambda store, place: store.rm_file(place))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def iterdir(self) -> "Iterator[StorePath]":
        """What is in the folder, by name; nothing where there is no such folder."""
        try:
            found = ask(self, lambda store, place: store.ls(place, detail=False))
        except (FileNotFoundError, NotADirectoryError):
            found = []
        start = _place(self).strip("/") + "/"
        names = {str(name).strip("/") for name in found}
        yield from (self / name[len(start) :] for name in sorted(names) if name.startswith(start))

    def glob(self, pattern: str) -> "Iterator[StorePath]":
        """The objects, or with a slash at the end the folders, whose name fits, as `Path.glob`, without `**`."""
        wanted = pattern.rstrip("/").split("/")
        names = set()
        for name in self.listing():
            parts = name.split("/")
            deep = len(parts) > len(wanted) if pattern.endswith("/") else len(parts) == len(wanted)
            if deep and all(map(fnmatch.fnmatchcase, parts, wanted)):
                names.add("/".join(parts[: len(wanted)]))
        yield from (self / name for name in sorted(names))

    def listing(self) -> dict[str, Stat]:
        """Every object below this place by its name as seen from here, in the names' order."""
        found = ask(self, lambda store, place: store.find(place, detail=True))
        start = _place(self).strip("/") + "/"
        entries = sorted((name.strip("/"), Stat.of(entry)) for name, entry in found.items())
        return {name[len(start) :]: entry for name, entry in entries if name.startswith(start)}

    def version(self) -> str:
        """Another text when the object is replaced. Raises FileNotFoundError where there is none."""
        info = self._info()
        return str(info.get("ETag") or sorted((key, str(value)) for key, value in info.items()))

    def age(self) -> float:
        """The seconds since the object was written; 0 where the store does not say, or it is gone."""
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
        info: Mapping[str, Any] = ask(self, lambda store, place: store.info(place))
        return info


def store_path(url: str) -> StorePath:
    """The place in a store that `url` names.

    Raises:
        ConfigError: a store that is not known, cannot be listed, or whose package is missing.
    """
    path = StorePath(url.rstrip("/"))
    if "::" in url or path.scheme in _COMPUTED:
        raise ConfigError(
            f"{url}: a URL that is made of others is not opened: give the folder, or the URL of the data set itself"
        )
    if path.scheme in ("http", "https"):
        raise ConfigError(f"{url}: a web server's files cannot be listed: get the data set as a folder")
    if not url.partition("://")[2].strip("/"):
        raise ConfigError(f"{url}: names no place in the store: write {path.scheme}://BUCKET/NAME")
    try:
        _store(path)
    except ImportError as error:
        package = _EXTRAS.get(path.scheme)
        what = f"needs a package that is not here: pip install '{package}'" if package else str(error)
        raise ConfigError(f"{url}: {path.scheme}:// {what}") from error
    except ValueError as error:
        raise ConfigError(f"{url}: {error}: check the URL, or give a folder") from error
    return path


def ask(path: StorePath, request: Callable[[Any, str], _T]) -> _T:
    """What `request` gives, called with the file system and the path's name there; tried again while that may help.

    Raises:
        StoreError: the store cannot be reached, or refuses; says why.
        OSError: what the store says of the file: FileNotFoundError, FileExistsError and the like.
    """
    end = time.monotonic() + float(os.environ.get(_PATIENCE, "60"))
    longest, limit = _WAITS
    while True:
        try:
            store, place = _store(path)
            return request(store, place)
        except Exception as error:
            wait = random.uniform(0, longest)
            if not _is_transient(error) or time.monotonic() + wait > end:
                told = _translated(path, error)
                if told is error:
                    raise
                raise told from error
            time.sleep(wait)
            longest = min(2 * longest, limit)


def put(file: Path, path: StorePath) -> None:
    """Copy a local file to `path`, replacing what is there; the object appears whole or not at all."""
    _check_writable(path)
    ask(path, lambda store, place: _write(store, file, place, path, "overwrite"))


def create(file: Path, path: StorePath) -> None:
    """Copy a local file to `path`. Raises FileExistsError if an object exists there."""
    _check_writable(path)
    ask(path, lambda store, place: _write(store, file, place, path, "create"))


def put_over(data: bytes, path: StorePath, known: str) -> bool:
    """Replace the version `known` of a small object. False: it is another one by now.

    S3 makes sure of it; on other stores a change of the same moment is lost.
    """
    _check_writable(path)
    if path.version() != known:
        return False
    only_known = {"IfMatch": known} if path.scheme in ("s3", "s3a") else {}
    try:
        ask(path, lambda store, place: store.pipe_file(place, data, **only_known))
    except FileExistsError:
        return path.read_bytes() == data
    return True


def read_range(path: StorePath, start: int, end: int) -> bytes:
    """The bytes from `start` up to `end`, in one request; fewer where the object ends before."""
    try:
        return ask(path, lambda store, place: _as_bytes(store.cat_file(place, start=start, end=end)))
    except OSError as error:
        if _code(error) in ("InvalidRange", "416"):
            return b""
        raise


def read_ranges(path: StorePath, ranges: list[tuple[int, int]]) -> list[bytes]:
    """The bytes of several ranges, got at the same time where the store can."""
    starts, ends = [start for start, _ in ranges], [end for _, end in ranges]
    found = ask(
        path, lambda store, place: store.cat_ranges([place] * len(ranges), starts, ends, on_error="raise")
    )
    return [_as_bytes(data) for data in found]


def _as_bytes(data: Any) -> bytes:
    return bytes(data) if not isinstance(data, bytes) else data


def _store(path: StorePath) -> tuple[Any, str]:
    """The fsspec file system of this process, and the path's name there."""
    import fsspec

    store, place = fsspec.core.url_to_fs(path.url, use_listings_cache=False)
    return store, str(place)


def _place(path: StorePath) -> str:
    return _store(path)[1]


def _check_writable(path: StorePath) -> None:
    if path.scheme == "hf":
        raise ConfigError(
            f"{path}: data sets on the Hub are only read here, since every file would be a commit of its own: work in "
            "a folder or another store, then ppod-data push"
        )


def _write(store: Any, file: Path, place: str, path: StorePath, mode: str) -> None:
    if path.scheme in _WHOLE:
        if file.stat().st_size <= _SMALL:
            store.pipe_file(place, file.read_bytes(), mode=mode)
        else:
            store.put_file(str(file), place, mode=mode)
        return
    if mode == "create" and store.exists(place):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path.url)
    folder, name = place.rsplit("/", 1)
    store.makedirs(folder, exist_ok=True)
    temporary = f"{folder}/.{name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        store.put_file(str(file), temporary)
        store.mv(temporary, place)
    finally:
        if store.exists(temporary):
            store.rm_file(temporary)


def _is_transient(error: Exception) -> bool:
    """Whether the same request may succeed a moment later."""
    if isinstance(error, (TimeoutError, ConnectionError)) or _code(error) == "NoSuchUpload":
        return True  # of an upload that was finished, and whose answer was lost
    if (
        isinstance(error, OSError) and error.errno is not None
    ):  # botocore's time-outs are OSErrors without a number
        return error.errno in _TRANSIENT
    return not _TRANSIENT_NAMES.isdisjoint(kind.__name__ for kind in type(error).__mro__)


def _translated(path: StorePath, error: Exception) -> Exception:
    """The error in Python's terms where it is about the file, else one line about the store."""
    reason = " ".join(str(error).split()) or type(error).__name__
    code = _code(error)
    if code == "PreconditionFailed" or isinstance(error, FileExistsError):
        return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path.url)
    if code == "NoSuchBucket":
        return ConfigError(f"{path}: there is no such bucket: make it, or check the URL")
    if code in ("InvalidRange", "416") or isinstance(
        error, (FileNotFoundError, NotADirectoryError, StoreError)
    ):
        return error
    if isinstance(error, ConfigError):
        return error
    if "Credentials" in type(error).__name__:
        return StoreError(
            f"{path}: no credentials for this store ({reason}): see docs/stores.md for how to give them"
        )
    if isinstance(error, PermissionError):
        return StoreError(f"{path}: the store refuses ({reason}): check the credentials and what they allow")
    if _is_transient(error):
        return StoreError(
            f"{path}: the store does not answer as it should ({reason}): run the same command again"
        )
    return StoreError(f"{path}: {type(error).__name__}: {reason}: check the URL and the store")


def _code(error: BaseException) -> str:
    """S3's own code of an error, behind the exception that s3fs makes of it."""
    answer = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    return str(answer.get("Error", {}).get("Code", "")) if isinstance(answer, dict) else ""

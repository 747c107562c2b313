"""A disk cache of trajectories from object stores, keyed by sha256, so that later epochs and runs skip the download.

Any number of processes and threads share the folder. A file's name is the sha256 of its bytes, so concurrent
writers of one name write the same bytes. Reads are verified: a truncated or corrupted file is fetched again.
The total size is kept in one small file under a lock. A writer that exceeds the limit evicts the least recently
used files.

The cache only saves time. If it cannot be written or locked, or the disk is nearly full, reads go to the store.
"""

import contextlib
import fcntl
import hashlib
import math
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ppod_data.errors import ConfigError, DamagedError, PpodError
from ppod_data.storage.files import DataPath, read_range
from ppod_data.storage.real_folders import make_folder, move, open_in_place, remove_file, settled

_FOLDER, _GIB = "PPOD_CACHE", "PPOD_CACHE_GIB"
_DEFAULT_GIB = 10.0
"""Room for 6,400 chains of 50 steps of Stable Diffusion 1.5 in fp16: a run on a few prompts, on any laptop's disk."""
_LEFT_FREE = 1 << 30
"""Bytes of free disk space to leave for other files, such as the run's checkpoints."""
_KEPT_SHARE = 0.9
"""Share of the limit kept by an eviction. Listing every file is then repaid by a tenth of the limit in new files."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Cache:
    """A folder of files named by their sha256, of at most `limit` bytes in total."""

    folder: Path
    limit: int

    def get(self, sha256: str, nbytes: int, fetch: Callable[[], bytearray]) -> bytearray:
        """Return the bytes of this sha256 from the cache, or call `fetch` and store its result.

        `fetch` checks its bytes.
        """
        if (data := self._read(sha256, nbytes)) is None:
            data = fetch()
            with contextlib.suppress(OSError, PpodError):
                self._keep(sha256, data)
        return data

    def _read(self, sha256: str, nbytes: int) -> bytearray | None:
        path = self._path(sha256)
        try:
            data = read_range(path, 0, nbytes)
        except (OSError, DamagedError):
            return None
        intact = hashlib.sha256(data).hexdigest() == sha256
        with contextlib.suppress(OSError, PpodError):
            os.utime(path, follow_symlinks=False) if intact else remove_file(path)  # mtime is the last use
        return data if intact else None

    def _keep(self, sha256: str, data: bytearray) -> None:
        """Store the bytes under their name. Not synced: the check on reading detects a file truncated by a crash."""
        path = self._path(sha256)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if len(data) > self.limit * _KEPT_SHARE or shutil.disk_usage(self.folder).free < _LEFT_FREE:
            return
        with self._counted(len(data)):
            make_folder(path.parent)
            temporary = path.with_name(f"{path.name}-{secrets.token_hex(4)}")
            try:
                temporary.write_bytes(data)
                move(temporary, path)
            finally:
                remove_file(temporary)

    @contextlib.contextmanager
    def _counted(self, nbytes: int) -> Iterator[None]:
        """Hold the lock, make room for `nbytes`, and add them to the total. Other writers wait until the block ends."""
        descriptor = open_in_place(self.folder / "bytes")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            text = os.pread(descriptor, 32, 0)
            total = int(text) if text.isdigit() else self.limit  # unknown total: count the files
            if total + nbytes > self.limit:
                total = self._make_room(nbytes)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(total + nbytes).encode(), 0)
            yield
        finally:
            # Unlock explicitly: a forked child process may hold a copy of the descriptor.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def _make_room(self, nbytes: int) -> int:
        """Evict the least recently used files if needed. Return the bytes left.

        Readers with an open file are not affected.
        """
        files = sorted(self._files())
        total = sum(size for _, size, _ in files)
        if total + nbytes <= self.limit:
            return total
        for _, size, path in files:
            if total + nbytes <= self.limit * _KEPT_SHARE:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
                total -= size
        return total

    def _files(self) -> Iterator[tuple[float, int, str]]:
        """Yield (last use, bytes, path) of every file, including unfinished files of killed processes."""
        for folder in self.folder.glob("[0-9a-f][0-9a-f]"):
            if folder.is_symlink():
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        if entry.is_file(follow_symlinks=False):
                            yield status.st_mtime, status.st_size, entry.path

    def _path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256[2:]


def cache_of(root: DataPath) -> Cache | None:
    """Return the user's cache for a data set in an object store, or None for local folders and a disabled cache.

    Raises:
        ConfigError: the configured size is not a number.
    """
    if isinstance(root, Path) or root.scheme == "memory":
        return None
    text = os.environ.get(_GIB, "")
    try:
        size = float(text or _DEFAULT_GIB)
    except ValueError:
        size = math.nan
    if not 0 <= size < math.inf:
        raise ConfigError(f"{_GIB}={text}: give the cache's size in GiB, or 0 for none")
    if size == 0:
        return None
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = os.environ.get(_FOLDER) or f"{home}/ppod"
    return Cache(settled(Path(folder).expanduser()) / "trajectories", int(size * 2**30))


def read_cached(root: DataPath, sha256: str, nbytes: int, fetch: Callable[[], bytearray]) -> bytearray:
    """Return the bytes of this sha256, from the cache if `root` has one, else from `fetch`."""
    cache = cache_of(root)
    return cache.get(sha256, nbytes, fetch) if cache and _SHA256.fullmatch(sha256) else fetch()

"""Trajectories of stores, kept on the disk by their sha256, so that later epochs and runs need not get them again.

Any number of processes and threads share the folder without knowing of each other. A name is the sha256 of the bytes,
so that two writers of one name write the same, and what is read is checked: a cut or spoilt file is got again. The
size is counted in one small file under a lock; who goes past the limit removes what was used longest ago.

The cache only saves time: where it cannot be written or locked, or the disk is nearly full, reading goes on without.
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
"""6,400 chains of 50 steps of Stable Diffusion 1.5 in fp16: a run on a few prompts, and on any laptop's disk."""
_LEFT_FREE = 1 << 30
"""Bytes of the disk that are left to others, such as the run's checkpoints."""
_KEPT_SHARE = 0.9
"""Of the limit, after a removal: looking at every file is paid for by a tenth of the limit in new ones."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Cache:
    """A folder of files that are named by their content, of at most `limit` bytes in all."""

    folder: Path
    limit: int

    def get(self, sha256: str, nbytes: int, fetch: Callable[[], bytearray]) -> bytearray:
        """The bytes of this sha256: the file's, or else what `fetch` gives, which checks them."""
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
        whole = hashlib.sha256(data).hexdigest() == sha256
        with contextlib.suppress(OSError, PpodError):
            os.utime(path, follow_symlinks=False) if whole else remove_file(path)  # the time of its last use
        return data if whole else None

    def _keep(self, sha256: str, data: bytearray) -> None:
        """Give the bytes their name. Not synced: what a crash leaves cut is found when it is read."""
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
        """Make room for so many bytes and count them; nobody else writes until they are written."""
        descriptor = open_in_place(self.folder / "bytes")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            text = os.pread(descriptor, 32, 0)
            total = int(text) if text.isdigit() else self.limit  # not known: look
            if total + nbytes > self.limit:
                total = self._make_room(nbytes)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(total + nbytes).encode(), 0)
            yield
        finally:
            fcntl.flock(
                descriptor, fcntl.LOCK_UN
            )  # a process that was forked meanwhile has the descriptor as well
            os.close(descriptor)

    def _make_room(self, nbytes: int) -> int:
        """The bytes of all files, after what was used longest ago has gone. A reader that has it open reads on."""
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
        """(time of the last use, bytes, path) of every file, also of those that a killed process did not finish."""
        for folder in self.folder.glob("[0-9a-f][0-9a-f]"):
            if folder.is_symlink():
                continue
            with os.scandir(folder) as found:
                for entry in found:
                    with contextlib.suppress(FileNotFoundError):
                        known = entry.stat(follow_symlinks=False)
                        if entry.is_file(follow_symlinks=False):
                            yield known.st_mtime, known.st_size, entry.path

    def _path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256[2:]


def cache_of(root: DataPath) -> Cache | None:
    """The user's cache for the trajectories of a data set in a store; None for folders, and where it is switched off.

    Raises ConfigError for a size that is no number.
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
    """What `fetch` gives, the bytes of this sha256; from the cache where `root` has one and they are there."""
    cache = cache_of(root)
    return cache.get(sha256, nbytes, fetch) if cache and _SHA256.fullmatch(sha256) else fetch()

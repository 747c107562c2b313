"""A file of lines that is open only during reads and writes; an appended line is on disk when `append` returns.

A killed process can leave an incomplete last line, which is removed when the file is read again.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from ppod_data.errors import ConfigError
from ppod_data.storage.files import sync
from ppod_data.storage.real_folders import open_in_place


class LineFile:
    """The file `path`, which is created by the first line."""

    def __init__(self, path: Path) -> None:
        """Read the file if it exists, and remove an incomplete last line."""
        self.path = path
        self.lines: list[bytes] = []
        """As they were read, with their ends."""
        self._ends = [0]
        if not os.path.lexists(path):
            return
        with self._opened() as file:
            data = _read(file)
            self.lines = data[: data.rfind(b"\n") + 1].splitlines(keepends=True)
            for line in self.lines:
                self._ends.append(self._ends[-1] + len(line))
            self._cut(file)

    def append(self, line: bytes) -> None:
        """Append a line."""
        with self._opened() as file:
            try:
                written = os.pwrite(file, line, self._ends[-1])
                if written != len(line):
                    raise OSError(f"{self.path}: the disk took {written} of {len(line)} bytes")
                os.fsync(file)
            except OSError:
                self._cut(file)
                raise
        self._ends.append(self._ends[-1] + len(line))

    def remove_last(self) -> None:
        """Remove the last line; it is removed from disk when this method returns."""
        with self._opened() as file:
            self._ends.pop()
            self._cut(file)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        is_new = not os.path.lexists(self.path)
        file = open_in_place(self.path, 0o600)
        try:
            if is_new:
                sync(self.path.parent)
            yield file
        finally:
            os.close(file)

    def _cut(self, file: int) -> None:
        os.ftruncate(file, self._ends[-1])
        os.fsync(file)


def lock_folder(folder: Path) -> int:
    """Lock a folder for this process, until the returned file is closed. Some network file systems have no locks.

    On NFS, where a folder cannot be locked for other machines, the lock holds between processes of one machine.

    Raises:
        ConfigError: another process has locked it.
    """
    lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    with contextlib.suppress(OSError):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise ConfigError(
                f"{folder}: another ppod-pair label or judge is collecting answers here: use its page, wait for it, or "
                "give another --name"
            ) from error
    return lock


def _read(file: int) -> bytes:
    with os.fdopen(os.dup(file), "rb") as opened:
        return opened.read()

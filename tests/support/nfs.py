"""The locks of NFS, on any file system."""

import errno
import fcntl
import os
import stat
from typing import Any

import pytest

_NEEDED = {fcntl.LOCK_EX: os.O_WRONLY, fcntl.LOCK_SH: os.O_RDONLY}


def lock_as_on_nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `fcntl.flock` refuse a file that is not open for what the lock needs: writing or reading (man 2 flock)."""
    flock = fcntl.flock

    def checked(file: Any, operation: int) -> None:
        descriptor = file if isinstance(file, int) else file.fileno()
        access = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
        needed = _NEEDED.get(operation & ~fcntl.LOCK_NB, access)
        if stat.S_ISREG(os.fstat(descriptor).st_mode) and access not in (needed, os.O_RDWR):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", checked)

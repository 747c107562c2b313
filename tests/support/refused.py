"""Reads that the system refuses: no permission, no more open files, a disk that fails."""

import json
import os
import resource
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ppod_cli.app.errors import explain

_NOBODY = 65534


@contextmanager
def public_folder() -> Iterator[Path]:
    """Yield a new folder that every user can open, unlike pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def as_nobody(act: Callable[[], object]) -> tuple[int, str]:
    """Run `act` in a child process without root's rights. Return the exit code and error line of such a command."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code, message = 70, "the child process failed"
        try:
            if os.geteuid() == 0:
                os.setgid(_NOBODY)
                os.setuid(_NOBODY)
            act()
            code, message = 0, ""
        except Exception as error:
            message, code = explain(error, "ppod-data", "")
        finally:
            os.write(writer, json.dumps([code, message]).encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        code, message = json.load(pipe)
    os.waitpid(child, 0)
    return code, message


@contextmanager
def open_files_left(count: int) -> Iterator[None]:
    """Let this process open `count` more files in the block: 0 or 1."""
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + count, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def fail_to_read(path: Path) -> None:
    """Put a regular file at `path` whose reads fail with EIO, as on a broken disk."""
    path.unlink()
    path.symlink_to("/proc/self/mem")

"""A process that dies, or a disk that fills up, at the n-th write, sync or rename: nothing of it reaches the code.

The operations are counted in a forked child, or in a fresh process (`tests/support/kill.py`): writes to files opened by
Python (pyarrow's too, which writes through them) and what `OPERATIONS` names, by the main thread: a tracker's own
thread writes when it likes.
"""

import errno
import gc
import io
import os
import signal
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ppod_data.storage.files import is_temporary, sha256_file

OPERATIONS = ("fsync", "replace", "rename", "link", "unlink", "rmdir")
FULL, OTHER = 7, 8


class _File:
    """A file whose writes are counted."""

    def __init__(self, file: Any, before: Callable[[str, Any, Any], None]) -> None:
        self._file, self._before = file, before

    def write(self, data: Any) -> int:
        self._before("write", self._file, data if isinstance(data, str) else bytes(data))
        written: int = self._file.write(data)
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def install(number: int, act: Callable[[str, Any, Any], None], *, forever: bool) -> list[str]:
    """From here on the `number`-th operation calls `act` before it is done; with `forever` all later ones too."""
    seen: list[str] = []

    def before(name: str, file: Any = None, data: bytes | str = b"") -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        seen.append(name)
        if len(seen) - 1 == number or (forever and len(seen) - 1 > number):
            act(name, file, data)

    for name in OPERATIONS:
        real = getattr(os, name)

        def call(*args: Any, name: str = name, real: Callable[..., Any] = real, **options: Any) -> Any:
            before(name)
            return real(*args, **options)

        setattr(os, name, call)
    opened = io.open

    def open_counted(path: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        file = opened(path, mode, *args, **options)
        return _File(file, before) if set(mode) & set("wxa+") else file

    io.open = open_counted
    return seen


def kill(name: str, file: Any, data: bytes | str) -> None:
    """Half of the bytes reach the disk."""
    if file is not None:
        file.write(data[: len(data) // 2])
        file.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def _refuse(name: str, file: Any, data: bytes | str) -> None:
    if name in ("write", "fsync"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def in_child(work: Callable[[], object]) -> int:
    """Run `work` in a forked child; its exit code, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        gc.freeze()  # a collection would otherwise visit, and so copy, every object of the parent
        code = OTHER
        try:
            work()
            code = 0
        except OSError as error:
            code = FULL if error.errno == errno.ENOSPC else OTHER
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def count_operations(work: Callable[[], object], log: Path) -> list[str]:
    """The names of the operations that `work` does, in order; it is done in a child."""

    def counted() -> None:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        seen = install(-1, kill, forever=False)
        work()
        os.write(descriptor, " ".join(seen).encode())

    assert in_child(counted) == 0
    return log.read_text().split()


def killed_at(number: int, work: Callable[[], object]) -> None:
    """Do `work` in a child that SIGKILLs itself at the `number`-th operation."""

    def dying() -> None:
        install(number, kill, forever=False)
        work()

    assert in_child(dying) == -signal.SIGKILL


def full_from(number: int, work: Callable[[], object]) -> int:
    """Do `work` in a child whose disk is full from the `number`-th operation on; the exit code."""

    def choking() -> None:
        install(number, _refuse, forever=True)
        work()

    return in_child(choking)


def visible(root: Path) -> dict[str, str]:
    """The sha256 of every file of a data set but temporary ones, and but `environment/`, which is not compared."""
    found = sorted(path for path in root.rglob("*") if path.is_file() and not is_temporary(path))
    names = {path.relative_to(root).as_posix(): path for path in found}
    return {name: sha256_file(path) for name, path in names.items() if not name.startswith("environment/")}


def temporaries(root: Path) -> list[str]:
    """What is left under temporary names."""
    return [path.name for path in root.rglob("*") if is_temporary(path)]

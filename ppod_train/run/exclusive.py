"""Lock that keeps a run folder to one process at a time."""

import fcntl
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ppod_data.errors import ConfigError
from ppod_data.storage.files import is_being_written, is_temporary
from ppod_data.storage.real_folders import make_folder, refuse_linked_folders, remove_file, remove_tree

_LEFT = re.compile(r"\.(policy|step-\d+)\.(tmp|old)")


@contextmanager
def only_run(out: Path) -> Iterator[Callable[[], None]]:
    """Create and lock the run folder `out` until the block ends; the lock of a killed process is released.

    Yields a function to call once there are results to keep. If an error ends the block before that call, the files
    written in the block are removed, so that a rejected start leaves no files. Network file systems without locks
    are not protected. On NFS, where a folder cannot be locked for other machines, the lock holds between processes of
    one machine.

    Raises:
        ConfigError: another run holds the lock, or a folder in `out` is a link.
    """
    created = not out.exists()
    make_folder(out)
    refuse_linked_folders(out)
    descriptor = os.open(out, os.O_RDONLY | os.O_CLOEXEC)
    kept = False

    def keep() -> None:
        nonlocal kept
        kept = True

    try:
        with suppress(OSError):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigError(
                    f"{out}: another ppod-train is running in this folder: wait until it ends, or give another --out"
                ) from error
        before = {path.name for path in out.iterdir()}
        try:
            yield keep
        except Exception:
            if not kept:
                _discard(out, before, remove_folder=created)
            raise
    finally:
        os.close(descriptor)


def _discard(out: Path, before: set[str], *, remove_folder: bool) -> None:
    """Remove the entries of a folder that are not in `before`; with `remove_folder` also the empty folder."""
    for path in [path for path in out.iterdir() if path.name not in before]:
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            remove_file(path)
    if remove_folder:
        with suppress(OSError):
            out.rmdir()


def remove_leftovers(out: Path) -> None:
    """Remove the partial folders and the unlocked temporary files that a killed process left in the run folder."""
    evals = sorted((out / "evals").glob("step-*"))
    folders = [out, out / "policy", out / "checkpoints", out / "evals", *evals]
    for path in [path for folder in folders for path in folder.glob(".*")]:
        if _LEFT.fullmatch(path.name):
            remove_tree(path)
        elif is_temporary(path) and not is_being_written(path):
            remove_file(path)

"""One process at a time in a run folder."""

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
    """Make the run folder `out`, and keep other runs out of it until the block ends; a killed process lets go of it.

    Yields a function to call once there is work to keep. Where an error ends the block before that, what was written
    since is removed: a start that is refused leaves nothing behind. Some network file systems have no locks: there
    nobody looks.

    Raises:
        ConfigError: another run is at work in it, or a folder in it is a link.
    """
    made = not out.exists()
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
                    f"{out}: another ppod-train is at work here: wait for its end, or give another --out"
                ) from error
        before = {path.name for path in out.iterdir()}
        try:
            yield keep
        except Exception:
            if not kept:
                _discard(out, before, whole=made)
            raise
    finally:
        os.close(descriptor)


def _discard(out: Path, before: set[str], *, whole: bool) -> None:
    """Remove what is in a folder and was not there before; `whole`: the empty folder too."""
    for path in [path for path in out.iterdir() if path.name not in before]:
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            remove_file(path)
    if whole:
        with suppress(OSError):
            out.rmdir()


def remove_leftovers(out: Path) -> None:
    """Remove what a killed process left in the run folder `out`: half folders, and temporary files nobody writes."""
    evals = sorted((out / "evals").glob("step-*"))
    folders = [out, out / "policy", out / "checkpoints", out / "evals", *evals]
    for path in [path for folder in folders for path in folder.glob(".*")]:
        if _LEFT.fullmatch(path.name):
            remove_tree(path)
        elif is_temporary(path) and not is_being_written(path):
            remove_file(path)

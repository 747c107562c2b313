"""Folders that appear and disappear as a whole: readers never see a partial one.

A folder is named .NAME.tmp while it is written and .NAME.old while it is removed. A killed process may leave
either.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ppod_data.storage.files import sync
from ppod_data.storage.real_folders import make_folder, move, remove_tree


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder to fill. It replaces `target` durably on a normal exit and is removed on an error."""
    temporary = target.with_name(f".{target.name}.tmp")
    remove_tree(temporary)
    make_folder(temporary)
    try:
        yield temporary
        for path in [*temporary.rglob("*"), temporary]:
            sync(path)
    except BaseException:
        remove_tree(temporary)
        raise
    old = _set_aside(target)
    move(temporary, target)
    sync(target.parent)
    remove_tree(old)


def remove_folder(folder: Path) -> None:
    """Remove a folder if it exists: first its name, then its content."""
    remove_tree(_set_aside(folder))


def _set_aside(folder: Path) -> Path:
    """Rename a folder to the name that it has while it is removed."""
    old = folder.with_name(f".{folder.name}.old")
    remove_tree(old)
    if folder.exists():
        move(folder, old)
    return old

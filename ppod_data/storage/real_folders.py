"""Folder operations that do not follow links: nothing outside the named folder is written, moved or removed.

A data set or run may be untrusted, and a link in it may point anywhere. `settled` resolves the links of the
path that the user named, once. Below it every folder is opened component by component and links are refused.
Files are created, renamed and removed by their name in the open folder. Reads may follow links, because the
cache of the Hugging Face Hub consists of links.
"""

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from ppod_data.errors import ConfigError, DamagedError
from ppod_data.storage.object_store import StorePath

_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | getattr(os, "O_PATH", os.O_RDONLY)
_DEPTH = 3
"""Levels of folders below a data set or run in which commands write."""


def settled(path: Path) -> Path:
    """Resolve the links of a path that the user named. A path without links is returned unchanged."""
    real = Path(os.path.realpath(path))
    return path if real == Path(os.path.abspath(path)) else real


@contextlib.contextmanager
def real_folder(path: Path, *, make: bool = False) -> Iterator[int]:
    """Open the folder `path` without following links; yield a descriptor for `dir_fd`.

    Args:
        path: the folder.
        make: create missing folders of the path.

    Raises:
        ConfigError: a component of the path is a link.
        OSError: as `os.open` does, with the path of the component.
    """
    start = Path(path.anchor or ".")
    descriptor = os.open(start, _FOLDER)
    try:
        below = start
        for name in path.parts[len(start.parts) :]:
            below = below / name
            inner = _step(descriptor, below, make)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def naming(path: Path | StorePath) -> Iterator[None]:
    """Set the whole path on an `OSError`: a call with `dir_fd` reports the last name alone, and a read no name."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:  # the text of an error without one is its message alone
            error.filename, error.filename2 = str(path), None
        raise


def make_folder(path: Path) -> None:
    """Create a folder and its missing parents. Raises ConfigError for a link."""
    with real_folder(path, make=True):
        pass


def open_in_place(path: Path, mode: int = 0o666) -> int:
    """Open a regular file for reading and writing in place. A missing file is created with `mode`.

    Raises:
        ConfigError: the file, or a folder above it, is a link.
        DamagedError: the path is a pipe, a device or a folder.
    """
    with real_folder(path.parent, make=True) as folder:
        _refuse_link(folder, path)
        with naming(path):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(path.name, flags, mode, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DamagedError(f"{path}: not a regular file: remove it")
    return descriptor


def remove_file(path: Path) -> None:
    """Remove a file, or a link without its target. A missing file is not an error."""
    with contextlib.suppress(FileNotFoundError), real_folder(path.parent) as folder, naming(path):
        os.unlink(path.name, dir_fd=folder)


def remove_tree(path: Path) -> None:
    """Remove a folder and its content; links are removed without their targets. A missing folder is not an error.

    Files that cannot be removed stay. Raises ConfigError if `path`, or a folder above it, is a link.
    """
    with contextlib.suppress(FileNotFoundError), real_folder(path.parent) as folder:
        _refuse_link(folder, path)
        shutil.rmtree(path.name, ignore_errors=True, dir_fd=folder)


def move(path: Path, target: Path) -> None:
    """Rename a file or folder within its folder, replacing a file of that name."""
    assert path.parent == target.parent
    with real_folder(path.parent) as folder, naming(target):
        os.replace(path.name, target.name, src_dir_fd=folder, dst_dir_fd=folder)


def links_below(root: Path | StorePath, *, depth: int = _DEPTH) -> Iterator[Path]:
    """Yield the links in the folder `root` and its subfolders.

    A snapshot's links to the blobs of the Hub's cache are left out.
    """
    if not isinstance(root, Path):
        return
    blobs = root.parent.parent / "blobs" if root.parent.name == "snapshots" else None
    yield from _links(root, blobs, depth)


def refuse_linked_folders(root: Path | StorePath) -> None:
    """Raise ConfigError for a link to a folder below `root`. Called before a command starts work that writes there."""
    for path in links_below(root):
        if path.is_dir():
            raise linked(path)


def linked(path: Path) -> ConfigError:
    """Return the error for a link where a file or folder is expected."""
    return ConfigError(f"{path}: a link, which is not followed: put the file or folder itself there")


def _links(folder: Path, blobs: Path | None, depth: int) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            path = folder / entry.name
            if entry.is_symlink():
                if blobs is None or path.is_dir() or not path.resolve().is_relative_to(blobs.resolve()):
                    yield path
            elif depth > 0 and entry.is_dir():
                yield from _links(path, blobs, depth - 1)


def _step(folder: int, path: Path, make: bool) -> int:
    """Open the last component of `path`, relative to the open folder that holds it."""
    with naming(path):
        try:
            return os.open(path.name or ".", _FOLDER, dir_fd=folder)
        except FileNotFoundError:
            if not make:
                raise
        except NotADirectoryError:
            _refuse_link(folder, path)
            raise
        with contextlib.suppress(FileExistsError):
            os.mkdir(path.name, dir_fd=folder)
        return os.open(path.name, _FOLDER, dir_fd=folder)


def _refuse_link(folder: int, path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISLNK(os.stat(path.name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise linked(path)

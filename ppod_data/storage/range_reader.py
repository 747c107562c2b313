"""An object of an object store as a file that is read with few range requests.

with open_object(path) as file:
    footer = file.read()
"""

import errno
import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ppod_data.errors import DamagedError
from ppod_data.storage.object_store import StorePath, ask, read_range, read_ranges

_AT_ONCE = 1 << 20
"""Bytes. Objects up to this size are read whole."""
_FIRST = 64 << 10
"""Bytes. The smallest request; a sequential reader gets `_PIECE` with each later request."""
_TAIL = 256 << 10
"""Bytes. The end of an object is read whole, because a table's footer is there."""
_PIECE = 8 << 20
_GAP = 512 << 10
"""Bytes. A gap up to this size between two ranges is read rather than split into two requests."""
_T = TypeVar("_T")


def retry_damaged(path: object, read: Callable[[], _T]) -> _T:
    """Call `read`; on a checksum failure from an object store, retry once in case the data was corrupted in transit."""
    try:
        return read()
    except DamagedError:
        if isinstance(path, Path):
            raise
        return read()


def fetch(file: io.BufferedReader, ranges: Sequence[tuple[int, int]]) -> None:
    """Fetch (start, end) ranges of an object concurrently. Later reads within them need no request."""
    assert isinstance(file.raw, RangeReader)
    file.raw.fetch(ranges)


class RangeReader(io.RawIOBase):
    """A raw, seekable stream over an object.

    Raises FileNotFoundError if there is no object, and DamagedError if it is shorter than the store reports.
    """

    def __init__(self, path: StorePath) -> None:
        self._path = path
        info = ask(path, lambda store, place: store.info(place))
        if info["type"] != "file":
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        self._size = int(info["size"])
        self._position = 0
        self._kept: list[tuple[int, bytes]] = []
        self._last = (0, b"")

    def readable(self) -> bool:
        """Return true."""
        return True

    def seekable(self) -> bool:
        """Return true."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move the position as `io.IOBase.seek` does, at least to 0."""
        self._position = max(0, offset + (0, self._position, self._size)[whence])
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` from the position; return the count of bytes, 0 at the end."""
        view = memoryview(buffer).cast("B")
        if self._position >= self._size or not len(view):
            return 0
        start, data = self._piece(len(view))
        available = data[self._position - start : self._position - start + len(view)]
        view[: len(available)] = available
        self._position += len(available)
        return len(available)

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Fetch (start, end) ranges concurrently and keep them."""
        ranges = [(max(start, 0), min(end, self._size)) for start, end in ranges]
        pieces = [piece for piece in _joined(ranges) if self._held(*piece) is None]
        if pieces:
            fetched = zip(pieces, read_ranges(self._path, pieces), strict=True)
            self._kept += [(start, self._whole(start, end, data)) for (start, end), data in fetched]

    def _piece(self, nbytes: int) -> tuple[int, bytes]:
        """Return (start, bytes) of a piece of the object that holds the byte at the position."""
        if (held := self._held(self._position, self._position + 1)) is not None:
            return held
        start, end = self._position, self._position + max(nbytes, _FIRST)
        keep = self._size <= _AT_ONCE or self._size - start <= _TAIL
        if self._size <= _AT_ONCE:
            start, end = 0, self._size
        elif keep:
            start, end = self._size - _TAIL, self._size
        elif self._last[1] and start == self._last[0] + len(self._last[1]):
            end = start + _PIECE
        end = min(end, self._size)
        piece = start, self._whole(start, end, read_range(self._path, start, end))
        if keep:
            self._kept.append(piece)
        else:
            self._last = piece
        return piece

    def _held(self, start: int, end: int) -> tuple[int, bytes] | None:
        for piece in (self._last, *self._kept):
            if piece[0] <= start and end <= piece[0] + len(piece[1]):
                return piece
        return None

    def _whole(self, start: int, end: int, data: bytes) -> bytes:
        if len(data) != end - start:
            raise DamagedError(f"{self._path}: changed while it was read, or truncated: get this file again")
        return data


def _joined(ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the ranges with small gaps closed, in pieces of at most `_PIECE` bytes."""
    joined: list[list[int]] = []
    for start, end in sorted(bounds for bounds in ranges if bounds[0] < bounds[1]):
        if joined and start - joined[-1][1] <= _GAP:
            joined[-1][1] = max(end, joined[-1][1])
        else:
            joined.append([start, end])
    for start, end in joined:
        for position in range(start, end, _PIECE):
            yield position, min(position + _PIECE, end)


def open_object(path: StorePath) -> io.BufferedReader:
    """Open an object for reading with few range requests. Raises FileNotFoundError if there is none."""
    return io.BufferedReader(RangeReader(path))

"""An object of a store as a file that is read by few requests."""

import errno
import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ppod_data.errors import DamagedError
from ppod_data.storage.object_store import StorePath, ask, read_range, read_ranges

_AT_ONCE = 1 << 20
"""Bytes: an object up to this size is read at once."""
_FIRST = 64 << 10
"""Bytes: the least that is read elsewhere; a reader that goes on there gets more, `_PIECE`, each time."""
_TAIL = 256 << 10
"""Bytes: the end of an object is read at once, since a table's footer is there."""
_PIECE = 8 << 20
_GAP = 512 << 10
"""Bytes between two ranges that are rather read than paid for with a request."""
_T = TypeVar("_T")


def read_again(path: object, read: Callable[[], _T]) -> _T:
    """What `read` gives; once more where that finds damage in a store, since it may have been done on the way."""
    try:
        return read()
    except DamagedError:
        if isinstance(path, Path):
            raise
        return read()


def fetch(file: io.BufferedReader, ranges: Sequence[tuple[int, int]]) -> None:
    """Get (start, end) ranges of a store's file at the same time; reading them asks nothing more."""
    assert isinstance(file.raw, RangeReader)
    file.raw.fetch(ranges)


class RangeReader(io.RawIOBase):
    """Raises FileNotFoundError where there is no object, DamagedError where it is shorter than the store says."""

    def __init__(self, path: StorePath) -> None:
        self._path = path
        info = ask(path, lambda store, place: store.info(place))
        if info["type"] != "file":
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        self._size = int(info["size"])
        self._place = 0
        self._kept: list[tuple[int, bytes]] = []
        self._last = (0, b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = 0) -> int:
        self._place = max(0, offset + (0, self._place, self._size)[whence])
        return self._place

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        if self._place >= self._size or not len(view):
            return 0
        start, data = self._piece(len(view))
        found = data[self._place - start : self._place - start + len(view)]
        view[: len(found)] = found
        self._place += len(found)
        return len(found)

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        ranges = [(max(start, 0), min(end, self._size)) for start, end in ranges]
        pieces = [piece for piece in _joined(ranges) if self._held(*piece) is None]
        if pieces:
            found = zip(pieces, read_ranges(self._path, pieces), strict=True)
            self._kept += [(start, self._whole(start, end, data)) for (start, end), data in found]

    def _piece(self, wanted: int) -> tuple[int, bytes]:
        """A piece of the object that holds the byte at the place."""
        if (held := self._held(self._place, self._place + 1)) is not None:
            return held
        start, end = self._place, self._place + max(wanted, _FIRST)
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
            raise DamagedError(f"{self._path}: changed while it was read, or cut: get this file again")
        return data


def _joined(ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The ranges with small gaps closed, in pieces of at most `_PIECE` bytes."""
    joined: list[list[int]] = []
    for start, end in sorted(one for one in ranges if one[0] < one[1]):
        if joined and start - joined[-1][1] <= _GAP:
            joined[-1][1] = max(end, joined[-1][1])
        else:
            joined.append([start, end])
    for start, end in joined:
        for place in range(start, end, _PIECE):
            yield place, min(place + _PIECE, end)


def open_object(path: StorePath) -> io.BufferedReader:
    """An object opened for reading, by few ranges. Raises FileNotFoundError where there is none."""
    from ppod_data.storage.range_reader import RangeReader

    return io.BufferedReader(RangeReader(path))

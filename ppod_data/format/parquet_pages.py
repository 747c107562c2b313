"""Memory bounds of a Parquet column from its page headers, without decoding a page.

Neither the footer nor the file's size bounds the memory. A page of a hundred kilobytes may expand to 2 GiB, a
run-length code may stand for two billion values, and a dictionary gives each of a million rows the same long
value. Each page header states its expanded size. A dictionary's longest value is found by expanding the
dictionary alone.

Headers are Thrift's compact protocol: https://github.com/apache/parquet-format, PageHeader.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

_DATA, _INDEX, _DICTIONARY, _DATA_V2 = range(4)
_PLAIN, _DELTA_BYTE_ARRAY = 0, 7
_FIRST_READ, _MAX_HEADER = 4096, 1 << 20
_MAX_NESTING = 8
_SMALL_DICTIONARY = 64 << 10
_DESCRIBED = {_DATA: 5, _INDEX: 6, _DICTIONARY: 7, _DATA_V2: 8}
"""The field of a page header that describes a page of each type."""
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}


class PageError(ValueError):
    """An unreadable or impossible page header; the message gives the reason."""


@dataclass(frozen=True, kw_only=True)
class Expansion:
    """The sizes of a decoded column chunk."""

    nbytes: int
    """Bytes of the expanded pages, or of the values that the pages claim, whichever is larger."""
    longest: int
    """An upper bound of the bytes of one value, for values that are stored once but used many times."""


def expansion(file: BinaryIO, chunk: Any, start: int, end: int, limit: int) -> Expansion:
    """Return the decoded size of the column chunk in [start, end) of a file.

    Args:
        file: the Parquet file.
        chunk: pyarrow's ColumnChunkMetaData.
        start: the chunk's first byte.
        end: one past the chunk's last byte.
        limit: bytes; larger dictionaries are not expanded to find the longest value.

    Raises:
        PageError: an invalid page header.
    """
    width = _WIDTHS.get(chunk.physical_type, 0)
    nbytes = longest = values = 0
    for page in _pages(file, start, end):
        nbytes += page.expanded
        if page.kind in (_DATA, _DATA_V2):
            values += page.num_values
            if page.encoding == _DELTA_BYTE_ARRAY:
                longest = max(longest, page.expanded)
        elif page.kind == _DICTIONARY and not width:
            longest = max(longest, _longest(file, chunk, page, limit))
    return Expansion(nbytes=max(nbytes, values * max(width, 1)), longest=longest)


@dataclass(frozen=True, kw_only=True)
class _Page:
    kind: int
    start: int
    """Offset of its bytes, after the header."""
    stored: int
    expanded: int
    num_values: int
    encoding: int


def _pages(file: BinaryIO, start: int, end: int) -> Iterator[_Page]:
    while start < end:
        page = _read_header(file, start, end)
        yield page
        start = page.start + page.stored
    if start != end:
        raise PageError("a page ends outside its column")


def _read_header(file: BinaryIO, start: int, end: int) -> _Page:
    size = _FIRST_READ
    while True:
        file.seek(start)
        data = file.read(min(size, end - start))
        header = _Compact(data)
        try:
            fields = header.structure()
            break
        except IndexError:
            if size >= min(_MAX_HEADER, end - start):
                raise PageError("a truncated page header") from None
            size *= 16
    stored, expanded = fields.get(3), fields.get(2)
    kind = fields.get(1)
    described = fields.get(_DESCRIBED.get(kind or 0, 0), {})
    if not isinstance(described, dict):
        raise PageError("an invalid page header")
    # The encoding is field 2 of a data or dictionary page, and field 4 of a data page of version 2.
    numbers = [kind, stored, expanded, described.get(1, 0), described.get(4 if kind == _DATA_V2 else 2, 0)]
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise PageError("an invalid page header")
    return _Page(
        kind=numbers[0],
        start=start + header.offset,
        stored=numbers[1],
        expanded=numbers[2],
        num_values=numbers[3],
        encoding=numbers[4],
    )


def _longest(file: BinaryIO, chunk: Any, page: _Page, limit: int) -> int:
    """Return the bytes of the longest value of a dictionary page of texts, or an upper bound."""
    if page.expanded <= _SMALL_DICTIONARY or page.expanded > limit:
        return page.expanded
    file.seek(page.start)
    data = memoryview(_expanded(file.read(page.stored), chunk.compression, page.expanded))
    offset = longest = 0
    for _ in range(page.num_values):
        if offset + 4 > len(data):
            break
        size = int.from_bytes(data[offset : offset + 4], "little")
        longest = max(longest, size)
        offset += 4 + size
    return min(longest, page.expanded)


def _expanded(data: bytes, compression: str, size: int) -> Any:
    import pyarrow as pa

    if compression == "UNCOMPRESSED":
        return data
    name = {"LZ4": "lz4_raw"}.get(compression, compression.lower())
    return pa.Codec(name).decompress(data, decompressed_size=size)


class _Compact:
    """A reader of Thrift's compact protocol.

    Raises IndexError at the end of the data, and PageError for invalid data.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.offset = 0

    def structure(self, depth: int = 0) -> dict[int, Any]:
        """Return the fields of a structure by number. Whole numbers and structures have a value, other types None."""
        if depth > _MAX_NESTING:
            raise PageError("a page header is nested too deep")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else _signed(self._varint())
            fields[number] = self._value(head & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2):  # a boolean's value is its type code
            return None
        if kind in (4, 5, 6):
            return _signed(self._varint())
        if kind in (3, 7):
            self._skip(1 if kind == 3 else 8)
        elif kind == 8:
            self._skip(self._varint())
        elif kind == 12:
            return self.structure(depth + 1)
        else:  # lists, sets and maps: not used in page headers
            raise PageError("an invalid page header")
        return None

    def _byte(self) -> int:
        byte = self._data[self.offset]
        self.offset += 1
        return byte

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise PageError("an invalid page header")

    def _skip(self, size: int) -> None:
        self.offset += size
        if self.offset > len(self._data):
            raise IndexError


def _signed(value: int) -> int:
    """Decode a zigzag-encoded whole number."""
    return value >> 1 ^ -(value & 1)

"""Checksums that a Parquet file carries of itself, so that no flipped bit of it goes unnoticed.

Parquet's own page checksums cover the pages' data, and neither their headers nor the footer: a single bit there can
make rows or values disappear without an error. So every table that ppod writes holds, in the footer's key-value
metadata under `ppod_checksums`, one text of fixed length: the marker, the sha256 of the footer with this digest as
zeros, and the sha256 of each column's chunks. Any reader of Parquet ignores it.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from ppod_data.format.parquet_pages import expansion

KEY = b"ppod_checksums"
_MARKER = b"ppod-checksums-1:"
_VALUE = re.compile(_MARKER + rb"([0-9a-f]{64}):((?:[0-9a-f]{64})+)")
_DIGITS = 64
_NO_DIGEST = b"0" * _DIGITS
_MAGIC = b"PAR1"
_TAIL = 8
_PIECE = 1 << 20
MAX_FOOTER = 64 << 20
"""Bytes; a longer footer is refused before memory is asked for."""


class ChecksumError(ValueError):
    """A Parquet file does not hold the bytes that were written; the text says which."""


def placeholder(num_columns: int) -> bytes:
    """What a writer stores under `KEY` for a file of `num_columns` leaf columns, before the digests are known."""
    return _MARKER + _NO_DIGEST + b":" + _NO_DIGEST * num_columns


def fill_in(file: BinaryIO, metadata: Any) -> None:
    """Replace the placeholder in a finished Parquet file, open for reading and writing, by the digests.

    metadata: the file's pyarrow FileMetaData.
    """
    columns = range(metadata.num_columns)
    digests = b"".join(_column_digest(file, metadata, column).encode() for column in columns)
    start, footer = _read_footer(file)
    at = footer.index(placeholder(metadata.num_columns)) + len(_MARKER)
    zeros = footer[:at] + _NO_DIGEST + b":" + digests + footer[at + _DIGITS + 1 + len(digests) :]
    value = hashlib.sha256(zeros).hexdigest().encode() + b":" + digests
    file.seek(start + at)
    file.write(value)


def check_footer(file: BinaryIO) -> list[str] | None:
    """The digests of the leaf columns, from a footer that was found to be whole; None where there are none.

    Tables of other writers carry no checksums: those have Parquet's own page checksums, if any.

    Raises:
        ChecksumError: no Parquet file, a cut one, or a footer that is not the one that was written; says why.
    """
    _, footer = _read_footer(file)
    found = _VALUE.search(footer)
    if found is None:
        if _MARKER in footer or KEY in footer:  # one flipped bit cannot spoil both
            raise ChecksumError("its checksums are not readable")
        return None
    zeros = footer[: found.start(1)] + _NO_DIGEST + footer[found.end(1) :]
    if hashlib.sha256(zeros).hexdigest().encode() != found[1]:
        raise ChecksumError("the footer is not the one that was written")
    digests = found[2].decode()
    return [digests[i : i + _DIGITS] for i in range(0, len(digests), _DIGITS)]


def check_columns(file: BinaryIO, metadata: Any, digests: Sequence[str], names: Sequence[str]) -> None:
    """Check the bytes of every column in `names`. Raises ChecksumError, saying which column is not as written."""
    leaves = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    if len(leaves) != len(digests):
        raise ChecksumError("it has another number of columns than checksums")
    for column, (leaf, digest) in enumerate(zip(leaves, digests, strict=True)):
        if leaf.partition(".")[0] in names and _column_digest(file, metadata, column) != digest:
            raise ChecksumError(
                f"the bytes of column {leaf.partition('.')[0]!r} are not those that were written"
            )


def column_ranges(metadata: Any, names: Sequence[str]) -> list[tuple[int, int]]:
    """Where the bytes of the columns in `names` are: (start, end) of each chunk."""
    leaves = [metadata.schema.column(i).path.partition(".")[0] for i in range(metadata.num_columns)]
    columns = [column for column, leaf in enumerate(leaves) if leaf in names]
    return [piece for column in columns for piece in _chunks(metadata, column)]


def column_expansion(
    file: BinaryIO, metadata: Any, names: Sequence[str], groups: Sequence[int], limit: int
) -> tuple[int, int]:
    """Return (bytes that the columns become, bytes of the longest value of each column added up), decoding none.

    Both are upper bounds of some row groups; the second leaves out values that are stored as often as they are given.
    Raises `PageError` where page headers are not readable.
    """
    nbytes = longest = 0
    for column in range(metadata.num_columns):
        if metadata.schema.column(column).path.partition(".")[0] not in names:
            continue
        widest = 0
        chunks = list(_chunks(metadata, column))
        for group in groups:
            start, end = chunks[group]
            found = expansion(file, metadata.row_group(group).column(column), start, end, limit)
            nbytes, widest = nbytes + found.nbytes, max(widest, found.longest)
        longest += widest
    return nbytes, longest


def _column_digest(file: BinaryIO, metadata: Any, column: int) -> str:
    """The sha256 of the column's chunks, page headers included, of one row group after another."""
    digest = hashlib.sha256()
    for start, end in _chunks(metadata, column):
        file.seek(start)
        left = end - start
        while left > 0 and (piece := file.read(min(left, _PIECE))):
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()


def _chunks(metadata: Any, column: int) -> Iterator[tuple[int, int]]:
    """(start, end) of the column's chunk in each row group."""
    for group in range(metadata.num_row_groups):
        chunk = metadata.row_group(group).column(column)
        has_dictionary = chunk.has_dictionary_page and chunk.dictionary_page_offset is not None
        start = chunk.dictionary_page_offset if has_dictionary else chunk.data_page_offset
        if chunk.num_values and start > chunk.data_page_offset:  # Arrow begins at the lower one
            raise ChecksumError("a dictionary that is behind its data")
        yield start, start + chunk.total_compressed_size


def _read_footer(file: BinaryIO) -> tuple[int, bytes]:
    """The footer's place and its bytes."""
    size = file.seek(0, 2)
    if size < len(_MAGIC) + _TAIL:
        raise ChecksumError("the file is cut or no Parquet file")
    file.seek(0)
    head = file.read(len(_MAGIC))
    file.seek(size - _TAIL)
    tail = file.read(_TAIL)
    length = int.from_bytes(tail[:4], "little")
    if head != _MAGIC or tail[4:] != _MAGIC or length > min(size - len(_MAGIC) - _TAIL, MAX_FOOTER):
        raise ChecksumError("the file is cut or no Parquet file")
    file.seek(size - _TAIL - length)
    return size - _TAIL - length, file.read(length)

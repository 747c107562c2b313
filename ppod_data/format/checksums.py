"""Checksums that a Parquet file carries of itself, so that every flipped bit is detected.

Parquet's own page checksums cover the pages' data, but not their headers or the footer: a single flipped bit
there can drop rows or values without an error. Every table that ppod writes therefore holds one text of fixed
length in the footer's key-value metadata, under `ppod_checksums`: a marker, the sha256 of the footer with this
digest as zeros, and the sha256 of each column's chunks. Other Parquet readers ignore it.
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
"""Bytes; a longer footer is rejected before memory is allocated."""


class ChecksumError(ValueError):
    """A Parquet file whose bytes differ from those written; the message says which."""


def placeholder(num_columns: int) -> bytes:
    """Return the text that a writer stores under `KEY` before the digests of `num_columns` leaf columns are known."""
    return _MARKER + _NO_DIGEST + b":" + _NO_DIGEST * num_columns


def fill_in(file: BinaryIO, metadata: Any) -> None:
    """Replace the placeholder in a finished Parquet file by the digests.

    Args:
        file: the file, open for reading and writing.
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
    """Verify the footer. Return the digests of the leaf columns, or None for a table without checksums.

    Tables of other writers have no checksums, only Parquet's own page checksums, if any.

    Raises:
        ChecksumError: not a Parquet file, a truncated one, or a footer that differs from the one written.
    """
    _, footer = _read_footer(file)
    match = _VALUE.search(footer)
    if match is None:
        if _MARKER in footer or KEY in footer:  # one flipped bit cannot damage both
            raise ChecksumError("its checksums are not readable")
        return None
    zeros = footer[: match.start(1)] + _NO_DIGEST + footer[match.end(1) :]
    if hashlib.sha256(zeros).hexdigest().encode() != match[1]:
        raise ChecksumError("the footer is not the one that was written")
    digests = match[2].decode()
    return [digests[i : i + _DIGITS] for i in range(0, len(digests), _DIGITS)]


def check_columns(file: BinaryIO, metadata: Any, digests: Sequence[str], names: Sequence[str]) -> None:
    """Verify the bytes of every column in `names`. Raises ChecksumError, naming the damaged column."""
    leaves = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    if len(leaves) != len(digests):
        raise ChecksumError("the count of columns differs from the count of checksums")
    for column, (leaf, digest) in enumerate(zip(leaves, digests, strict=True)):
        if leaf.partition(".")[0] in names and _column_digest(file, metadata, column) != digest:
            raise ChecksumError(
                f"the bytes of column {leaf.partition('.')[0]!r} are not those that were written"
            )


def column_ranges(metadata: Any, names: Sequence[str]) -> list[tuple[int, int]]:
    """Return the byte ranges (start, end) of the chunks of the columns in `names`."""
    leaves = [metadata.schema.column(i).path.partition(".")[0] for i in range(metadata.num_columns)]
    columns = [column for column, leaf in enumerate(leaves) if leaf in names]
    return [piece for column in columns for piece in _chunks(metadata, column)]


def column_expansion(
    file: BinaryIO, metadata: Any, names: Sequence[str], groups: Sequence[int], limit: int
) -> tuple[int, int]:
    """Return (bytes of the decoded columns, sum of each column's longest value in bytes), without decoding.

    Both are upper bounds over the row groups `groups`. The second skips values that are stored once for each
    use. Raises `PageError` for an invalid page header.
    """
    nbytes = longest = 0
    for column in range(metadata.num_columns):
        if metadata.schema.column(column).path.partition(".")[0] not in names:
            continue
        widest = 0
        chunks = list(_chunks(metadata, column))
        for group in groups:
            start, end = chunks[group]
            sizes = expansion(file, metadata.row_group(group).column(column), start, end, limit)
            nbytes, widest = nbytes + sizes.nbytes, max(widest, sizes.longest)
        longest += widest
    return nbytes, longest


def _column_digest(file: BinaryIO, metadata: Any, column: int) -> str:
    """Return the sha256 of the column's chunks, page headers included, over all row groups in order."""
    digest = hashlib.sha256()
    for start, end in _chunks(metadata, column):
        file.seek(start)
        left = end - start
        while left > 0 and (piece := file.read(min(left, _PIECE))):
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()


def _chunks(metadata: Any, column: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the column's chunk in each row group."""
    for group in range(metadata.num_row_groups):
        chunk = metadata.row_group(group).column(column)
        has_dictionary = chunk.has_dictionary_page and chunk.dictionary_page_offset is not None
        start = chunk.dictionary_page_offset if has_dictionary else chunk.data_page_offset
        if chunk.num_values and start > chunk.data_page_offset:  # Arrow starts at the lower offset
            raise ChecksumError("a dictionary page follows its data pages")
        yield start, start + chunk.total_compressed_size


def _read_footer(file: BinaryIO) -> tuple[int, bytes]:
    """Return the footer's offset and bytes."""
    size = file.seek(0, 2)
    if size < len(_MAGIC) + _TAIL:
        raise ChecksumError("the file is truncated, or not a Parquet file")
    file.seek(0)
    head = file.read(len(_MAGIC))
    file.seek(size - _TAIL)
    tail = file.read(_TAIL)
    length = int.from_bytes(tail[:4], "little")
    if head != _MAGIC or tail[4:] != _MAGIC or length > min(size - len(_MAGIC) - _TAIL, MAX_FOOTER):
        raise ChecksumError("the file is truncated, or not a Parquet file")
    file.seek(size - _TAIL - length)
    return size - _TAIL - length, file.read(length)

"""CSV files from spreadsheets and people; every line of a file is part of a row or has a reason.

Supported are commas, semicolons and tabs between cells, UTF-8 and UTF-16, and headers in any case. A stray quotation
mark swallows the lines up to the next quotation mark. If a row of several lines looks like several rows, each line is
read separately, and lines with a stray mark are rejected.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ppod_data.errors import DamagedError
from ppod_data.labels.answers import Bad, Record, Skipped

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_EXCEL_LINE = re.compile(r"sep=(.)\s*", re.IGNORECASE)
EMPTY = "empty rows"
_SHOWN = 160
_STRAY = (
    'a quotation mark (") that is not closed in its line: correct it, or double it if it is part of a text'
)


@dataclass(frozen=True)
class _Header:
    names: tuple[str, ...]
    separator: str
    text: str
    """Header as it was read, for messages."""


def text_encoding(path: Path) -> str:
    """Return the encoding of a text file, detected from its first bytes."""
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if start[1:2] == b"\0":
        return "utf-16-le"
    if start[:1] == b"\0" and len(start) > 1:
        return "utf-16-be"
    return "utf-8-sig"


def read_csv(path: Path, separator: str) -> Iterator[Record]:
    """Yield the rows below a file's header; `separator` separates cells unless the header shows another separator.

    Raises:
        DamagedError: an unreadable header, or bytes of an unknown encoding.
    """
    encoding = text_encoding(path)
    errors = "surrogateescape" if encoding == "utf-8-sig" else "strict"
    try:
        with path.open(encoding=encoding, errors=errors, newline="") as file:
            lines = _Lines(file)
            header = _read_header(path, lines, separator, encoding)
            if header is None:
                return
            for number, (row, reason) in enumerate(_rows(lines, header), 1):
                empty = bool(row) and not any(cell.strip() for cell in row)
                yield Record(
                    dict(zip(header.names, row, strict=False)) if row else None,
                    path.name,
                    number,
                    header.text,
                    Skipped(EMPTY) if empty else None if reason is None else Bad(reason),
                )
    except UnicodeError as error:
        raise DamagedError(
            f"{path}: {encoding.upper()} with invalid bytes: save the file as UTF-8"
        ) from error


class _Lines:
    """Lines of a file, and the lines that were read since the last `forget`."""

    def __init__(self, file: Iterator[str]) -> None:
        self._file = file
        self.taken: list[str] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._file)
        self.taken.append(line)
        return line

    def forget(self) -> None:
        """Forget the lines that were read."""
        self.taken = []


def _read_header(path: Path, lines: _Lines, separator: str, encoding: str) -> _Header | None:
    """Return the first line that is not empty as the header; None for an empty file."""
    line = next((line for line in lines if line.strip()), None)
    if line is not None and (excel := _EXCEL_LINE.fullmatch(line)):
        separator = excel[1]
        line = next((line for line in lines if line.strip()), None)
    lines.forget()
    if line is None:
        return None
    row = _single(line, separator)
    if row is not None and len(row) == 1:
        candidates = [_single(line, candidate) for candidate in _SEPARATORS]
        best = max(zip(candidates, _SEPARATORS, strict=True), key=lambda scored: len(scored[0] or ()))
        row, separator = best if best[0] and len(best[0]) > 1 else (row, separator)
    if row is None:
        raise DamagedError(f"{path}: the header holds {_STRAY}")
    names = tuple(name.strip().lower() for name in row)
    while names and not names[-1]:  # a separator at the end of every line
        names = names[:-1]
    columns = ", ".join(names)
    text = f"columns: {columns if len(columns) <= _SHOWN else columns[:_SHOWN] + '…'}"
    if separator != ",":
        text += f"; separated by {_SEPARATORS.get(separator, repr(separator))}"
    if encoding != "utf-8-sig":
        text += f"; encoding {encoding.upper()}"
    if len(set(names)) != len(names):
        raise DamagedError(f"{path}: two columns have the same name: rename one ({text})")
    return _Header(names, separator, text)


def _rows(lines: _Lines, header: _Header) -> Iterator[tuple[list[str], str | None]]:
    """Yield rows, each with a reason if it cannot be read."""
    reader = csv.reader(lines, delimiter=header.separator, strict=True)
    width = len(header.names)
    while True:
        lines.forget()
        try:
            row = next(reader, None)
            valid = True
        except csv.Error:
            row, valid = [], False
        if row is None:
            return
        if valid and (len(lines.taken) == 1 or _is_one_row(row, width, header.separator)):
            if row:
                yield _fit(row, width)
            continue
        for line in lines.taken:
            if line.strip():
                yield _alone(line, width, header.separator)


def _alone(line: str, width: int, separator: str) -> tuple[list[str], str | None]:
    """Parse one line as a row of its own."""
    try:
        row = next(csv.reader([line], delimiter=separator, strict=True), [])
    except csv.Error as error:
        return [], _STRAY if line.count('"') % 2 else f"not CSV: {error}"
    if line.count('"') % 2:
        return [], _STRAY
    return _fit(row, width)


def _fit(row: list[str], width: int) -> tuple[list[str], str | None]:
    while len(row) > width and not row[-1].strip():  # a separator at the end of every line
        row = row[:-1]
    if len(row) != width:
        return row, f"{len(row)} cells, and the header has {width}"
    return row, None


def _is_one_row(row: list[str], width: int, separator: str) -> bool:
    """Return True if a record of several lines is one row, because its lines do not look like rows themselves."""
    if len(row) != width:
        return False
    for index, cell in enumerate(row):
        first, *more = re.split(r"\r\n|\r|\n", cell)
        if not more:
            continue
        *inner, last = (line.count(separator) for line in more)
        if any(count + 1 == width for count in inner):
            return False
        if index + first.count(separator) + 1 == width and last + width - index == width:
            return False
    return True


def _single(line: str, separator: str) -> list[str] | None:
    """Return the cells of one line; None if a quotation mark is not closed."""
    try:
        return next(csv.reader([line], delimiter=separator, strict=True), [])
    except csv.Error:
        return None

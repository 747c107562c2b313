"""A JSON parser for untrusted input, with bounded memory and time and one type of error.

Python's parser raises `RecursionError` for deep nesting, accepts lone surrogates that no file can hold, and
whole numbers that later overflow. Every reader of a JSON file or text calls `parse_json`, so that one `except
ValueError` covers all of these:

    values = read_json(path, limit=1 << 20)
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ppod_data.errors import DamagedError, PpodError
from ppod_data.storage.files import DataPath, read_small

MAX_DEPTH = 64
"""The deepest nesting of objects and lists."""
MAX_CONTAINERS = 1 << 25
"""The most objects and lists of one text; each takes about 60 bytes of memory for as little as two bytes of text."""
MAX_DIGITS = 19
"""The most digits of a whole number: those of 64 bits."""
MAX_RECORD = 64 << 20
"""The most bytes of a record that ppod writes about a run, an evaluation or a merge."""

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: bytes | bytearray | str) -> Any:
    """Return the value of a JSON text. Bytes must be UTF-8.

    Raises:
        ValueError: the text is not JSON, or exceeds the bounds above; the message gives the reason.
    """
    decoded = text.decode("utf-8") if isinstance(text, bytes | bytearray) else text
    if decoded.count("[") + decoded.count("{") > MAX_CONTAINERS:
        raise ValueError(f"more than {MAX_CONTAINERS:,} lists and objects")
    try:
        value = json.loads(decoded, parse_int=_whole_number)
    except RecursionError:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from None
    _check_depth(value)
    if _SURROGATE.search(decoded):
        _check_texts(value)
    return value


def read_json(path: DataPath, *, limit: int = MAX_RECORD, advice: str = "get this file again") -> Any:
    """Return the value of a JSON file of at most `limit` bytes.

    Args:
        path: the file.
        limit: the most bytes.
        advice: the next step for the user, appended to the error message.

    Raises:
        DamagedError: not JSON, or beyond the bounds; names the file.
        OSError: as `open` does.
    """
    data = read_small(path, limit)
    try:
        return parse_json(data)
    except ValueError as error:
        raise DamagedError(f"{path}: not readable as JSON ({error}): {advice}") from error


def read_object(
    path: DataPath, *, limit: int = MAX_RECORD, advice: str = "get this file again"
) -> dict[str, Any]:
    """Return the object in a JSON file. A missing file raises DamagedError; other errors are those of `read_json`."""
    try:
        value = read_json(path, limit=limit, advice=advice)
    except FileNotFoundError as error:
        raise DamagedError(f"{path}: the file is missing: {advice}") from error
    if not isinstance(value, dict):
        raise DamagedError(f"{path}: not a JSON object: {advice}")
    return value


@contextmanager
def record_of(path: DataPath, advice: str = "get this file again") -> Iterator[None]:
    """Convert errors about a record's keys, types and values to a DamagedError that names its file."""
    try:
        yield
    except PpodError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise DamagedError(f"{path}: not a record that ppod wrote ({reason}): {advice}") from error


def _whole_number(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise ValueError(f"a whole number of {len(digits)} digits: more than {MAX_DIGITS}")
    return int(digits)


def _check_depth(value: Any) -> None:
    """Raise ValueError beyond MAX_DEPTH: functions that walk the value later are recursive."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            item
            for holder in level
            if isinstance(holder, dict | list)
            for item in (holder.values() if isinstance(holder, dict) else holder)
            if isinstance(item, dict | list)
        ]
        if not level:
            return
    raise ValueError(f"nested more than {MAX_DEPTH} deep")


def _check_texts(value: Any) -> None:
    """Raise ValueError for a text that is not Unicode, such as half of a surrogate pair."""
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, dict):
        for key, item in value.items():
            key.encode()
            _check_texts(item)
    elif isinstance(value, list):
        for item in value:
            _check_texts(item)

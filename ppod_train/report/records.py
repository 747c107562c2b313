"""JSON files that may be incomplete; missing or truncated parts are left out."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppod_data.storage.files import read_small
from ppod_data.storage.json_reader import MAX_RECORD, parse_json

_MAX_METRICS = 1 << 30
"""Limit in bytes, enough for about a million steps."""

Record = Mapping[str, Any]


def read_json(path: Path) -> Record | None:
    """Return the JSON object in a file; None if the file is missing or incomplete."""
    return _parsed(_text(path, MAX_RECORD)) if path.is_file() else None


def read_metrics(path: Path) -> tuple[Record, ...]:
    """Return the lines of a metrics.jsonl in order of steps; of a repeated step, after a resume, the later line."""
    steps: dict[int, Record] = {}
    if path.is_file():
        for line in _text(path, _MAX_METRICS).splitlines():
            record = _parsed(line)
            if record is not None and isinstance(record.get("step"), int):
                steps[record["step"]] = record
    return tuple(steps[step] for step in sorted(steps))


def part(record: Record, key: str) -> Record:
    """Return the object under `key`; empty if there is none."""
    value = record.get(key)
    return value if isinstance(value, Mapping) else {}


def finite(value: object) -> float | None:
    """Return a finite number, or None for anything else, including NaN and infinities."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _text(path: Path, limit: int) -> str:
    return read_small(path, limit).decode("utf-8", errors="replace")


def _parsed(text: str) -> Record | None:
    try:
        record = parse_json(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None

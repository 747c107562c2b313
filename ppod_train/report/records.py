"""JSON that may be half written or lack a part: what is not whole is left out."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppod_data.storage.files import read_small
from ppod_data.storage.json_reader import MAX_RECORD, parse_json

_MAX_METRICS = 1 << 30
"""Bytes: those of some million steps."""

Record = Mapping[str, Any]


def read_json(path: Path) -> Record | None:
    """The JSON object in a file, or None where there is no whole one."""
    return _parsed(_text(path, MAX_RECORD)) if path.is_file() else None


def read_metrics(path: Path) -> tuple[Record, ...]:
    """The lines of a metrics.jsonl in order of their steps; of a step done again after a resume, the later line."""
    steps: dict[int, Record] = {}
    if path.is_file():
        for line in _text(path, _MAX_METRICS).splitlines():
            record = _parsed(line)
            if record is not None and isinstance(record.get("step"), int):
                steps[record["step"]] = record
    return tuple(steps[step] for step in sorted(steps))


def part(record: Record, key: str) -> Record:
    """The object under `key`; empty where there is none."""
    value = record.get(key)
    return value if isinstance(value, Mapping) else {}


def finite(value: object) -> float | None:
    """A number that can be drawn: None for anything else, NaN and infinities included."""
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

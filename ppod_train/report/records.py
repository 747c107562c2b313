"""JSON that may be half written or lack a part: what is not whole is left out."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]


def read_json(path: Path) -> Record | None:
    """The JSON object in a file, or None where there is no whole one."""
    return _parsed(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else None


def read_metrics(path: Path) -> tuple[Record, ...]:
    """The lines of a metrics.jsonl in order of their steps; of a step done again after a resume, the later line."""
    steps: dict[int, Record] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
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


def _parsed(text: str) -> Record | None:
    try:
        record = json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None

"""ppod's own plain form as CSV, JSON lines or Parquet: one row per comparison. docs/labels.md describes it.

`a` and `b` name the images. `label` states the preferred image (a, b, tie, or the probability of a), or `votes_a` and
`votes_b` count people. `prompt`, `votes`, `annotator`, `dimension` and `license` are optional.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from ppod_data.labels.answers import (
    OVERALL,
    TIE,
    Answer,
    BadRowError,
    Comparison,
    Record,
    Skipped,
    annotator,
    fields,
    image,
    need,
    number,
    shown,
    text,
    whole,
)
from ppod_data.labels.files.spreadsheet_text import unguarded
from ppod_data.labels.formats.rapidata import NO_VOTES

_WORDS = {"a": 1.0, "b": 0.0, "tie": TIE}


def parse(record: Record) -> Iterator[Answer]:
    """Yield the comparison of a row."""
    row = fields(record)
    if _given(row, "votes_a") or _given(row, "votes_b"):
        first, second = (whole(need(row, name), name, 0, 10**9) for name in ("votes_a", "votes_b"))
        if first + second == 0:
            yield Skipped(NO_VOTES)
            return
        label, votes = first / (first + second), first + second
    else:
        label = _label(need(row, "label"))
        votes = whole(row["votes"], "votes", 1) if _given(row, "votes") else 1
    yield Comparison(
        prompt=unguarded(text(row["prompt"], "prompt")) if _given(row, "prompt") else None,
        a=image("a", row.get("a")),
        b=image("b", row.get("b")),
        label=label,
        votes=votes,
        annotator=annotator(row.get("annotator")),
        dimension=text(row["dimension"], "dimension") if _given(row, "dimension") else OVERALL,
        license=text(row["license"], "license") if _given(row, "license") else None,
    )


def _given(row: Mapping[str, Any], name: str) -> bool:
    return row.get(name) not in (None, "")


def _label(value: Any) -> float:
    if isinstance(value, str) and value.strip().lower() in _WORDS:
        return _WORDS[value.strip().lower()]
    try:
        return number(value, "label", 0, 1)
    except BadRowError:
        raise BadRowError(f"label is {shown(value)}: write a, b, tie or the probability of a") from None

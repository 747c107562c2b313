"""Which images and pairs of a data set a page shows: few, spread evenly, and the same ones every time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

_IMAGES_A_PROMPT = 4
"""At least this many of a prompt, where it has them: what is compared is images of one prompt."""
_MAX_PAIRS = 300
"""Of one table."""

Pair = tuple[int, int, float, float | None, str, int | None]
"""Rows of chosen and rejected, label, margin, source, votes."""
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is shown: rows of the samples, ascending, and pairs among them by the name of their table."""

    rows: list[int]
    pairs: dict[str, list[Pair]]


def select(
    samples: Sequence[Mapping[str, Any]],
    scores: Mapping[str, NDArray[np.float64]],
    pairs: Mapping[str, Sequence[Mapping[str, Any]]],
    max_images: int,
) -> Selection:
    """At most `max_images` images of evenly chosen prompts: half of them from pairs, the others by their score.

    A prompt's images are spread from the best to the worst by the first score table. Pairs are spread over their
    margins.
    """
    rows_of: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        rows_of.setdefault(sample["prompt_id"], []).append(i)
    rows_of = {name: rows_of[name] for name in spread(list(rows_of), max(1, max_images // _IMAGES_A_PROMPT))}
    known = {samples[i]["sample_id"]: i for rows in rows_of.values() for i in rows}
    tables = {name: _pairs(rows, known, rows_of) for name, rows in pairs.items()}
    shown: dict[int, None] = {}
    for table in tables.values():
        for chosen, rejected, *_ in spread(table, max_images // 4 // max(1, len(tables))):
            shown |= {chosen: None, rejected: None}
    rank = next(iter(scores.values()), np.full(len(samples), math.nan))
    spread_rows = [
        spread(sorted(rows, key=lambda i: (-rank[i] if math.isfinite(rank[i]) else math.inf, i)), max_images)
        for rows in rows_of.values()
    ]
    room = max(0, max_images - len(shown))
    for rows in spread_rows:
        shown |= dict.fromkeys(spread(rows, room // len(spread_rows)))
    for i in known.values():  # what is left of the room, where pairs and scores chose the same images
        if len(shown) >= max_images:
            break
        shown.setdefault(i)
    chosen_rows = sorted(shown)[:max_images]
    here = set(chosen_rows)
    return Selection(
        rows=chosen_rows,
        pairs={
            name: spread([pair for pair in table if pair[0] in here and pair[1] in here], _MAX_PAIRS)
            for name, table in tables.items()
        },
    )


def spread(items: Sequence[_T], count: int) -> list[_T]:
    """At most `count` of the items at even distances, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    if count <= 1:
        return list(items[:count])
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _pairs(
    rows: Sequence[Mapping[str, Any]], known: Mapping[str, int], prompts: Mapping[str, Any]
) -> list[Pair]:
    """The pairs of the chosen prompts, by prompt and then by margin, the widest first."""
    place = {name: i for i, name in enumerate(prompts)}
    here = [row for row in rows if row["chosen_id"] in known and row["rejected_id"] in known]
    here.sort(key=lambda row: (place.get(row["prompt_id"], -1), -(row["margin"] or 0.0), row["pair_id"]))
    return [
        (
            known[row["chosen_id"]],
            known[row["rejected_id"]],
            round(float(row["label"]), 4),
            row["margin"],
            row["source"],
            row["votes"],
        )
        for row in here
    ]

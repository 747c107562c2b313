"""Selection of the images and pairs that a page shows: few, evenly spread, and deterministic."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

_IMAGES_A_PROMPT = 4
"""The fewest images of a prompt, if it has them, since images of one prompt are compared."""
_MAX_PAIRS = 300
"""The most pairs of one table."""

Pair = tuple[int, int, float, float | None, str, int | None]
"""(row of chosen, row of rejected, label, margin, source, votes)."""
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Rows of the samples to show, ascending, and pairs among them by table."""

    rows: list[int]
    pairs: dict[str, list[Pair]]


def select(
    samples: Sequence[Mapping[str, Any]],
    scores: Mapping[str, NDArray[np.float64]],
    pairs: Mapping[str, Sequence[Mapping[str, Any]]],
    max_images: int,
) -> Selection:
    """Select at most `max_images` images of evenly chosen prompts: half of them from pairs, the rest by score.

    A prompt's images are spread from the best to the worst by the first score table. Pairs are spread over
    their margins.
    """
    rows_of: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        rows_of.setdefault(sample["prompt_id"], []).append(i)
    rows_of = {name: rows_of[name] for name in spread(list(rows_of), max(1, max_images // _IMAGES_A_PROMPT))}
    row_of = {samples[i]["sample_id"]: i for rows in rows_of.values() for i in rows}
    tables = {name: _pairs(rows, row_of, rows_of) for name, rows in pairs.items()}
    selected: dict[int, None] = {}
    for table in tables.values():
        for chosen, rejected, *_ in spread(table, max_images // 4 // max(1, len(tables))):
            selected |= {chosen: None, rejected: None}
    rank = next(iter(scores.values()), np.full(len(samples), math.nan))
    spread_rows = [
        spread(sorted(rows, key=lambda i: (-rank[i] if math.isfinite(rank[i]) else math.inf, i)), max_images)
        for rows in rows_of.values()
    ]
    room = max(0, max_images - len(selected))
    for rows in spread_rows:
        selected |= dict.fromkeys(spread(rows, room // len(spread_rows)))
    for i in row_of.values():  # fill the room left if pairs and scores chose the same images
        if len(selected) >= max_images:
            break
        selected.setdefault(i)
    rows_shown = sorted(selected)[:max_images]
    is_shown = set(rows_shown)
    return Selection(
        rows=rows_shown,
        pairs={
            name: spread([pair for pair in table if pair[0] in is_shown and pair[1] in is_shown], _MAX_PAIRS)
            for name, table in tables.items()
        },
    )


def spread(items: Sequence[_T], count: int) -> list[_T]:
    """Return at most `count` of the items at even distances, including the first and the last."""
    if len(items) <= count:
        return list(items)
    if count <= 1:
        return list(items[:count])
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _pairs(
    rows: Sequence[Mapping[str, Any]], row_of: Mapping[str, int], prompts: Mapping[str, Any]
) -> list[Pair]:
    """Return the pairs of the chosen prompts, sorted by prompt, then by margin, the widest first."""
    prompt_order = {name: i for i, name in enumerate(prompts)}
    selected = [row for row in rows if row["chosen_id"] in row_of and row["rejected_id"] in row_of]
    selected.sort(
        key=lambda row: (prompt_order.get(row["prompt_id"], -1), -(row["margin"] or 0.0), row["pair_id"])
    )
    return [
        (
            row_of[row["chosen_id"]],
            row_of[row["rejected_id"]],
            round(float(row["label"]), 4),
            row["margin"],
            row["source"],
            row["votes"],
        )
        for row in selected
    ]

"""What a data set holds, in figures: counts, bytes, histograms of scores, and how far its tables agree.

All of it is plain values that go into JSON; docs/formats.md names none of it, since it is computed, not stored.

Shapes: M samples in the order of the spec, K images of one prompt.
"""

import json
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppod_data.dataset import Dataset
from ppod_data.shards import committed_shards

BINS = 24
MAX_COMPARED = 512
"""Images of one prompt that are compared with each other: all pairs of more would take too long."""
_FOLDERS = ("samples", "trajectories", "scores", "labels", "pairs", "log_probs")
_QUANTILES = {"p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95}
_WIDEST = 1e300  # wider ranges have no edges in floating point
_SPARKS = "▁▂▃▄▅▆▇█"


def overview(dataset: Dataset) -> dict[str, Any]:
    """The figures of a data set. Reads the score and pair tables, and the ids of the samples; no images."""
    shards = committed_shards(dataset.root)
    ids = dataset.samples(["sample_id", "prompt_id"])
    order = {sample_id: row for row, sample_id in enumerate(ids["sample_id"].to_pylist())}
    prompts = _numbered(ids["prompt_id"].to_pylist())
    values = {name: aligned_scores(dataset, name, order) for name in dataset.score_names()}
    return {
        "fingerprint": dataset.spec.fingerprint,
        "license": dataset.manifest["license"],
        "num_samples": ids.num_rows,
        "num_flagged": num_flagged(dataset),
        "num_shards": len(shards),
        "missing_shards": dataset.missing_shards(),
        "bytes": {folder: _size(dataset.root / folder) for folder in _FOLDERS},
        "scores": {name: _score_figures(dataset, name, column) for name, column in values.items()},
        "labels": {name: dataset.labels(name, ["label"]).num_rows for name in dataset.label_names()},
        "pairs": {name: _pair_figures(dataset, name, order, values) for name in dataset.pair_names()},
        "agreement": [
            {"a": a, "b": b, **agreement(values[a], values[b], prompts)} for a, b in combinations(values, 2)
        ],
    }


def num_flagged(dataset: Dataset) -> int | None:
    """Images that the safety checker flagged; None where none ran."""
    if dataset.spec.safety_checker is None:
        return None
    flags: list[bool] = dataset.samples(["flagged"])["flagged"].to_pylist()
    return sum(flags)


def aligned_scores(dataset: Dataset, name: str, order: Mapping[str, int]) -> NDArray[np.float64]:
    """The scores of a table in the samples' order, [M]; NaN where a sample was not scored, or it failed."""
    table = dataset.scores(name)
    column = np.full(len(order), math.nan)
    for sample_id, score in zip(table["sample_id"].to_pylist(), table["score"].to_pylist(), strict=True):
        if score is not None and sample_id in order:
            column[order[sample_id]] = score
    return column


def histogram(values: NDArray[np.float64], bins: int = BINS) -> dict[str, list[Any]]:
    """Counts in `bins` equal parts of the finite values' range: {"edges": bins + 1 numbers, "counts"}.

    One part where all values are equal; none where there is no finite value.
    """
    known = values[np.isfinite(values)]
    if not len(known):
        return {"edges": [], "counts": []}
    low, high = float(known.min()), float(known.max())
    if not 0 < high - low < _WIDEST:
        return {"edges": [low, high], "counts": [len(known)]}
    counts, edges = np.histogram(known, bins=bins, range=(low, high))
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def sparkline(counts: Sequence[int]) -> str:
    """A histogram as one line of text; a bin that holds anything is never blank."""
    top = max(counts, default=0)
    return "".join(" " if not n else _SPARKS[math.ceil(n / top * len(_SPARKS)) - 1] for n in counts)


def agreement(
    a: NDArray[np.float64], b: NDArray[np.float64], prompts: NDArray[np.int64]
) -> dict[str, float | int | None]:
    """How far two score columns [M] agree, on the samples that have both; `prompts` [M] numbers their prompts.

    "pearson" and "spearman" are correlations over all samples. "same_order" is what matters for preferences: of the
    "compared" pairs of images of one prompt that both scorers tell apart, the share in which both prefer the same
    image. At most `MAX_COMPARED` images of a prompt take part in it. None where it is not defined.
    """
    both = np.isfinite(a) & np.isfinite(b)
    a, b, prompts = a[both], b[both], prompts[both]
    same, compared = 0, 0
    for rows in _groups(prompts):
        product = _signs(a[rows[:MAX_COMPARED]]) * _signs(b[rows[:MAX_COMPARED]])
        same += int((product > 0).sum()) // 2  # every pair is there twice
        compared += int((product != 0).sum()) // 2
    return {
        "rows": len(a),
        "pearson": _correlation(a, b),
        "spearman": _correlation(_ranks(a), _ranks(b)),
        "same_order": same / compared if compared else None,
        "compared": compared,
    }


def _score_figures(dataset: Dataset, name: str, column: NDArray[np.float64]) -> dict[str, Any]:
    table = dataset.scores(name)
    known = column[np.isfinite(column)]
    figures: dict[str, Any] = {
        "rows": table.num_rows,
        "failed": table["score"].null_count,
        "scorer": table["scorer"][0].as_py(),
        "revision": table["revision"][0].as_py(),
    }
    if not len(known):
        return (
            figures
            | dict.fromkeys(("mean", "std", "min", "max", *_QUANTILES))
            | {"histogram": histogram(known)}
        )
    quantiles = np.quantile(known, list(_QUANTILES.values())).tolist()
    return (
        figures
        | {"mean": float(known.mean()), "std": float(known.std())}
        | {"min": float(known.min()), "max": float(known.max())}
        | dict(zip(_QUANTILES, quantiles, strict=True))
        | {"histogram": histogram(known)}
    )


def _pair_figures(
    dataset: Dataset, name: str, order: Mapping[str, int], values: Mapping[str, NDArray[np.float64]]
) -> dict[str, Any]:
    table = dataset.pairs(name)
    made = json.loads((table.schema.metadata or {}).get(b"ppod", b"{}"))
    chosen = np.array([order.get(one, -1) for one in table["chosen_id"].to_pylist()], np.int64)
    rejected = np.array([order.get(one, -1) for one in table["rejected_id"].to_pylist()], np.int64)
    here = (chosen >= 0) & (rejected >= 0)
    margins = np.array([math.nan if m is None else m for m in table["margin"].to_pylist()], np.float64)
    return {
        "rows": table.num_rows,
        "prompts": len(set(table["prompt_id"].to_pylist())),
        **{key: made.get(key) for key in ("reward", "strategy", "seed")},
        "sources": sorted(set(table["source"].to_pylist())),
        "margin": histogram(margins),
        "agrees_with": {
            score: _preferred(column[chosen[here]], column[rejected[here]])
            for score, column in values.items()
        },
    }


def _preferred(chosen: NDArray[np.float64], rejected: NDArray[np.float64]) -> dict[str, float | int | None]:
    """On how many pairs a scorer prefers the chosen image: of those that it tells apart."""
    known = np.isfinite(chosen) & np.isfinite(rejected)
    higher = int((chosen[known] > rejected[known]).sum())
    told_apart = int((chosen[known] != rejected[known]).sum())
    return {"share": higher / told_apart if told_apart else None, "pairs": told_apart}


def _numbered(names: Sequence[str]) -> NDArray[np.int64]:
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], np.int64)


def _groups(labels: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The rows of each label, in their order."""
    if not len(labels):
        return []
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def _signs(values: NDArray[np.float64]) -> NDArray[np.int8]:
    """[K, K]: whether the row's value is above (1), equal to (0) or below (-1) the column's."""
    above: NDArray[np.int8] = (values[:, None] > values[None, :]).astype(np.int8)
    return above - above.T


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 0; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: NDArray[np.float64] = (last - (counts + 1) / 2)[inverse]
    return ranks


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    """Pearson's; None where one of them does not vary."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    a, b = a - a.mean(), b - b.mean()
    return float(np.clip((a @ b) / math.sqrt((a @ a) * (b @ b)), -1.0, 1.0))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

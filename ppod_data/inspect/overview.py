"""Statistics of a data set: counts, bytes, histograms of scores, and the agreement of its tables.

The results are plain values for JSON. They are computed, not stored, so docs/formats.md does not list them. No
table is held in memory as a whole; of each score and each margin, only its number is.

Shapes: M samples of the spec in order, generated or not; K images of one prompt.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from ppod_data.dataset.dataset import Dataset
from ppod_data.labels.figures import label_figures
from ppod_data.storage.files import DataPath, sizes_under
from ppod_data.support.formatting import UNKNOWN

BINS = 24
MAX_COMPARED = 512
"""Images of one prompt that are compared with each other; all pairs of more would take too long."""
_FOLDERS = ("samples", "trajectories", "scores", "labels", "pairs", "log_probs")
_QUANTILES = {"p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95}
_WIDEST = 1e300  # wider ranges have no edges in floating point
_SPARKS = "▁▂▃▄▅▆▇█"


def overview(dataset: Dataset) -> dict[str, Any]:
    """Return the statistics of a data set. Reads score and pair tables, but no file of samples or trajectories."""
    shards = dataset.shards()
    columns = {name: read_scores(dataset, name) for name in dataset.score_names()}
    values = {name: column.values for name, column in columns.items()}
    spec = dataset.spec
    prompts = np.fromiter((prompt for prompt, _ in spec.places()), np.int64, spec.num_samples)
    return {
        "fingerprint": dataset.spec.fingerprint,
        "license": dataset.manifest["license"],
        "num_samples": dataset.num_samples,
        "num_flagged": num_flagged(dataset),
        "num_shards": len(shards),
        "missing_shards": dataset.missing_shards(),
        "bytes": {folder: _size(dataset.root / folder) for folder in _FOLDERS},
        "scores": {name: _score_figures(column) for name, column in columns.items()},
        "labels": label_figures(dataset),
        "pairs": {name: _pair_figures(dataset, name, values) for name in dataset.pair_names()},
        "agreement": [
            {"a": a, "b": b, **agreement(values[a], values[b], prompts)} for a, b in combinations(values, 2)
        ],
    }


def num_flagged(dataset: Dataset) -> int | None:
    """Return the number of images that the safety checker flagged, or None without a checker."""
    if dataset.spec.safety_checker is None:
        return None
    flags: list[bool] = dataset.samples(["flagged"])["flagged"].to_pylist()
    return sum(flags)


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreColumn:
    """A table of scores without its texts."""

    values: NDArray[np.float64]
    """[M]; NaN for samples that were not scored or failed."""
    rows: int
    failed: int
    made_by: list[tuple[str, str]]
    """(scorer, revision): one entry unless tables were mixed."""


def read_scores(dataset: Dataset, name: str) -> ScoreColumn:
    """Return the scores of a table in the order of the samples, read part by part."""
    values = np.full(dataset.spec.num_samples, math.nan)
    rows = failed = 0
    made_by: set[tuple[str, str]] = set()
    for shard in dataset.score_parts(name):
        table = dataset.score_part(name, shard, ["sample_id", "score", "scorer", "revision"])
        numbers = dataset.numbers.find(table["sample_id"])
        scores = table["score"].to_numpy()
        values[numbers[numbers >= 0]] = scores[numbers >= 0]
        rows += table.num_rows
        failed += table["score"].null_count
        made_by |= set(zip(table["scorer"].to_pylist(), table["revision"].to_pylist(), strict=True))
    return ScoreColumn(values=values, rows=rows, failed=failed, made_by=sorted(made_by))


def histogram(values: NDArray[np.float64], bins: int = BINS) -> dict[str, list[Any]]:
    """Count the finite values in `bins` equal intervals of their range: {"edges": bins + 1 numbers, "counts"}.

    If all values are equal there is one interval; without finite values there is none.
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
    """Return a histogram as one line of text. Only empty bins are blank."""
    top = max(counts, default=0)
    return "".join(" " if not n else _SPARKS[math.ceil(n / top * len(_SPARKS)) - 1] for n in counts)


def agreement(
    a: NDArray[np.float64], b: NDArray[np.float64], prompts: NDArray[np.int64]
) -> dict[str, float | int | None]:
    """Return the agreement of two score columns [M] on samples that have both; `prompts` [M] numbers their prompts.

    "pearson" and "spearman" are correlations over all samples. "same_order" matters for preferences: of the
    "compared" pairs of images of one prompt that both scorers distinguish, the share in which both prefer the
    same image. At most `MAX_COMPARED` images of a prompt are compared. Undefined values are None.
    """
    both = np.isfinite(a) & np.isfinite(b)
    a, b, prompts = a[both], b[both], prompts[both]
    same, compared = 0, 0
    for rows in _groups(prompts):
        product = _signs(a[rows[:MAX_COMPARED]]) * _signs(b[rows[:MAX_COMPARED]])
        same += int((product > 0).sum()) // 2  # every pair is counted twice
        compared += int((product != 0).sum()) // 2
    return {
        "rows": len(a),
        **_correlations(a, b),
        "same_order": same / compared if compared else None,
        "compared": compared,
    }


def _score_figures(column: ScoreColumn) -> dict[str, Any]:
    known = column.values[np.isfinite(column.values)]
    scorer, revision = column.made_by[0] if column.made_by else (UNKNOWN, UNKNOWN)
    figures: dict[str, Any] = {
        "rows": column.rows,
        "failed": column.failed,
        "scorer": scorer,
        "revision": revision,
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


def _pair_figures(dataset: Dataset, name: str, values: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    made = dataset.pairs_made(name)
    margins = [np.empty(0)]
    prompts: set[str] = set()
    sources: set[str] = set()
    preferred = {score: np.zeros(2, np.int64) for score in values}
    for table in dataset.iter_pairs(name, ["prompt_id", "chosen_id", "rejected_id", "margin", "source"]):
        chosen, rejected = (dataset.numbers.find(table[column]) for column in ("chosen_id", "rejected_id"))
        here = (chosen >= 0) & (rejected >= 0)
        for score, column in values.items():
            preferred[score] += _preferred(column[chosen[here]], column[rejected[here]])
        margins.append(table["margin"].to_numpy())
        prompts |= set(pc.unique(table["prompt_id"]).to_pylist())
        sources |= set(pc.unique(table["source"]).to_pylist())
    margin = np.concatenate(margins)
    return {
        "rows": len(margin),
        "prompts": len(prompts),
        **{key: made.get(key) for key in ("reward", "strategy", "seed")},
        "sources": sorted(sources),
        "margin": histogram(margin),
        "agrees_with": {
            score: {"share": int(higher) / int(told_apart) if told_apart else None, "pairs": int(told_apart)}
            for score, (higher, told_apart) in preferred.items()
        },
    }


def _preferred(chosen: NDArray[np.float64], rejected: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return (pairs whose chosen image a scorer prefers, pairs that it distinguishes)."""
    known = np.isfinite(chosen) & np.isfinite(rejected)
    higher = int((chosen[known] > rejected[known]).sum())
    told_apart = int((chosen[known] != rejected[known]).sum())
    return np.array([higher, told_apart], np.int64)


def _groups(labels: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the rows of each label in order."""
    if not len(labels):
        return []
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def _signs(values: NDArray[np.float64]) -> NDArray[np.int8]:
    """Return [K, K]: 1, 0 or -1 if the row's value is above, equal to or below the column's."""
    above: NDArray[np.int8] = (values[:, None] > values[None, :]).astype(np.int8)
    return above - above.T


def _correlations(a: NDArray[np.float64], b: NDArray[np.float64]) -> dict[str, float | None]:
    """Return Pearson's and Spearman's correlation; None if a or b does not vary."""
    from scipy.stats import pearsonr, spearmanr  # takes half a second, and is needed for two scorers only

    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return {"pearson": None, "spearman": None}
    values = {"pearson": float(pearsonr(a, b).statistic), "spearman": float(spearmanr(a, b).statistic)}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _size(folder: DataPath) -> int:
    return sum(sizes_under(folder).values())

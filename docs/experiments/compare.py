"""Intervals of means over runs, and tests of runs that are paired by seed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Json = dict[str, Any]
MIN_RUNS = 3
"""Runs from which an interval is given."""


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % t-interval of a mean; infinite for fewer values than MIN_RUNS."""
    if len(values) < MIN_RUNS:
        return -np.inf, np.inf
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def differences(pairs: Sequence[tuple[str, str, Json, Json]]) -> Json:
    """Return name -> prompt -> the first runs' reward minus the second's, paired over seeds, from (name, prompt, …)."""
    cells = []
    for name, prompt, ours, theirs in pairs:
        seeds = [seed for seed in ours if seed in theirs]
        if len(seeds) >= MIN_RUNS:
            gains = np.array([ours[seed]["reward_mean"] - theirs[seed]["reward_mean"] for seed in seeds])
            low, high = interval(gains)
            difference = {"difference": float(gains.mean()), "low": low, "high": high}
            cells.append((name, prompt, difference, float(stats.ttest_1samp(gains, 0).pvalue)))
    found: Json = {}
    for (name, prompt, difference, _), p in zip(cells, holm([one[3] for one in cells]), strict=True):
        found.setdefault(name, {})[prompt] = {**difference, "p": p}
    return found


def wins(pairs: Sequence[tuple[str, str, Json, Json]]) -> Json:
    """Return name -> how many of all runs are above the other of the same prompt and seed, with the sign test's p."""
    gains: dict[str, list[float]] = {}
    for name, _, ours, theirs in pairs:
        shared = [seed for seed in ours if seed in theirs]
        gains.setdefault(name, []).extend(
            ours[seed]["reward_mean"] - theirs[seed]["reward_mean"] for seed in shared
        )
    counts = {name: (sum(gain > 0 for gain in each), len(each)) for name, each in gains.items()}
    corrected = holm([float(stats.binomtest(won, of).pvalue) for won, of in counts.values()])
    return {
        name: {"won": won, "of": of, "p": p}
        for (name, (won, of)), p in zip(counts.items(), corrected, strict=True)
    }


def holm(values: Sequence[float]) -> list[float]:
    """Return Holm's corrected p-values (Scandinavian Journal of Statistics 6, 1979), in the order given."""
    order = np.argsort(values)
    factors = len(values) - np.arange(len(values))
    corrected = np.minimum(1, np.maximum.accumulate(np.array(values)[order] * factors))
    return [float(corrected[place]) for place in np.argsort(order)]

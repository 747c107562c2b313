"""Statistics of an evaluation: means with intervals, paired differences, diversity.

Shapes: K images of a prompt, D numbers that describe an image.

Every interval describes the noise: the spread over other seeds on the same prompts. It does not cover other prompts or
other training runs. The error of the mean over several prompts is therefore the spread of the images within their
prompt (a stratified sample), and differences between prompts do not widen the interval.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from ppod_data.support.statistics import Interval, wilson

FloatArray = npt.NDArray[np.float64]

LEVEL = 0.95
FEWEST = 5
"""Minimum number of images for an interval, because the spread of four images predicts that of others poorly."""
_CHUNK_ELEMENTS = 4_000_000  # distances at a time: 32 MB


class _Spread(NamedTuple):
    """Contribution of some values to the squared error of a mean, and its degrees of freedom."""

    squared_error: float
    freedom: int


def mean_interval(groups: Sequence[FloatArray]) -> Interval:
    """Return the mean of all values of the groups and its 95 % interval by Student's t.

    `groups` holds one array [K] per prompt; K may differ, and may be 0. Every value has the same weight. The
    squared error is Σ_g (K_g / N)² s_g² / K_g with s_g² the variance within group g, and its degrees of freedom are
    Satterthwaite's (1946). Groups of one value have no spread of their own, so they are pooled; a single one is
    pooled with the smallest other group. Pooling makes the interval too wide rather than too narrow (Cochran 1977,
    5A.12). Below `FEWEST` values there is no interval.
    """
    known = [group for group in groups if len(group)]
    if not known:
        return Interval(None, None, None)
    values = np.concatenate(known)
    mean = float(values.mean())
    if len(values) < FEWEST:
        return Interval(mean, None, None)
    ordered = sorted(known, key=len)
    num_single = sum(len(group) == 1 for group in ordered)
    together = num_single if num_single != 1 else 2
    strata = ([np.concatenate(ordered[:together])] if together else []) + ordered[together:]
    spreads = [
        _Spread(len(group) / len(values) ** 2 * float(group.var(ddof=1)), len(group) - 1) for group in strata
    ]
    squared_error = sum(spread.squared_error for spread in spreads)
    if squared_error == 0:
        return Interval(mean, mean, mean)
    freedom = squared_error**2 / sum(spread.squared_error**2 / spread.freedom for spread in spreads)
    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * math.sqrt(squared_error)
    return Interval(mean, mean - half, mean + half)


def win_rate(after: FloatArray, before: FloatArray) -> Interval:
    """Return the share of images [K] with a higher reward than the same seed before; ties count half.

    The share is unknown without images.
    """
    assert after.shape == before.shape
    if not len(after):
        return Interval(None, None, None)
    return wilson(float(np.sum(after > before) + 0.5 * np.sum(after == before)), len(after))


def mean_pairwise_distance(features: npt.NDArray[np.float32]) -> float | None:
    """Average the root-mean-square difference of `features` [K, D] over all pairs i < j; None if K < 2."""
    return float(distances_to_others(features).mean()) if len(features) > 1 else None


def distances_to_others(features: npt.NDArray[np.float32]) -> FloatArray:
    """Return the mean root-mean-square difference [K] of each row of `features` [K, D] to the other rows, K > 1.

    Row blocks bound the memory to one [block, K] matrix of distances.
    """
    num_images = len(features)
    rows = features.astype(np.float64)
    rows -= rows.mean(axis=0)  # distances do not change; the products below lose fewer digits
    squares = (rows * rows).sum(axis=1)
    block = max(1, _CHUNK_ELEMENTS // num_images)
    totals = np.empty(num_images)
    for start in range(0, num_images, block):
        part = slice(start, start + block)
        squared = squares[part, None] + squares[None, :] - 2.0 * rows[part] @ rows.T
        np.maximum(squared, 0.0, out=squared)
        squared[np.arange(len(squared)), np.arange(start, start + len(squared))] = 0.0
        totals[part] = np.sqrt(squared / rows.shape[1]).sum(axis=1)
    return totals / (num_images - 1)

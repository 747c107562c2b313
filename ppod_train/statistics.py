"""The statistics of an evaluation: means with intervals, paired differences, diversity. NumPy only.

Shapes: K images of a prompt, R bootstrap resamples, D numbers that describe an image.

Every interval speaks of the noise: what other seeds would give on these same prompts. It says nothing of
other prompts or of other training runs. So the mean over several prompts is resampled within each prompt (a
stratified bootstrap), and its interval is not widened by the prompts' differing from each other.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

LEVEL = 0.95
Z_95 = 1.959963984540054  # the 97.5 % point of the standard normal
NUM_RESAMPLES = 2000
_CHUNK_ELEMENTS = 4_000_000  # indices drawn at a time: 32 MB


class Interval(NamedTuple):
    """An estimate and the ends of its 95 % interval, in the unit of what was measured."""

    value: float
    low: float
    high: float


def resampled_means(values: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Means of `NUM_RESAMPLES` samples drawn from `values` [K] with replacement: [R]."""
    assert values.ndim == 1 and len(values) > 0
    size = len(values)
    rows = max(1, _CHUNK_ELEMENTS // size)
    counts = [min(rows, NUM_RESAMPLES - start) for start in range(0, NUM_RESAMPLES, rows)]
    return np.concatenate([values[rng.integers(0, size, size=(n, size))].mean(axis=1) for n in counts])


def bootstrap_means(groups: Sequence[FloatArray], *, seed: int) -> tuple[list[Interval], Interval]:
    """The mean of each group and of all values together, with 95 % percentile bootstrap intervals.

    `groups` holds one array [K] a prompt (K may differ, at least 1). The overall mean weighs every image the
    same; its resamples are drawn within each group. The same seed gives the same intervals.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    total = sum(len(group) for group in groups)
    overall = np.zeros(NUM_RESAMPLES)
    intervals = []
    for group in groups:
        means = resampled_means(group, rng)
        overall += means * (len(group) / total)
        intervals.append(_percentiles(float(group.mean()), means))
    return intervals, _percentiles(float(np.concatenate(groups).mean()), overall)


def _percentiles(value: float, means: FloatArray) -> Interval:
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def wilson(successes: float, trials: int) -> Interval:
    """A proportion with its 95 % Wilson score interval (Wilson 1927), which stays sensible at 0 and 1.

    `successes` may count halves: outcomes between 0 and 1 vary less than the binomial that the interval
    assumes, so it is then too wide rather than too narrow.
    """
    assert 0 <= successes <= trials and trials > 0
    share, z2 = successes / trials, Z_95 * Z_95
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z_95 * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials)) / (1 + z2 / trials)
    return Interval(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def win_rate(after: FloatArray, before: FloatArray) -> Interval:
    """Share of images [K] whose reward passes that of the same seed before; a tie counts one half."""
    assert after.shape == before.shape
    return wilson(float(np.sum(after > before) + 0.5 * np.sum(after == before)), len(after))


def mean_pairwise_distance(features: npt.NDArray[np.float32]) -> float | None:
    """Mean over all pairs i < j of the root-mean-square difference of `features` [K, D]; None where K < 2.

    Row blocks bound the memory to one [block, K] matrix of distances.
    """
    num_images = len(features)
    if num_images < 2:
        return None
    rows = features.astype(np.float64)
    rows -= rows.mean(axis=0)  # distances do not change; the products below lose fewer digits
    squares = (rows * rows).sum(axis=1)
    block = max(1, _CHUNK_ELEMENTS // num_images)
    total = 0.0
    for start in range(0, num_images, block):
        part = slice(start, start + block)
        squared = squares[part, None] + squares[None, :] - 2.0 * rows[part] @ rows.T
        np.maximum(squared, 0.0, out=squared)
        squared[np.arange(len(squared)), np.arange(start, start + len(squared))] = 0.0
        total += float(np.sqrt(squared / rows.shape[1]).sum())
    return total / (num_images * (num_images - 1))

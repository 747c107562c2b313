"""Weighted sums of score tables.

    RewardSum({"image-reward": 0.7, "aesthetic": 0.3}, normalise="group")

Legend: K scored images of one prompt, R rewards.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ppod_data.errors import ConfigError

NORMALISATIONS = ("group", "wins")
_TERMS = {None: "{}", "group": "z({})", "wins": "wins({})"}
"""How a name of a sum shows a normalised reward."""
_ROUNDING = 1e-7
"""Of the largest score: a smaller standard deviation is fp32 rounding, and the scores are equal."""

_DECIMALS = 12
"""Of a normalised sum, so that rounding makes no preference of a tie."""


@dataclass(frozen=True)
class RewardSum:
    """A weighted sum of score tables; the score of an image that lacks one of them is missing.

    >>> from ppod_data import RewardSum, rank_pairs, score
    >>> _ = score("data", "scenes-check")
    >>> both = RewardSum({"scenes": 0.7, "scenes-check": 0.3}, normalise="group")
    >>> rank_pairs("data", both, name="both", strategy="all").num_ties
    0
    """

    weights: Mapping[str, float]
    """Score table -> weight."""
    normalise: str | None = None
    """`group`: each reward is normalised within each prompt's images (mean 0, standard deviation 1) before it is
    weighted, so that the reward with the wider spread does not decide alone (GDPO). `wins`: each score is replaced by
    the share of the prompt's other images with a lower score, the pairwise win rate. None: the scores as they are."""

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if not math.isfinite(weight) or weight == 0:
                raise ConfigError(f"the weight of {name} is {weight}: it must be a number other than 0")
        if not self.weights:
            raise ConfigError("no reward to rank by: give one")
        if self.normalise not in (None, *NORMALISATIONS):
            raise ConfigError(f"normalise {self.normalise!r} is unknown: choose {', '.join(NORMALISATIONS)}")
        object.__setattr__(
            self, "weights", {name: float(self.weights[name]) for name in sorted(self.weights)}
        )

    def __str__(self) -> str:
        """Return the sum in words: "0.3*aesthetic+0.7*image-reward", "0.3*z(aesthetic)+0.7*z(image-reward)"."""
        return name_sum(self.weights, _TERMS[self.normalise])

    def combine(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sum [K] of the scores [K, R] of one prompt's images."""
        total = np.zeros(len(scores))
        with np.errstate(over="ignore", invalid="ignore"):
            for column, weight in zip(scores.T, self.weights.values(), strict=True):
                total += weight * self._normalised(column)
        return total if self.normalise is None else np.round(total, _DECIMALS)

    def _normalised(self, column: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.normalise == "group":
            return normalised(column)
        return column if self.normalise is None else win_rates(column)


def name_sum(weights: Mapping[str, float], term: str = "{}") -> str:
    """Return a weighted sum in words; `term` shows one reward."""
    return "+".join(f"{weight!r}*{term.format(name)}" for name, weight in weights.items())


def normalised(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (scores − mean) / standard deviation [K]; zeros where all scores are equal up to rounding."""
    centred: NDArray[np.float64] = scores - scores.mean()
    deviation = math.sqrt(float((centred**2).mean()))
    if not deviation > _ROUNDING * float(np.abs(scores).max()):
        return np.zeros(len(scores))
    return centred / deviation


def win_rates(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share [K] of the other scores that each score exceeds; equal scores count half.

    >>> win_rates(np.array([0.1, 7.0, 0.1, 0.2]))
    array([0.16666667, 1.        , 0.16666667, 0.66666667])
    """
    if len(scores) < 2:
        return np.zeros(len(scores))
    ordered = np.sort(scores)
    lower = np.searchsorted(ordered, scores, side="left")
    tied = np.searchsorted(ordered, scores, side="right") - lower - 1
    rates: NDArray[np.float64] = (lower + tied / 2) / (len(scores) - 1)
    return rates

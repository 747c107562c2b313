"""Estimates with 95 % intervals.

Example:
    >>> wilson(8, 10)
    Interval(value=0.8, low=0.4901624715366418, high=0.9433178228456803)
"""

import math
from dataclasses import dataclass

Z_95 = 1.959963984540054
"""The 97.5 % point of the standard normal distribution."""


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its 95 % interval, in the unit of the measured quantity; None where not known."""

    value: float | None
    low: float | None
    high: float | None


def wilson(successes: float, trials: int) -> Interval:
    """Return a proportion with its 95 % Wilson score interval (Wilson 1927), which stays sensible at 0 and 1.

    `successes` may count halves. Outcomes between 0 and 1 vary less than the binomial that the interval assumes, so
    the interval is then too wide rather than too narrow.
    """
    assert 0 <= successes <= trials and trials > 0
    share, z2 = successes / trials, Z_95 * Z_95
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z_95 * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials)) / (1 + z2 / trials)
    return Interval(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))

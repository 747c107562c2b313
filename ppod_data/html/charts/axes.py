"""Ranges, ticks and numbers of axes."""

import math
from collections.abc import Callable

from ppod_data.support.formatting import along

LEAST_SPAN = 0.05
"""Minimum span of an axis as a share of the largest value, so that rounding does not look like a rise."""
Format = Callable[[float | None], str]


def span(low: float, high: float, least: float) -> tuple[float, float]:
    """Return the ends of an axis for values from `low` to `high`, with some margin.

    The axis spans at least `least` of the largest value with the values in its middle, and is never empty.
    """
    largest = max(abs(low), abs(high))
    if low == high:
        room = largest * max(0.1, least / 2) or 1.0
    else:
        room = max(0.06 * (high - low), (least * largest - (high - low)) / 2)
    return low - room, high + room


def axis_format(low: float, high: float, share: bool, extra: int = 0) -> Format:
    """Return the number format of an axis: ticks as they are, values between them with `extra` digits."""
    return along(_step(low, high, 5), max(abs(low), abs(high)), share=share, extra=extra)


def _step(low: float, high: float, count: int) -> float:
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return about `count` round numbers (1, 2 or 5 times a power of ten apart) within [low, high]."""
    step = _step(low, high, count)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12 - min(0, math.floor(math.log10(step)))) for i in range(first, last + 1)]

"""Numbers as people read them, in the table, the grids and the report alike.

A column of numbers has one precision, which its narrowest interval sets: `precision`. A lone number has its own.
"""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_MINUS = "\N{MINUS SIGN}"
UNKNOWN = "\N{EN DASH}"
_MOST_DIGITS = 8
"""After the point: what needs more is written with a power of ten."""
_MOST_OF_A_TICK = 5
"""The same for the ticks of a chart, beside which there is little room."""
_SIGNIFICANT = 2
"""Digits of an interval's width that are shown."""
_LARGEST = 1e9


@dataclass(frozen=True)
class Precision:
    """How the numbers of a column are written: all with as many digits after the point."""

    digits: int
    is_power: bool = False
    """The digits are those of a number between 1 and 10, times a power of ten."""

    def number(self, value: float | None, *, sign: bool = False) -> str:
        """Return a number of the column; an en dash for None."""
        if value is None:
            return UNKNOWN
        kind = "e" if self.is_power else "f"
        text = f"{value:{'+' if sign else ''}z.{self.digits}{kind}}"
        if self.is_power:
            text = re.sub(r"e([+-])0*(\d)", lambda match: f"e{match[1].strip('+')}{match[2]}", text)
        return text.replace("-", _MINUS)

    def between(self, low: float | None, high: float | None) -> str:
        """Return an interval of the column, or nothing where it is not known."""
        return "" if low is None or high is None else f"{self.number(low)}…{self.number(high)}"

    def with_interval(
        self, value: float | None, low: float | None, high: float | None, *, sign: bool = False
    ) -> str:
        """Return a number, and its interval in brackets where there is one."""
        interval = self.between(low, high)
        return self.number(value, sign=sign) + (f" ({interval})" if interval else "")


def precision(
    values: Iterable[float | None], intervals: Iterable[tuple[float | None, float | None]] = ()
) -> Precision:
    """Return the precision of a column that holds `values`, and `intervals` around them.

    Two digits of the narrowest interval's width are shown, and up to three more where an interval that ends near 0
    would seem to touch it. Without intervals, three digits of the largest value, and up to two more for small ones.
    """
    known = [abs(value) for value in values if value is not None and math.isfinite(value)]
    ends = [(low, high) for low, high in intervals if low is not None and high is not None]
    known += [abs(end) for pair in ends for end in pair]
    largest = max(known, default=0.0)
    noise = 1e-12 * largest  # below it a difference is rounding
    widths = [high - low for low, high in ends if noise < high - low < math.inf]
    if widths:
        digits = _SIGNIFICANT - 1 - _power(min(widths))
        nearest = [min(abs(low), abs(high)) for low, high in ends if low * high > 0]
        digits = max(digits, min(digits + 3, -_power(min(nearest)))) if nearest else digits
    else:
        sizes = [size for size in known if size > noise]
        usual = 2 - _power(largest)
        digits = max(usual, min(usual + 2, 1 - _power(min(sizes)))) if sizes else 2
    if digits > _MOST_DIGITS or largest >= _LARGEST:
        return Precision(max(1, digits + _power(largest)) if largest else 1, is_power=True)
    return Precision(max(0, digits))


def spread(low: float, high: float) -> Precision:
    """Return the precision of numbers between two: two digits of the difference, and at least two after the point."""
    found = precision([low, high], [(low, high)])
    return found if found.is_power else Precision(max(2, found.digits))


def along(
    step: float, largest: float, *, share: bool = False, extra: int = 0
) -> Callable[[float | None], str]:
    """Return how numbers are written along an axis whose ticks are `step` apart, so that no two ticks read alike.

    Args:
        largest: the largest absolute value of the axis.
        share: values are shares, written in per cent.
        extra: more digits than the ticks need, for values between them.
    """
    if share:
        form = Precision(max(0, extra - _power(100 * step)))
        return lambda value: UNKNOWN if value is None else f"{form.number(100 * value)} %"
    digits = -_power(step) + extra
    if -_power(step) > _MOST_OF_A_TICK or largest >= _LARGEST:
        return Precision(max(0, _power(largest) - _power(step)) + extra, is_power=True).number
    return Precision(max(0, digits)).number


def _power(value: float) -> int:
    """The power of ten of a positive number's first digit."""
    return math.floor(math.log10(value) + 1e-9) if value > 0 else 0


def number(value: float | None, *, digits: int = 3, sign: bool = False) -> str:
    """At most `digits` digits after the point, fewer for large values and more for small ones; an en dash for None.

    A small number shows two digits that are not zero; below a millionth it is written with a power of ten.
    """
    if value is None:
        return UNKNOWN
    size = abs(value)
    if size and size < 1e-6:
        return Precision(1, is_power=True).number(value, sign=sign)
    if size and size < 10**-digits * 10:
        digits = max(digits, 1 - _power(size))
    return Precision(max(0, digits - max(0, len(str(int(size))) - 1))).number(value, sign=sign)


def fixed(value: float | None, digits: int = 2) -> str:
    """Always `digits` digits after the point, and no minus before a zero; an en dash for None."""
    return Precision(digits).number(value)


def percent(value: float | None) -> str:
    """A share as a whole percentage."""
    return UNKNOWN if value is None else f"{100 * value:.0f} %"


def between_percent(low: float | None, high: float | None) -> str:
    """An interval of shares, or nothing where it is not known."""
    return "" if low is None or high is None else f"{100 * low:.0f}…{100 * high:.0f} %"

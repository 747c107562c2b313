"""Number formatting for tables, grids and the report.

All numbers of a column share one precision, set by its narrowest interval: `precision`. `number` formats a
single one:

    number(0.12345)  # "0.123"
"""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_MINUS = "\N{MINUS SIGN}"
UNKNOWN = "\N{EN DASH}"
_MOST_DIGITS = 8
"""Digits after the point; longer numbers are written with a power of ten."""
_MOST_OF_A_TICK = 5
"""Digits after the point of a chart's tick label, where space is short."""
_SIGNIFICANT = 2
"""Digits shown of an interval's width."""
_NARROW = 0.1
"""Share of a column's widest interval below which an interval adds no digits: those of a prompt that is solved."""
_LARGEST = 1e9


@dataclass(frozen=True)
class Precision:
    """The format of a column's numbers: the same count of digits after the point for all."""

    digits: int
    is_power: bool = False
    """Write numbers between 1 and 10 times a power of ten; `digits` counts the digits of that number."""

    def number(self, value: float | None, *, sign: bool = False) -> str:
        """Format a number of the column; None becomes an en dash."""
        if value is None:
            return UNKNOWN
        style = "e" if self.is_power else "f"
        text = f"{value:{'+' if sign else ''}z.{self.digits}{style}}"
        if self.is_power:
            text = re.sub(r"e([+-])0*(\d)", lambda match: f"e{match[1].strip('+')}{match[2]}", text)
        return text.replace("-", _MINUS)

    def between(self, low: float | None, high: float | None) -> str:
        """Format an interval of the column; an unknown interval becomes the empty string."""
        return "" if low is None or high is None else f"{self.number(low)}…{self.number(high)}"

    def with_interval(
        self, value: float | None, low: float | None, high: float | None, *, sign: bool = False
    ) -> str:
        """Format a number, followed by its interval in brackets if the interval is known."""
        interval = self.between(low, high)
        return self.number(value, sign=sign) + (f" ({interval})" if interval else "")


def precision(
    values: Iterable[float | None], intervals: Iterable[tuple[float | None, float | None]] = ()
) -> Precision:
    """Return the precision of a column that holds `values`, and `intervals` around them.

    With intervals: two digits of the narrowest width, and up to three more if one near 0 would seem to touch it.
    An interval narrower than a hundredth of the widest adds no digits, nor does rounding. Without intervals: three
    digits of the largest value, and up to two more for small values.
    """
    magnitudes = [abs(value) for value in values if value is not None and math.isfinite(value)]
    ends = [(low, high) for low, high in intervals if low is not None and high is not None]
    magnitudes += [abs(end) for pair in ends for end in pair]
    largest = max(magnitudes, default=0.0)
    rounding = 1e-6 * largest  # of fp32
    known = [(low, high) for low, high in ends if rounding < high - low < math.inf]
    widest = max((high - low for low, high in known), default=0.0)
    wide = [(low, high) for low, high in known if high - low >= _NARROW * widest]
    if wide:
        digits = _SIGNIFICANT - 1 - _power(min(high - low for low, high in wide))
        nearest = [min(abs(low), abs(high)) for low, high in wide if low * high > 0]
        digits = max(digits, min(digits + 3, -_power(min(nearest)))) if nearest else digits
    else:
        sizes = [size for size in magnitudes if size > 1e-12 * largest]
        usual = 2 - _power(largest)
        digits = max(usual, min(usual + 2, 1 - _power(min(sizes)))) if sizes else 2
    if digits > _MOST_DIGITS or largest >= _LARGEST:
        return Precision(max(1, digits + _power(largest)) if largest else 1, is_power=True)
    return Precision(max(0, digits))


def spread(low: float, high: float) -> Precision:
    """Return the precision of numbers in a range: two digits of its width, and at least two after the point."""
    narrow = precision([low, high], [(0.0, high - low)])  # an end near 0 asks for no more digits
    return narrow if narrow.is_power else Precision(max(2, narrow.digits))


def along(
    step: float, largest: float, *, share: bool = False, extra: int = 0
) -> Callable[[float | None], str]:
    """Return a formatter for an axis with ticks `step` apart. Labels of two ticks always differ.

    Args:
        step: the distance between ticks.
        largest: the largest absolute value of the axis.
        share: format values as shares, in per cent.
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
    """Return the power of ten of a positive number's first digit."""
    return math.floor(math.log10(value) + 1e-9) if value > 0 else 0


def number(value: float | None, *, digits: int = 3, sign: bool = False) -> str:
    """Format a number with at most `digits` digits after the point; None becomes an en dash.

    Large values show fewer digits. Small values show two significant digits, and below a millionth a power of
    ten.
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
    """Format a number with exactly `digits` digits after the point; None becomes an en dash. Zero has no minus sign."""
    return Precision(digits).number(value)


def percent(value: float | None) -> str:
    """Format a share as a whole percentage."""
    return UNKNOWN if value is None else f"{100 * value:.0f} %"


def between_percent(low: float | None, high: float | None) -> str:
    """Format an interval of shares; an unknown interval becomes the empty string."""
    return "" if low is None or high is None else f"{100 * low:.0f}…{100 * high:.0f} %"


def count(value: float | None) -> str:
    """Format a whole number with separated thousands."""
    return UNKNOWN if value is None else f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def clock(seconds: float) -> str:
    """Format a duration as hours, minutes and seconds: `1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def counted(count: int, singular: str, plural: str = "") -> str:
    """Return a number with its noun: `1 shard`, `2 shards`, `2 processes`."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def amount(count: float) -> str:
    """Return a number of bytes as `12.3 MB` (10^6 bytes)."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:,.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"

"""Numbers as people read them, in the table, the grids and the report alike."""

_MINUS = "\N{MINUS SIGN}"
UNKNOWN = "\N{EN DASH}"


def number(value: float | None, *, digits: int = 3, sign: bool = False) -> str:
    """At most `digits` digits after the point, fewer for large values; an en dash for None."""
    if value is None:
        return UNKNOWN
    size = abs(value)
    if size and size < 10**-digits:
        return f"{value:{'+' if sign else ''}.1e}".replace("-", _MINUS)
    shown = max(0, digits - max(0, len(str(int(size))) - 1))
    return f"{value:{'+' if sign else ''}.{shown}f}".replace("-", _MINUS)


def fixed(value: float | None, digits: int = 2) -> str:
    """Always `digits` digits after the point, and no minus before a zero; an en dash for None."""
    return UNKNOWN if value is None else f"{value:z.{digits}f}".replace("-", _MINUS)


def percent(value: float | None) -> str:
    """A share as a whole percentage."""
    return UNKNOWN if value is None else f"{100 * value:.0f} %"


def between(low: float | None, high: float | None) -> str:
    """An interval of numbers, or nothing where it is not known."""
    return "" if low is None or high is None else f"{number(low, digits=2)}…{number(high, digits=2)}"


def between_percent(low: float | None, high: float | None) -> str:
    """An interval of shares, or nothing where it is not known."""
    return "" if low is None or high is None else f"{100 * low:.0f}…{100 * high:.0f} %"

"""Numbers as the report writes them, beside those of `ppod_data.wording`."""

from ppod_data.wording import number

_NARROW_SPACE = "\N{NARROW NO-BREAK SPACE}"


def two(value: float | None) -> str:
    """A reward: two digits after the point."""
    return number(value, digits=2)


def precise_percent(value: float | None) -> str:
    """A share that may be far below a hundredth: three significant digits."""
    return number(None) if value is None else f"{100 * value:.3g} %"


def count(value: float | None) -> str:
    """A whole number, its thousands apart."""
    return number(None) if value is None else f"{value:,.0f}".replace(",", _NARROW_SPACE)


def duration(seconds: float | None) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds is None:
        return number(None)
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"

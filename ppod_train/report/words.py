"""Numbers as the report writes them, beside those of `ppod_data.support.formatting`."""

from collections.abc import Sequence

from ppod_data.support.formatting import Precision, number, precision
from ppod_train.report.records import Record, finite

_NARROW_SPACE = "\N{NARROW NO-BREAK SPACE}"


def figure_precision(overall: Sequence[Record], name: str) -> Precision:
    """The precision of a column of "reward", "gain" or "check_reward", which its intervals set."""
    value = name if name == "gain" else f"{name}_mean"
    return precision(
        [finite(figures.get(value)) for figures in overall],
        [(finite(figures.get(f"{name}_low")), finite(figures.get(f"{name}_high"))) for figures in overall],
    )


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

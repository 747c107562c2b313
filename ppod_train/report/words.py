"""Number formats of the report, in addition to those of `ppod_data.support.formatting`."""

from collections.abc import Sequence

from ppod_data.support.formatting import Precision, number, precision
from ppod_train.report.records import Record, finite


def figure_precision(overall: Sequence[Record], name: str) -> Precision:
    """Return the precision of a column of "reward", "gain" or "check_reward", which its intervals determine."""
    value = name if name == "gain" else f"{name}_mean"
    return precision(
        [finite(metrics.get(value)) for metrics in overall],
        [(finite(metrics.get(f"{name}_low")), finite(metrics.get(f"{name}_high"))) for metrics in overall],
    )


def gain_precision(overall: Sequence[Record]) -> Precision:
    """Return the precision of a column of gains of several runs: at most three digits of the largest gain.

    A gain that is nothing beside the largest is written as 0, not with more digits than its neighbours need.
    """
    form = figure_precision(overall, "gain")
    gains = [gain for metrics in overall if (gain := finite(metrics.get("gain")))]
    most = precision(gains, [(0.0, max(map(abs, gains)) / 10)]) if gains else form
    return min(form, most, key=lambda choice: (choice.is_power, choice.digits))


def precise_percent(value: float | None) -> str:
    """Format a share that may be far below a hundredth with three significant digits."""
    return number(None) if value is None else f"{100 * value:.3g} %"


def duration(seconds: float | None) -> str:
    """Format seconds, minutes or hours, whichever is most readable."""
    if seconds is None:
        return number(None)
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"

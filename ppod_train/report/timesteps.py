"""Curves of the report over the steps of the chain: log-ratios of a training, and the drift before training.

Shapes: T steps of the chain.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ppod_data.html.charts.lines import FIRST_SHADE, NUM_SHADES, Series, line_chart
from ppod_data.html.page import note as small_print
from ppod_data.support.formatting import number
from ppod_train.report.curves import BAND_KEYS, WITHOUT_BAND, grid
from ppod_train.report.records import Record, finite, part
from ppod_train.report.words import precise_percent

_MAX_STEPS = 10_000
"""Maximum number of steps of a chain in a spec."""


@dataclass(frozen=True)
class _Metric:
    key: str
    title: str
    note: str = ""
    share: bool = False


_METRICS = (
    _Metric("log_ratio_mean", "Mean log-ratio"),
    _Metric("log_ratio_max", "Largest log-ratio", "in absolute value"),
    _Metric("clipped_right", "Outside the band, right side", "moved in the intended direction", True),
    _Metric("clipped_wrong", "Outside the band, wrong side", "moved in the opposite direction", True),
)


def timestep_curves(record: Record, metrics: Sequence[Record]) -> Markup:
    """Draw log-ratios and shares outside the band by timestep, one curve per quarter of the training, and the drift.

    Args:
        record: run.json of the training.
        metrics: the metrics of its steps.
    """
    records = [line for line in metrics if isinstance(line.get("per_timestep"), dict)]
    settings = part(record, "settings")
    banded = settings.get("objective") not in WITHOUT_BAND
    rules = _band(settings) if banded else []
    charts = [
        _metric_chart(records, metric, () if metric.share else rules)
        for metric in _METRICS
        if banded or metric.key not in BAND_KEYS
    ]
    charts_html = grid([*charts, drift_chart(record)])
    note = (
        "Step 0 is the noisiest; diffusers' timesteps count the other way. One curve per quarter of the training; "
        "later quarters have stronger colours."
    )
    notes = [note] if any(charts) else []
    notes += [drift_words(record)] if part(record, "drift") else []
    return small_print(" ".join(notes)) + charts_html if notes else Markup()


def _band(settings: Record) -> list[tuple[float, str]]:
    """Return the ends of the clip band around 0; a band around another policy has no fixed position."""
    clip = finite(settings.get("log_ratio_clip"))
    if clip is None or settings.get("clip_anchor", "reference") != "reference":
        return []
    return [(clip, "clip"), (-clip, "")]


def _metric_chart(records: Sequence[Record], metric: _Metric, rules: Sequence[tuple[float, str]]) -> Markup:
    series = [
        Series(
            name=f"steps {some[0]['step']} to {some[-1]['step']}",
            x=[float(t) for t in range(len(means))],
            y=means,
            colour=FIRST_SHADE + NUM_SHADES - num_parts + index,
        )
        for num_parts, index, some in _quarters(records)
        if (means := _timestep_means(some, metric.key))
    ]
    if not series:
        return Markup()
    return line_chart(
        series,
        title=metric.title,
        note=metric.note or (f"dashed: the clip band, ± {rules[0][0]:g}" if rules else ""),
        x_label="timestep",
        rules=rules,
        share=metric.share,
    )


def drift_words(record: Record) -> str:
    """Describe how closely a replay of the untrained policy matched the recorded log-probabilities."""
    drift = part(record, "drift")
    exact, p99 = finite(drift.get("share_exact")), finite(drift.get("overall_p99"))
    if exact == 1:
        return "Drift: none. The replay before training was exact, every log-probability to the last bit."
    words = ["Drift before training: "]
    words += [f"99\u00a0% of log-probabilities replayed within {number(p99)}"] if p99 is not None else []
    words += [f"{precise_percent(exact)} exactly"] if exact is not None else []
    return words[0] + ", ".join(words[1:]) + "." if len(words) > 1 else ""


def drift_chart(record: Record) -> Markup:
    """Draw |replayed − stored| log-probability by timestep; "" if all values are 0 or none is recorded."""
    drift = part(record, "drift")
    steps = [finite(step) for step in drift.get("steps") or ()]
    series = []
    for index, (key, name) in enumerate((("median", "median"), ("p99", "99th percentile"))):
        values = [finite(value) for value in drift.get(key) or ()]
        known = [(x, y) for x, y in zip(steps, values, strict=False) if x is not None]
        series.append(Series(name=name, x=[x for x, _ in known], y=[y for _, y in known], colour=index))
    if not any(value for curve in series for value in curve.y):
        return Markup()
    clip = finite(part(record, "settings").get("log_ratio_clip"))
    return line_chart(
        series,
        title="Drift before training",
        note="|replayed − stored| log-probability",
        x_label="timestep",
        rules=() if clip is None else ((clip / 10, "rejected above"),),
    )


def _quarters(records: Sequence[Record]) -> list[tuple[int, int, Sequence[Record]]]:
    """Return (number of parts, index, records) of at most four non-empty parts of similar length."""
    count = min(NUM_SHADES, len(records))
    ends = [round(i * len(records) / count) for i in range(count + 1)] if count else []
    return [(count, i, records[ends[i] : ends[i + 1]]) for i in range(count)]


def _timestep_means(records: Sequence[Record], key: str) -> list[float | None]:
    """Average each chain step's value over records [T]; None for a step that no record trained.

    A record's `steps` name the chain steps of its values; without them the values are of steps 0, 1, ….
    """
    values: dict[int, list[float]] = {}
    for record in records:
        row = record["per_timestep"].get(key) or []
        steps = record["per_timestep"].get("steps") or range(len(row))
        for t, item in zip(steps, row, strict=False):
            value = finite(item)
            if not 0 <= int(t) < _MAX_STEPS:
                raise ValueError(f"step {t} of a chain")
            if value is not None:
                values.setdefault(int(t), []).append(value)
    if not values:
        return []
    return [sum(values[t]) / len(values[t]) if t in values else None for t in range(max(values) + 1)]

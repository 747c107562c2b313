"""Curves as inline SVG, with colours from the page's style.

Units: a curve chart is drawn in a box 360 wide and 200 high and scales with its column. At a phone's width it has
about this size, so that its text stays readable.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from ppod_data.support.formatting import along
from ppod_train.report.words import count

WIDTH, HEIGHT = 360.0, 200.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 48.0, 10.0, 14.0, 30.0
_MAX_POINTS = 300
NUM_COLOURS = 8
LEAST_SPAN = 0.05
"""Minimum span of an axis as a share of the largest value, so that rounding does not look like a rise."""
FIRST_SHADE, NUM_SHADES = 8, 4  # colours of one hue, pale to strong, for curves in order of time

Format = Callable[[float | None], str]


@dataclass(frozen=True, kw_only=True)
class Series:
    """A curve: `y[i]` at `x[i]`, None where unknown; `low` and `high` are the ends of an interval."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None
    colour: int = 0
    """Index of one of the page's `NUM_COLOURS` colours."""
    points: bool = False
    """Mark each point; for series with few, measured points."""
    faint: bool = False
    """Draw behind other series and omit from the legend; for the raw values of a smoothed curve."""


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """Mapping from values to the chart's box."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        """Return the horizontal position of a value."""
        return _LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        """Return the vertical position of a value."""
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    note: str = "",
    x_label: str,
    rules: Sequence[tuple[float, str]] = (),
    marks: Sequence[tuple[float, str]] = (),
    share: bool = False,
    least_span: float = 0.0,
) -> str:
    """Draw curves with a legend if there are several, and the values under the pointer.

    Args:
        note: one line below the title.
        rules: horizontal lines, (value, label), drawn if they are within the range.
        marks: vertical lines with a label above, (x, label), at the start of a part.
        share: the values are shares; the axis stays within 0 … 1 and is labelled in per cent.
        least_span: minimum span of the axis as a share of the largest value, so that a flat curve does not look like a
            rise.
    """
    drawn = [thinned(one) for one in series]
    known = [one for one in drawn if any(value is not None for value in one.y)]
    heading = caption(title, note)
    if not known:
        return f'<figure class="chart">{heading}<p class="empty">not recorded</p></figure>'
    scale = _scale(known, share, least_span)
    parts = [_axes(scale, x_label, share), _marks(scale, marks)]
    parts += [_band(one, scale) for one in known] + [_curve(one, scale) for one in known]
    parts.append(_rules(scale, rules))
    svg = (
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(title)}" '
        f"data-hover='{escape(_hover(known, scale, x_label, share))}'>"
        f'{"".join(parts)}<line class="cursor" y1="{_TOP:g}" y2="{HEIGHT - _BOTTOM:g}"/></svg>'
    )
    return f'<figure class="chart">{heading}{legend(known)}{svg}</figure>'


def caption(title: str, note: str = "") -> str:
    """Render a chart's title with a line below it."""
    small = f"<small>{escape(note)}</small>" if note else ""
    return f"<figcaption>{escape(title)}{small}</figcaption>"


def legend(series: Sequence[Series]) -> str:
    """Render names with their colours; "" for a single series, which the title names."""
    named = [one for one in series if not one.faint]
    if len(named) < 2:
        return ""
    keys = "".join(f'<span class="key c{one.colour}">{escape(one.name)}</span>' for one in named)
    return f'<div class="legend">{keys}</div>'


def thinned(series: Series) -> Series:
    """Reduce a series to at most 300 points, each the mean of neighbouring points, because more would overlap."""
    size = math.ceil(len(series.x) / _MAX_POINTS)
    if size <= 1:
        return series
    parts = [slice(start, start + size) for start in range(0, len(series.x), size)]
    return Series(
        name=series.name,
        x=[sum(series.x[part]) / len(series.x[part]) for part in parts],
        y=[_mean(series.y[part]) for part in parts],
        colour=series.colour,
        faint=series.faint,
    )


def smoothed(values: Sequence[float | None], window: int) -> list[float | None]:
    """Average the known values among the last `window`; None if all are unknown."""
    return [_mean(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _scale(series: Sequence[Series], share: bool, least_span: float) -> _Scale:
    xs = [value for one in series for value in one.x]
    ys = [
        value
        for one in series
        for part in (one.y, one.low or (), one.high or ())
        for value in part
        if value is not None
    ]
    x_low, x_high = min(xs), max(xs)
    if x_low == x_high:
        x_low, x_high = x_low - 0.5, x_high + 0.5
    y_low, y_high = span(min(ys), max(ys), least_span)
    if share:
        y_low, y_high = max(y_low, 0.0), min(y_high, 1.0)
    return _Scale(x_low=x_low, x_high=x_high, y_low=y_low, y_high=y_high)


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


def _axes(scale: _Scale, x_label: str, share: bool) -> str:
    marks = []
    y_format = axis_format(scale.y_low, scale.y_high, share)
    for value in ticks(scale.y_low, scale.y_high, 5):
        y = scale.y(value)
        marks += [_horizontal(y, "grid"), _text(_LEFT - 6, y + 3.5, y_format(value), "end")]
    for value in ticks(scale.x_low, scale.x_high, 5):
        if value == int(value):  # the horizontal axis counts steps
            marks.append(_text(scale.x(value), HEIGHT - _BOTTOM + 14, count(value), "middle"))
    return "".join(marks) + _text(WIDTH - _RIGHT, HEIGHT - 3, x_label, "end")


def _horizontal(y: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{_LEFT:g}" x2="{WIDTH - _RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _rules(scale: _Scale, rules: Sequence[tuple[float, str]]) -> str:
    return "".join(
        _horizontal(scale.y(value), "rule") + _text(WIDTH - _RIGHT - 2, scale.y(value) - 4, label, "end")
        for value, label in rules
        if scale.y_low <= value <= scale.y_high
    )


def _marks(scale: _Scale, marks: Sequence[tuple[float, str]]) -> str:
    parts = []
    for x, label in marks:
        place = scale.x(min(max(x, scale.x_low), scale.x_high))
        if x > scale.x_low:
            ends = f'x1="{place:.1f}" x2="{place:.1f}" y1="{_TOP - 10:g}" y2="{HEIGHT - _BOTTOM:g}"'
            parts.append(f'<line class="mark" {ends}/>')
        parts.append(_text(place + 3, _TOP - 4, label, "start"))
    return "".join(parts)


def _curve(series: Series, scale: _Scale) -> str:
    points = [(scale.x(x), scale.y(y)) for x, y in zip(series.x, series.y, strict=True) if y is not None]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>' for x, y in points)
    kind = "curve faint" if series.faint else "curve"
    return f'<g class="c{series.colour}"><path class="{kind}" d="{path}"/>{dots if series.points else ""}</g>'


def _band(series: Series, scale: _Scale) -> str:
    if series.low is None or series.high is None:
        return ""
    rows = zip(series.x, series.low, series.high, strict=True)
    ends = [
        (scale.x(x), scale.y(low), scale.y(high))
        for x, low, high in rows
        if low is not None and high is not None
    ]
    outline = [f"{x:.1f} {high:.1f}" for x, _, high in ends] + [
        f"{x:.1f} {low:.1f}" for x, low, _ in reversed(ends)
    ]
    return f'<path class="band c{series.colour}" d="M{"L".join(outline)}Z"/>' if len(ends) > 1 else ""


def _hover(series: Sequence[Series], scale: _Scale, x_label: str, share: bool) -> str:
    """Return the data that the page's script shows under the pointer: [[x, heading, [[colour, name, value], …]], …]."""
    columns = []
    y_format = axis_format(scale.y_low, scale.y_high, share, extra=2)
    for x in sorted({x for one in series for x in one.x}):
        rows = []
        for one in series:
            value = dict(zip(one.x, one.y, strict=True)).get(x)
            if value is not None:
                rows.append([one.colour, one.name, y_format(value)])
        columns.append([round(scale.x(x), 1), f"{x_label} {count(x)}", rows])
    return json.dumps(columns, ensure_ascii=False, separators=(",", ":"))

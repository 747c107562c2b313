"""Line charts, with the values under the pointer.

Units: a chart is drawn in a box 360 wide and 200 high and scales with its column; at a phone's width that is about its
own size, so its letters stay readable.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ppod_data.html.charts.axes import axis_format, span, ticks
from ppod_data.html.charts.svg import Box, empty_figure, figure, horizontal, legend, text
from ppod_data.html.page import join
from ppod_data.support.formatting import count

_BOX = Box(height=200.0, left=48.0, right=10.0, top=14.0, bottom=30.0)
_MAX_POINTS = 300
NUM_COLOURS = 8
FIRST_SHADE, NUM_SHADES = 8, 4  # colours of one hue, pale to strong, for curves in order of time


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
        return _BOX.left + (value - self.x_low) / (self.x_high - self.x_low) * (_BOX.end - _BOX.left)

    def y(self, value: float) -> float:
        """Return the vertical position of a value."""
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return _BOX.floor - share * (_BOX.floor - _BOX.top)


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
) -> Markup:
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
    if not known:
        return empty_figure(title, note, "not recorded")
    scale = _scale(known, share, least_span)
    parts = [_axes(scale, x_label, share), _marks(scale, marks)]
    parts += [_band(one, scale) for one in known] + [_curve(one, scale) for one in known]
    parts += [_rules(scale, rules), _vertical("cursor", None, _BOX.top)]
    return figure(
        _BOX,
        parts,
        title=title,
        note=note,
        legend=legend([(one.colour, one.name) for one in known if not one.faint]),
        hover=_hover(known, scale, x_label, share),
    )


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


def _axes(scale: _Scale, x_label: str, share: bool) -> Markup:
    marks = []
    y_format = axis_format(scale.y_low, scale.y_high, share)
    for value in ticks(scale.y_low, scale.y_high, 5):
        y = scale.y(value)
        marks += [horizontal(_BOX, y), text(_BOX.left - 6, y + 3.5, y_format(value), "end")]
    for value in ticks(scale.x_low, scale.x_high, 5):
        if value == int(value):  # the horizontal axis counts steps
            marks.append(text(scale.x(value), _BOX.floor + 14, count(value), "middle"))
    return join([*marks, text(_BOX.end, _BOX.height - 3, x_label, "end")])


def _vertical(style: str, x: float | None, top: float) -> Markup:
    """Return a line from `top` to the floor of the plot; without x the page's script places it."""
    ends = "" if x is None else Markup('x1="{:.1f}" x2="{:.1f}" ').format(x, x)
    return Markup('<line class="{}" {}y1="{:g}" y2="{:g}"/>').format(style, ends, top, _BOX.floor)


def _rules(scale: _Scale, rules: Sequence[tuple[float, str]]) -> Markup:
    return join(
        horizontal(_BOX, scale.y(value), "rule") + text(_BOX.end - 2, scale.y(value) - 4, label, "end")
        for value, label in rules
        if scale.y_low <= value <= scale.y_high
    )


def _marks(scale: _Scale, marks: Sequence[tuple[float, str]]) -> Markup:
    parts = []
    for x, label in marks:
        x_here = scale.x(min(max(x, scale.x_low), scale.x_high))
        if x > scale.x_low:
            parts.append(_vertical("mark", x_here, _BOX.top - 10))
        parts.append(text(x_here + 3, _BOX.top - 4, label, "start"))
    return join(parts)


def _curve(series: Series, scale: _Scale) -> Markup:
    points = [(scale.x(x), scale.y(y)) for x, y in zip(series.x, series.y, strict=True) if y is not None]
    dots = join(Markup('<circle cx="{:.1f}" cy="{:.1f}" r="3.2"/>').format(x, y) for x, y in points)
    return Markup('<g class="c{}"><path class="{}" d="M{}"/>{}</g>').format(
        series.colour,
        "curve faint" if series.faint else "curve",
        "L".join(f"{x:.1f} {y:.1f}" for x, y in points),
        dots if series.points else "",
    )


def _band(series: Series, scale: _Scale) -> Markup:
    if series.low is None or series.high is None:
        return Markup()
    rows = zip(series.x, series.low, series.high, strict=True)
    ends = [
        (scale.x(x), scale.y(low), scale.y(high))
        for x, low, high in rows
        if low is not None and high is not None
    ]
    if len(ends) < 2:
        return Markup()
    outline = [f"{x:.1f} {high:.1f}" for x, _, high in ends]
    outline += [f"{x:.1f} {low:.1f}" for x, low, _ in reversed(ends)]
    return Markup('<path class="band c{}" d="M{}Z"/>').format(series.colour, "L".join(outline))


def _hover(series: Sequence[Series], scale: _Scale, x_label: str, share: bool) -> str:
    """Return what the page's script shows under the pointer, as JSON: [[x, heading, [[colour, name, value], …]], …]."""
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

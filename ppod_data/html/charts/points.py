"""Histograms of scores, and calibration curves of rewards."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ppod_data.html.charts.svg import Box, empty_figure, figure, horizontal, text
from ppod_data.html.page import join
from ppod_data.support.formatting import counted, number, percent, spread

_HISTOGRAM = Box(height=150.0, left=40.0, right=10.0, top=10.0, bottom=32.0)
_CURVE = Box(height=190.0, left=44.0, right=12.0, top=10.0, bottom=34.0)


def histogram_chart(
    histogram: Mapping[str, Sequence[Any]], *, title: str, note: str, x_label: str, colour: int
) -> Markup:
    """Draw the result of `ppod_data.inspect.overview.histogram`; each bar shows its range and count on hover."""
    counts, edges = histogram["counts"], histogram["edges"]
    if not counts:
        return empty_figure(title, note, "no values")
    box, top = _HISTOGRAM, max(counts)
    form = spread(edges[0], edges[-1]).number
    ends = [(edges[0], box.left, "start"), (edges[-1], box.end, "end")]
    if edges[0] < edges[-1]:
        ends.append(((edges[0] + edges[-1]) / 2, (box.left + box.end) / 2, "middle"))
    parts = [horizontal(box, box.floor), *_bars(histogram, colour)]
    parts += [text(x, box.floor + 14, form(value), anchor) for value, x, anchor in ends]
    parts += [
        text(box.left - 6, box.top + 4, f"{top:,}", "end"),
        text(box.left - 6, box.floor + 1, "0", "end"),
    ]
    parts.append(text(box.end, box.height - 3, x_label, "end"))
    return figure(box, parts, title=title, note=note)


def _bars(histogram: Mapping[str, Sequence[Any]], colour: int) -> list[Markup]:
    """Return bars, each below an invisible one of full height that takes the pointer."""
    counts, edges, box = histogram["counts"], histogram["edges"], _HISTOGRAM
    bounds = spread(edges[0], edges[1]).number
    width = (box.end - box.left) / len(counts)
    bars = []
    for i, count in enumerate(counts):
        height = (box.floor - box.top) * count / max(counts)
        bars.append(
            Markup(
                '<g class="c{colour}"><title>{title}</title>'
                '<rect class="bar" x="{x:.1f}" width="{width:.1f}" y="{y:.1f}" height="{height:.1f}" rx="1.5"/>'
                '<rect class="reach" x="{left:.1f}" width="{step:.1f}" y="{top:g}" height="{full:g}"/></g>'
            ).format(
                colour=colour,
                title=f"{bounds(edges[i])} … {bounds(edges[i + 1])}: {count:,}",
                x=box.left + i * width + 0.75,
                width=width - 1.5,
                y=box.floor - height,
                height=height,
                left=box.left + i * width,
                step=width,
                top=box.top,
                full=box.floor - box.top,
            )
        )
    return bars


def calibration_chart(reward: Mapping[str, Any], *, title: str) -> Markup:
    """Draw how often people prefer the image with the higher score, over how often σ(margin / temperature) says so.

    `reward` is a RewardAgreement as plain values, with a temperature.
    """
    bins: Sequence[Mapping[str, Any]] = reward["calibration"]
    box = _CURVE
    points = [(_x(one["predicted"]), _y(one["observed"])) for one in bins]
    marks = [
        Markup(
            '<g class="c0"><title>{}</title><circle class="dot" cx="{:.1f}" cy="{:.1f}" r="4"/></g>'
        ).format(
            f"predicted {percent(one['predicted'])}, people {percent(one['observed'])}: "
            f"{counted(one['count'], 'pair')}",
            x,
            y,
        )
        for one, (x, y) in zip(bins, points, strict=True)
    ]
    grid = [
        horizontal(box, _y(share)) + text(box.left - 6, _y(share) + 4, percent(share), "end")
        for share in (0.0, 0.5, 1.0)
    ]
    ideal = Markup('<line class="ideal" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(
        _x(0.5), _y(0.5), _x(1), _y(1)
    )
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    ends = [text(_x(share), box.floor + 16, percent(share), "middle") for share in (0.5, 0.75)]
    ends.append(text(_x(1), box.floor + 16, percent(1.0), "end"))
    ends.append(text(box.end, box.height - 3, "people agree, over σ(margin / T)", "end"))
    curve = Markup('<polyline class="curve c0" points="{}"/>').format(line)
    note = (
        f"{counted(reward['num_pairs'], 'pair')}, T = {number(reward['temperature'])}; dashed: as predicted"
    )
    parts = [join(grid), ideal, curve, *marks, *ends]
    return figure(box, parts, title=title, note=note, label=f"calibration of {title}")


def _x(share: float) -> float:
    return _CURVE.left + (share - 0.5) / 0.5 * (_CURVE.end - _CURVE.left)


def _y(share: float) -> float:
    return _CURVE.floor - share * (_CURVE.floor - _CURVE.top)

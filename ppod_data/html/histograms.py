"""Histograms as inline SVG, in the colours of the page's style.

Units: a chart is drawn in a box 360 wide and 150 high and scales with its column.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ppod_data.support.formatting import spread

_WIDTH, _HEIGHT = 360.0, 150.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 40.0, 10.0, 10.0, 32.0


def histogram_chart(
    histogram: Mapping[str, Sequence[Any]], *, title: str, note: str, x_label: str, colour: int
) -> str:
    """Draw the result of `ppod_data.inspect.overview.histogram`; each bar shows its range and count on hover."""
    heading = f"<figcaption>{escape(title)}<small>{escape(note)}</small></figcaption>"
    counts, edges = histogram["counts"], histogram["edges"]
    if not counts:
        return f'<figure class="chart">{heading}<p class="empty">no values</p></figure>'
    top = max(counts)
    shown = spread(edges[0], edges[-1]).number
    bounds = spread(edges[0], edges[1]).number
    width = (_WIDTH - _LEFT - _RIGHT) / len(counts)
    floor = _HEIGHT - _BOTTOM
    bars = []
    for i, count in enumerate(counts):
        height = (floor - _TOP) * count / top
        told = f"{bounds(edges[i])} … {bounds(edges[i + 1])}: {count:,}"
        bars.append(
            f'<g class="c{colour}"><title>{escape(told)}</title>'
            f'<rect class="bar" x="{_LEFT + i * width + 0.75:.1f}" width="{width - 1.5:.1f}" '
            f'y="{floor - height:.1f}" height="{height:.1f}" rx="1.5"/>'
            f'<rect class="reach" x="{_LEFT + i * width:.1f}" width="{width:.1f}" y="{_TOP:g}" '
            f'height="{floor - _TOP:g}"/></g>'
        )
    ends = [(edges[0], _LEFT, "start"), (edges[-1], _WIDTH - _RIGHT, "end")]
    if edges[0] < edges[-1]:
        ends.append(((edges[0] + edges[-1]) / 2, (_LEFT + _WIDTH - _RIGHT) / 2, "middle"))
    texts = [_text(x, floor + 14, shown(value), anchor) for value, x, anchor in ends]
    texts += [_text(_LEFT - 6, _TOP + 4, f"{top:,}", "end"), _text(_LEFT - 6, floor + 1, "0", "end")]
    texts.append(_text(_WIDTH - _RIGHT, _HEIGHT - 3, x_label, "end"))
    axis = f'<line class="grid" x1="{_LEFT:g}" x2="{_WIDTH - _RIGHT:g}" y1="{floor:g}" y2="{floor:g}"/>'
    svg = f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{escape(title)}">'
    return f'<figure class="chart">{heading}{svg}{axis}{"".join(bars + texts)}</svg></figure>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'

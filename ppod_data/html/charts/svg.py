"""The elements of a chart: a figure around an SVG, its texts, lines and legend. Every text is escaped here.

Units: of the box that a chart is drawn in, which scales with its column.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ppod_data.html.page import join, render


@dataclass(frozen=True, kw_only=True)
class Box:
    """The size of a chart and its margins."""

    width: float = 360.0
    height: float
    left: float
    right: float
    top: float
    bottom: float

    @property
    def end(self) -> float:
        """The right end of the plot."""
        return self.width - self.right

    @property
    def floor(self) -> float:
        """The lower end of the plot."""
        return self.height - self.bottom


def figure(
    box: Box,
    parts: Iterable[Markup],
    *,
    title: str,
    note: str,
    label: str = "",
    legend: str = "",
    hover: str = "",
) -> Markup:
    """Return a figure of SVG elements.

    Args:
        note: one line below the title.
        label: what a screen reader says; the title unless given.
        legend: HTML above the chart.
        hover: JSON that the page's script shows under the pointer.
    """
    return render(
        "chart.html",
        caption=caption(title, note),
        legend=legend,
        width=f"{box.width:g}",
        height=f"{box.height:g}",
        label=label or title,
        hover=hover,
        content=join(parts),
    )


def empty_figure(title: str, note: str, text: str) -> Markup:
    """Return a figure with a text instead of a chart."""
    return Markup('<figure class="chart">{}<p class="empty">{}</p></figure>').format(
        caption(title, note), text
    )


def caption(title: str, note: str = "") -> Markup:
    """Return a figure's title, with a line below it."""
    small = Markup("<small>{}</small>").format(note) if note else ""
    return Markup("<figcaption>{}{}</figcaption>").format(title, small)


def legend(names: Sequence[tuple[int, str]]) -> Markup:
    """Return names beside their colours; nothing for a single one, which the title names."""
    if len(names) < 2:
        return Markup()
    keys = join(Markup('<span class="key c{}">{}</span>').format(colour, name) for colour, name in names)
    return Markup('<div class="legend">{}</div>').format(keys)


def text(x: float, y: float, content: str, anchor: str) -> Markup:
    """Return a text; `anchor` is start, middle or end."""
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, content)


def horizontal(box: Box, y: float, style: str = "grid") -> Markup:
    """Return a line over the width of the plot."""
    return Markup('<line class="{}" x1="{:g}" x2="{:g}" y1="{:.1f}" y2="{:.1f}"/>').format(
        style, box.left, box.end, y, y
    )

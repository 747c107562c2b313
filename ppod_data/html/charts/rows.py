"""Charts with one row per label, as HTML. Labels wrap, charts fit any width, and colours come from the page's style."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ppod_data.html.charts.axes import LEAST_SPAN, Format, axis_format, span, ticks
from ppod_data.html.charts.svg import caption
from ppod_data.html.page import join, render
from ppod_data.support.formatting import UNKNOWN, number, percent, precision


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A value with its interval: one mark of a row."""

    value: float
    low: float | None
    high: float | None
    colour: int


def interval_chart(
    rows: Sequence[tuple[str, Sequence[Dot]]], *, title: str, note: str = "", share: bool = False
) -> Markup:
    """Draw dots with intervals, one row per label, on one axis, with numbers of one precision or in per cent."""
    values = [
        end for _, dots in rows for dot in dots for end in (dot.value, dot.low, dot.high) if end is not None
    ]
    low, high = span(min(values), max(values), LEAST_SPAN)
    ends = [(dot.low, dot.high) for _, dots in rows for dot in dots]
    y_format = percent if share else precision([dot.value for _, dots in rows for dot in dots], ends).number
    tick_format = axis_format(low, high, share)

    def place(value: float) -> float:
        return 100 * (value - low) / (high - low)

    grid = join(Markup('<i style="left:{:.2f}%"></i>').format(place(value)) for value in ticks(low, high, 5))
    axis = join(
        Markup('<b style="left:{:.2f}%">{}</b>').format(place(value), tick_format(value))
        for value in ticks(low, high, 5)
    )
    lines = [
        (
            label,
            grid + join(_dot(dot, place, y_format) for dot in dots),
            " → ".join(y_format(dot.value) for dot in dots) or UNKNOWN,
        )
        for label, dots in rows
    ]
    return render("rows.html", style="dots", caption=caption(title, note), legend="", rows=lines, axis=axis)


def _dot(dot: Dot, place: Callable[[float], float], y_format: Format) -> Markup:
    text, bar = y_format(dot.value), Markup()
    if dot.low is not None and dot.high is not None:
        text += f" ({y_format(dot.low)} … {y_format(dot.high)})"
        left, right = place(dot.low), place(dot.high)
        bar = Markup('<em class="c{}" style="left:{:.2f}%;width:{:.2f}%"></em>').format(
            dot.colour, left, right - left
        )
    return bar + Markup('<u class="c{}" style="left:{:.2f}%" title="{}"></u>').format(
        dot.colour, place(dot.value), text
    )


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of a stacked bar."""

    name: str
    value: float
    colour: int


def stacked_chart(
    rows: Sequence[tuple[str, Sequence[Piece]]], *, title: str, note: str = "", value_format: Format = number
) -> Markup:
    """Draw stacked bars, one row per label; the legend shows each piece's sum, each row its total.

    Pieces of the same name have the same colour. At least one piece is above 0.
    """
    longest = max(sum(piece.value for piece in pieces) for _, pieces in rows)
    sums: dict[tuple[str, int], float] = {}
    for piece in (piece for _, pieces in rows for piece in pieces):
        sums[piece.name, piece.colour] = sums.get((piece.name, piece.colour), 0.0) + piece.value
    keys = join(
        Markup('<span class="key c{}">{} <b>{}</b></span>').format(colour, name, value_format(total))
        for (name, colour), total in sums.items()
    )
    lines = [
        (label, _bars(pieces, longest, value_format), value_format(sum(piece.value for piece in pieces)))
        for label, pieces in rows
    ]
    legend = Markup('<div class="legend">{}</div>').format(keys)
    return render(
        "rows.html", style="dots stacked", caption=caption(title, note), legend=legend, rows=lines, axis=""
    )


def _bars(pieces: Sequence[Piece], longest: float, value_format: Format) -> Markup:
    bars, left = [], 0.0
    for piece in pieces:
        width = 100 * piece.value / longest
        if width:
            bars.append(
                Markup('<em class="c{}" style="left:{:.2f}%;width:{:.2f}%" title="{}"></em>').format(
                    piece.colour, left, width, f"{piece.name} {value_format(piece.value)}"
                )
            )
        left += width
    return join(bars)

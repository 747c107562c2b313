"""Charts with one row per label, as HTML. Labels wrap, charts fit any width, and colours come from the page's style."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from ppod_data.support.formatting import UNKNOWN, number, percent, precision
from ppod_train.report.charts import LEAST_SPAN, Format, axis_format, caption, span, ticks


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A value with its interval: one mark of a row."""

    value: float
    low: float | None
    high: float | None
    colour: int


def interval_chart(
    rows: Sequence[tuple[str, Sequence[Dot]]], *, title: str, note: str = "", share: bool = False
) -> str:
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

    grid = "".join(f'<i style="left:{place(value):.2f}%"></i>' for value in ticks(low, high, 5))
    lines = []
    for label, dots in rows:
        marks = "".join(_dot(dot, place, y_format) for dot in dots)
        numbers = " → ".join(y_format(dot.value) for dot in dots) or UNKNOWN
        lines.append(
            f'<div class="row"><span class="label">{escape(label)}</span>'
            f'<span class="track">{grid}{marks}</span><span class="numbers">{escape(numbers)}</span></div>'
        )
    axis = "".join(
        f'<b style="left:{place(value):.2f}%">{escape(tick_format(value))}</b>'
        for value in ticks(low, high, 5)
    )
    lines.append(f'<div class="row"><span></span><span class="axis">{axis}</span><span></span></div>')
    return f'<figure class="dots">{caption(title, note)}{"".join(lines)}</figure>'


def _dot(dot: Dot, place: Callable[[float], float], y_format: Format) -> str:
    text = y_format(dot.value)
    bar = ""
    if dot.low is not None and dot.high is not None:
        text += f" ({y_format(dot.low)} … {y_format(dot.high)})"
        left, right = place(dot.low), place(dot.high)
        bar = f'<em class="c{dot.colour}" style="left:{left:.2f}%;width:{right - left:.2f}%"></em>'
    return f'{bar}<u class="c{dot.colour}" style="left:{place(dot.value):.2f}%" title="{escape(text)}"></u>'


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of a stacked bar."""

    name: str
    value: float
    colour: int


def stacked_chart(
    rows: Sequence[tuple[str, Sequence[Piece]]], *, title: str, note: str = "", value_format: Format = number
) -> str:
    """Draw stacked bars, one row per label; the legend shows each piece's sum, each row its total.

    Pieces of the same name have the same colour. At least one piece is above 0.
    """
    longest = max(sum(piece.value for piece in pieces) for _, pieces in rows)
    sums: dict[tuple[str, int], float] = {}
    for piece in (piece for _, pieces in rows for piece in pieces):
        sums[piece.name, piece.colour] = sums.get((piece.name, piece.colour), 0.0) + piece.value
    keys = "".join(
        f'<span class="key c{colour}">{escape(name)} <b>{escape(value_format(total))}</b></span>'
        for (name, colour), total in sums.items()
    )
    lines = []
    for label, pieces in rows:
        bars, left = [], 0.0
        for piece in pieces:
            width = 100 * piece.value / longest
            text = escape(f"{piece.name} {value_format(piece.value)}")
            place = f"left:{left:.2f}%;width:{width:.2f}%"
            bars.append(f'<em class="c{piece.colour}" style="{place}" title="{text}"></em>' if width else "")
            left += width
        total = escape(value_format(sum(piece.value for piece in pieces)))
        lines.append(
            f'<div class="row"><span class="label">{escape(label)}</span>'
            f'<span class="track">{"".join(bars)}</span><span class="numbers">{total}</span></div>'
        )
    legend = f'<div class="legend">{keys}</div>'
    return f'<figure class="dots stacked">{caption(title, note)}{legend}{"".join(lines)}</figure>'

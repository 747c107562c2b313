"""People's labels on the page of a data set: agreement tables, and calibration curves of rewards as inline SVG.

Units: a curve is drawn in a box 360 wide and 190 high and scales with its column.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ppod_data.format.prompts import visible
from ppod_data.html.page import table
from ppod_data.support.formatting import UNKNOWN, fixed, number, percent

_WIDTH, _HEIGHT = 360.0, 190.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 12.0, 10.0, 34.0
_MAX_CURVES = 12


def label_section(labels: Mapping[str, Mapping[str, Any]]) -> str:
    """Return HTML of the result of `ppod_data.labels.figures.label_figures`; empty without labels."""
    people, rewards, curves = [], [], []
    for name, found in labels.items():
        if "problem" in found:
            people.append([name, f"{found['rows']:,}", visible(found["problem"]), *[""] * 6])
        for dimension, one in found.get("dimensions", {}).items():
            called = name if list(found["dimensions"]) == ["overall"] else f"{name}: {visible(dimension)}"
            people.append([called, *_people(one["people"])])
            for reward in one["rewards"]:
                rewards.append([called, *_reward(reward)])
                if reward["calibration"]:
                    curves.append(calibration_chart(reward, title=f"{reward['reward']} and {called}"))
    if not people:
        return ""
    head = ["labels", "answers", "people", "pairs", "ties", "two people agree"]
    head += ["Krippendorff's α", "same again", "the first image wins"]
    parts = [table(head, people)]
    if rewards:
        head = ["labels", "reward", "pairs with a winner", "reward prefers the winner", "Kendall's τ"]
        parts.append(table([*head, "temperature"], rewards))
    if curves:
        parts.append(f'<div class="charts">{"".join(curves[:_MAX_CURVES])}</div>')
    return "".join(parts)


def _people(one: Mapping[str, Any]) -> list[str]:
    many = one["num_units_repeated"]
    return [
        *(f"{one[key]:,}" for key in ("num_labels", "num_annotators", "num_units")),
        percent(one["tie_rate"]),
        UNKNOWN if one["raw"] is None else f"{percent(one['raw'])} on {many:,} pairs",
        fixed(one["krippendorff_alpha"]),
        percent(one["self_agreement"]),
        _share(one["first_preferred"], one["num_preferences"]),
    ]


def _reward(one: Mapping[str, Any]) -> list[str]:
    return [
        *(one["reward"], f"{one['num_pairs']:,}"),
        _share(one["accuracy"], one["num_pairs"] - one["num_reward_ties"]),
        *(fixed(one["kendall_tau"]), number(one["temperature"])),
    ]


def _share(interval: Mapping[str, Any] | None, count: int) -> str:
    """Format a share with its 95 % interval and the number it was measured on."""
    if interval is None:
        return UNKNOWN
    low, high = 100 * interval["low"], 100 * interval["high"]
    return f"{percent(interval['value'])} ({low:.0f} … {high:.0f} %) of {count:,}"


def calibration_chart(reward: Mapping[str, Any], *, title: str) -> str:
    """Draw how often people prefer the image with the higher score, over the prediction σ(margin / temperature).

    `reward` is a RewardAgreement as plain values, with a temperature.
    """
    bins: Sequence[Mapping[str, Any]] = reward["calibration"]
    points = [(_x(one["predicted"]), _y(one["observed"]), one) for one in bins]
    marks = "".join(
        f'<g class="c0"><title>{escape(_told(one))}</title>'
        f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4"/></g>'
        for x, y, one in points
    )
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
    grid = "".join(
        f'<line class="grid" x1="{_LEFT:g}" x2="{_WIDTH - _RIGHT:g}" y1="{_y(share):.1f}" y2="{_y(share):.1f}"/>'
        + _text(_LEFT - 6, _y(share) + 4, percent(share), "end")
        for share in (0.0, 0.5, 1.0)
    )
    ideal = f'<line class="ideal" x1="{_x(0.5):.1f}" y1="{_y(0.5):.1f}" x2="{_x(1):.1f}" y2="{_y(1):.1f}"/>'
    ends = [_text(_x(share), _HEIGHT - _BOTTOM + 16, percent(share), "middle") for share in (0.5, 0.75)]
    ends.append(_text(_x(1), _HEIGHT - _BOTTOM + 16, percent(1.0), "end"))
    ends.append(_text(_WIDTH - _RIGHT, _HEIGHT - 3, "people agree, over σ(margin / T)", "end"))
    note = f"{reward['num_pairs']:,} pairs, T = {number(reward['temperature'])}; dashed: as predicted"
    heading = f"<figcaption>{escape(title)}<small>{escape(note)}</small></figcaption>"
    svg = f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{escape("calibration of " + title)}">'
    curve = f'<polyline class="curve c0" points="{line}"/>'
    return f'<figure class="chart">{heading}{svg}{grid}{ideal}{curve}{marks}{"".join(ends)}</svg></figure>'


def _told(one: Mapping[str, Any]) -> str:
    return f"predicted {percent(one['predicted'])}, people {percent(one['observed'])}: {one['count']:,} pairs"


def _x(share: float) -> float:
    return _LEFT + (share - 0.5) / 0.5 * (_WIDTH - _LEFT - _RIGHT)


def _y(share: float) -> float:
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'

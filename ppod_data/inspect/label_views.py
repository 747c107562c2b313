"""People's labels on the page of a data set: agreement tables, and calibration curves of rewards as inline SVG.

Units: a curve is drawn in a box 360 wide and 190 high and scales with its column.
"""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from ppod_data.format.prompts import visible
from ppod_data.html.charts.points import calibration_chart
from ppod_data.html.page import join, table
from ppod_data.support.formatting import UNKNOWN, counted, fixed, number, percent

_MAX_CURVES = 12


def label_section(labels: Mapping[str, Mapping[str, Any]]) -> Markup:
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
        return Markup()
    head = ["table", "labels", "people", "pairs", "ties", "two people agree"]
    head += ["Krippendorff's α", "same again", "the first image wins"]
    parts = [table(head, people)]
    if rewards:
        head = ["table", "reward", "pairs with a winner", "reward prefers the winner", "Kendall's τ"]
        parts.append(table([*head, "temperature"], rewards))
    if curves:
        parts.append(Markup('<div class="charts">{}</div>').format(join(curves[:_MAX_CURVES])))
    return join(parts)


def _people(one: Mapping[str, Any]) -> list[str]:
    many = one["num_units_repeated"]
    return [
        *(f"{one[key]:,}" for key in ("num_labels", "num_annotators", "num_units")),
        percent(one["tie_rate"]),
        UNKNOWN if one["raw"] is None else f"{percent(one['raw'])} on {counted(many, 'pair')}",
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

"""The tables of the experiments in Markdown, from the figures that collect.py works out."""

from typing import Any

import numpy as np
from lab import PAPER_PROMPTS

Json = dict[str, Any]


def table(figures: Json) -> str:
    """Markdown: a row a method, a column a prompt, reward with its interval and the share of correct images."""
    prompts = list(figures)
    names = list(dict.fromkeys(name for methods in figures.values() for name in methods))
    lines = [f"| | {' | '.join(prompts)} | mean |", "|---" * (len(prompts) + 2) + "|"]
    for name in names:
        items = [figures[prompt].get(name) for prompt in prompts]
        known = [item for item in items if item]
        overall = f"{number(np.mean([item['reward_mean'] for item in known]))}, "
        overall += f"{np.mean([item['correct'] for item in known]):.0%}"
        cells = [cell(item) if item else "" for item in items]
        lines.append(f"| {name} | {' | '.join(cells)} | {overall if len(known) == len(items) else ''} |")
    return "\n".join(lines) + "\n"


def cell(item: Json) -> str:
    """Return a reward with its interval, where it has one, and the share of correct images."""
    spread = f" ({number(item['reward_low'])} … {number(item['reward_high'])})"
    spread = spread if np.isfinite(item["reward_low"]) else ""
    return f"{number(item['reward_mean'])}{spread}, {item['correct']:.0%}"


def number(value: float) -> str:
    """Two digits, with a true minus sign."""
    return f"{value + 0.0:.2f}".replace("-0.00", "0.00").replace("-", "\N{MINUS SIGN}")


def comparison_table(ours: str, found: Json, wins: Json | None = None) -> str:
    """Markdown: a row a method, a column a prompt; differences that are significant after correction are bold."""
    prompts = [prompt for prompt in PAPER_PROMPTS if any(prompt in cells for cells in found.values())]
    columns = [*prompts, "runs above"] if wins else prompts
    lines = [f"| {ours} minus | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, cells in found.items():
        texts = []
        for prompt in prompts:
            cell = cells.get(prompt)
            text = ""
            if cell:
                value = ("+" if cell["difference"] > 0 else "") + number(cell["difference"])
                text = f"{value} ({number(cell['low'])} … {number(cell['high'])}), {p_value(cell['p'])}"
            texts.append(f"**{text}**" if cell and cell["p"] < 0.05 else text)
        if wins:
            text = f"{wins[name]['won']} of {wins[name]['of']}, {p_value(wins[name]['p'])}"
            texts.append(f"**{text}**" if wins[name]["p"] < 0.05 else text)
        lines.append(f"| {name} | {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def p_value(p: float) -> str:
    """Three digits."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def curves_table(figures: Json) -> str:
    """Markdown: the validation reward over updates with and without the clip, and its worst value of any seed."""
    steps = next(iter(next(iter(figures.values())).values()))["steps"]
    lines = [f"| prompt | | {' | '.join(map(str, steps))} | worst |", "|---" * (len(steps) + 3) + "|"]
    for prompt, named in figures.items():
        for name, curve in named.items():
            worst = number(np.array(curve["each"])[:, 1:].min())
            lines.append(f"| {prompt} | {name} | {' | '.join(map(number, curve['reward_mean']))} | {worst} |")
    return "\n".join(lines) + "\n"

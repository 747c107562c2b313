"""The plots and grids of the experiments, from the figures that collect.py works out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from lab import PAPER_PROMPTS, judge, slug
from PIL import Image, ImageDraw, ImageFont
from plan import METHODS

mpl.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
NAMES = ("pretrained", *METHODS)
GRID_IMAGES = 8
COLOURS = {
    "pretrained": "#8b8b93",
    "sft": "#d69a00",
    "dpok": "#1a9c6e",
    "ddpo": "#8a5bd1",
    "d3po": "#d1477f",
    "prdp": "#4b8b12",
    "ppod-offline": "#7fb2ec",
    "ppod-online": "#2a78d6",
}
Json = dict[str, Any]


def plot_figure3(figures: Json, queries: int) -> None:
    """Means with intervals, a panel a prompt; each run a dot. Intervals may leave the panel, runs do not."""
    fig, axes = plt.subplots(1, len(figures), figsize=(3.4 * len(figures), 3.8), sharey=True, squeeze=False)
    for axis, (prompt, methods) in zip(axes[0], figures.items(), strict=True):
        names = [name for name in NAMES if name in methods]
        for x, name in enumerate(names):
            item = methods[name]
            axis.plot(x, item["reward_mean"], "o", color=COLOURS[name], markersize=7)
            if np.isfinite(item["reward_low"]):
                axis.vlines(x, item["reward_low"], item["reward_high"], color=COLOURS[name])
            axis.plot([x + 0.22] * len(item["seeds"]), item["reward_of_each_run"], ".", color="#aaaaaa")
        axis.set_xticks(range(len(names)), names, rotation=60, ha="right")
        axis.set_title(prompt, fontsize=10)
        axis.grid(axis="y", alpha=0.3)
    each = [
        value
        for methods in figures.values()
        for item in methods.values()
        for value in item["reward_of_each_run"]
    ]
    axes[0][0].set_ylim(min(each) - 0.5, max(each) + 0.5)
    axes[0][0].set_ylabel(f"mean reward at {queries} queries")
    _save(fig, f"figure3-{queries}.png")


def plot_quarters(figures: Json, queries: int) -> None:
    """Reward by queries above, by network evaluations below: after each quarter online, at the end offline."""
    fig, axes = plt.subplots(2, len(figures), figsize=(3.4 * len(figures), 5.8), sharey="col", squeeze=False)
    for column, (prompt, methods) in enumerate(figures.items()):
        for name, points in methods.items():
            reward = [value for _, value in points]
            part = [queries * number / (len(points) - 1) for number in range(len(points))]
            style = "o-" if len(points) > 2 else "o:"
            axes[0][column].plot(part, reward, style, color=COLOURS[name], label=name, markersize=4)
            thousands = [evaluations / 1000 for evaluations, _ in points]
            axes[1][column].plot(thousands, reward, style, color=COLOURS[name], markersize=4)
        axes[0][column].set_title(prompt, fontsize=10)
        axes[0][column].set_xlabel("reward queries")
        axes[1][column].set_xlabel("network evaluations, thousands")
        for row in (0, 1):
            axes[row][column].grid(alpha=0.3)
    axes[0][0].set_ylabel("mean reward")
    axes[1][0].set_ylabel("mean reward")
    handles, labels = axes[0][0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=len(labels), fontsize=9)
    _save(fig, f"quarters-{queries}.png")


def plot_curves(figures: Json) -> None:
    """Reward over updates with and without the clip: the mean, and every run."""
    fig, axes = plt.subplots(1, len(figures), figsize=(3.6 * len(figures), 3.2), squeeze=False)
    for axis, (prompt, curves) in zip(axes[0], figures.items(), strict=True):
        for name, colour in (("clip", "#2a78d6"), ("no-clip", "#d64541")):
            if name in curves:
                curve = curves[name]
                axis.plot(curve["steps"], curve["reward_mean"], "o-", color=colour, label=name)
                for one in curve["each"]:
                    axis.plot(curve["steps"], one, color=colour, alpha=0.25, linewidth=1)
        axis.set_title(prompt, fontsize=10)
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=8)
    axes[0][0].set_xlabel("updates")
    axes[0][0].set_ylabel("mean validation reward")
    _save(fig, "figure2.png")


def plot_frequency(figures: Json) -> None:
    """Reward by the number of stages at equal queries and updates, with replay and without."""
    fig, axis = plt.subplots(figsize=(5.4, 3.4))
    for runs in figures.values():
        for kind, colour in (("replay", "#2a78d6"), ("no-replay", "#d64541")):
            items = {
                int(name.split("-")[0]): item
                for name, item in runs.items()
                if name.endswith(f"stages-{kind}")
            }
            axis.plot(
                list(items), [item["reward_mean"] for item in items.values()], "o-", color=colour, label=kind
            )
            for stages, item in items.items():
                axis.plot(
                    [stages] * len(item["seeds"]), item["reward_of_each_run"], ".", color=colour, alpha=0.4
                )
    axis.set_xscale("log", base=2)
    axis.set_xticks([2, 4, 8, 16], ["2", "4", "8", "16"])
    axis.set_xlabel("stages")
    axis.set_ylabel("mean reward")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    _save(fig, "frequency.png")


def grid(name: str, rows: Sequence[tuple[str, Path]]) -> None:
    """Draw the kept images of several evaluations of one prompt below each other, the same seeds in a column."""
    rows = [(label, folder) for label, folder in rows if (folder / "images.png").exists()]
    if not rows:
        return
    sheets = [Image.open(folder / "images.png").convert("RGB") for _, folder in rows]
    scale, left = 2, 150
    width = max(sheet.width for sheet in sheets) * scale + left
    heights = [sheet.height * scale + 6 for sheet in sheets]
    picture = Image.new("RGB", (width, sum(heights)), (255, 255, 255))
    draw, top = ImageDraw.Draw(picture), 0
    font = ImageFont.load_default(size=16)
    for (label, _), sheet, height in zip(rows, sheets, heights, strict=True):
        draw.text((8, top + sheet.height * scale / 2), label, (40, 40, 40), font, anchor="lm")
        large = sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.LANCZOS)
        picture.paste(large, (left, top))
        top += height
    picture.save(HERE / name)


def grids(out: Path, queries: int) -> None:
    """Figure 4: the first seed's policies at a budget side by side, drawn again from policies/."""
    for prompt in PAPER_PROMPTS:
        rows = []
        for name in NAMES:
            policy = HERE / "policies" / slug(prompt) / f"{name}-{queries}"
            folder = out / "grids" / slug(prompt) / f"{name}-{queries}"
            if name == "pretrained" or policy.exists():
                if not (folder / "eval").exists():
                    judge(folder, policy if policy.exists() else None, [prompt], images=GRID_IMAGES)
                rows.append((name, folder / "eval"))
        if len(rows) > 1:
            grid(f"grid-{slug(prompt)}-{queries}.png", rows)


def _save(fig: Any, name: str) -> None:
    fig.tight_layout()
    fig.savefig(HERE / name, dpi=110, bbox_inches="tight")
    plt.close(fig)

"""The plots and grids of the experiments, from the figures that collect.py works out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from lab import PAPER_PROMPTS, slug
from PIL import Image, ImageDraw, ImageFont
from plan import METHODS

mpl.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
NAMES = ("pretrained", *METHODS)
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


def plot_figure3(figures: Json) -> None:
    """Bars with intervals, a panel a prompt."""
    fig, axes = plt.subplots(1, len(figures), figsize=(3.4 * len(figures), 3.8), sharey=True)
    for axis, (prompt, methods) in zip(np.atleast_1d(axes), figures.items(), strict=True):
        for x, name in enumerate(name for name in NAMES if name in methods):
            item = methods[name]
            axis.errorbar(
                x,
                item["reward_mean"],
                yerr=[
                    [item["reward_mean"] - item["reward_low"]],
                    [item["reward_high"] - item["reward_mean"]],
                ],
                fmt="o",
                color=COLOURS[name],
                capsize=4,
                markersize=7,
            )
            axis.plot([x + 0.22] * len(item["seeds"]), item["reward_of_each_run"], ".", color="#aaaaaa")
        axis.set_xticks(range(len(methods)), [n for n in NAMES if n in methods], rotation=60, ha="right")
        axis.set_title(prompt, fontsize=10)
        axis.grid(axis="y", alpha=0.3)
    np.atleast_1d(axes)[0].set_ylabel("mean reward")
    _save(fig, "figure3.png")


def plot_stages(figures: Json) -> None:
    """Online by stage beside offline at the same queries and updates; seen above, unseen below."""
    fig, axes = plt.subplots(2, len(figures), figsize=(3.4 * len(figures), 5.6), sharex=True, squeeze=False)
    for column, (prompt, kinds) in enumerate(figures.items()):
        for row, kind in enumerate(("seen", "unseen")):
            axis = axes[row][column]
            for name in ("ppod-offline", "ppod-online"):
                items = kinds[kind][name]
                axis.plot(
                    range(5), [item["reward_mean"] for item in items], "o-", color=COLOURS[name], label=name
                )
                axis.fill_between(
                    range(5),
                    [item["reward_low"] for item in items],
                    [item["reward_high"] for item in items],
                    color=COLOURS[name],
                    alpha=0.15,
                )
            axis.set_title(f"{prompt}, {kind}", fontsize=9)
            axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=8)
    axes[1][0].set_xlabel("quarters of the reward queries and updates")
    axes[0][0].set_ylabel("mean reward")
    _save(fig, "figure6.png")


def plot_curves(figures: Json) -> None:
    """Reward over updates with and without the clip."""
    fig, axes = plt.subplots(1, len(figures), figsize=(3.4 * len(figures), 3.2), squeeze=False)
    for axis, (prompt, curves) in zip(axes[0], figures.items(), strict=True):
        for name, colour in (("clip", "#2a78d6"), ("no-clip", "#d64541")):
            if name in curves:
                curve = curves[name]
                axis.plot(curve["steps"], curve["reward_mean"], "o-", color=colour, label=name)
                axis.fill_between(
                    curve["steps"], curve["reward_low"], curve["reward_high"], color=colour, alpha=0.15
                )
        axis.set_title(prompt, fontsize=10)
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=8)
    axes[0][0].set_xlabel("updates")
    axes[0][0].set_ylabel("mean validation reward")
    _save(fig, "figure2.png")


def plot_frequency(figures: Json) -> None:
    """Reward by the number of stages at equal queries and updates."""
    fig, axis = plt.subplots(figsize=(5.4, 3.4))
    for prompt, by_stages in figures.items():
        stages = [int(count) for count in by_stages]
        items = list(by_stages.values())
        line = axis.plot(stages, [item["reward_mean"] for item in items], "o-", label=prompt)[0]
        axis.fill_between(
            stages,
            [item["reward_low"] for item in items],
            [item["reward_high"] for item in items],
            color=line.get_color(),
            alpha=0.12,
        )
    axis.set_xscale("log", base=2)
    axis.set_xticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
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


def grids(out: Path) -> None:
    """Figures 4, 5 and 8: methods side by side, stages, unseen prompts, cross-entropy beside squared error."""
    for prompt in PAPER_PROMPTS:
        base = out / "figure3" / slug(prompt)
        grid(f"grid-{slug(prompt)}.png", [(name, base / f"{name}-seed-0" / "eval") for name in NAMES])
        online = base / "ppod-online-seed-0"
        stages = [("pretrained", base / "pretrained-seed-0" / "eval")]
        stages += [(f"stage {stage}", online / f"stage-{stage}" / "eval") for stage in (1, 2, 3)]
        grid(f"stages-{slug(prompt)}.png", [*stages, ("stage 4", online / "eval")])
        unseen = [("pretrained", base / "pretrained-seed-0" / "unseen" / "eval")]
        grid(f"unseen-{slug(prompt)}.png", [*unseen, ("ppod-online", online / "unseen" / "eval")])
        losses = [("cross-entropy", base / "ppod-offline-seed-0" / "eval")]
        losses.append(("squared error", out / "table1" / slug(prompt) / "ppod-mse-seed-0" / "eval"))
        grid(f"losses-{slug(prompt)}.png", losses)


def _save(fig: Any, name: str) -> None:
    fig.tight_layout()
    fig.savefig(HERE / name, dpi=110)
    plt.close(fig)

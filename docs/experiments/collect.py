"""Figures, tables and pictures of what run.py has finished.

    python docs/experiments/collect.py [--out build/experiments]

Writes docs/experiments/figure*.json, table1.json and so on and plots (PNG) beside this file, the tables into
docs/experiments.md, and the first seed's policies of figure 3 to docs/experiments/policies.

Intervals are 95 %: a bootstrap that draws training runs with replacement, and images within each. With three runs the
spread between runs is known badly, so the mean of every run is in the JSON as well.
"""

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lab import PAPER_PROMPTS, slug
from numpy.typing import NDArray
from pictures import HERE, NAMES, grids, plot_curves, plot_figure3, plot_frequency, plot_stages
from plan import METHODS, SEEDS

Json = dict[str, Any]


def evaluations(folders: Sequence[Path]) -> list[Json]:
    """Return the eval.json of every folder that has one."""
    return [
        json.loads((folder / "eval.json").read_text())
        for folder in folders
        if (folder / "eval.json").exists()
    ]


def runs(out: Path, group: str, prompt: str, name: str, seeds: Sequence[int] = SEEDS) -> list[Path]:
    """Return the finished runs of a method on a prompt."""
    folders = [out / group / slug(prompt) / f"{name}-seed-{seed}" for seed in seeds]
    return [folder for folder in folders if (folder / "result.json").exists()]


def summary(folders: Sequence[Path], inner: str = "eval") -> Json | None:
    """Return the metrics of several runs together; None without a run."""
    records = evaluations([folder / inner for folder in folders])
    if not records:
        return None
    rewards = [values_of(record, "rewards") for record in records]
    low, high = two_level(rewards)
    correct = [values_of(record, "correct") for record in records]
    correct_low, correct_high = two_level(correct)
    return {
        "reward_mean": mean(rewards),
        "reward_low": low,
        "reward_high": high,
        "correct": mean(correct),
        "correct_low": correct_low,
        "correct_high": correct_high,
        "check_reward_mean": mean([values_of(record, "check_rewards") for record in records]),
        "diversity": float(np.mean([record["overall"]["diversity"] for record in records])),
        "reward_of_each_run": [round(float(values.mean()), 4) for values in rewards],
        "num_images": int(sum(map(len, rewards))),
        "seeds": [int(folder.name.rsplit("-", 1)[1]) for folder in folders],
    }


def values_of(record: Json, key: str) -> NDArray[np.float64]:
    """One value an image, over all prompts of an evaluation."""
    return np.concatenate([np.array(item[key], dtype=np.float64) for item in record["images"].values()])


def mean(groups: Sequence[NDArray[np.float64]]) -> float:
    """Return the mean of the runs' means."""
    return float(np.mean([values.mean() for values in groups]))


def two_level(groups: Sequence[NDArray[np.float64]], resamples: int = 2000) -> tuple[float, float]:
    """Return the 95 % interval of the mean over runs: runs drawn with replacement, and images within each."""
    rng = np.random.default_rng(0)
    means = np.array(
        [values[rng.integers(0, len(values), (resamples, len(values)))].mean(axis=1) for values in groups]
    )
    drawn = rng.integers(0, len(groups), (len(groups), resamples))
    low, high = np.quantile(means[drawn, np.arange(resamples)].mean(axis=0), [0.025, 0.975])
    return float(low), float(high)


def figure3(out: Path) -> Json:
    """Return prompt -> method -> metrics."""
    found: Json = {}
    for prompt in PAPER_PROMPTS:
        for name in NAMES:
            if figures := summary(runs(out, "figure3", prompt, name)):
                found.setdefault(prompt, {})[name] = figures
    return found


def figure6(out: Path) -> Json:
    """Return prompt -> seen or unseen -> online and offline after 1, 2, 3 and 4 quarters of the queries."""
    found: Json = {}
    for prompt in PAPER_PROMPTS:
        online = runs(out, "figure3", prompt, "ppod-online")
        whole = runs(out, "figure3", prompt, "ppod-offline")
        for kind, suffix in (("seen", ""), ("unseen", "-unseen")):
            last = "eval" if kind == "seen" else "unseen/eval"
            start = runs(out, "figure3", prompt, "pretrained")
            by_stage = [summary(start, last)]
            by_stage += [summary(online, f"stage-{stage}{suffix}/eval") for stage in (1, 2, 3)]
            by_stage.append(summary(online, last))
            offline = [by_stage[0], by_stage[1]]  # the first stage is offline training, to the bit
            offline += [summary(runs(out, "figure6", prompt, f"ppod-offline-{s}"), last) for s in (2, 3)]
            offline.append(summary(whole, last))
            if all(by_stage) and all(offline):
                found.setdefault(prompt, {})[kind] = {"ppod-online": by_stage, "ppod-offline": offline}
    return found


def frequency(out: Path) -> Json:
    """Return prompt -> number of stages -> metrics of the first seed."""
    found: Json = {}
    for prompt in PAPER_PROMPTS:
        for stages in (1, 2, 4, 8, 16):
            group, name = {
                1: ("figure3", "ppod-offline"),
                4: ("figure3", "ppod-online"),
            }.get(stages, ("frequency", f"stages-{stages}"))
            if figures := summary(runs(out, group, prompt, name, SEEDS[:1])):
                found.setdefault(prompt, {})[str(stages)] = figures
    return found


def table1(out: Path) -> Json:
    """Cross-entropy beside squared error, offline: prompt -> objective -> figures."""
    found: Json = {}
    for prompt in PAPER_PROMPTS:
        for name, group in (("ppod-offline", "figure3"), ("ppod-mse", "table1")):
            if figures := summary(runs(out, group, prompt, name)):
                found.setdefault(prompt, {})["ppod" if name == "ppod-offline" else name] = figures
    return found


def figure2(out: Path) -> Json:
    """Return prompt -> with or without the clip -> learning curve."""
    found: Json = {}
    for prompt in PAPER_PROMPTS:
        for name in ("clip", "no-clip"):
            for folder in runs(out, "figure2", prompt, name, SEEDS[:1]):
                found.setdefault(prompt, {})[name] = json.loads((folder / "result.json").read_text())
    return found


def same_shards(out: Path) -> Json:
    """Return prompt -> objective -> metrics, all on the first seed's offline data set."""
    found: Json = {}
    for prompt in PAPER_PROMPTS:
        places = [("figure3", name) for name in ("pretrained", "sft", "ppod-offline")]
        places += [("table1", "ppod-mse")]
        places += [
            ("same-shards", name) for name in ("dpok", "ddpo", "d3po", "prdp", "sft-best", "diffusion-dpo")
        ]
        for group, name in places:
            if figures := summary(runs(out, group, prompt, name, SEEDS[:1])):
                found.setdefault(prompt, {})[name] = figures
    return found


def beyond(out: Path) -> Json:
    """Return prompt -> change -> metrics of the first seed."""
    found: Json = {}
    names = (
        "hard-labels-offline",
        "hard-labels-online",
        "anchor-stage",
        "pessimistic-step",
        "pessimistic-pair",
    )
    for prompt in PAPER_PROMPTS:
        places = [("figure3", "pretrained"), ("figure3", "ppod-offline"), ("figure3", "ppod-online")]
        places += [
            ("beyond", name) for name in (*names, "shared-noise", "all-timesteps", "fewer-pairs", "shuffled")
        ]
        for group, name in places:
            if figures := summary(runs(out, group, prompt, name, SEEDS[:1])):
                found.setdefault(prompt, {})[name] = figures
    folder = out / "beyond" / "several" / "four-prompts-seed-0"
    for record in evaluations([folder / "eval"]):
        for prompt, figures in record["prompts"].items():
            found.setdefault(prompt, {})["four-prompts"] = figures
    return found


def table(figures: Json) -> str:
    """Markdown: a row a method, a column a prompt, reward with its interval and the share of correct images."""
    prompts = list(figures)
    names = list(dict.fromkeys(name for methods in figures.values() for name in methods))
    lines = [f"| | {' | '.join(prompts)} | mean |", "|---" * (len(prompts) + 2) + "|"]
    for name in names:
        items = [figures[prompt].get(name) for prompt in prompts]
        known = [item for item in items if item]
        mean_reward = number(np.mean([item["reward_mean"] for item in known]))
        overall = f"{mean_reward}, {np.mean([item['correct'] for item in known]):.0%}"
        cells = [_cell(item) if item else "" for item in items]
        lines.append(f"| {name} | {' | '.join(cells)} | {overall if len(known) == len(items) else ''} |")
    return "\n".join(lines) + "\n"


def _cell(item: Json) -> str:
    low, high = number(item["reward_low"]), number(item["reward_high"])
    return f"{number(item['reward_mean'])} ({low} … {high}), {item['correct']:.0%}"


def number(value: float) -> str:
    """Two digits, with a true minus sign."""
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def stages_table(figures: Json) -> str:
    """Markdown: online and offline after each quarter of the queries and updates, seen and unseen prompts."""
    lines = ["| prompt | | pretrained | 1 | 2 | 3 | 4 |", "|---|---|---|---|---|---|---|"]
    for prompt, kinds in figures.items():
        for kind, methods in kinds.items():
            for name, items in methods.items():
                cells = [
                    f"{number(item['reward_mean'])}, {item['correct']:.0%}" if item else "" for item in items
                ]
                lines.append(f"| {prompt}, {kind} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def curves_table(figures: Json) -> str:
    """Markdown: the validation reward over updates with and without the clip."""
    steps = next(iter(next(iter(figures.values())).values()))["steps"]
    lines = [f"| prompt | | {' | '.join(map(str, steps))} |", "|---" * (len(steps) + 2) + "|"]
    for prompt, curves in figures.items():
        for name, curve in curves.items():
            lines.append(f"| {prompt} | {name} | {' | '.join(map(number, curve['reward_mean']))} |")
    return "\n".join(lines) + "\n"


def embed(name: str, text: str) -> None:
    """Put a table between its marks in docs/experiments.md."""
    page = HERE.parent / "experiments.md"
    before, mark, rest = page.read_text().partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    assert mark and end, f"docs/experiments.md has no marks for {name}"
    page.write_text(before + mark + text + end + after)


def keep_policies(out: Path) -> None:
    """Copy the first seed's LoRA of every row of figure 3."""
    for prompt in PAPER_PROMPTS:
        for name in METHODS:
            for folder in runs(out, "figure3", prompt, name, SEEDS[:1]):
                target = HERE / "policies" / slug(prompt) / name
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(folder / "run" / "policy", target)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("build/experiments"))
    out = parser.parse_args().out
    makers: dict[str, Callable[[Path], Json]] = {
        "figure3": figure3,
        "figure6": figure6,
        "figure2": figure2,
        "table1": table1,
        "frequency": frequency,
        "same-shards": same_shards,
        "beyond": beyond,
    }
    figures = {name: make(out) if (out / name).exists() else {} for name, make in makers.items()}
    for name, values in figures.items():
        if values:
            (HERE / f"{name}.json").write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    plots = {
        "figure3": plot_figure3,
        "figure6": plot_stages,
        "figure2": plot_curves,
        "frequency": plot_frequency,
    }
    for name, plot in plots.items():
        if figures[name]:
            plot(figures[name])
    grids(out)
    keep_policies(out)
    makers_of_tables: dict[str, Callable[[Json], str]] = {"figure6": stages_table, "figure2": curves_table}
    for name, values in figures.items():
        if values:
            embed(name, makers_of_tables.get(name, table)(values))


if __name__ == "__main__":
    main()

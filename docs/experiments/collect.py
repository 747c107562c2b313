"""Tables, tests, plots and pictures of what run.py has recorded in runs/*.json.

    python docs/experiments/collect.py [--out build/experiments]

Writes the tables into docs/experiments.md and the plots and grids (PNG) beside this file. What has not been run is left
out.

Intervals are 95 % by Student's t over the means of the runs of one prompt; each run has data, training and evaluation
noise of its own seed. Tests are paired over seeds, two-sided, by Student's t, corrected by Holm over all methods and
prompts of a budget. Sign tests count the runs of all prompts in which ppod-online is above, corrected over methods.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from compare import MIN_RUNS, differences, interval, wins
from lab import PAPER_PROMPTS
from pictures import HERE, grids, plot_curves, plot_figure3, plot_frequency, plot_quarters
from plan import BUDGETS, CHOSEN, METHODS
from tables import cell, comparison_table, curves_table, number, table

Json = dict[str, Any]
NAMES = ("pretrained", *METHODS)


def rows_of(group: str) -> Json:
    """Return prompt -> name -> queries -> seed -> row."""
    path = HERE / "runs" / f"{group}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def main_rows(queries: int) -> Json:
    """Return prompt -> method -> seed -> row of figure 3; a method has the seeds that it has on every prompt.

    A method with fewer seeds than an interval needs is left out, and so are all without ppod-online.
    """
    rows = rows_of("figure3")
    found: Json = {prompt: {} for prompt in PAPER_PROMPTS}
    for name in NAMES:
        budget = "0" if name == "pretrained" else str(queries)
        by_prompt = {prompt: rows.get(prompt, {}).get(name, {}).get(budget, {}) for prompt in PAPER_PROMPTS}
        seeds = sorted(set.intersection(*map(set, by_prompt.values())))
        if len(seeds) >= MIN_RUNS:
            for prompt, of in by_prompt.items():
                found[prompt][name] = {seed: of[seed] for seed in seeds}
    return found if "ppod-online" in found[PAPER_PROMPTS[0]] else {}


def summary(rows: Mapping[str, Json]) -> Json:
    """Return the figures of several runs, seed -> row, together."""
    rewards = np.array([row["reward_mean"] for row in rows.values()])
    low, high = interval(rewards)
    return {
        "reward_mean": float(rewards.mean()),
        "reward_low": low,
        "reward_high": high,
        "correct": float(np.mean([row["correct"] for row in rows.values()])),
        "reward_of_each_run": [round(float(value), 4) for value in rewards],
        "seeds": [int(seed) for seed in rows],
    }


def figure3(queries: int) -> Json:
    """Return prompt -> method -> figures at a budget."""
    return {
        prompt: {name: summary(rows) for name, rows in methods.items()}
        for prompt, methods in main_rows(queries).items()
    }


def group(name: str, *, beside: Sequence[str] = (), queries: int) -> Json:
    """Return prompt -> run -> figures of an experiment, beside some methods of figure3 on the same seeds."""
    main = rows_of("figure3")
    found: Json = {}
    for prompt, runs in rows_of(name).items():
        for method in beside:
            rows = (
                main.get(prompt, {}).get(method, {}).get("0" if method == "pretrained" else str(queries), {})
            )
            seeds = {seed for by_queries in runs.values() for rows in by_queries.values() for seed in rows}
            if rows := {seed: row for seed, row in rows.items() if seed in seeds}:
                found.setdefault(prompt, {})[method] = summary(rows)
        for run, by_queries in runs.items():
            found.setdefault(prompt, {})[run] = summary(by_queries[str(queries)])
    return found


def comparisons(queries: int) -> tuple[Json, Json]:
    """Return method -> prompt -> ppod-online's reward minus the method's, and method -> how many runs it is above."""
    pairs = [
        (name, prompt, methods["ppod-online"], runs)
        for prompt, methods in main_rows(queries).items()
        for name, runs in methods.items()
        if name not in ("pretrained", "ppod-online")
    ]
    return differences(pairs), wins(pairs)


def losses() -> Json:
    """Return "ppod-offline" -> prompt -> squared error's reward minus cross-entropy's, on the same data."""
    main = rows_of("figure3")
    queries = str(BUDGETS[0])
    return differences(
        [
            (
                "ppod-offline",
                prompt,
                runs["ppod-mse"][queries],
                main.get(prompt, {}).get("ppod-offline", {}).get(queries, {}),
            )
            for prompt, runs in rows_of("table1").items()
        ]
    )


def cost_table(queries: int) -> str:
    """Markdown: every method's stages, updates, network evaluations, and runs that end below the pretrained model."""
    prompts = list(main_rows(queries).values())
    lines = [
        "| method | stages | updates | network evaluations, thousands | runs below the pretrained model |",
        "|---|---|---|---|---|",
    ]
    for name, method in METHODS.items():
        if name not in prompts[0]:
            continue
        updates = round(method.updates_per_query * queries)
        rows = [row for methods in prompts for row in methods[name].values()]
        before = [methods["pretrained"][seed] for methods in prompts for seed in methods[name]]
        below = sum(
            row["reward_mean"] < start["reward_mean"] for row, start in zip(rows, before, strict=True)
        )
        thousands = mean_of(rows, "evaluations") / 1000
        lines.append(f"| {name} | {method.stages} | {updates} | {thousands:.0f} | {below} of {len(rows)} |")
    return "\n".join(lines) + "\n"


def tuning_table() -> str:
    """Markdown: each method's trials, the sum of the rewards of the two prompts and the share of correct images."""
    record: Json = json.loads((HERE / "tune.json").read_text())
    lines = ["| method | trials: sum of the two mean rewards, correct images |", "|---|---|"]
    for name in METHODS:
        texts = []
        for trial, by_prompt in record.get(name, {}).items():
            rows = list(by_prompt.values())
            correct = np.mean([row["correct"] for row in rows])
            text = f"{trial} {number(sum(row['reward_mean'] for row in rows))}, {correct:.0%}"
            texts.append(f"**{text}**" if trial == CHOSEN[name] else text)
        lines.append(f"| {name} | {'; '.join(texts)} |")
    return "\n".join(lines) + "\n"


def quarters(queries: int) -> Json:
    """Return prompt -> method -> (evaluations, reward) before training and after each quarter of the queries."""
    found: Json = {}
    for prompt, methods in main_rows(queries).items():
        for name in [name for name in METHODS if name in methods]:
            method, rows = METHODS[name], list(methods[name].values())
            total = mean_of(rows, "evaluations")
            points = [(0.0, mean_of(list(methods["pretrained"].values()), "reward_mean"))]
            for quarter in range(3 if method.stages > 1 else 0):
                so_far = [row["quarters"][quarter] for row in rows]
                points.append((total * (quarter + 1) / 4, mean_of(so_far, "reward_mean")))
            points.append((total, mean_of(rows, "reward_mean")))
            found.setdefault(prompt, {})[name] = points
    return found


def mean_of(rows: Sequence[Json], key: str) -> float:
    """Return the mean of a figure over rows."""
    return float(np.mean([row[key] for row in rows]))


def budgets_table() -> str:
    """Markdown: online and offline at each budget, on the trained prompt and on unseen ones."""
    budgets = [queries for queries in BUDGETS if main_rows(queries)]
    titles = " | ".join(f"{queries} queries" for queries in budgets)
    lines = [f"| prompt | | pretrained | {titles} |", "|---" * (3 + len(budgets)) + "|"]
    for prompt in PAPER_PROMPTS:
        for kind in ("seen", "unseen"):
            for name in ("ppod-online", "ppod-offline"):
                found = [main_rows(budgets[0])[prompt]["pretrained"]]
                found += [main_rows(queries)[prompt].get(name, {}) for queries in budgets]
                cells = []
                for of in found:
                    picked = [row if kind == "seen" else row["unseen"] for row in of.values()]
                    figures = picked and (mean_of(picked, "reward_mean"), mean_of(picked, "correct"))
                    cells.append(f"{number(figures[0])}, {figures[1]:.0%}" if figures else "")
                lines.append(f"| {prompt}, {kind} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def many_table() -> str:
    """Markdown: one policy for twelve prompts, on these and on the twelve held out."""
    lines = ["| | twelve trained prompts | twelve held-out prompts |", "|---|---|---|"]
    (runs,) = rows_of("many").values()
    for name, by_queries in runs.items():
        (rows,) = by_queries.values()
        both = (rows, {seed: row["unseen"] for seed, row in rows.items()})
        cells = [cell(summary(picked)) for picked in both]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def curves() -> Json:
    """Return prompt -> with or without the clip -> mean learning curve, and that of every seed."""
    found: Json = {}
    for prompt, names in rows_of("figure2").items():
        for name, by_queries in names.items():
            rows = list(next(iter(by_queries.values())).values())
            each = np.array([row["reward_mean"] for row in rows])
            found.setdefault(prompt, {})[name] = {
                "steps": rows[0]["steps"],
                "reward_mean": each.mean(axis=0).tolist(),
                "each": each.tolist(),
            }
    return found


def embed(name: str, text: str) -> None:
    """Put a table between its marks in docs/experiments.md."""
    page = HERE.parent / "experiments.md"
    before, mark, rest = page.read_text().partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    assert mark and end, f"docs/experiments.md has no marks for {name}"
    page.write_text(before + mark + text + end + after)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("build/experiments"))
    out = parser.parse_args().out
    embed("tuning", tuning_table())
    for queries in BUDGETS:
        if figures := figure3(queries):
            embed(f"figure3-{queries}", table(figures))
            embed(f"comparisons-{queries}", comparison_table("ppod-online", *comparisons(queries)))
            embed(f"costs-{queries}", cost_table(queries))
            plot_figure3(figures, queries)
            plot_quarters(quarters(queries), queries)
            grids(out, queries)
    if main_rows(BUDGETS[0]):
        embed("budgets", budgets_table())
    if found := losses():
        embed("table1-differences", comparison_table("ppod-mse", found))
    if figures := curves():
        embed("figure2", curves_table(figures))
        plot_curves(figures)
    if rows_of("many"):
        embed("many", many_table())
    beside: dict[str, tuple[Sequence[str], int, Callable[[Json], None] | None]] = {
        "table1": (("ppod-offline",), BUDGETS[0], None),
        "frequency": (("pretrained", "ppod-offline"), BUDGETS[1], plot_frequency),
        "same-shards": (("pretrained", "sft", "ppod-offline"), BUDGETS[0], None),
        "harder": ((), BUDGETS[1], None),
        "beyond": (("pretrained", "ppod-offline", "ppod-online"), BUDGETS[1], None),
    }
    for name, (methods, queries, plot) in beside.items():
        if figures := group(name, beside=methods, queries=queries):
            embed(name, table(figures))
            if plot:
                plot(figures)


if __name__ == "__main__":
    main()

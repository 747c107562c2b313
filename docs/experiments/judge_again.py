"""Judge the committed policies on fresh seeds with `ppod-train eval`, and compare with the recorded intervals.

    python docs/experiments/judge_again.py [--out build/experiments] [--seed 7] [--images 2048]

Writes judged-again.json beside this file, and its table into docs/experiments.md. What is done is kept. An interval is
recorded of 512 images; of a fresh mean of 2,048 images 92 % are expected inside: 1.96 / √(1 + 512 / 2048) standard
errors.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from collect import embed, rows_of
from lab import PAPER_PROMPTS, add, recorded, slug
from plan import BUDGETS, METHODS, SEEDS
from tables import number

HERE = Path(__file__).parent
RECORD = HERE / "judged-again.json"


def judge_again(out: Path, prompt: str, name: str, policy: Path, images: int, seed: int) -> dict[str, Any]:
    """Return the figures of a fresh evaluation beside the interval that the run recorded."""
    method, _, queries = name.rpartition("-")
    row = rows_of("figure3")[prompt][method][queries][str(SEEDS[0])]
    folder = out / "again" / slug(prompt) / f"{name}-{images}-seed-{seed}"
    command = [Path(sys.executable).parent / "ppod-train", "eval", "--out", folder]
    command += ["--adapter", policy, "--prompt", prompt]
    command += ["--num-images-per-prompt", images, "--seed", seed, "--baseline", "none", "--json"]
    done = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True)
    again = json.loads(done.stdout)["after"]["reward_mean"]
    return {
        **{key: row[key] for key in ("reward_mean", "reward_low", "reward_high")},
        "again": again,
        "images": images,
        "seed": seed,
        "inside": row["reward_low"] <= again <= row["reward_high"],
    }


def table(record: dict[str, Any]) -> str:
    """Markdown: a row a policy."""
    lines = ["| policy | recorded | again | inside |", "|---|---|---|---|"]
    for prompt, by_name in record.items():
        for name, row in by_name.items():
            low, high = number(row["reward_low"]), number(row["reward_high"])
            cells = f"{number(row['reward_mean'])} ({low} … {high}) | {number(row['again'])}"
            lines.append(f"| {prompt}, {name} | {cells} | {'yes' if row['inside'] else 'no'} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("build/experiments"))
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--images", type=int, default=2048)
    arguments = parser.parse_args()
    for prompt in PAPER_PROMPTS:
        for name in (f"{method}-{queries}" for queries in BUDGETS for method in METHODS):
            policy = HERE / "policies" / slug(prompt) / name
            if policy.is_dir() and not recorded(RECORD, (prompt, name)):
                row = judge_again(arguments.out, prompt, name, policy, arguments.images, arguments.seed)
                add(RECORD, (prompt, name), row)
                print(prompt, name, row["reward_mean"], row["again"], row["inside"], flush=True)
    record = json.loads(RECORD.read_text())
    embed("judged-again", table(record))
    inside = [row["inside"] for by_name in record.values() for row in by_name.values()]
    print(f"{sum(inside)} of {len(inside)} are inside", file=sys.stderr)


if __name__ == "__main__":
    main()

"""The same small tuning budget for every method: five settings each, on two prompts that are none of the paper's.

    python docs/experiments/tune.py [--out build/experiments]

Seed 1000, 512 reward queries (the fifth setting: 256), 96 updates, 256 evaluation images a prompt of a seed that is
reported nowhere else. A method's settings are those with the best sum of the two mean rewards, a fifth one's where it
wins with half the queries. Figures: docs/experiments/tune.json.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

from lab import TUNING_PROMPTS, Method, judge, once, slug, train

SEED = 1000
PROMPTS = TUNING_PROMPTS[1:3]


def trial(objective: str, stages: int = 1, *, soft: bool = False, **settings: Any) -> Method:
    """Return a method; `soft` labels are σ(margin / 3) instead of 1."""
    pairs = {"label_temperature": 3.0} if soft else {}
    return Method(objective=objective, stages=stages, settings=settings, pairs=pairs)


TRIALS: dict[str, list[Method]] = {
    "ppod-online": [
        trial("ppod", 4),
        trial("ppod", 4, clip_anchor="stage"),
        trial("ppod", 4, ema_decay=0.9),
        trial("ppod", 8),
    ],
    "ppod-offline": [
        trial("ppod"),
        trial("ppod", ema_decay=0.9),
        trial("ppod", learning_rate=1.5e-3),
        trial("ppod", log_ratio_clip=0.03),
    ],
    "sft": [
        trial("sft"),
        trial("sft-best"),
        trial("sft", reward_temperature=0.3, learning_rate=6e-3),
        trial("sft-best", learning_rate=6e-3),
    ],
    "ddpo": [
        trial("ddpo", 8),
        trial("ddpo", 16),
        trial("ddpo", 8, learning_rate=6e-3),
        trial("ddpo", 4),
    ],
    "dpok": [
        trial("dpok", 8),
        trial("dpok", 16),
        trial("dpok", 8, learning_rate=6e-3),
        trial("dpok", 4),
    ],
    "d3po": [
        trial("d3po", 4),
        trial("d3po", 4, log_ratio_clip=0.1),
        trial("d3po", 4, log_ratio_clip=0.1, ema_decay=0.9),
        trial("d3po", 8, log_ratio_clip=0.1),
    ],
    "prdp": [
        trial("prdp", 4),
        trial("prdp", 4, reward_temperature=3.0),
        trial("prdp", 4, reward_temperature=3.0, ema_decay=0.9),
        trial("prdp", 8, reward_temperature=3.0, ema_decay=0.9),
    ],
}


AVERAGED: dict[str, Method] = {
    "ppod-online": trial("ppod", 4, soft=True, ema_decay=0.9),
    "ppod-offline": trial("ppod", soft=True, ema_decay=0.9),
    "sft": trial("sft-best", ema_decay=0.9),
    "ddpo": trial("ddpo", 8, ema_decay=0.9),
    "dpok": trial("dpok", 16, ema_decay=0.9),
    "d3po": trial("d3po", 8, soft=True, log_ratio_clip=0.1, ema_decay=0.9),
    "prdp": trial("prdp", 4, ema_decay=0.9),
}
"""A fifth setting of each, at the 256 queries of the reported runs: averaged weights, and soft labels where labels are
read."""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("build/experiments"))
    parser.add_argument("--only", nargs="*", default=list(TRIALS), help="methods")
    parser.add_argument("--backwards", action="store_true", help="take the trials from the end")
    arguments = parser.parse_args()
    rows: dict[str, list[dict[str, Any]]] = {}
    for name in arguments.only:
        trials = [(number, method, 512) for number, method in enumerate(TRIALS[name])]
        trials.append((len(trials), AVERAGED[name], 256))
        for number, method, queries in reversed(trials) if arguments.backwards else trials:
            found = {}
            for prompt in PROMPTS:
                record = once(
                    arguments.out / "tune" / slug(prompt) / f"{name}-{number}",
                    partial(carry_out, arguments.out, method, prompt, queries),
                )
                if record is not None:
                    found[prompt] = {key: record[key] for key in ("reward_mean", "correct", "diversity")}
            settings = {**method.settings, **method.pairs}
            row = {
                "objective": method.objective,
                "stages": method.stages,
                "settings": {key: str(value) for key, value in settings.items()},
                "queries": queries,
                "prompts": found,
            }
            rows.setdefault(name, []).append(row)
            print(name, number, [round(item["reward_mean"], 2) for item in found.values()], flush=True)
    if set(arguments.only) == set(TRIALS) and not arguments.backwards:
        Path(__file__).with_name("tune.json").write_text(json.dumps(rows, indent=1) + "\n")


def carry_out(out: Path, method: Method, prompt: str, queries: int, folder: Path) -> dict[str, Any]:
    """One trial on one prompt."""
    shared = out / "tune" / f"data-{slug(prompt)}-{queries}{'-soft' if method.pairs else ''}"
    policy = train(folder, method, [prompt], seed=SEED, queries=queries, shared=shared)
    return judge(folder, policy, [prompt], images=256, seed=SEED)


if __name__ == "__main__":
    main()

"""The same small tuning budget for every method: three trials each, on two prompts that are none of the paper's.

    python docs/experiments/tune.py [--out build/experiments] [--only METHOD …]

128 reward queries a prompt, 256 evaluation images, a seed that is reported nowhere else. A method's settings are those
of the trial with the best sum of the two mean rewards. Figures: docs/experiments/tune.json, which is also what a second
machine goes on from.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lab import FIGURES, TUNING_PROMPTS, Method, add, judge, once, recorded, slug, train

SEED, QUERIES = 1100, 128
PROMPTS = TUNING_PROMPTS[1:3]
RECORD = Path(__file__).with_name("tune.json")

SOFT = {"label_temperature": 3.0}
BASES: dict[str, Method] = {
    "ppod-online": Method(objective="ppod", stages=4, settings={"ema_decay": 0.9}, pairs=SOFT),
    "ddpo": Method(objective="ddpo", stages=4),
    "d3po": Method(
        objective="d3po", stages=4, settings={"log_ratio_clip": 0.1, "ema_decay": 0.9}, pairs=SOFT
    ),
    "prdp": Method(objective="prdp", stages=4, settings={"reward_temperature": 3.0, "ema_decay": 0.9}),
    "dpok": Method(objective="dpok", stages=4),
    "ppod-offline": Method(objective="ppod", settings={"ema_decay": 0.9}, pairs=SOFT),
    "sft": Method(objective="sft-best"),
}
"""Where the trials start: what the search before this one found at 96 updates."""
FALLING = {"lr_scheduler": "linear"}


def trials(method: Method) -> dict[str, Method]:
    """Return the three trials of a method; the online ones differ in their stages, too."""
    longer = replace(method, updates_per_query=3)
    falling = replace(longer, settings={**method.settings, **FALLING})
    if method.stages == 1:
        return {"base": method, "longer": longer, "longer, falling": falling}
    return {
        "base": method,
        "8 stages": replace(method, stages=8),
        "8 stages, longer, falling": replace(falling, stages=8),
    }


def settings_of(method: Method) -> Mapping[str, Any]:
    """Return what a trial's row says of its settings."""
    return {
        "stages": method.stages,
        "updates": round(method.updates_per_query * QUERIES),
        **method.settings,
        **method.pairs,
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("build/experiments"))
    parser.add_argument("--only", nargs="*", default=list(BASES), help="methods")
    arguments = parser.parse_args()
    for name in arguments.only:
        for trial, method in trials(BASES[name]).items():
            for prompt in PROMPTS:
                keys = (name, trial, prompt)
                if recorded(RECORD, keys):
                    continue
                folder = arguments.out / "tune" / slug(prompt) / slug(f"{name}-{trial}")
                record = once(folder, partial(carry_out, arguments.out, method, prompt))
                if record is not None:
                    add(RECORD, keys, {**settings_of(method), **record})
                    print(*keys, round(record["reward_mean"], 2), f"{record['correct']:.0%}", flush=True)


def carry_out(out: Path, method: Method, prompt: str, folder: Path) -> dict[str, Any]:
    """One trial on one prompt."""
    shared = out / "tune" / f"data-{slug(prompt)}{'-soft' if method.pairs else ''}"
    policy = train(folder, method, [prompt], seed=SEED, queries=QUERIES, shared=shared)
    found = judge(folder, policy, [prompt], images=256, seed=SEED)
    return {name: found[name] for name in FIGURES}


if __name__ == "__main__":
    main()

"""A window of noisy steps against the whole chain, offline, at equal network evaluations of training.

    python docs/experiments/window.py [--out build/experiments]

Every update has 8 pairs and 5 timesteps. With noise in all 19 steps these are drawn at random; in a window of 5 steps
they are all of it, so that the sum over timesteps inside the sigmoid is exact. `trained 5:10` separates the two: data
of the whole chain, of which the steps 5 to 9 are trained. One tuning prompt, 256 reward queries, 96 updates, 256
evaluation images by the whole chain. Figures: docs/experiments/window.json.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

from lab import TUNING_PROMPTS, Method, judge, once, train

SEEDS = (0, 1, 2)
PROMPT = TUNING_PROMPTS[0]
METHODS = {
    "whole-chain": Method(objective="ppod"),
    "5:10": Method(objective="ppod", data={"noisy_steps": "5:10"}),
    "5:10-one-x_T": Method(objective="ppod", data={"noisy_steps": "5:10", "initial_noise": "per-prompt"}),
    "trained-5:10": Method(objective="ppod", settings={"trained_steps": "5:10"}),
    "0:5": Method(objective="ppod", data={"noisy_steps": "0:5"}),
}


def run(folder: Path, name: str, seed: int) -> dict[str, Any]:
    """Train and evaluate one method."""
    policy = train(folder, METHODS[name], [PROMPT], seed=seed)
    return judge(folder, policy, [PROMPT], images=256) | {"method": name, "seed": seed}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("build/experiments"))
    out = parser.parse_args().out / "window"
    results = [once(out / "before", lambda folder: judge(folder, None, [PROMPT], images=256))]
    for seed in SEEDS:
        for name in METHODS:
            results.append(once(out / f"{name}-{seed}", partial(run, name=name, seed=seed)))
    Path(__file__).with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""A window of noisy steps against the whole chain, offline, at equal network evaluations of training.

    python docs/experiments/window.py [--out build/experiments]

Every update has 8 pairs and 5 timesteps. With noise in all 19 steps these are drawn at random; in a window of 5 steps
they are all of it, so that the sum over timesteps inside the sigmoid is exact. Two tuning prompts, 256 reward
queries, 96 updates, 256 evaluation images by the whole chain. Two more methods ran on the first prompt alone:
`trained 5:10` (data of the whole chain, of which the steps 5 to 9 are trained) and a window of the first five steps.
Figures: docs/experiments/window.json.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

from lab import TUNING_PROMPTS, Method, judge, once, slug, train

SEEDS = {
    TUNING_PROMPTS[0]: (0, 1, 2),
    "three dogs on the beach": (9000, 9001, 9002),
}
METHODS = {
    "whole-chain": Method(objective="ppod"),
    "5:10": Method(objective="ppod", data={"noisy_steps": "5:10"}),
    "5:10-one-x_T": Method(objective="ppod", data={"noisy_steps": "5:10", "initial_noise": "per-prompt"}),
    "trained-5:10": Method(objective="ppod", settings={"trained_steps": "5:10"}),
    "0:5": Method(objective="ppod", data={"noisy_steps": "0:5"}),
}
ON_EVERY_PROMPT = ("whole-chain", "5:10", "5:10-one-x_T")


def run(folder: Path, name: str, prompt: str, seed: int) -> dict[str, Any]:
    """Train and evaluate one method."""
    policy = train(folder, METHODS[name], [prompt], seed=seed, updates=96)
    found = judge(folder, policy, [prompt], images=256)
    return found | {"prompt": prompt, "method": name, "seed": seed}


def before(folder: Path, prompt: str) -> dict[str, Any]:
    """Evaluate the pretrained model."""
    return judge(folder, None, [prompt], images=256) | {"prompt": prompt}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("build/experiments"))
    out = parser.parse_args().out / "window"
    for prompt in SEEDS:
        once(out / slug(prompt) / "before", partial(before, prompt=prompt))
    for number in range(3):
        for prompt, seeds in SEEDS.items():
            for name in ON_EVERY_PROMPT if number or prompt != TUNING_PROMPTS[0] else METHODS:
                work = partial(run, name=name, prompt=prompt, seed=seeds[number])
                once(out / slug(prompt) / f"{name}-{seeds[number]}", work)
    results = [json.loads(path.read_text()) for path in sorted(out.glob("*/*/result.json"))]
    Path(__file__).with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

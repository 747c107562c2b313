"""Objectives that read x_0 alone, offline: does the reward rise?

    python docs/experiments/final_latents.py [--out build/experiments]

Two tuning prompts, one seed, 256 reward queries, 96 updates of 16 images and 5 of 19 timesteps, and 128 evaluation
images. Figures: docs/experiments/final_latents.json.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

from lab import TUNING_PROMPTS, Method, judge, once, slug, train

SEED = 9100
PROMPTS = ("three dogs on the beach", TUNING_PROMPTS[0])
METHODS = {
    "diffusion-nft": Method(objective="diffusion-nft"),
    "awm": Method(objective="awm"),
    "awm-1": Method(objective="awm", settings={"log_ratio_clip": 1.0}),
    "diffusion-nft-0.1": Method(objective="diffusion-nft", settings={"nft_beta": 0.1}),
}
ON_BOTH = ("awm", "diffusion-nft-0.1")


def run(folder: Path, name: str | None, prompt: str) -> dict[str, Any]:
    """Train one method and evaluate it; None evaluates the pretrained model."""
    policy = None if name is None else train(folder, METHODS[name], [prompt], seed=SEED, updates=96)
    return judge(folder, policy, [prompt], images=128) | {"prompt": prompt, "method": name, "seed": SEED}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("build/experiments"))
    out = parser.parse_args().out / "final-latents"
    results = [
        once(out / slug(prompt) / (name or "before"), partial(run, name=name, prompt=prompt))
        for prompt, names in zip(PROMPTS, ((None, *METHODS), (None, *ON_BOTH)), strict=True)
        for name in names
    ]
    Path(__file__).with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

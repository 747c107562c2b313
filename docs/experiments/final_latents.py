"""Objectives that read x_0 alone, offline: does the reward rise?

    python docs/experiments/final_latents.py [--out build/experiments]

One tuning prompt, one seed, 256 reward queries, 96 updates of 16 images and 5 of 19 timesteps, and 128 evaluation
images. Figures: docs/experiments/final_latents.json.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

from lab import Method, judge, once, train

SEED = 9100
PROMPT = "three dogs on the beach"
METHODS = {
    "diffusion-nft": Method(objective="diffusion-nft"),
    "awm": Method(objective="awm"),
    "awm-1": Method(objective="awm", settings={"log_ratio_clip": 1.0}),
    "diffusion-nft-0.1": Method(objective="diffusion-nft", settings={"nft_beta": 0.1}),
}


def run(folder: Path, name: str | None) -> dict[str, Any]:
    """Train one method and evaluate it; None evaluates the pretrained model."""
    policy = None if name is None else train(folder, METHODS[name], [PROMPT], seed=SEED)
    return judge(folder, policy, [PROMPT], images=128) | {"prompt": PROMPT, "method": name, "seed": SEED}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("build/experiments"))
    out = parser.parse_args().out / "final-latents"
    results = [once(out / (name or "before"), partial(run, name=name)) for name in (None, *METHODS)]
    Path(__file__).with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

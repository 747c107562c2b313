"""What makes online training learn more from the same queries, and whether it stays good when it goes on too long.

    python docs/experiments/recipe.py [--out build/experiments/recipe] [--only ARM …] [--prompt N …] [--seed N …]

Prompts and seeds (from 6000) that are reported nowhere else. 256 reward queries a prompt in four stages; after each
stage the policy is judged on 128 images of its own noise. Figures: docs/experiments/recipe.json.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lab import FIGURES, QUERIES, add, judge, load, once, pair_options, slug

from ppod_data.diffusion.models.source import ModelSource
from ppod_data.generation.build_spec import build_spec
from ppod_data.rewards import load_reward
from ppod_train.online.online import train_online
from ppod_train.online.settings import OnlineSettings
from ppod_train.settings import TrainSettings

PROMPTS = (
    "a rabbit and a wolf",
    "three dogs on the beach",
    "a blue colored cat",
    "a bird and a pig",
    "four rabbits on the moon",
    "a pig on the beach",
)
"""Composition, counting and colour; the hard composition of earlier tuning; counting; place."""
FIRST_SEED = 6000
JUDGED, JUDGED_LAST = 128, 256
UPDATE = {
    "pairs_per_step": 8,
    "timesteps_per_update": 5,
    "lr_scheduler": "constant",
    "ema_decay": 0.9,
    "eval_every": 0,
}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One recipe."""

    updates: int = 384
    stages: int = 4
    train: Mapping[str, Any] = field(default_factory=dict)
    online: Mapping[str, Any] = field(default_factory=dict)


ARMS: dict[str, Arm] = {
    "replay": Arm(),
    "no-replay": Arm(online={"replay_stages": 0}),
    "window": Arm(train={"trained_steps": "3:11", "learning_rate": 1e-3}),
    "linear": Arm(train={"lr_scheduler": "linear"}),
    "replay-960": Arm(updates=960),
    "replay-960-linear": Arm(updates=960, train={"lr_scheduler": "linear"}),
    "replay-960-stage": Arm(
        updates=960,
        train={"clip_anchor": "stage", "clip_mode": "pessimistic-step", "log_ratio_clip": 0.003},
    ),
}


def run(folder: Path, arm: Arm, prompts: tuple[str, ...], seed: int, last: bool) -> dict[str, Any]:
    """Train a policy, and judge it after every stage, or with `last` the last one alone, on more images."""
    images = QUERIES // arm.stages
    steps = arm.updates // arm.stages
    settings = TrainSettings(
        **{**UPDATE, "num_train_steps": steps, "checkpoint_every": steps, "seed": seed, **arm.train}
    )
    train_online(
        folder / "run",
        OnlineSettings(
            num_stages=arm.stages,
            eval_images_per_prompt=0,
            train=settings,
            **pair_options(images, {"label_temperature": 3.0}),
            **arm.online,
        ),
        reference=ModelSource(model="scenes"),
        build_spec=partial(build_spec, prompts=prompts, num_images_per_prompt=images, seed=seed),
        load=load,
        reward=load_reward("scenes"),
    )
    every: list[Path | None] = [None, *sorted((folder / "run").glob("stage-*/run/policy"))]
    policies = list(enumerate(every))[-1:] if last else list(enumerate(every))
    found = [
        judge(folder / f"after-{number}", policy, prompts, images=JUDGED_LAST if last else JUDGED, seed=seed)
        for number, policy in policies
    ]
    return {
        "updates": [steps * number for number, _ in policies],
        **{name: [result.get(name) for result in found] for name in FIGURES},
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("build/experiments/recipe"))
    parser.add_argument("--only", nargs="*", default=list(ARMS), help="names of recipes")
    parser.add_argument("--prompt", nargs="*", default=PROMPTS, help="prompts")
    parser.add_argument("--last", action="store_true", help="judge the last policy alone, on 256 images")
    parser.add_argument("--seed", type=int, nargs="*", default=[FIRST_SEED])
    arguments = parser.parse_args()
    for seed in arguments.seed:
        for prompt in arguments.prompt:
            for name in arguments.only:
                folder = arguments.out / slug(prompt) / f"{name}-seed-{seed}"
                work = partial(run, arm=ARMS[name], prompts=(prompt,), seed=seed, last=arguments.last)
                row = once(folder, work)
                if row is not None:
                    print(prompt, name, seed, row["reward_mean"], row["correct"], flush=True)
                    add(Path(__file__).with_name("recipe.json"), (prompt, name, str(seed)), row)


if __name__ == "__main__":
    main()

"""Does training stay good when it goes on too long? Ten times the best number of updates, one change at a time.

    python docs/experiments/stability.py [--out build/experiments/stability] [--only NAME …]

One prompt at a time, none of the paper's; seeds from 1000 on. Figures: docs/experiments/stability.json.
"""

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lab import TUNING_PROMPTS, make_data, once, slug

from ppod_data.diffusion.models.model import load_model
from ppod_data.rewards import load_reward
from ppod_train.data.training_data import DataSource
from ppod_train.evaluation.files import read_evaluation
from ppod_train.run.run_folder import evaluation_folder
from ppod_train.run.train import train_offline
from ppod_train.settings import TrainSettings

SEED = 1000
CENTRE = TrainSettings(
    pairs_per_step=8,
    timesteps_per_update=5,
    num_train_steps=1200,
    eval_every=100,
    eval_images_per_prompt=96,
    patience=0,
    checkpoint_every=400,
    seed=SEED,
)
CHANGES: dict[str, dict[str, Any]] = {
    "paper": {},
    "pull-back-1": {"pull_back": 1.0},
    "averaged": {"ema_decay": 0.9},
    "soft-averaged": {"ema_decay": 0.9},
    "averaged-0.99": {"ema_decay": 0.99},
    "soft-averaged-0.99": {"ema_decay": 0.99},
    "pessimistic-step": {"clip_mode": "pessimistic-step"},
    "kl-1": {"kl_weight": 1.0},
    "pull-back-0.3": {"pull_back": 0.3},
    "pull-back-3": {"pull_back": 3.0},
    "pessimistic-pair": {"clip_mode": "pessimistic-pair"},
    "no-clip": {"log_ratio_clip": float("inf")},
    "pull-back-1-clip-0.003": {"pull_back": 1.0, "log_ratio_clip": 0.003},
    "pull-back-1-clip-0.03": {"pull_back": 1.0, "log_ratio_clip": 0.03},
    "kl-10": {"kl_weight": 10.0},
    "no-clip-kl-1": {"log_ratio_clip": float("inf"), "kl_weight": 1.0},
}


def train(folder: Path, root: Path, change: dict[str, Any]) -> dict[str, Any]:
    """One run, and its learning curve."""
    train_offline(
        DataSource(roots=[root], pairs="scenes", scores="scenes"),
        folder,
        replace(CENTRE, **change),
        model=load_model("scenes"),
        reward=load_reward("scenes"),
    )
    steps = range(0, CENTRE.num_train_steps + 1, CENTRE.eval_every)
    results = [read_evaluation(evaluation_folder(folder, step)) for step in steps]
    return {
        "change": {key: str(value) for key, value in change.items()},
        "steps": list(steps),
        "reward_mean": [round(result.overall.reward_mean, 3) for result in results],
        "correct": [round(result.overall.correct or 0.0, 3) for result in results],
        "diversity": [round(result.overall.diversity or 0.0, 4) for result in results],
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("build/experiments/stability"))
    parser.add_argument("--only", nargs="*", help="names of runs")
    parser.add_argument("--prompt", type=int, nargs="*", default=[0], help="numbers of tuning prompts")
    arguments = parser.parse_args()
    record = Path(__file__).with_name("stability.json")
    rows: dict[str, dict[str, Any]] = json.loads(record.read_text()) if record.exists() else {}
    for prompt in (TUNING_PROMPTS[number] for number in arguments.prompt):
        roots = {
            soft: arguments.out / slug(prompt) / ("data-soft" if soft else "data") for soft in (False, True)
        }
        make_data(roots[False], [prompt], images=256, seed=SEED)
        make_data(roots[True], [prompt], images=256, seed=SEED, pairs={"label_temperature": 3.0})
        for name, change in CHANGES.items():
            if arguments.only is None or name in arguments.only:
                folder = arguments.out / slug(prompt) / name

                row = once(folder, partial(train, root=roots[name.startswith("soft")], change=change))
                if row is not None:
                    rows.setdefault(prompt, {})[name] = row
                    print(prompt, name, row["reward_mean"], row["correct"], flush=True)
    record.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""The sweep behind the trainer's defaults: one setting changed at a time, on prompts and seeds of its own.

    python docs/experiments/sweep.py [--out build/sweep] [--only NAME …]

Four prompts, one of each kind and none of the paper's four; data, training and validation seeds from 1000 on. Every
run trains one policy on all four prompts. Runs that are finished are kept, so the script goes on after an
interruption; several processes may share the work (each takes a run whose folder does not exist). The figures are
collected in docs/experiments/sweep.json.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.models.model import load_model
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.generate import generate
from ppod_data.pairs.rank import rank
from ppod_data.rewards import load_reward
from ppod_data.scoring.score import score
from ppod_train.data.training_data import DataSource
from ppod_train.evaluation.files import read_evaluation
from ppod_train.run.run_folder import evaluation_folder
from ppod_train.run.train import train_offline
from ppod_train.settings import TrainSettings

PROMPTS = ("a red colored wolf", "three cats in the park", "a bird and a pig", "a rabbit on the beach")
SEED = 1000
CENTRE = TrainSettings(
    learning_rate=3e-3,
    log_ratio_clip=0.002,
    timesteps_per_update=5,
    num_train_steps=200,
    eval_every=40,
    eval_images_per_prompt=64,
    patience=0,
    checkpoint_every=200,
    seed=SEED,
)
CHANGES: dict[str, dict[str, Any]] = {
    "centre": {},
    "clip-0.0005": {"log_ratio_clip": 0.0005},
    "clip-0.01": {"log_ratio_clip": 0.01},
    "no-clip": {"log_ratio_clip": float("inf")},
    "beta-1": {"dpo_beta": 1.0},
    "beta-100": {"dpo_beta": 100.0},
    "lr-0.001": {"learning_rate": 1e-3},
    "lr-0.01": {"learning_rate": 1e-2},
    "timesteps-10": {"timesteps_per_update": 10},
    "rank-2": {"lora_rank": 2},
    "rank-32": {"lora_rank": 32},
    "full": {"lora_rank": 0, "learning_rate": 3e-5},
    "mse": {"objective": "ppod-mse"},
}
PAIRS: dict[str, dict[str, Any]] = {
    "random": {"strategy": "random", "num_pairs_per_prompt": 1024, "min_margin": 0.5},
    "margin-0": {"strategy": "random", "num_pairs_per_prompt": 1024, "min_margin": 0.0},
    "margin-2": {"strategy": "random", "num_pairs_per_prompt": 1024, "min_margin": 2.0},
    "pairs-128": {"strategy": "random", "num_pairs_per_prompt": 128, "min_margin": 0.5},
    "best-worst": {"strategy": "best-worst", "num_pairs_per_prompt": 64, "min_margin": 0.5},
}


def make_data(root: Path) -> Dataset:
    """256 images a prompt, scored and paired in every way of PAIRS."""
    model = load_model("scenes")
    spec = build_spec(model, prompts=PROMPTS, num_images_per_prompt=256, seed=SEED)
    generate(root, spec, model, shards=range(spec.num_shards))
    dataset = Dataset.open(root)
    score(dataset, load_reward("scenes"), name="scenes")
    for name, options in PAIRS.items():
        rank(dataset, reward="scenes", name=name, seed=SEED, **options)
    return dataset


def train(root: Path, out: Path, pairs: str, change: dict[str, Any]) -> None:
    """One run of the sweep."""
    settings = replace(CENTRE, **change)
    source = DataSource(roots=[root], pairs=pairs, scores="scenes")
    train_offline(source, out, settings, model=load_model("scenes"), reward=load_reward("scenes"))


def figures(out: Path, name: str, pairs: str, change: dict[str, Any]) -> dict[str, object]:
    """Return the learning curve of a finished run."""
    steps = range(0, CENTRE.num_train_steps + 1, CENTRE.eval_every)
    results = [read_evaluation(evaluation_folder(out, step)) for step in steps]
    return {
        "name": name,
        "pairs": pairs,
        "change": {key: str(value) for key, value in change.items()},
        "steps": list(steps),
        "reward_mean": [round(result.overall.reward_mean, 3) for result in results],
        "correct": [round(result.overall.correct or 0.0, 3) for result in results],
        "diversity": [round(result.overall.diversity or 0.0, 4) for result in results],
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("build/sweep"))
    parser.add_argument("--only", nargs="*", help="names of runs")
    arguments = parser.parse_args()
    root = arguments.out / "data"
    make_data(root)
    runs = [(name, "random", change) for name, change in CHANGES.items()]
    runs += [(name, name, {}) for name in PAIRS if name != "random"]
    rows = []
    for name, pairs, change in runs:
        out = arguments.out / name
        wanted = arguments.only is None or name in arguments.only
        if wanted and not out.exists():
            print(name, flush=True)
            train(root, out, pairs, change)
        if (out / "summary.json").exists():
            rows.append(figures(out, name, pairs, change))
            print(name, rows[-1]["reward_mean"], rows[-1]["correct"], flush=True)
    record = {"prompts": PROMPTS, "centre": {k: str(v) for k, v in asdict(CENTRE).items()}, "runs": rows}
    target = Path(__file__).with_name("sweep.json")
    target.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

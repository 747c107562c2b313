"""Run the experiments of plan.py; what is done is kept, and several processes share the work.

    python docs/experiments/run.py [--out build/experiments] [--only figure3 …] [--backwards]

Then collect.py makes the figures. One process takes one thread: start as many as there are cores, the second with
--backwards so that they meet in the middle.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from lab import PAPER_PROMPTS, UPDATE, judge, make_data, once, slug, train
from plan import EXPERIMENTS, SEEDS, UNSEEN, Run

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.models.model import load_model
from ppod_data.format.tables import SCORES, part_name, read_table, write_table
from ppod_data.rewards import load_reward
from ppod_data.support.noise import generator
from ppod_train.data.training_data import DataSource
from ppod_train.evaluation.files import read_evaluation
from ppod_train.run.run_folder import evaluation_folder
from ppod_train.run.train import train_offline
from ppod_train.settings import TrainSettings

UNSEEN_IMAGES = 64
"""Of each unseen prompt."""


def place(out: Path, run: Run) -> Path:
    """Return the folder of a run: experiment, prompt, name and seed."""
    prompt = slug(run.prompts[0]) if len(run.prompts) == 1 else "several"
    return out / run.group / prompt / f"{run.name}-seed-{run.seed}"


def shared_data(out: Path, run: Run) -> Path:
    """Return the folder of the data set that every offline run of a prompt, seed and size reads."""
    if run.also.get("shuffle"):
        return place(out, run)
    labels = "-soft" if run.method.pairs else ""
    return out / "data" / f"{slug(run.prompts[0])}-{run.queries}-seed-{run.seed}{labels}"


def carry_out(out: Path, run: Run, folder: Path) -> dict[str, Any]:
    """Train and evaluate as the run asks; returns what goes to its result.json."""
    if "curve" in run.also:
        return learning_curve(out, run, folder)
    if run.also.get("shuffle"):
        shuffle_rewards(folder, run)
    policy = train(
        folder,
        run.method,
        run.prompts,
        seed=run.seed,
        queries=run.queries,
        updates=run.updates,
        shared=shared_data(out, run),
    )
    record: dict[str, Any] = {"seed": run.seed, "figures": judge(folder, policy, run.prompts, seed=run.seed)}
    unseen = UNSEEN.get(run.prompts[0], ())
    if run.also.get("unseen"):
        record["unseen"] = judge(folder / "unseen", policy, unseen, images=UNSEEN_IMAGES, seed=run.seed)
    if run.also.get("stages"):
        record["stages"] = [
            {
                "seen": judge(folder / f"stage-{stage}", at, run.prompts, images=128, seed=run.seed),
                "unseen": judge(
                    folder / f"stage-{stage}-unseen", at, unseen, images=UNSEEN_IMAGES, seed=run.seed
                ),
            }
            for stage in range(1, run.method.stages)
            for at in [policy_after(folder, stage)]
        ]
    return record


def policy_after(folder: Path, stage: int) -> Path:
    """Return the policy after a stage of an online run, or the last one if the run ended earlier."""
    policies = sorted((folder / "run").glob("stage-*/run/policy"))
    return policies[min(stage, len(policies)) - 1]


def learning_curve(out: Path, run: Run, folder: Path) -> dict[str, Any]:
    """Offline training with an evaluation on validation noise every few updates."""
    data = shared_data(out, run)
    make_data(data / "data", run.prompts, images=run.queries, seed=run.seed, pairs=run.method.pairs)
    settings = TrainSettings(
        objective=run.method.objective,
        **{
            **UPDATE,
            **run.method.settings,
            "num_train_steps": run.updates,
            "seed": run.seed,
            "eval_every": run.also["curve"],
            "eval_images_per_prompt": 128,
            "patience": 0,
        },
    )
    source = DataSource(roots=[data / "data"], pairs="scenes", scores="scenes")
    train_offline(source, folder / "run", settings, model=load_model("scenes"), reward=load_reward("scenes"))
    steps = range(0, run.updates + 1, run.also["curve"])
    results = [read_evaluation(evaluation_folder(folder / "run", step)).overall for step in steps]
    names = ("reward_mean", "reward_low", "reward_high", "correct", "diversity")
    return {
        "seed": run.seed,
        "steps": list(steps),
        **{name: [getattr(result, name) for result in results] for name in names},
    }


def shuffle_rewards(folder: Path, run: Run) -> None:
    """Exchange the scores of a data set's images, so that training can learn nothing about the images."""
    root = folder / "data"
    if (root / "pairs").exists():
        return
    make_data(root, run.prompts, images=run.queries, seed=run.seed, pairs=run.method.pairs)
    (root / "pairs" / "scenes.parquet").unlink()
    dataset = Dataset.open(root)
    for shard in range(dataset.spec.num_shards):
        path = root / "scores" / "scenes" / part_name(shard)
        table = read_table(path, SCORES)
        order = generator(run.seed, "shuffled-rewards", shard).permutation(table.num_rows)
        scores = np.array([math.nan if s is None else s for s in table["score"].to_pylist()])[order]
        column = pa.array([None if math.isnan(s) else s for s in scores], pa.float64())
        write_table(path, table.set_column(table.schema.get_field_index("score"), "score", column))


def pretrained(out: Path, seeds: Sequence[int]) -> None:
    """Evaluate the pretrained model on the same noise, with trained and unseen prompts."""
    for seed in seeds:
        for prompt in PAPER_PROMPTS:

            def run(folder: Path, prompt: str = prompt, seed: int = seed) -> dict[str, Any]:
                unseen = judge(folder / "unseen", None, UNSEEN[prompt], images=UNSEEN_IMAGES, seed=seed)
                return {"seed": seed, "figures": judge(folder, None, [prompt], seed=seed), "unseen": unseen}

            once(out / "figure3" / slug(prompt) / f"pretrained-seed-{seed}", run)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("build/experiments"))
    parser.add_argument("--only", nargs="*", default=list(EXPERIMENTS), choices=list(EXPERIMENTS))
    parser.add_argument("--names", nargs="*", help="names of runs, such as ppod-online")
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--backwards", action="store_true", help="take the runs from the end")
    arguments = parser.parse_args()
    for name in arguments.only:
        runs = [
            run
            for run in EXPERIMENTS[name]()
            if run.seed in arguments.seeds and (not arguments.names or run.name in arguments.names)
        ]
        for run in reversed(runs) if arguments.backwards else runs:
            record = once(
                place(arguments.out, run), lambda folder, run=run: carry_out(arguments.out, run, folder)
            )
            if record is not None and "figures" in record:
                figures = record["figures"]
                print(
                    run.group,
                    run.prompts[0],
                    run.name,
                    run.seed,
                    round(figures["reward_mean"], 2),
                    flush=True,
                )
        if name == "figure3" and not arguments.backwards:
            pretrained(arguments.out, arguments.seeds)
    print(json.dumps({"done": arguments.only}))


if __name__ == "__main__":
    main()

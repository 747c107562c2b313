"""Run the experiments of plan.py; what is done is kept, and several processes share the work.

    python docs/experiments/run.py [--out build/experiments] [--only figure3 …] [--seeds 0 …]

Each run's figures become a row of runs/EXPERIMENT.json beside this file: another machine goes on from there. The first
seed's policies of figure 3 go to policies/. Then collect.py makes the tables and figures. One process takes one thread:
start as many as there are cores.
"""

import argparse
import math
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from lab import FIGURES, PAPER_PROMPTS, UPDATE, add, judge, make_data, once, recorded, slug, train
from peers.counting import NetworkCount
from plan import EXPERIMENTS, FEWER_SEEDS, HELD_OUT_12, SEEDS, TRAINED_12, UNSEEN, Run

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

HERE = Path(__file__).parent
UNSEEN_IMAGES, STAGE_IMAGES = 64, 64
"""Of each unseen prompt, and after each quarter of the queries."""
STEPS = 20
"""Network evaluations an image of `scenes`."""


def carry_out(out: Path, group: str, run: Run, count: NetworkCount, folder: Path) -> dict[str, Any]:
    """Train and evaluate as the run asks; returns its row.

    A run that was interrupted starts anew, since its count of evaluations is lost.
    """
    shutil.rmtree(folder / "run", ignore_errors=True)
    data = shared_data(out, run)
    if run.method.stages == 1:
        make_data(
            data / "data",
            run.prompts,
            images=run.queries,
            seed=run.seed,
            pairs=run.method.pairs,
            **run.method.data,
        )
    if run.also.get("shuffle"):
        shuffle_rewards(data / "data", run)
    if "curve" in run.also:
        return learning_curve(data / "data", run, folder)
    before = count.total
    policy = train(
        folder,
        run.method,
        run.prompts,
        seed=run.seed,
        queries=run.queries,
        shared=data,
    )
    offline = STEPS * run.queries * len(run.prompts) if run.method.stages == 1 else 0
    row: dict[str, Any] = {
        "updates": round(run.method.updates_per_query * run.queries),
        "evaluations": count.total - before + offline,
        **figures(judge(folder, policy, run.prompts, seed=run.seed)),
    }
    if unseen := run.also.get("unseen"):
        row["unseen"] = figures(judge(folder / "unseen", policy, unseen, images=UNSEEN_IMAGES, seed=run.seed))
    if run.also.get("stages"):
        row["quarters"] = [
            figures(judge(folder / f"quarter-{quarter}", at, run.prompts, images=STAGE_IMAGES, seed=run.seed))
            for quarter in (1, 2, 3)
            for at in [policy_after(folder, run.method.stages * quarter // 4)]
        ]
    if group == "figure3" and run.seed == SEEDS[0]:
        keep(policy, run)
    return row


def figures(result: dict[str, Any]) -> dict[str, Any]:
    """Return what is recorded of an evaluation."""
    return {name: result[name] for name in FIGURES}


def shared_data(out: Path, run: Run) -> Path:
    """Return the folder of the data set that the offline runs of a prompt, seed and size read."""
    kind = "-soft" if run.method.pairs else ""
    kind += "-shuffled" if run.also.get("shuffle") else ""
    return out / "data" / f"{slug(run.prompts[0])}-{run.queries}-seed-{run.seed}{kind}"


def policy_after(folder: Path, stage: int) -> Path:
    """Return the policy after a stage of an online run, or the last one if the run ended earlier."""
    policies = sorted((folder / "run").glob("stage-*/run/policy"))
    return policies[min(stage, len(policies)) - 1]


def keep(policy: Path, run: Run) -> None:
    """Copy a policy's LoRA, without its card, beside this file."""
    target = HERE / "policies" / slug(run.prompts[0]) / f"{run.name}-{run.queries}"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(policy, target, ignore=shutil.ignore_patterns("README.md"))


def learning_curve(data: Path, run: Run, folder: Path) -> dict[str, Any]:
    """Offline training with an evaluation on validation noise every few updates."""
    updates = round(run.method.updates_per_query * run.queries)
    settings = TrainSettings(
        objective=run.method.objective,
        **{
            **UPDATE,
            **run.method.settings,
            "num_train_steps": updates,
            "checkpoint_every": updates,
            "seed": run.seed,
            "eval_every": run.also["curve"],
            "eval_images_per_prompt": 128,
            "patience": 0,
        },
    )
    source = DataSource(roots=[data], pairs="scenes", scores="scenes")
    train_offline(source, folder / "run", settings, model=load_model("scenes"), reward=load_reward("scenes"))
    steps = range(0, updates + 1, run.also["curve"])
    results = [read_evaluation(evaluation_folder(folder / "run", step)).overall for step in steps]
    return {
        "steps": list(steps),
        **{name: [getattr(result, name) for result in results] for name in FIGURES[:4]},
    }


def shuffle_rewards(root: Path, run: Run) -> None:
    """Exchange the scores of a data set's images, so that training can learn nothing about the images."""
    mark = root.parent / "shuffled"
    if mark.exists():
        return
    (root / "pairs" / "scenes.parquet").unlink(missing_ok=True)
    dataset = Dataset.open(root)
    for shard in range(dataset.spec.num_shards):
        path = root / "scores" / "scenes" / part_name(shard)
        table = read_table(path, SCORES)
        order = generator(run.seed, "shuffled-rewards", shard).permutation(table.num_rows)
        scores = np.array([math.nan if s is None else s for s in table["score"].to_pylist()])[order]
        column = pa.array([None if math.isnan(s) else s for s in scores], pa.float64())
        write_table(path, table.set_column(table.schema.get_field_index("score"), "score", column))
    mark.touch()


def pretrained(
    out: Path, group: str, prompts: tuple[str, ...], unseen: tuple[str, ...], seeds: Sequence[int]
) -> None:
    """Evaluate the pretrained model on the same noise, with trained and unseen prompts."""
    for seed in seeds:
        keys = (prompts[0], "pretrained", "0", str(seed))
        if recorded(HERE / "runs" / f"{group}.json", keys):
            continue

        def run(folder: Path, seed: int = seed) -> dict[str, Any]:
            others = judge(folder / "unseen", None, unseen, images=UNSEEN_IMAGES, seed=seed)
            return figures(judge(folder, None, prompts, seed=seed)) | {"unseen": figures(others)}

        row = once(out / group / slug(prompts[0]) / f"pretrained-seed-{seed}", run)
        if row is not None:
            add(HERE / "runs" / f"{group}.json", keys, row)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("build/experiments"))
    parser.add_argument("--only", nargs="*", default=list(EXPERIMENTS), choices=list(EXPERIMENTS))
    parser.add_argument("--names", nargs="*", help="names of runs, such as ppod-online")
    parser.add_argument("--prompts", nargs="*", help="first prompts of runs")
    parser.add_argument("--queries", nargs="*", type=int, help="reward queries")
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    arguments = parser.parse_args()
    if "figure3" in arguments.only:
        for prompt in PAPER_PROMPTS:
            pretrained(arguments.out, "figure3", (prompt,), UNSEEN[prompt], arguments.seeds)
    if "many" in arguments.only:
        seeds = [seed for seed in FEWER_SEEDS if seed in arguments.seeds]
        pretrained(arguments.out, "many", TRAINED_12, HELD_OUT_12, seeds)
    count = NetworkCount()
    for group in arguments.only:
        record = HERE / "runs" / f"{group}.json"
        for run in EXPERIMENTS[group]():
            keys = (run.prompts[0], run.name, str(run.queries), str(run.seed))
            if (
                run.seed not in arguments.seeds
                or (arguments.names and run.name not in arguments.names)
                or (arguments.prompts and run.prompts[0] not in arguments.prompts)
                or (arguments.queries and run.queries not in arguments.queries)
                or recorded(record, keys)
            ):
                continue
            folder = (
                arguments.out / group / slug(run.prompts[0]) / f"{run.name}-{run.queries}-seed-{run.seed}"
            )
            row = once(folder, partial(carry_out, arguments.out, group, run, count))
            if row is not None:
                add(record, keys, row)
                reward, correct = row["reward_mean"], row["correct"]
                print(*keys, reward, correct, flush=True)


if __name__ == "__main__":
    main()

"""Claim: ppod needs at most half of TRL's network evaluations until four of five images are right.

    python benchmarks/bench_time_to_quality.py [--only METHOD …] [--prompt TEXT …] [--seed N …]

Network evaluations and processor seconds until 80 % of 256 fresh images of one prompt are fully correct: ppod online
and offline, our DDPO, and TRL 0.23.1's DDPOTrainer, from the same pipeline (the embedded model with Stable Diffusion
1.5's scheduler settings, 20 steps, guidance 1), with the same reward, LoRA on the attention projections, fp32, one
thread. Bound: ppod online on the early steps needs at most half of TRL's evaluations on the median prompt.

The policy is judged after every 32 updates, on noise that training does not see; what judging takes is not counted. An
evaluation is one latent through the network, and its backward pass counts as two. A method that is not there after 384
updates (TRL: 12 epochs, or 96 of the kind that trains on its images once) has no figure. Figures:
docs/experiments/quality.json. TRL lives in build/trl-venv, which `make peers` makes.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "docs" / "experiments"))

from bench_peers import TRL_PYTHON, save_pipeline
from lab import Method, add, load, once, pair_options, slug
from peers.counting import NetworkCount
from peers.process import Workers

from ppod_data.diffusion.models.source import ModelSource
from ppod_data.generation.build_spec import build_spec
from ppod_data.rewards import load_reward
from ppod_data.support.progress import Silent
from ppod_train.evaluation.evaluate import evaluate
from ppod_train.evaluation.settings import EvalSettings
from ppod_train.online.online import train_online
from ppod_train.online.settings import OnlineSettings
from ppod_train.settings import TrainSettings

ROOT = Path(__file__).parents[1]
PROMPTS = ("a red colored wolf", "a pig on the beach", "a rabbit and a wolf")
SEEDS = (9000, 9001, 9002)
GOAL, FRESH, EVERY = 0.8, 256, 32
QUERIES, UPDATES = 256, 384

_UPDATE: dict[str, Any] = {
    "learning_rate": 3e-3,
    "lr_scheduler": "constant",
    "log_ratio_clip": 0.01,
    "lora_rank": 8,
    "pairs_per_step": 8,
    "timesteps_per_update": 5,
}
_SOFT = {"pairs": {"label_temperature": 3.0}, "settings": {"ema_decay": 0.9, "step_weight": "k2"}}
_EARLY = {"trained_steps": "3:11", "timesteps_per_update": 3, "learning_rate": 2e-3}
METHODS = {
    "ppod online": Method(objective="ppod", stages=4, **_SOFT),
    "ppod online, early steps": Method(
        objective="ppod", stages=4, pairs=_SOFT["pairs"], settings={**_SOFT["settings"], **_EARLY}
    ),
    "ppod online, 8 stages": Method(objective="ppod", stages=8, **_SOFT),
    "ppod offline": Method(objective="ppod", **_SOFT),
    "ddpo": Method(objective="ddpo", stages=4),
}
TRL = {"TRL 8 passes": (8, 0.25, 1), "TRL 1 pass": (1, 1.0, 8)}
"""Passes over an epoch's images, the share of timesteps in each, and epochs between two judgements."""

Point = dict[str, Any]


def judge(pipeline: str, adapter: Path | None, prompt: str, seed: int) -> float:
    """Return the share of fresh images that are fully correct."""
    model = load(ModelSource(model=pipeline, adapter=None if adapter is None else str(adapter)))
    settings = EvalSettings(
        prompts=(prompt,), num_images_per_prompt=FRESH, seed=seed, guidance_scale=1.0, num_inference_steps=20
    )
    return float(evaluate(model, load_reward("scenes"), settings).overall.correct or 0.0)


class Reached(Exception):
    """Enough images are right: training need not go on."""


class Watch(Silent):
    """Judges every checkpoint of an online run as it comes; ends the run at the goal."""

    def __init__(self, out: Path, judged: Callable[[Path], float], count: NetworkCount, steps: int) -> None:
        self._out, self._judged, self._count, self._steps = out, judged, count, steps
        self._start, self._before, self._aside = time.process_time(), count.total, (0.0, 0)
        self.points: list[Point] = []

    def status(self, text: str) -> None:
        """Look for a new checkpoint."""
        for checkpoint in self._out.glob("stage-*/run/checkpoints/step-*"):
            run = checkpoint.parents[1]
            updates = (int(run.parent.name[-2:]) - 1) * self._steps + int(checkpoint.name[-6:])
            if all(point["updates"] < updates for point in self.points):
                self._add(run, updates)

    def _add(self, run: Path, updates: int) -> None:
        seconds, evaluations = time.process_time(), self._count.total
        correct = self._judged(run / "policy")
        spent, aside = self._aside
        point = {
            "updates": updates,
            "queries": QUERIES // (UPDATES // self._steps) * int(run.parent.name[-2:]),
            "evaluations": evaluations - self._before - aside,
            "seconds": round(seconds - self._start - spent, 1),
            "correct": correct,
        }
        self._aside = spent + time.process_time() - seconds, aside + self._count.total - evaluations
        self.points.append(point)
        print(point, flush=True)
        if correct >= GOAL:
            raise Reached


def learn(folder: Path, name: str, prompt: str, seed: int, count: NetworkCount) -> list[Point]:
    """Train by ppod until the goal; offline is one stage with all images."""
    method = METHODS[name]
    pipeline = save_pipeline(folder / "pipeline")
    steps, images = UPDATES // method.stages, QUERIES // method.stages
    on_pairs = method.objective == "ppod"
    settings = TrainSettings(
        objective=method.objective,
        num_train_steps=steps,
        checkpoint_every=EVERY,
        eval_every=0,
        seed=seed,
        **{**_UPDATE, **method.settings},
    )
    watch = Watch(
        folder / "run", partial(judge, pipeline, prompt=prompt, seed=seed), count=count, steps=steps
    )
    try:
        train_online(
            folder / "run",
            OnlineSettings(
                num_stages=method.stages,
                eval_images_per_prompt=0,
                train=settings,
                **(pair_options(images, method.pairs) if on_pairs else {}),
            ),
            reference=ModelSource(model=pipeline),
            build_spec=partial(
                build_spec,
                prompts=(prompt,),
                num_images_per_prompt=images,
                num_inference_steps=20,
                guidance_scale=1.0,
                seed=seed,
            ),
            load=load,
            reward=load_reward("scenes"),
            progress=watch,
        )
        watch.status("end")
    except Reached:
        pass
    return watch.points


def learn_trl(folder: Path, name: str, prompt: str, seed: int) -> list[Point]:
    """Train by TRL's trainer in a process of its own until the goal."""
    pipeline = save_pipeline(folder / "pipeline")
    inner, share, together = TRL[name]
    points: list[Point] = []
    seconds = 0.0
    with Workers() as workers:
        arguments = (pipeline, str(folder), prompt, str(seed), str(inner), str(share))
        tasks = workers.start(str(TRL_PYTHON), "peers.trl_learning", arguments, log=folder / "trl.log")
        for _ in range(12):
            start = workers.clocks["processor"]()
            for _ in range(together):
                tasks["epoch"]()
            seconds += workers.clocks["processor"]() - start
            tasks["save"]()
            counted = json.loads((folder / "policy" / "count.json").read_text())
            correct = judge(pipeline, folder / "policy", prompt, seed)
            points.append({**counted, "seconds": round(seconds, 1), "correct": correct})
            print(points[-1], flush=True)
            if correct >= GOAL:
                break
    return points


def measured(folder: Path, name: str, prompt: str, seed: int, count: NetworkCount) -> dict[str, Any]:
    """Run a method, and say what it took. A run that was interrupted starts anew, since its clock is lost."""
    for begun in ("pipeline", "run", "policy"):
        shutil.rmtree(folder / begun, ignore_errors=True)
    train = learn_trl if name in TRL else partial(learn, count=count)
    points = train(folder, name, prompt, seed)
    reached = points[-1] if points and points[-1]["correct"] >= GOAL else None
    return {"reached": reached, "points": points}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/experiments/quality"))
    parser.add_argument("--only", nargs="*", default=[*METHODS, *TRL], help="methods")
    parser.add_argument("--prompt", nargs="*", default=PROMPTS)
    parser.add_argument("--seed", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--quick", action="store_true", help="nothing but the names: does the script start?")
    arguments = parser.parse_args()
    if arguments.quick:
        return
    torch.set_num_threads(1)
    os.environ["PYTHONPATH"] = str(ROOT)  # TRL's process scores by ppod's reward
    count = NetworkCount()
    for prompt in arguments.prompt:
        for seed in arguments.seed:
            for name in arguments.only:
                folder = arguments.out.resolve() / slug(prompt) / f"{slug(name)}-{seed}"
                work = partial(measured, name=name, prompt=prompt, seed=seed, count=count)
                row = once(folder, work)
                if row is not None:
                    print(prompt, name, seed, row["reached"], flush=True)
                    record = ROOT / "docs" / "experiments" / "quality.json"
                    add(record, (prompt, name, str(seed)), row)


if __name__ == "__main__":
    main()

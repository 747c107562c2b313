"""Training learns: every objective's loss falls, and the policy prefers the chosen images."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ppod_train.objectives import OBJECTIVES
from ppod_train.settings import TrainSettings
from tests.support.training import SETTINGS, run

pytestmark = pytest.mark.long

# What an objective needs to learn from so little: rewards that differ by a hundredth, noise that every step draws anew.
SUITED: dict[str, dict[str, Any]] = {
    "sft-best": {"best_of": 4},
    "prdp": {"reward_temperature": 0.01},
    "diffusion-dpo": {"learning_rate": 1e-3, "num_train_steps": 20},
    "diffusion-nft": {"num_train_steps": 20},
    "awm": {"num_train_steps": 20},
}


@pytest.mark.parametrize(
    ("objective", "lora_rank"), [*((name, 4) for name in OBJECTIVES), ("ppod", 0), ("dpok", 0)]
)
def test_every_objective_trains(
    recorded: Path, tiny_pipeline: Path, tmp_path: Path, objective: str, lora_rank: int
) -> None:
    """All of an epoch in every step: the first loss is that of the reference, and it falls."""
    common: dict[str, Any] = {
        "num_train_steps": 8,
        "pairs_per_step": 12 if OBJECTIVES[objective].on_pairs else 8,
        "lora_rank": lora_rank,
        "learning_rate": 1e-2 if lora_rank else 1e-4,
        "eval_every": 0,
    }
    settings = TrainSettings(objective=objective, **common | SUITED.get(objective, {}))
    _, steps = run(recorded, tmp_path, tiny_pipeline, None, settings)
    expected = {
        "ppod": math.log(2),
        "ppod-mse": 0.25,
        "d3po": math.log(2),
        "diffusion-dpo": math.log(2),
        "sft": 0.0,
        "sft-best": 0.0,
        "diffusion-nft": 0.0,
        "awm": 0.0,
        "ddpo": 0.0,  # standardised advantages have a mean of 0
    }
    if objective in expected:
        assert steps[0].loss == pytest.approx(expected[objective], abs=1e-6)
    later = [metrics.loss for metrics in steps[len(steps) // 2 :]]
    assert sum(later) / len(later) < steps[0].loss
    assert (steps[0].kl is None) == (settings.kl_weight == 0)
    if settings.kl_weight:
        assert steps[0].kl == 0.0 and (steps[-1].kl or 0.0) > 0
    record = json.loads((tmp_path / "run.json").read_text())
    kind = "pairs/pairs" if OBJECTIVES[objective].on_pairs else "scores/redness"
    assert record["targets"] == kind and record["settings"]["objective"] == objective


def test_training_moves_the_policy_towards_the_chosen(
    recorded: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    settings = replace(
        SETTINGS, num_train_steps=32, pairs_per_step=12, learning_rate=1e-2, eval_every=0, log_ratio_clip=1.0
    )
    _, steps = run(recorded, tmp_path, tiny_pipeline, None, settings)
    assert steps[-1].preference_accuracy > 0.9
    assert steps[-1].loss < steps[0].loss - 0.01

"""What a run says of itself at its start."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ppod_train.run.run_folder import largest_possible_logit
from ppod_train.settings import TrainSettings
from tests.support.training import SETTINGS, run


def test_the_largest_possible_logit_is_twice_beta_times_steps_times_clip() -> None:
    settings = TrainSettings(dpo_beta=5.0, log_ratio_clip=0.02)
    assert largest_possible_logit(settings, num_steps=10) == pytest.approx(2 * 5 * 10 * 0.02)


@pytest.mark.parametrize(
    ("objective", "changed"),
    [
        ("ppod", {"log_ratio_clip": math.inf}),
        ("ppod", {"clip_mode": "pessimistic-step"}),
        ("ppod", {"clip_anchor": "stage"}),
        ("d3po", {}),
        ("diffusion-dpo", {}),
        ("ddpo", {}),
    ],
)
def test_there_is_none_where_the_clip_sets_no_bound(objective: str, changed: dict[str, Any]) -> None:
    assert largest_possible_logit(TrainSettings(objective=objective, **changed), num_steps=10) is None


def test_tensorboard_has_the_evaluations_and_a_finished_run_adds_nothing(
    recorded: Path, tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, num_train_steps=2, eval_every=2)
    run(recorded, tmp_path / "run", tiny_pipeline, redness, settings)
    board = tmp_path / "run" / "tensorboard"
    files = sorted(board.rglob("*"))
    assert all(path.is_file() for path in files)
    events = EventAccumulator(str(board))
    events.Reload()
    assert [event.step for event in events.Scalars("eval/reward")] == [0, 2]
    assert {"eval/win_rate", "eval/diversity", "loss"} <= set(events.Tags()["scalars"])
    run(recorded, tmp_path / "run", tiny_pipeline, redness, settings)
    assert sorted(board.rglob("*")) == files

"""What a run says of itself at its start."""

import math
from typing import Any

import pytest

from ppod_train.run_folder import largest_possible_logit
from ppod_train.settings import TrainSettings


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
    assert largest_possible_logit(TrainSettings.of(objective, **changed), num_steps=10) is None

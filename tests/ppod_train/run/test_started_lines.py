"""Lines at the start of a run: what it trains on, and what will not do what its user expects."""

from typing import Any

import pytest

from ppod_train.run.words import started_lines
from ppod_train.step.drift import Drift

EXACT = Drift(steps=(0,), median=(0.0,), p99=(0.0,), overall_p99=0.0, share_exact=1.0)


def record(**settings: Any) -> dict[str, Any]:
    known = {"objective": "sft", "log_ratio_clip": 0.01, "clip_anchor": "reference", "num_train_steps": 8}
    sizes = dict.fromkeys(("num_pairs", "num_trajectories", "num_trained_steps", "num_trained_weights"), 4)
    return {"settings": known | settings, "outside_band_at_start": 0.0, **sizes}


@pytest.mark.parametrize(("decay", "steps", "is_noted"), [(0.0, 8, False), (0.9, 8, False), (0.99, 8, True)])
def test_an_average_that_hardly_moves_is_noted(decay: float, steps: int, is_noted: bool) -> None:
    lines = started_lines(record(ema_decay=decay, num_train_steps=steps), EXACT, 0)
    assert any("92% of the averaged policy is still its start" in line for line in lines) == is_noted

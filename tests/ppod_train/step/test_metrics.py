"""Every figure of a training step on a case worked out by hand."""

from typing import Any

import pytest
import torch

from ppod_train.data.batches import TrainingBatch
from ppod_train.objectives.targets import LossOptions, Targets
from ppod_train.step.gradient import Gradient
from ppod_train.step.metrics import StepMetrics, step_metrics
from tests.support.loss_cases import make_targets, tensor

# Two trajectories, two timesteps, clip 0.002: the chosen one is above the band at the first timestep (right) and
# below it at the second (wrong); the rejected one is inside the band, then below it (right).
LOG_RATIOS = [[0.005, -0.004], [0.001, -0.003]]


def batch(targets: Targets) -> TrainingBatch:
    return TrainingBatch(
        latents=torch.zeros(3, 2, 4, 8, 8),
        current=torch.tensor([0, 1]),
        step_index=torch.tensor([3, 7]),
        prompt={},
        reference_log_probs=torch.zeros(2, 2, dtype=torch.float64),
        targets=targets,
    )


def pair(label: float, **fields: Any) -> Targets:
    return make_targets((2, 2), chosen=[0], rejected=[1], labels=[label], **fields)


def metrics(targets: Targets, *, kl: float | None = None, **options: Any) -> StepMetrics:
    gradient = Gradient(
        loss=0.7,
        log_ratios=tensor(LOG_RATIOS),
        weights=tensor([[0.0, 0.0], [0.3, 0.0]]),
        kl=kl,
        backward_share=0.5,
    )
    return step_metrics(
        gradient,
        batch(targets),
        LossOptions(**{"dpo_beta": 100.0, "log_ratio_clip": 0.002, **options}),
        step=5,
        grad_norm=0.1,
        learning_rate=1e-3,
        one_pass=False,
        seconds=1.0,
    )


def test_figures_of_a_hand_worked_step() -> None:
    found = metrics(pair(1.0))
    assert found.log_ratio_mean == pytest.approx(-0.00025)
    assert found.log_ratio_max == pytest.approx(0.005)
    assert found.in_band_share == 0.25
    assert found.gradient_share == 0.25 and found.backward_share == 0.5
    assert found.clipped_right == 0.5
    assert found.clipped_wrong == 0.25
    # D = (0.002 - 0.002) - (0.001 - 0.002) = 0.001; the logit is 100 times that.
    assert found.largest_logit == pytest.approx(0.1)
    assert found.preference_accuracy == 1.0
    # Sums over timesteps: 0.001 and -0.002, mean -0.0005; 256 dimensions.
    assert found.kl_estimate == pytest.approx(256 * 0.0005)
    assert found.per_timestep == {
        "steps": [3, 7],
        "log_ratio_mean": pytest.approx([0.003, -0.0035]),
        "log_ratio_max": pytest.approx([0.005, 0.004]),
        "clipped_right": [0.5, 0.5],
        "clipped_wrong": [0.0, 0.5],
    }


def test_the_other_label_swaps_right_and_wrong() -> None:
    found = metrics(pair(0.0))
    assert (found.clipped_right, found.clipped_wrong) == (0.25, 0.5)
    assert found.preference_accuracy == 0.0


def test_a_subset_of_timesteps_is_scaled_up() -> None:
    assert metrics(pair(1.0), timestep_scale=4.0).kl_estimate == pytest.approx(
        4 * metrics(pair(1.0)).kl_estimate
    )
    assert metrics(pair(1.0), timestep_scale=4.0).largest_logit == pytest.approx(0.4)


def test_with_the_stage_anchor_the_band_is_around_the_anchors() -> None:
    """Shifts from the anchors: 0, -0.003 (wrong) and 0.003 (wrong), -0.003 (right)."""
    anchors = [[0.005, -0.001], [-0.002, 0.0]]
    found = metrics(pair(1.0, anchors=anchors), clip_anchor="stage")
    assert (found.in_band_share, found.clipped_right, found.clipped_wrong) == (0.25, 0.25, 0.5)
    # D = (0.005 - 0.003) - (0.0 - 0.002) = 0.004
    assert found.largest_logit == pytest.approx(0.4)
    assert metrics(pair(1.0, anchors=anchors)) == metrics(pair(1.0))


def test_without_pairs_right_and_wrong_are_the_advantages_sides() -> None:
    """A good image above the band and below it, a worthless one, a bad one below it."""
    found = metrics(make_targets((2, 2), advantages=[[1.0, 2.0], [0.0, -1.0]]))
    assert found.preference_accuracy is None and found.largest_logit is None
    assert (found.clipped_right, found.clipped_wrong) == (0.5, 0.25)
    assert found.per_timestep["clipped_right"] == [0.5, 0.5]
    assert found.per_timestep["clipped_wrong"] == [0.0, 0.5]


def test_a_tracker_is_given_the_numbers_that_there_are() -> None:
    without = metrics(make_targets((2, 2))).scalars()
    assert "kl" not in without and "preference_accuracy" not in without and "per_timestep" not in without
    assert metrics(pair(1.0), kl=0.25).scalars()["kl"] == 0.25
    assert all(isinstance(value, float) for value in metrics(pair(1.0), kl=0.25).scalars().values())

"""Every figure of a training step on a case worked out by hand."""

import pytest
import torch

from ppod_train.batches import PreferenceBatch
from ppod_train.gradient import Gradient
from ppod_train.metrics import StepMetrics, step_metrics

# Two trajectories, two timesteps, clip 0.002: the chosen one is above the band at the first timestep (right) and
# below it at the second (wrong); the rejected one is inside the band, then below it (right).
LOG_RATIOS = [[0.005, -0.004], [0.001, -0.003]]


def batch(labels: list[float]) -> PreferenceBatch:
    return PreferenceBatch(
        latents=torch.zeros(3, 2, 4, 8, 8),
        current=torch.tensor([0, 1]),
        following=torch.tensor([1, 2]),
        step_index=torch.tensor([3, 7]),
        prompt_index=torch.tensor([0, 0]),
        reference_log_probs=torch.zeros(2, 2, dtype=torch.float64),
        chosen=torch.tensor([0]),
        rejected=torch.tensor([1]),
        labels=torch.tensor(labels, dtype=torch.float64),
    )


def metrics(labels: list[float], timestep_scale: float = 1.0) -> StepMetrics:
    log_ratios = torch.tensor(LOG_RATIOS, dtype=torch.float64)
    gradient = Gradient(loss=0.7, log_ratios=log_ratios, weights=torch.zeros(2, 2), backward_share=0.25)
    return step_metrics(
        gradient,
        batch(labels),
        step=5,
        dpo_beta=100.0,
        log_ratio_clip=0.002,
        timestep_scale=timestep_scale,
        grad_norm=0.1,
        one_pass=False,
        seconds=1.0,
    )


def test_figures_of_a_hand_worked_step() -> None:
    found = metrics([1.0])
    assert found.log_ratio_mean == pytest.approx(-0.00025)
    assert found.log_ratio_max == pytest.approx(0.005)
    assert found.in_band_share == 0.25
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
    found = metrics([0.0])
    assert (found.clipped_right, found.clipped_wrong) == (0.25, 0.5)
    assert found.preference_accuracy == 0.0


def test_a_subset_of_timesteps_is_scaled_up() -> None:
    assert metrics([1.0], 4.0).kl_estimate == pytest.approx(4 * metrics([1.0]).kl_estimate)
    assert metrics([1.0], 4.0).largest_logit == pytest.approx(0.4)

"""PRDP: regression on reward differences (Deng et al., CVPR 2024, Eq. 12 and App. G).

Shapes: U trajectories, T timesteps, P pairs.

    loss = mean over pairs of max( (η·D − Δr/τ)², (η·D_clip − Δr/τ)² )

The paper writes (ℓ_w − ℓ_l averaged over T, less Δr/β)², which is equal up to a constant factor with β = τ·T·dpo_beta.
Its clip is relative to the policy that made the stage's data (`clip_anchor` stage), and its maximum is over a pair
(`clip_mode` pessimistic-pair). The regression target is a number, so the loss is 0 only at the optimum of Eq. 3.
"""

import torch

from ppod_train.objectives.clip import preference_bounds, pull_back_loss
from ppod_train.objectives.targets import LossOptions, Targets


def prdp_loss(log_ratios: torch.Tensor, targets: Targets, options: LossOptions) -> torch.Tensor:
    """Compute the squared error of η·D and the reward difference / reward_temperature, averaged over pairs.

    Args:
        log_ratios: log π − log π_ref, [U, T].

    Returns:
        A scalar.
    """
    lower, upper = preference_bounds(log_ratios, targets, options)
    target = targets.margins / options.reward_temperature
    error = torch.maximum((lower - target) ** 2, (upper - target) ** 2)
    return error.mean() + pull_back_loss(log_ratios, targets, options)

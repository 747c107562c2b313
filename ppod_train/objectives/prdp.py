"""PRDP: regression on the difference of two rewards (Deng et al., CVPR 2024, Eq. 12 and App. G).

Shapes: U trajectories, T timesteps, P pairs.

    loss = mean over pairs of max( (η·D − Δr/τ)², (η·D_clip − Δr/τ)² )

The paper writes (ℓ_w − ℓ_l averaged over T, less Δr/β)²: the same up to a constant factor, with β = τ·T·dpo_beta. Its
clip is against the policy that made the stage's data (`clip_anchor` stage) and its maximum is over a pair (`clip_mode`
pessimistic-pair). Unlike the sigmoid of PPOD the target is a number: the loss is 0 only at the optimum of Eq. 3.
"""

import torch

from ppod_train.objectives.clip import preference_bounds, pull_back_loss
from ppod_train.objectives.targets import LossOptions, Targets


def prdp_loss(log_ratios: torch.Tensor, targets: Targets, options: LossOptions) -> torch.Tensor:
    """The squared error of η·D against the reward difference in units of reward_temperature, averaged over pairs.

    Args:
        log_ratios: log π − log π_ref, [U, T].

    Returns:
        A scalar.
    """
    lower, upper = preference_bounds(log_ratios, targets, options)
    wanted = targets.margins / options.reward_temperature
    error = torch.maximum((lower - wanted) ** 2, (upper - wanted) ** 2)
    return error.mean() + pull_back_loss(log_ratios, targets, options)

"""Policy gradients on recorded trajectories: DDPO and DPOK.

Shapes: U trajectories, T timesteps. A = advantages, ρ = π/π_stage, the ratio to the policy that made the data.
"""

import torch

from ppod_train.objectives.targets import LossOptions, Targets


def ddpo_loss(log_ratios: torch.Tensor, targets: Targets, options: LossOptions) -> torch.Tensor:
    """Compute −min(ρ·A, clip(ρ, 1 − ε, 1 + ε)·A), averaged over steps.

    DDPO with importance sampling (Black et al., ICLR 2024).

    Args:
        log_ratios: log π − log π_ref, [U, T].

    Returns:
        A scalar; minus the mean advantage if the policy equals the policy that made the data.
    """
    ratio = torch.exp(log_ratios - targets.anchors)
    return clipped_surrogate(ratio, targets.advantages, options.log_ratio_clip)


def clipped_surrogate(ratio: torch.Tensor, advantages: torch.Tensor, clip: float) -> torch.Tensor:
    """Return −mean of min(ρ·A, clip(ρ, 1 − ε, 1 + ε)·A), a scalar (PPO, Schulman et al. 2017, Eq. 7)."""
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratio * advantages, clipped * advantages).mean()


def dpok_loss(log_ratios: torch.Tensor, targets: Targets, options: LossOptions) -> torch.Tensor:
    """Compute −clip(ρ, 1 − ε, 1 + ε)·A, averaged over steps.

    DPOK (Fan et al., NeurIPS 2023, Algorithm 1). The KL term to the reference is the setting `kl_weight`; the value
    baseline is part of the advantages. The gradient is zero outside the band on both sides, because the authors' code
    clamps without a minimum.

    Args:
        log_ratios: log π − log π_ref, [U, T].

    Returns:
        A scalar.
    """
    ratio = torch.exp(log_ratios - targets.anchors)
    clipped = ratio.clamp(1 - options.log_ratio_clip, 1 + options.log_ratio_clip)
    return -(clipped * targets.advantages).mean()

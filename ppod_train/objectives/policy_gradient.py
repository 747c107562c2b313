"""Policy gradients on recorded trajectories: DDPO and DPOK.

Shapes: U trajectories, T timesteps. A = advantages, ρ = π/π_stage, the ratio to the policy that made the data.
"""

import torch

from ppod_train.objectives.targets import LossOptions, Targets


def ddpo_loss(log_ratios: torch.Tensor, targets: Targets, options: LossOptions) -> torch.Tensor:
    """DDPO (Black et al., ICLR 2024, importance sampling): −min(ρ·A, clip(ρ, 1 − ε, 1 + ε)·A), averaged over steps.

    Args:
        log_ratios: log π − log π_ref, [U, T].

    Returns:
        A scalar; minus the mean advantage where policy = the policy that made the data.
    """
    ratio = torch.exp(log_ratios - targets.anchors)
    clipped = ratio.clamp(1 - options.log_ratio_clip, 1 + options.log_ratio_clip)
    return -torch.minimum(ratio * targets.advantages, clipped * targets.advantages).mean()


def dpok_loss(log_ratios: torch.Tensor, targets: Targets, options: LossOptions) -> torch.Tensor:
    """DPOK (Fan et al., NeurIPS 2023, Algorithm 1): −clip(ρ, 1 − ε, 1 + ε)·A, averaged over steps; the KL term to the
    reference is `kl_weight`, the value baseline is in the advantages.

    Outside the band there is no gradient on either side: the authors' code clamps without a minimum.

    Args:
        log_ratios: log π − log π_ref, [U, T].

    Returns:
        A scalar.
    """
    ratio = torch.exp(log_ratios - targets.anchors)
    clipped = ratio.clamp(1 - options.log_ratio_clip, 1 + options.log_ratio_clip)
    return -(clipped * targets.advantages).mean()

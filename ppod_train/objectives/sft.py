"""Supervised fine-tuning on one's own samples: the likelihood of the recorded chains, the better ones weighing more.

Shapes: U trajectories, T timesteps.

    loss = −mean over trajectories of w_u · mean_t log π(x_{t-1}|x_t, c)

The weights are in the advantages: exp(standardised reward / τ) for `sft` (reward-weighted regression; Lee et al. 2023,
and the supervised baseline of DPOK), 1 for the best of every K images and 0 for the others for `sft-best` (best-of-K).
"""

import torch

from ppod_train.objectives.targets import LossOptions, Targets


def sft_loss(log_ratios: torch.Tensor, targets: Targets, options: LossOptions) -> torch.Tensor:
    """Weighted negative log-likelihood of the recorded chains, relative to the reference's.

    Args:
        log_ratios: log π − log π_ref, [U, T]: log π_ref is a constant, which leaves the gradient as it is.

    Returns:
        A scalar; 0 where policy = reference.
    """
    return -(targets.advantages * log_ratios).mean()

"""Supervised fine-tuning on the model's own samples: weighted likelihood of the recorded chains.

Shapes: U trajectories, T timesteps.

    loss = −mean over trajectories of w_u · mean_t log π(x_{t-1}|x_t, c)

The weights w_u are the advantages. `sft` uses exp(standardised reward / τ) (reward-weighted regression; Lee et al.
2023, and the supervised baseline of DPOK). `sft-best` uses 1 for the best of every K images and 0 for the rest.
"""

import torch

from ppod_train.objectives.targets import LossOptions, Targets


def sft_loss(log_ratios: torch.Tensor, targets: Targets, options: LossOptions) -> torch.Tensor:
    """Compute the weighted negative log-likelihood of the recorded chains, relative to the reference.

    Args:
        log_ratios: log π − log π_ref, [U, T]. log π_ref is a constant and does not change the gradient.

    Returns:
        A scalar; 0 if policy = reference.
    """
    return -(targets.advantages * log_ratios).mean()

"""Preference losses with the sigmoid on every single step: D3PO, and Diffusion-DPO on noise predictions.

Shapes: U trajectories, T timesteps, P pairs.

    loss = mean over pairs and steps of −log σ(β·(ℓ_w − ℓ_l))

By Jensen's inequality this bounds Eq. 10's sigmoid of the sum from above; no step knows what the others reached.
"""

import math

import torch
from torch.nn.functional import logsigmoid

from ppod_train.objectives.targets import LossOptions, Targets


def d3po_loss(log_ratios: torch.Tensor, targets: Targets, options: LossOptions) -> torch.Tensor:
    """D3PO (Yang et al., CVPR 2024): the ratio to the reference clamped to 1 ± ε, its logarithm in a sigmoid per step.

    Args:
        log_ratios: log π − log π_ref, [U, T].

    Returns:
        A scalar; ln 2 where policy = reference.
    """
    clip = options.log_ratio_clip
    low = math.log1p(-clip) if clip < 1 else -math.inf
    return _step_loss(log_ratios.clamp(low, math.log1p(clip)), targets, options.dpo_beta)


def diffusion_dpo_loss(scores: torch.Tensor, targets: Targets, options: LossOptions) -> torch.Tensor:
    """Diffusion-DPO (Wallace et al., CVPR 2024, Eq. 14) on noised final latents, no trajectory needed.

    Args:
        scores: how much better than the reference the policy predicts the noise of each image at each timestep,
            −½·(mean square error of the policy − that of the reference), [U, T].

    Returns:
        A scalar; ln 2 where policy = reference. dpo_beta is their β, 2,000 for Stable Diffusion 1.5.
    """
    return _step_loss(scores, targets, options.dpo_beta)


def _step_loss(values: torch.Tensor, targets: Targets, beta: float) -> torch.Tensor:
    logits = beta * (values[targets.chosen] - values[targets.rejected])
    labels = targets.labels[:, None]
    return -(labels * logsigmoid(logits) + (1 - labels) * logsigmoid(-logits)).mean()

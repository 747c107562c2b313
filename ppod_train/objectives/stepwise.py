"""Preference losses with a sigmoid on every step: D3PO, and Diffusion-DPO on noise predictions.

Shapes: U trajectories, T timesteps, P pairs.

    loss = mean over pairs and steps of −log σ(β·(ℓ_w − ℓ_l))

By Jensen's inequality this is an upper bound of Eq. 10, which has the sigmoid of the sum. The loss of a step does not
depend on the other steps.
"""

import math

import torch
from torch.nn.functional import logsigmoid

from ppod_train.objectives.denoised import Denoised, mean_square
from ppod_train.objectives.targets import LossOptions, Targets


def d3po_loss(log_ratios: torch.Tensor, targets: Targets, options: LossOptions) -> torch.Tensor:
    """Compute the D3PO loss: clamp the ratio to the reference to 1 ± ε, then one sigmoid per step.

    D3PO: Yang et al., CVPR 2024.

    Args:
        log_ratios: log π − log π_ref, [U, T].

    Returns:
        A scalar; ln 2 if policy = reference.
    """
    clip = options.log_ratio_clip
    low = math.log1p(-clip) if clip < 1 else -math.inf
    return _step_loss(log_ratios.clamp(low, math.log1p(clip)), targets, options.dpo_beta)


def denoising_score(denoised: Denoised, options: LossOptions) -> torch.Tensor:
    """Return −½·(mean square error of the prediction) of each evaluation, fp64 [E]."""
    return -0.5 * mean_square(denoised.error)


def diffusion_dpo_loss(scores: torch.Tensor, targets: Targets, options: LossOptions) -> torch.Tensor:
    """Compute Diffusion-DPO (Wallace et al., CVPR 2024, Eq. 14) on noised final latents, without trajectories.

    Args:
        scores: for each image and timestep, how much better the policy predicts the noise than the reference:
            −½·(mean square error of the policy − mean square error of the reference), [U, T].

    Returns:
        A scalar; ln 2 if policy = reference. `dpo_beta` is the paper's β, 2,000 for Stable Diffusion 1.5.
    """
    return _step_loss(scores, targets, options.dpo_beta)


def _step_loss(values: torch.Tensor, targets: Targets, beta: float) -> torch.Tensor:
    logits = beta * (values[targets.chosen] - values[targets.rejected])
    labels = targets.labels[:, None]
    return -(labels * logsigmoid(logits) + (1 - labels) * logsigmoid(-logits)).mean()

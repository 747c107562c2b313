"""Advantage Weighted Matching: a policy gradient whose likelihood is the loss of pretraining.

AWM: Xue et al. 2025 (arXiv 2509.25050). Shapes: U trajectories, T timesteps, E evaluations of one network call.

    log p(x_0 | c) ≈ −‖v_θ(x_t, t, c) − v‖²        v = noise − x_0 for flow matching, otherwise the model's own target
    ρ              = exp(log p − log p_old)        at the same t and the same noise
    loss           = −mean over trajectories and timesteps of min(ρ·A, clip(ρ, 1 − ε, 1 + ε)·A)

At ρ = 1 the gradient is A·∇‖v_θ − v‖²: pretraining on the policy's own images, weighted by their advantages. The paper
derives the loss for score matching and for flow matching, with the weight w(t) = 1. ‖·‖² is the mean over dimensions,
as in the authors' code. `kl_weight` adds their term ‖v_θ − v_ref‖². Their ε is 1, which never binds in one update on
each batch. Here a stage makes many updates on the same data, and the default is 0.03.
"""

import torch

from ppod_train.objectives.denoised import Denoised, mean_square
from ppod_train.objectives.policy_gradient import clipped_surrogate
from ppod_train.objectives.targets import LossOptions, Targets


def awm_score(denoised: Denoised, options: LossOptions) -> torch.Tensor:
    """Return log p − log p_old of each evaluation, fp64 [E]; 0 if the policy is the one that made the data."""
    assert denoised.old_error is not None
    return mean_square(denoised.old_error) - mean_square(denoised.error)


def awm_loss(scores: torch.Tensor, targets: Targets, options: LossOptions) -> torch.Tensor:
    """Compute AWM's clipped surrogate, averaged over trajectories and timesteps.

    Args:
        scores: `awm_score` of every trajectory and timestep, [U, T].

    Returns:
        A scalar; minus the mean advantage if the policy equals the policy that made the data.
    """
    return clipped_surrogate(torch.exp(scores), targets.advantages, options.log_ratio_clip)

"""DiffusionNFT: contrast of an implicit positive and an implicit negative policy on noised final latents.

DiffusionNFT: Zheng et al., ICLR 2026 (arXiv 2509.16117), Theorem 3.2. Shapes: U trajectories, T timesteps, E
evaluations of one network call.

    v⁺, v⁻ = v_old ± β·(v_θ − v_old)                                β = `nft_beta`
    r      = ½ + ½·clip(A, −1, 1)                                   A: the reward standardised within its prompt
    loss   = mean over trajectories and timesteps of r·‖v⁺ − v‖² + (1 − r)·‖v⁻ − v‖²

The least loss is at v_θ = v_old + E[(2r − 1)·(v − v_old) | x_t] / β: a small β is a large step. ‖·‖² has the paper's
adaptive weight. It is the mean square error of the predicted x_0 over its mean absolute error, which has no gradient.
v⁺ and v⁻ are mixtures of v_θ and v_old. Any prediction that is affine in v (noise, v, x_0) has the same mixtures, so
the loss is that of the x_0 they predict. `kl_weight` adds the authors' term ‖v_θ − v_ref‖².
"""

import torch

from ppod_train.objectives.denoised import Denoised, mean_square
from ppod_train.objectives.targets import LossOptions, Targets

_SMALLEST = 1e-5
"""Least mean absolute error of an adaptive weight, as in the authors' code."""


def nft_score(denoised: Denoised, options: LossOptions) -> torch.Tensor:
    """Return minus the loss of each evaluation, relative to that of v_θ = v_old, fp64 [E]."""
    assert denoised.old_error is not None
    r = 0.5 + 0.5 * denoised.advantages.clamp(-1, 1)
    change = options.nft_beta * (denoised.error - denoised.old_error)
    positive = _adaptive(denoised.old_error + change, denoised.scale)
    negative = _adaptive(denoised.old_error - change, denoised.scale)
    return _adaptive(denoised.old_error, denoised.scale) - r * positive - (1 - r) * negative


def nft_loss(scores: torch.Tensor, targets: Targets, options: LossOptions) -> torch.Tensor:
    """Compute the mean loss over trajectories and timesteps, less its value at v_old.

    Args:
        scores: `nft_score` of every trajectory and timestep, [U, T].

    Returns:
        A scalar; 0 if the policy equals the policy that made the data.
    """
    return -scores.mean()


def _adaptive(error: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return the mean square of scale·error over its mean absolute value, fp64 [E]."""
    size = scale * error.detach().abs().flatten(1).double().mean(dim=1)
    return scale * scale * mean_square(error) / size.clamp(min=_SMALLEST)

"""One denoising step as a Gaussian, and its log-density. Pure functions of tensors, used by sampler and trainer alike.

Shapes: B rows (each a step of some chain), C H W latent. Rows of one call may stand at different steps.

    π(x_{t-1} | x_t, c) = N(x_{t-1}; μ_θ(x_t, t, c), σ_t² I)                                      (paper Eq. 1-2)

μ and σ are those of the schedule: a DDIM chain's, or a flow-matching model's.
"""

import math

import torch

from ppod_data.diffusion.schedule import Schedule


def sample_next(
    schedule: Schedule,
    step_index: torch.Tensor,
    mean: torch.Tensor,
    noise: torch.Tensor,
    latent_dtype: torch.dtype,
) -> torch.Tensor:
    """x_{t-1} = μ + σ·noise, **rounded to the storage dtype**: the chain goes on from the rounded value.

    Args:
        step_index: int64 [B].
        mean, noise: fp32 [B, C, H, W].

    Returns:
        [B, C, H, W] in `latent_dtype`.
    """
    std = schedule.std[step_index].view(-1, 1, 1, 1)
    return (mean + std * noise).to(latent_dtype)


def log_prob(
    schedule: Schedule, step_index: torch.Tensor, mean: torch.Tensor, next_latents: torch.Tensor
) -> torch.Tensor:
    """Return the Gaussian log-density of x_{t-1}, **averaged over the N = C·H·W latent dimensions**.

    Computed in the mean's dtype (fp32 in use, fp64 in tests) and reduced in fp64. The density of the whole latent is
    N times this number; the average is the convention of every public trainer, so that their clip ranges carry over.

    Args:
        step_index: int64 [B]; every step must be stochastic.
        mean: [B, C, H, W].
        next_latents: the stored, rounded x_{t-1}, [B, C, H, W], any float dtype.

    Returns:
        fp64 [B].
    """
    std = schedule.std[step_index]
    _check_stochastic(std)
    z = (next_latents.to(mean.dtype) - mean) / std.view(-1, 1, 1, 1)
    square = (z * z).flatten(1).sum(dim=1, dtype=torch.float64) / z[0].numel()
    return -0.5 * square - std.double().log() - 0.5 * math.log(2 * math.pi)


def kl_divergence(
    schedule: Schedule, step_index: torch.Tensor, mean: torch.Tensor, other_mean: torch.Tensor
) -> torch.Tensor:
    """KL between two policies' Gaussians of one step, ‖μ − μ'‖² / 2σ², **averaged over the N latent dimensions**.

    The two share σ, so the divergence is the same in both directions.

    Args:
        step_index: int64 [B]; every step must be stochastic.
        mean, other_mean: [B, C, H, W].

    Returns:
        fp64 [B].
    """
    std = schedule.std[step_index]
    _check_stochastic(std)
    z = (mean - other_mean) / std.view(-1, 1, 1, 1)
    return 0.5 * (z * z).flatten(1).sum(dim=1, dtype=torch.float64) / z[0].numel()


def _check_stochastic(std: torch.Tensor) -> None:
    """Assert that the steps have a density. On a CPU only: elsewhere each look at a value waits for the device."""
    assert std.device.type != "cpu" or bool((std > 0).all()), "a step without variance has no density"

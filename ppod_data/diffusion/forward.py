"""The forward process at the timesteps of a chain: a final latent with noise added, and what the network should say.

Shapes: B rows, C H W latent. Rows of one call may stand at different steps.
"""

import torch

from ppod_data.diffusion.schedule import DDIMSchedule


def noised_latents(
    schedule: DDIMSchedule, step_index: torch.Tensor, latents: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """x_t = √ᾱ_t·x_0 + √(1 − ᾱ_t)·noise (DDPM Eq. 4), [B, C, H, W].

    Args:
        step_index: int64 [B], 0 is the noisiest step.
        latents: x_0, [B, C, H, W].
        noise: standard normal, [B, C, H, W].
    """
    sqrt_alpha, sqrt_beta = _coefficients(schedule, step_index)
    return sqrt_alpha * latents + sqrt_beta * noise


def prediction_target(
    schedule: DDIMSchedule, step_index: torch.Tensor, latents: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """What the network is trained to predict from x_t: the noise, v or x_0, by its prediction type; [B, C, H, W]."""
    if schedule.prediction_type == "epsilon":
        return noise
    if schedule.prediction_type == "v_prediction":
        sqrt_alpha, sqrt_beta = _coefficients(schedule, step_index)
        return sqrt_alpha * noise - sqrt_beta * latents
    return latents


def _coefficients(schedule: DDIMSchedule, step_index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        schedule.sqrt_alpha[step_index].view(-1, 1, 1, 1),
        schedule.sqrt_beta[step_index].view(-1, 1, 1, 1),
    )

"""One DDIM step as a Gaussian, and its log-density. Pure functions of tensors, used by sampler and trainer alike.

Shapes: B rows (each a step of some chain), C H W latent. Rows of one call may stand at different steps.

    π(x_{t-1} | x_t, c) = N(x_{t-1}; μ_θ(x_t, t, c), σ_t² I)                        (paper Eq. 1-2; DDIM Eq. 12 and 16)
"""

import math

import torch

from ppod_data.diffusion.schedule import DDIMSchedule


def posterior_mean(
    schedule: DDIMSchedule, step_index: torch.Tensor, model_output: torch.Tensor, latents: torch.Tensor
) -> torch.Tensor:
    """The mean μ of x_{t-1} given x_t, with the operations of `DDIMScheduler.step` in their order.

    Args:
        schedule: on the device of the latents.
        step_index: int64 [B], 0 is the noisiest step.
        model_output: the (guided) prediction of the network, [B, C, H, W], fp32 or fp64.
        latents: x_t in the same dtype, [B, C, H, W].

    Returns:
        [B, C, H, W].
    """

    def coefficient(values: torch.Tensor) -> torch.Tensor:
        return values[step_index].view(-1, 1, 1, 1)

    sqrt_alpha, sqrt_beta = coefficient(schedule.sqrt_alpha), coefficient(schedule.sqrt_beta)
    if schedule.prediction_type == "epsilon":
        denoised = (latents - sqrt_beta * model_output) / sqrt_alpha
        noise = model_output
    elif schedule.prediction_type == "v_prediction":
        denoised = sqrt_alpha * latents - sqrt_beta * model_output
        noise = sqrt_alpha * model_output + sqrt_beta * latents
    else:  # "sample"
        denoised = model_output
        noise = (latents - sqrt_alpha * denoised) / sqrt_beta
    if schedule.clip_sample_range is not None:
        denoised = denoised.clamp(-schedule.clip_sample_range, schedule.clip_sample_range)
    direction = coefficient(schedule.direction) * noise
    return coefficient(schedule.sqrt_alpha_prev) * denoised + direction


def sample_next(
    schedule: DDIMSchedule,
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
    schedule: DDIMSchedule, step_index: torch.Tensor, mean: torch.Tensor, next_latents: torch.Tensor
) -> torch.Tensor:
    """The Gaussian log-density of x_{t-1}, **averaged over the N = C·H·W latent dimensions**.

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
    assert bool((std > 0).all()), "a step without variance has no density"
    z = (next_latents.to(mean.dtype) - mean) / std.view(-1, 1, 1, 1)
    square = (z * z).flatten(1).sum(dim=1, dtype=torch.float64) / z[0].numel()
    return -0.5 * square - std.double().log() - 0.5 * math.log(2 * math.pi)


def kl_divergence(
    schedule: DDIMSchedule, step_index: torch.Tensor, mean: torch.Tensor, other_mean: torch.Tensor
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
    assert bool((std > 0).all()), "a step without variance has no density"
    z = (mean - other_mean) / std.view(-1, 1, 1, 1)
    return 0.5 * (z * z).flatten(1).sum(dim=1, dtype=torch.float64) / z[0].numel()

"""Sample denoising chains and record them: the behaviour policy at work.

Shapes: B rows, S = T+1 latents, T steps, C H W latent.
"""

from dataclasses import dataclass

import torch

from ppod_data.diffusion.condition import Condition
from ppod_data.diffusion.gaussian import log_prob, sample_next
from ppod_data.diffusion.guidance import Network, guided_prediction
from ppod_data.diffusion.schedule import Schedule


@dataclass(frozen=True, kw_only=True, eq=False)
class Chain:
    """The denoising chains of one batch."""

    latents: torch.Tensor
    """x_T … x_0, [S, B, C, H, W] in the storage dtype; only x_0, [1, B, C, H, W], where nothing was recorded."""
    log_probs: torch.Tensor
    """log π(x_{t-1} | x_t, c) averaged over latent dimensions, fp64 [T, B]; NaN where the step has no density."""


@torch.no_grad()
def sample_chain(
    network: Network,
    schedule: Schedule,
    *,
    initial_noise: torch.Tensor,
    step_noise: torch.Tensor,
    condition: Condition,
    negative: Condition | None,
    guidance_scale: float,
    guidance_mode: str,
    latent_dtype: torch.dtype,
    record: bool = True,
) -> Chain:
    """Sample B chains from x_T ~ N(0, I) to x_0.

    Args:
        initial_noise: x_T, fp32 [B, C, H, W]; rounded to the storage dtype before use.
        step_noise: standard normal, fp32 [T, B, C, H, W].
        condition: of the prompts, [B, …].
        negative: [1, …], or None at guidance scale 1.
        latent_dtype: the storage dtype; every latent is rounded to it and the chain goes on from the rounded value.
        record: keep every latent and compute log-probabilities; otherwise only x_0 is kept.
    """
    latents = initial_noise.to(latent_dtype)
    batch = len(latents)
    recorded = [latents]
    # On the device until the chain is done: a copy after each step would wait for it.
    log_probs = torch.full(
        (schedule.num_inference_steps, batch), float("nan"), dtype=torch.float64, device=latents.device
    )
    for i, stochastic in enumerate(schedule.stochastic):
        step_index = torch.full((batch,), i, device=latents.device)
        prediction = guided_prediction(
            network,
            latents.float(),
            schedule.timesteps[step_index],
            condition,
            negative,
            guidance_scale=guidance_scale,
            guidance_mode=guidance_mode,
        )
        mean = schedule.mean(step_index, prediction, latents.float())
        latents = sample_next(schedule, step_index, mean, step_noise[i], latent_dtype)
        if record:
            recorded.append(latents)
            if stochastic:
                log_probs[i] = log_prob(schedule, step_index, mean, latents)
    return Chain(latents=torch.stack(recorded if record else [latents]), log_probs=log_probs.cpu())

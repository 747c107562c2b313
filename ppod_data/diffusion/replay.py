"""The log-probability of a recorded step under a policy: what the sampler computed, computed again.

Shapes: B rows, C H W latent. Rows of one call may stand at different steps.
"""

import torch

from ppod_data.diffusion.condition import Condition
from ppod_data.diffusion.gaussian import log_prob
from ppod_data.diffusion.guidance import Network, guided_prediction
from ppod_data.diffusion.schedule import Schedule


def replay_mean(
    network: Network,
    schedule: Schedule,
    *,
    latents: torch.Tensor,
    step_index: torch.Tensor,
    condition: Condition,
    negative: Condition | None,
    guidance_scale: float,
    guidance_mode: str,
) -> torch.Tensor:
    """The mean μ_θ(x_t, t, c) of x_{t-1} under the guided policy, differentiable in the network's weights.

    Args:
        latents: x_t as stored, fp32 [B, C, H, W].
        step_index: int64 [B].
        condition: of the prompts, [B, …].
        negative: [1, …], or None at guidance scale 1.

    Returns:
        [B, C, H, W], fp32, or fp64 where the network computes in that.
    """
    prediction = guided_prediction(
        network,
        latents,
        schedule.timesteps[step_index],
        condition,
        negative,
        guidance_scale=guidance_scale,
        guidance_mode=guidance_mode,
    )
    return schedule.mean(step_index, prediction, latents)


def replay_log_prob(
    network: Network,
    schedule: Schedule,
    *,
    latents: torch.Tensor,
    next_latents: torch.Tensor,
    step_index: torch.Tensor,
    condition: Condition,
    negative: Condition | None,
    guidance_scale: float,
    guidance_mode: str,
) -> torch.Tensor:
    """log π(x_{t-1} | x_t, c), averaged over latent dimensions, differentiable in the network's weights.

    An untouched policy gives the stored number to the last bit in the batch shape and precision of the sampler.

    Args:
        latents, next_latents: x_t and x_{t-1} as stored, fp32 [B, C, H, W].
        step_index: int64 [B], stochastic steps only.
        condition: of the prompts, [B, …].
        negative: [1, …], or None at guidance scale 1.

    Returns:
        fp64 [B].
    """
    mean = replay_mean(
        network,
        schedule,
        latents=latents,
        step_index=step_index,
        condition=condition,
        negative=negative,
        guidance_scale=guidance_scale,
        guidance_mode=guidance_mode,
    )
    return log_prob(schedule, step_index, mean, next_latents)

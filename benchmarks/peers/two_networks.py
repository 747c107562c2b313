"""A D3PO step as its authors' script does it: the policy and a frozen copy of the reference are asked at every step.

A plain loop over diffusers' network and scheduler. Where it can be faster than the script without another method it
is: both sides of the pairs in one network call, no gradient for the reference, latents in memory.

Shapes: P pairs, T steps, C H W latent, L tokens, D width.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import logsigmoid


@dataclass(frozen=True, kw_only=True, eq=False)
class PairedChains:
    """Recorded chains; the rows are P chosen ones, then their P rejected ones."""

    latents: torch.Tensor
    """x_T … x_0, [T + 1, 2P, C, H, W]."""
    prompt_embeds: torch.Tensor
    """Of the unconditional rows, then of the conditional ones, [4P, L, D]."""


def two_network_step(
    policy: Any,
    reference: Any,
    scheduler: Any,
    optimizer: torch.optim.Optimizer,
    chains: PairedChains,
    *,
    guidance_scale: float,
    beta: float,
    clip: float,
    max_grad_norm: float,
) -> None:
    """One optimizer step, with the graph of one timestep at a time.

    Args:
        policy, reference: UNets; only the policy's trainable weights get a gradient.
        scheduler: DDIM with its timesteps set.
        beta, clip: D3PO's β, and ε of the band 1 ± ε of the ratio to the reference.
    """
    optimizer.zero_grad(set_to_none=True)
    for i, timestep in enumerate(scheduler.timesteps):
        rows = chains.latents[i], chains.latents[i + 1]
        log_prob = _log_prob(policy, scheduler, timestep, *rows, chains.prompt_embeds, guidance_scale)
        with torch.no_grad():
            fixed = _log_prob(reference, scheduler, timestep, *rows, chains.prompt_embeds, guidance_scale)
        ratio = torch.exp(log_prob - fixed).clamp(1 - clip, 1 + clip)
        chosen, rejected = torch.log(ratio).chunk(2)
        loss = -logsigmoid(beta * (chosen - rejected)).mean() / len(scheduler.timesteps)
        loss.backward()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    optimizer.step()


def _log_prob(
    unet: Any,
    scheduler: Any,
    timestep: torch.Tensor,
    latents: torch.Tensor,
    next_latents: torch.Tensor,
    prompt_embeds: torch.Tensor,
    guidance_scale: float,
) -> torch.Tensor:
    """Return log π(x_{t-1} | x_t, c) of a DDIM step at eta 1, averaged over latent dimensions, [2P]."""
    both = unet(torch.cat([latents] * 2), timestep, encoder_hidden_states=prompt_embeds, return_dict=False)[0]
    unconditional, conditional = both.chunk(2)
    noise = unconditional + guidance_scale * (conditional - unconditional)
    previous = timestep - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    std = scheduler._get_variance(timestep, previous) ** 0.5
    mean = scheduler.step(noise, timestep, latents, eta=1.0, variance_noise=torch.zeros_like(noise))[0]
    density = -((next_latents - mean) ** 2) / (2 * std**2) - torch.log(std) - 0.5 * math.log(2 * math.pi)
    return density.flatten(1).mean(dim=1)

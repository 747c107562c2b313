"""The network's prediction under classifier-free guidance: the guided policy is the policy.

Shapes: B rows, C H W latent.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ppod_data.diffusion.condition import Condition, expand, stack

# (latents [B, C, H, W], timesteps [B], condition [B, …]) -> prediction [B, C, H, W]
Network = Callable[[torch.Tensor, torch.Tensor, Condition], torch.Tensor]

# (unconditional [B, C, H, W], conditional [B, C, H, W], scale) -> guided prediction [B, C, H, W]
Combine = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]


def extrapolate(unconditional: torch.Tensor, conditional: torch.Tensor, scale: float) -> torch.Tensor:
    """Return uncond + scale·(cond − uncond)."""
    return unconditional + scale * (conditional - unconditional)


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance: its scale, how the two halves are computed, and how they are combined."""

    scale: float
    mode: str
    """`batched`: one network call on [unconditional, conditional] halves; `sequential`: a call a half."""
    combine: Combine = extrapolate
    """The family's own way of combining the halves."""


def guided_prediction(
    network: Network,
    latents: torch.Tensor,
    timesteps: torch.Tensor,
    condition: Condition,
    negative: Condition | None,
    guidance: Guidance,
) -> torch.Tensor:
    """Return the guided prediction, in fp32 at least; the conditional one alone if `negative` is None.

    Args:
        latents: x_t, [B, C, H, W].
        timesteps: int64 [B].
        condition: of the prompts, [B, …].
        negative: [1, …]; None at guidance scale 1, and where guidance is a condition of the network itself.

    Returns:
        [B, C, H, W], fp32, or fp64 where the network computes in that.
    """
    if negative is None:
        return _at_least_fp32(network(latents, timesteps, condition))
    negatives = expand(negative, len(latents))
    if guidance.mode == "batched":
        both = network(
            torch.cat([latents, latents]),
            torch.cat([timesteps, timesteps]),
            stack([negatives, condition]),
        )
        unconditional, conditional = _at_least_fp32(both).chunk(2)
    else:
        unconditional = _at_least_fp32(network(latents, timesteps, negatives))
        conditional = _at_least_fp32(network(latents, timesteps, condition))
    return guidance.combine(unconditional, conditional, guidance.scale)


def _at_least_fp32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))

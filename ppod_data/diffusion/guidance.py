"""The network's prediction under classifier-free guidance: the guided policy is the policy.

Shapes: B rows, C H W latent, L tokens, D width.
"""

from collections.abc import Callable

import torch

# (latents [B, C, H, W], timesteps [B], prompt embeddings [B, L, D]) -> prediction [B, C, H, W]
Network = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def guided_prediction(
    network: Network,
    latents: torch.Tensor,
    timesteps: torch.Tensor,
    prompt_embeds: torch.Tensor,
    negative_embeds: torch.Tensor | None,
    *,
    guidance_scale: float,
    guidance_mode: str,
) -> torch.Tensor:
    """uncond + scale·(cond − uncond), in fp32 at least; at scale 1 the conditional prediction alone, as in diffusers.

    Args:
        network: called once on [unconditional, conditional] halves (`batched`) or once a half (`sequential`).
        latents: x_t, [B, C, H, W].
        timesteps: int64 [B].
        prompt_embeds: [B, L, D].
        negative_embeds: [1, L, D]; None at guidance scale 1.

    Returns:
        [B, C, H, W], fp32, or fp64 where the network computes in that.
    """
    if negative_embeds is None:
        assert guidance_scale == 1, "guidance needs the unconditional embedding"
        return _at_least_fp32(network(latents, timesteps, prompt_embeds))
    uncond_embeds = negative_embeds.expand_as(prompt_embeds)
    if guidance_mode == "batched":
        both = network(
            torch.cat([latents, latents]),
            torch.cat([timesteps, timesteps]),
            torch.cat([uncond_embeds, prompt_embeds]),
        )
        unconditional, conditional = _at_least_fp32(both).chunk(2)
    else:
        unconditional = _at_least_fp32(network(latents, timesteps, uncond_embeds))
        conditional = _at_least_fp32(network(latents, timesteps, prompt_embeds))
    return unconditional + guidance_scale * (conditional - unconditional)


def _at_least_fp32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))

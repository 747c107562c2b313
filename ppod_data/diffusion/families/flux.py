"""FLUX.1: a transformer on patches of 2 × 2 latents, conditioned on a guidance value that it was distilled for.

Latents are the VAE's, [C, H, W], everywhere but in the network's input: they are packed and unpacked around it.

Shapes: B rows, C H W latent, L text tokens, D width, W width of the pooled embedding.
"""

from typing import Any

import torch

from ppod_data.diffusion.condition import Condition
from ppod_data.diffusion.flow import flow_config
from ppod_data.errors import ConfigError


def embed(pipeline: Any, prompt: str) -> Condition:
    """prompt_embeds [1, L, D] of T5 and pooled_embeds [1, W] of CLIP."""
    prompt_embeds, pooled_embeds, _ = pipeline.encode_prompt(prompt, None, device=pipeline.transformer.device)
    return {"prompt_embeds": prompt_embeds, "pooled_embeds": pooled_embeds}


def embed_guidance(pipeline: Any, guidance_scale: float) -> Condition:
    """guidance [1], the scale that the network was distilled to obey (FLUX.1-dev); nothing where it has no such input.

    Raises:
        ConfigError: a scale that the network would not read (FLUX.1-schnell).
    """
    if pipeline.transformer.config.guidance_embeds:
        return {"guidance": torch.full((1,), guidance_scale, device=pipeline.transformer.device)}
    if guidance_scale != 1:
        raise ConfigError(f"this model reads no guidance scale: give 1, not {guidance_scale:g}")
    return {}


def guidance_scale(pipeline: Any) -> float:
    """The default: diffusers', or 1 where the network reads none."""
    return 3.5 if pipeline.transformer.config.guidance_embeds else 1.0


def predict(
    transformer: Any, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition
) -> torch.Tensor:
    """The velocity [B, C, H, W] for latents [B, C, H, W] at timesteps [B], from 0 to 1000."""
    output: torch.Tensor = transformer(
        hidden_states=_packed(latents),
        timestep=timesteps.to(latents.dtype) / 1000,
        guidance=condition.get("guidance"),
        pooled_projections=condition["pooled_embeds"],
        encoder_hidden_states=condition["prompt_embeds"],
        txt_ids=latents.new_zeros(condition["prompt_embeds"].shape[1], 3),
        img_ids=_image_ids(latents),
        return_dict=False,
    )[0]
    rows, channels, height, width = latents.shape
    patches = output.reshape(rows, height // 2, width // 2, channels, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(latents.shape)


def _packed(latents: torch.Tensor) -> torch.Tensor:
    """A token a patch of 2 × 2 latents: [B, H/2 · W/2, C · 4]."""
    rows, channels, height, width = latents.shape
    patches = latents.reshape(rows, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(rows, (height // 2) * (width // 2), channels * 4)


def _image_ids(latents: torch.Tensor) -> torch.Tensor:
    """The place of every patch: [H/2 · W/2, 3], (0, row, column)."""
    rows, columns = (torch.arange(size // 2, device=latents.device) for size in latents.shape[2:])
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
    return torch.cat([torch.zeros_like(places[:, :1]), places], dim=1).to(latents.dtype)


def latent_shape(pipeline: Any) -> tuple[int, int, int]:
    """(C, H, W) of an image of the size that the VAE was made for: 1024 pixels for FLUX.1. The transformer has none."""
    size = pipeline.vae.config.sample_size // pipeline.vae_scale_factor
    return pipeline.transformer.config.in_channels // 4, size, size


def patches(pipeline: Any) -> tuple[int, int | None]:
    """Return the latents on a side of a patch, and the most patches on a side of an image: no bound."""
    return 2, None


def scheduler_config(pipeline: Any, latent_shape: tuple[int, int, int]) -> dict[str, Any]:
    """What the chain's sigmas are made of: `flow.flow_config`."""
    _, height, width = latent_shape
    tokens = (height // 2) * (width // 2)
    return flow_config(pipeline.scheduler, image_seq_len=tokens, sigmas_from_one=True)

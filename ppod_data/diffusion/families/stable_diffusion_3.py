"""Stable Diffusion 3 and 3.5: a transformer, two CLIP text encoders and a T5, which may be absent.

Shapes: B rows, C H W latent, L tokens, D width, W width of the pooled embeddings together.
"""

from typing import Any

import torch

from ppod_data.diffusion.condition import Condition
from ppod_data.diffusion.flow import flow_config


def embed(pipeline: Any, prompt: str) -> Condition:
    """prompt_embeds [1, L, D], zeros in the place of T5's where it is absent, and pooled_embeds [1, W]."""
    prompt_embeds, _, pooled_embeds, _ = pipeline.encode_prompt(
        prompt, None, None, device=pipeline.transformer.device, do_classifier_free_guidance=False
    )
    return {"prompt_embeds": prompt_embeds, "pooled_embeds": pooled_embeds}


def predict(
    transformer: Any, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition
) -> torch.Tensor:
    """The velocity [B, C, H, W] for latents [B, C, H, W] at timesteps [B], from 0 to 1000."""
    output: torch.Tensor = transformer(
        hidden_states=latents,
        timestep=timesteps,
        encoder_hidden_states=condition["prompt_embeds"],
        pooled_projections=condition["pooled_embeds"],
        return_dict=False,
    )[0]
    return output


def latent_shape(pipeline: Any) -> tuple[int, int, int]:
    """(C, H, W) of an image of the pipeline's own size."""
    config = pipeline.transformer.config
    return config.in_channels, config.sample_size, config.sample_size


def patches(pipeline: Any) -> tuple[int, int | None]:
    """Return the latents on a side of a patch, and the most patches on a side that have a position."""
    config = pipeline.transformer.config
    return config.patch_size, config.pos_embed_max_size


def scheduler_config(pipeline: Any, latent_shape: tuple[int, int, int]) -> dict[str, Any]:
    """What the chain's sigmas are made of: `flow.flow_config`."""
    side = pipeline.transformer.config.patch_size
    tokens = (latent_shape[1] // side) * (latent_shape[2] // side)
    return flow_config(pipeline.scheduler, image_seq_len=tokens, sigmas_from_one=False)


def guidance_scale(pipeline: Any) -> float:
    """The default: what Flow-GRPO uses."""
    return 4.5

"""Stable Diffusion XL: two text encoders, a pooled embedding of the second, and the image's size as a condition.

Shapes: B rows, C H W latent, L tokens, D width of both encoders together, W width of the pooled embedding.
"""

from typing import Any

import torch

from ppod_data.diffusion.condition import Condition


def embed(pipeline: Any, prompt: str) -> Condition:
    """prompt_embeds [1, L, D] and pooled_embeds [1, W]."""
    prompt_embeds, _, pooled_embeds, _ = pipeline.encode_prompt(
        prompt, device=pipeline.unet.device, do_classifier_free_guidance=False
    )
    return {"prompt_embeds": prompt_embeds, "pooled_embeds": pooled_embeds}


def embed_size(pipeline: Any, height: int, width: int) -> Condition:
    """Return time_ids [1, 6] as diffusers has them for an uncropped image: original size, crop, target size.

    In pixels.
    """
    time_ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=pipeline.text_encoder_2.dtype)
    return {"time_ids": time_ids.to(pipeline.unet.device)}


def embed_negative(pipeline: Any, prompt: str) -> Condition:
    """As `embed`; for no negative prompt, zeros in place of embeddings where the pipeline was trained so."""
    condition = dict(embed(pipeline, prompt))
    if not prompt and pipeline.config.force_zeros_for_empty_prompt:
        for name in ("prompt_embeds", "pooled_embeds"):
            condition[name] = torch.zeros_like(condition[name])
    return condition


def predict(unet: Any, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition) -> torch.Tensor:
    """The UNet's output [B, C, H, W] for latents [B, C, H, W] at timesteps [B]."""
    output: torch.Tensor = unet(
        latents,
        timesteps,
        encoder_hidden_states=condition["prompt_embeds"],
        added_cond_kwargs={"text_embeds": condition["pooled_embeds"], "time_ids": condition["time_ids"]},
        return_dict=False,
    )[0]
    return output

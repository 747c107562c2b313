"""Stable Diffusion 1.x and 2.x: one text encoder.

Shapes: B rows, C H W latent, L tokens, D width.
"""

from typing import Any

import torch

from ppod_data.diffusion.condition import Condition


def embed(pipeline: Any, prompt: str) -> Condition:
    """prompt_embeds [1, L, D] of one prompt."""
    return {"prompt_embeds": pipeline.encode_prompt(prompt, pipeline.unet.device, 1, False)[0]}


embed_negative = embed


def predict(unet: Any, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition) -> torch.Tensor:
    """The UNet's output [B, C, H, W] for latents [B, C, H, W] at timesteps [B]."""
    output: torch.Tensor = unet(
        latents, timesteps, encoder_hidden_states=condition["prompt_embeds"], return_dict=False
    )[0]
    return output

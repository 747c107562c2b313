"""Stable Diffusion 1.x and 2.x: one text encoder.

Shapes: B rows, C H W latent, L tokens, D width.
"""

from typing import Any

import torch

from ppod_data.diffusion.condition import Condition
from ppod_data.diffusion.families import unet
from ppod_data.diffusion.families.family import ATTENTION, Family
from ppod_data.diffusion.families.served import (
    Configs,
    channels_of,
    check_keys,
    check_latents,
    check_size,
    check_width,
    hidden_width,
)


def embed(pipeline: Any, prompt: str) -> Condition:
    """prompt_embeds [1, L, D] of one prompt."""
    return {"prompt_embeds": pipeline.encode_prompt(prompt, pipeline.unet.device, 1, False)[0]}


embed_negative = embed


def predict(
    network: Any, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition
) -> torch.Tensor:
    """Return the UNet's output [B, C, H, W] for latents [B, C, H, W] at timesteps [B]."""
    output: torch.Tensor = network(
        latents, timesteps, encoder_hidden_states=condition["prompt_embeds"], return_dict=False
    )[0]
    return output


def check(name: str, configs: Configs) -> None:
    """Refuse a UNet that Stable Diffusion 1.x or 2.x does not have. Raises ConfigError naming the key."""
    check_keys(name, "unet", configs["unet"], unet.UNET_FREE, unet.UNET_BOUND)
    check_latents(name, "unet", configs, channels_of(configs["unet"], 4, 4))
    check_size(name, "unet", configs["unet"])
    check_width(name, "unet", configs, "cross_attention_dim", hidden_width(configs, "text_encoder"))


FAMILY = Family(
    components=unet.COMPONENTS,
    check=check,
    load_options={
        "safety_checker": None,
        "feature_extractor": None,
        "image_encoder": None,
        "requires_safety_checker": False,
    },
    denoiser="unet",
    text_encoders=("text_encoder",),
    embed=embed,
    embed_negative=embed_negative,
    embed_guidance=None,
    embed_size=None,
    predict=predict,
    latent_shape=unet.latent_shape,
    patches=unet.patches,
    scheduler_config=unet.scheduler_config,
    guidance_scale=unet.guidance_scale,
    noise_level=unet.NOISE_LEVEL,
    lora_targets=ATTENTION,
)

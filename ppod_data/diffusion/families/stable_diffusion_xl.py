"""Stable Diffusion XL: two text encoders, a pooled embedding of the second, and the image's size as a condition.

Shapes: B rows, C H W latent, L tokens, D width of both encoders together, W width of the pooled embedding.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from ppod_data.diffusion.condition import Condition
from ppod_data.diffusion.families import stable_diffusion, unet
from ppod_data.diffusion.families.family import CLIP_TOKENIZER
from ppod_data.diffusion.families.served import (
    Configs,
    channels_of,
    check_keys,
    check_latents,
    check_size,
    check_width,
    hidden_width,
    text_config,
)
from ppod_data.errors import ConfigError

_FREE = unet.UNET_FREE | {"addition_time_embed_dim", "projection_class_embeddings_input_dim"}
_BOUND = {key: value for key, value in unet.UNET_BOUND.items() if key not in _FREE} | {
    "addition_embed_type": "text_time"
}


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


def predict(
    network: Any, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition
) -> torch.Tensor:
    """Return the UNet's output [B, C, H, W] for latents [B, C, H, W] at timesteps [B]."""
    output: torch.Tensor = network(
        latents,
        timesteps,
        encoder_hidden_states=condition["prompt_embeds"],
        added_cond_kwargs={"text_embeds": condition["pooled_embeds"], "time_ids": condition["time_ids"]},
        return_dict=False,
    )[0]
    return output


def check(name: str, configs: Configs) -> None:
    """Refuse a UNet that Stable Diffusion XL's base model does not have. Raises ConfigError naming the key."""
    config = configs["unet"]
    check_keys(name, "unet", config, _FREE, _BOUND, defaults=unet.UNET_BOUND)
    check_latents(name, "unet", configs, channels_of(config, 4, 4))
    check_size(name, "unet", config, square=True)
    hidden = [
        hidden_width(configs, encoder) for encoder in ("text_encoder", "text_encoder_2") if encoder in configs
    ]
    widths = [width for width in hidden if width is not None]
    check_width(
        name, "unet", configs, "cross_attention_dim", sum(widths) if len(widths) == len(hidden) else None
    )
    _check_conditions(name, config, text_config(configs, "text_encoder_2").get("projection_dim"))


def _check_conditions(name: str, config: Mapping[str, Any], pooled: Any) -> None:
    """Refuse other conditions than the base model's: the pooled prompt and six numbers of the image's size."""
    taken, width = config.get("projection_class_embeddings_input_dim"), config.get("addition_time_embed_dim")
    if not isinstance(taken, int) or not isinstance(width, int) or not isinstance(pooled, int):
        return
    if taken != pooled + 6 * width:
        raise ConfigError(
            f"{name}: its unet takes {taken} numbers of size and pooled prompt, and the base model's conditions are "
            f"{pooled + 6 * width}: refiners and other variants are not supported"
        )


FAMILY = replace(
    stable_diffusion.FAMILY,
    components={
        **unet.COMPONENTS,
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "tokenizer_2": CLIP_TOKENIZER,
    },
    check=check,
    load_options={"image_encoder": None, "feature_extractor": None, "add_watermarker": False},
    text_encoders=("text_encoder", "text_encoder_2"),
    embed=embed,
    embed_negative=embed_negative,
    embed_size=embed_size,
    predict=predict,
)

"""FLUX.1: a transformer on patches of 2 × 2 latents, conditioned on a guidance value that it was distilled for.

Shapes: B rows, C H W latent, L text tokens, D width, W width of the pooled embedding.
"""

from typing import Any

import torch

from ppod_data.diffusion.condition import Condition
from ppod_data.diffusion.families import packed
from ppod_data.diffusion.families.family import CLIP_TOKENIZER, JOINT_ATTENTION, T5_TOKENIZER, Family
from ppod_data.diffusion.families.served import (
    Configs,
    channels_of,
    check_keys,
    check_latents,
    check_size,
    check_width,
    hidden_width,
    packed_channels,
)
from ppod_data.diffusion.flow import NOISE_LEVEL
from ppod_data.errors import ConfigError

_FREE = frozenset(
    [
        "in_channels",
        "out_channels",
        "num_layers",
        "num_single_layers",
        "attention_head_dim",
        "num_attention_heads",
        "joint_attention_dim",
        "pooled_projection_dim",
        "guidance_embeds",
        "axes_dims_rope",
    ]
)


def embed(pipeline: Any, prompt: str) -> Condition:
    """prompt_embeds [1, L, D] of T5 and pooled_embeds [1, W] of CLIP."""
    prompt_embeds, pooled_embeds, _ = pipeline.encode_prompt(prompt, None, device=pipeline.transformer.device)
    return {"prompt_embeds": prompt_embeds, "pooled_embeds": pooled_embeds}


def embed_guidance(pipeline: Any, guidance_scale: float) -> Condition:
    """Return guidance [1], the scale that FLUX.1-dev was distilled to obey; nothing for a network without that input.

    Raises:
        ConfigError: a scale that the network would not read (FLUX.1-schnell).
    """
    if pipeline.transformer.config.guidance_embeds:
        return {"guidance": torch.full((1,), guidance_scale, device=pipeline.transformer.device)}
    if guidance_scale != 1:
        raise ConfigError(f"this model reads no guidance scale: give 1, not {guidance_scale:g}")
    return {}


def guidance_scale(pipeline: Any) -> float:
    """Return the default: that of diffusers, or 1 for a network that reads no scale."""
    return 3.5 if pipeline.transformer.config.guidance_embeds else 1.0


def predict(
    transformer: Any, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition
) -> torch.Tensor:
    """Return the velocity [B, C, H, W] for latents [B, C, H, W] at timesteps [B], from 0 to 1000."""
    output: torch.Tensor = transformer(
        hidden_states=packed.pack(latents),
        timestep=timesteps.to(latents.dtype) / 1000,
        guidance=condition.get("guidance"),
        pooled_projections=condition["pooled_embeds"],
        encoder_hidden_states=condition["prompt_embeds"],
        txt_ids=latents.new_zeros(condition["prompt_embeds"].shape[1], 3),
        img_ids=packed.position_ids(latents),
        return_dict=False,
    )[0]
    return packed.unpack(output, latents.shape)


def check(name: str, configs: Configs) -> None:
    """Refuse a transformer that FLUX.1-dev and schnell do not have. Raises ConfigError naming the key."""
    transformer = configs["transformer"]
    check_keys(name, "transformer", transformer, _FREE, {"patch_size": 1})
    check_latents(name, "transformer", configs, packed_channels(name, channels_of(transformer, 64, None)))
    check_size(name, "vae", configs["vae"], square=True)
    check_width(name, "transformer", configs, "joint_attention_dim", hidden_width(configs, "text_encoder_2"))


FAMILY = Family(
    components={
        "transformer": ("FluxTransformer2DModel",),
        "vae": ("AutoencoderKL",),
        "scheduler": (),
        "text_encoder": ("CLIPTextModel",),
        "text_encoder_2": ("T5EncoderModel",),
        "tokenizer": CLIP_TOKENIZER,
        "tokenizer_2": T5_TOKENIZER,
    },
    check=check,
    load_options={"image_encoder": None, "feature_extractor": None},
    denoiser="transformer",
    text_encoders=("text_encoder", "text_encoder_2"),
    embed=embed,
    embed_negative=None,
    embed_guidance=embed_guidance,
    embed_size=None,
    predict=predict,
    latent_shape=packed.latent_shape,
    patches=packed.patches,
    scheduler_config=packed.scheduler_config,
    guidance_scale=guidance_scale,
    noise_level=NOISE_LEVEL,
    lora_targets=JOINT_ATTENTION,
)

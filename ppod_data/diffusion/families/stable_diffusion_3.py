"""Stable Diffusion 3 and 3.5: a transformer, two CLIP text encoders and a T5, which may be absent.

Shapes: B rows, C H W latent, L tokens, D width, W width of the pooled embeddings together.
"""

from typing import Any

import torch

from ppod_data.diffusion.condition import Condition
from ppod_data.diffusion.families.family import CLIP_TOKENIZER, JOINT_ATTENTION, T5_TOKENIZER, Family
from ppod_data.diffusion.families.served import (
    Configs,
    channels_of,
    check_keys,
    check_latents,
    check_size,
    check_width,
    hidden_width,
)
from ppod_data.diffusion.flow import NOISE_LEVEL, flow_config

_FREE = frozenset(
    [
        "sample_size",
        "patch_size",
        "in_channels",
        "out_channels",
        "num_layers",
        "attention_head_dim",
        "num_attention_heads",
        "joint_attention_dim",
        "caption_projection_dim",
        "pooled_projection_dim",
        "pos_embed_max_size",
        "dual_attention_layers",
        "qk_norm",
    ]
)


def embed(pipeline: Any, prompt: str) -> Condition:
    """prompt_embeds [1, L, D], zeros in the place of T5's where it is absent, and pooled_embeds [1, W]."""
    prompt_embeds, _, pooled_embeds, _ = pipeline.encode_prompt(
        prompt, None, None, device=pipeline.transformer.device, do_classifier_free_guidance=False
    )
    return {"prompt_embeds": prompt_embeds, "pooled_embeds": pooled_embeds}


def predict(
    transformer: Any, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition
) -> torch.Tensor:
    """Return the velocity [B, C, H, W] for latents [B, C, H, W] at timesteps [B], from 0 to 1000."""
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
    """Return the configuration of the chain's sigmas (`flow.flow_config`)."""
    side = pipeline.transformer.config.patch_size
    tokens = (latent_shape[1] // side) * (latent_shape[2] // side)
    return flow_config(pipeline.scheduler, image_seq_len=tokens, sigmas_from_one=False)


def guidance_scale(pipeline: Any) -> float:
    """Return the default, that of Flow-GRPO."""
    return 4.5


def check(name: str, configs: Configs) -> None:
    """Refuse a transformer that Stable Diffusion 3 does not have. Raises ConfigError naming the key."""
    check_keys(name, "transformer", configs["transformer"], _FREE, {})
    check_latents(name, "transformer", configs, channels_of(configs["transformer"], 16, 16))
    check_size(name, "transformer", configs["transformer"], square=True)
    check_width(name, "transformer", configs, "joint_attention_dim", hidden_width(configs, "text_encoder_3"))


FAMILY = Family(
    components={
        "transformer": ("SD3Transformer2DModel",),
        "vae": ("AutoencoderKL",),
        "scheduler": (),
        "text_encoder": ("CLIPTextModelWithProjection",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "text_encoder_3": ("T5EncoderModel",),
        "tokenizer": CLIP_TOKENIZER,
        "tokenizer_2": CLIP_TOKENIZER,
        "tokenizer_3": T5_TOKENIZER,
    },
    check=check,
    load_options={"image_encoder": None, "feature_extractor": None},
    denoiser="transformer",
    text_encoders=("text_encoder", "text_encoder_2", "text_encoder_3"),
    embed=embed,
    embed_negative=embed,
    embed_guidance=None,
    embed_size=None,
    predict=predict,
    latent_shape=latent_shape,
    patches=patches,
    scheduler_config=scheduler_config,
    guidance_scale=guidance_scale,
    noise_level=NOISE_LEVEL,
    lora_targets=JOINT_ATTENTION,
)

"""Chroma: FLUX.1's transformer without pooled embedding and guidance input; text is masked, guidance classifier-free.

Shapes: B rows, C H W latent, L text tokens, D width.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from ppod_data.diffusion.condition import Condition
from ppod_data.diffusion.families import flux, language_model, packed
from ppod_data.diffusion.families.family import T5_TOKENIZER
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

_FREE = frozenset(
    [
        *("in_channels", "out_channels", "num_layers", "num_single_layers", "attention_head_dim"),
        *("num_attention_heads", "joint_attention_dim", "axes_dims_rope", "approximator_num_channels"),
        *("approximator_hidden_dim", "approximator_layers"),
    ]
)
_BOUND: Mapping[str, Any] = {"patch_size": 1}
_LENGTH = 512
"""The tokens of a prompt, with padding."""


def embed(pipeline: Any, prompt: str) -> Condition:
    """Return prompt_embeds [1, L, D] of T5, and prompt_mask [1, L]: true for its tokens and one of padding."""
    encoder = pipeline.text_encoder
    if encoder.device.type == "meta":
        return language_model.unencoded(encoder, _LENGTH)
    embeds, _, mask, *_ = pipeline.encode_prompt(
        prompt, device=encoder.device, do_classifier_free_guidance=False, max_sequence_length=_LENGTH
    )
    return {"prompt_embeds": embeds, "prompt_mask": mask.bool()}


def predict(
    transformer: Any, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition
) -> torch.Tensor:
    """Return the velocity [B, C, H, W] for latents [B, C, H, W] at timesteps [B], from 0 to 1000."""
    tokens, embeds = packed.pack(latents), condition["prompt_embeds"]
    mask = condition["prompt_mask"].to(latents.dtype)
    output: torch.Tensor = transformer(
        hidden_states=tokens,
        timestep=timesteps.to(latents.dtype) / 1000,
        encoder_hidden_states=embeds,
        txt_ids=latents.new_zeros(embeds.shape[1], 3),
        img_ids=packed.position_ids(latents),
        attention_mask=torch.cat([mask, mask.new_ones(tokens.shape[:2])], dim=1),
        return_dict=False,
    )[0]
    return packed.unpack(output, latents.shape)


def guidance_scale(pipeline: Any) -> float:
    """Return the default: diffusers'."""
    return 5.0


def check(name: str, configs: Configs) -> None:
    """Refuse a transformer that Chroma does not have. Raises ConfigError naming the key."""
    transformer = configs["transformer"]
    check_keys(name, "transformer", transformer, _FREE, _BOUND)
    check_latents(name, "transformer", configs, packed_channels(name, channels_of(transformer, 64, None)))
    check_size(name, "vae", configs["vae"], square=True)
    check_width(name, "transformer", configs, "joint_attention_dim", hidden_width(configs, "text_encoder"))


FAMILY = replace(
    flux.FAMILY,
    components={
        "transformer": ("ChromaTransformer2DModel",),
        "vae": ("AutoencoderKL",),
        "scheduler": (),
        "text_encoder": ("T5EncoderModel",),
        "tokenizer": T5_TOKENIZER,
    },
    check=check,
    text_encoders=("text_encoder",),
    embed=embed,
    embed_negative=embed,
    embed_guidance=None,
    predict=predict,
    guidance_scale=guidance_scale,
)

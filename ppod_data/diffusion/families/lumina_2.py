"""Lumina 2: one stream of image and text tokens; the network predicts x_0 − noise at time 1 − σ, text is a Gemma's.

Guidance keeps the norm of each row of the conditional prediction, as in the pipeline's own call.

Shapes: B rows, C H W latent, L text tokens, D width.
"""

from collections.abc import Mapping
from typing import Any

import torch

from ppod_data.diffusion.condition import Condition
from ppod_data.diffusion.families import language_model
from ppod_data.diffusion.families.family import ATTENTION, GEMMA_TOKENIZER, Family
from ppod_data.diffusion.families.pixart_sigma import latent_shape
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
        *("sample_size", "in_channels", "out_channels", "hidden_size", "num_layers", "num_refiner_layers"),
        *("num_attention_heads", "num_kv_heads", "multiple_of", "ffn_dim_multiplier", "norm_eps"),
        *("scaling_factor", "axes_dim_rope", "axes_lens", "cap_feat_dim"),
    ]
)
_BOUND: Mapping[str, Any] = {"patch_size": 2}
_LENGTH = 256
"""The tokens of a prompt with the system prompt and padding."""


def embed(pipeline: Any, prompt: str) -> Condition:
    """Return prompt_embeds [1, L, D] of Gemma under the pipeline's system prompt, and prompt_mask [1, L]."""
    encoder = pipeline.text_encoder
    if encoder.device.type == "meta":
        return language_model.unencoded(encoder, _LENGTH)
    embeds, mask, *_ = pipeline.encode_prompt(
        prompt, False, device=encoder.device, max_sequence_length=_LENGTH
    )
    return {"prompt_embeds": embeds, "prompt_mask": mask.bool()}


def embed_negative(pipeline: Any, prompt: str) -> Condition:
    """Return the same without the system prompt, as in the pipeline's own call."""
    encoder = pipeline.text_encoder
    if encoder.device.type == "meta":
        return language_model.unencoded(encoder, _LENGTH)
    *_, embeds, mask = pipeline.encode_prompt(
        "", True, negative_prompt=prompt, device=encoder.device, max_sequence_length=_LENGTH
    )
    return {"prompt_embeds": embeds, "prompt_mask": mask.bool()}


def prompt_tokens(pipeline: Any) -> int:
    """Return the most tokens of a prompt that are read; those of the system prompt take some of 256."""
    tokenizer = pipeline.tokenizer
    template = len(tokenizer(f"{pipeline.system_prompt} <Prompt Start> ").input_ids)
    return _LENGTH - template + len(tokenizer("").input_ids)


def predict(
    transformer: Any, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition
) -> torch.Tensor:
    """Return the velocity [B, C, H, W] for latents [B, C, H, W] at timesteps [B], from 0 to 1000."""
    mask = condition["prompt_mask"]
    output: torch.Tensor = transformer(
        hidden_states=latents,
        timestep=1 - timesteps / 1000,
        encoder_hidden_states=condition["prompt_embeds"],
        # The network reads the numbers of tokens; without values every row has the most.
        encoder_attention_mask=torch.ones(mask.shape, dtype=torch.bool) if mask.is_meta else mask,
        return_dict=False,
    )[0]
    return -output


def guided(unconditional: torch.Tensor, conditional: torch.Tensor, scale: float) -> torch.Tensor:
    """Return uncond + scale·(cond − uncond), each row of latents scaled to the norm of the conditional prediction."""
    sums = unconditional + scale * (conditional - unconditional)
    norms: torch.Tensor = conditional.norm(dim=-1, keepdim=True) / sums.norm(dim=-1, keepdim=True)
    return sums * norms


def patches(pipeline: Any) -> tuple[int, int | None]:
    """Return the latents on a side of a patch, and the most patches on a side that have a position."""
    return 2, min(pipeline.transformer.config.axes_lens[1:])


def scheduler_config(pipeline: Any, latent_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return the configuration of the chain's sigmas.

    Under dynamic shifting, which the released model does not have, diffusers' pipeline takes the channels for tokens.
    """
    return flow_config(pipeline.scheduler, image_seq_len=latent_shape[0], sigmas_from_one=True)


def guidance_scale(pipeline: Any) -> float:
    """Return the default: diffusers'."""
    return 4.0


def check(name: str, configs: Configs) -> None:
    """Refuse a transformer that Lumina 2 does not have. Raises ConfigError naming the key."""
    transformer = configs["transformer"]
    check_keys(name, "transformer", transformer, _FREE, _BOUND)
    check_latents(name, "transformer", configs, channels_of(transformer, 16, None))
    check_size(name, "transformer", transformer, square=True)
    check_width(name, "transformer", configs, "cap_feat_dim", hidden_width(configs, "text_encoder"))


FAMILY = Family(
    components={
        "transformer": ("Lumina2Transformer2DModel",),
        "vae": ("AutoencoderKL",),
        "scheduler": (),
        "text_encoder": ("Gemma2Model",),
        "tokenizer": GEMMA_TOKENIZER,
    },
    check=check,
    load_options={},
    denoiser="transformer",
    text_encoders=("text_encoder",),
    embed=embed,
    embed_negative=embed_negative,
    embed_guidance=None,
    embed_size=None,
    predict=predict,
    latent_shape=latent_shape,
    patches=patches,
    scheduler_config=scheduler_config,
    guidance_scale=guidance_scale,
    noise_level=NOISE_LEVEL,
    lora_targets=ATTENTION,
    guided=guided,
    prompt_tokens=prompt_tokens,
)

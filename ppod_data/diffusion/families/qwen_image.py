"""Qwen-Image: a transformer on patches of 2 × 2 latents; guidance keeps the norm of the conditional prediction.

The VAE is one of videos: an image is a video of one frame.

Shapes: B rows, C H W latent, L text tokens, D width.
"""

from collections.abc import Mapping
from typing import Any

import torch

from ppod_data.diffusion.condition import Condition
from ppod_data.diffusion.families import language_model, packed
from ppod_data.diffusion.families.family import JOINT_ATTENTION, QWEN_TOKENIZER, Family
from ppod_data.diffusion.families.own_call import Options, literal
from ppod_data.diffusion.families.served import (
    Configs,
    channels_of,
    check_channels,
    check_keys,
    check_width,
    hidden_width,
    packed_channels,
)
from ppod_data.diffusion.families.vae import denormalised, normalised
from ppod_data.diffusion.flow import NOISE_LEVEL

_FREE = frozenset(
    [
        *("in_channels", "out_channels", "num_layers", "attention_head_dim", "num_attention_heads"),
        *("joint_attention_dim", "axes_dims_rope"),
    ]
)
_BOUND: Mapping[str, Any] = {
    "patch_size": 2,
    "guidance_embeds": False,
    "zero_cond_t": False,
    "use_additional_t_cond": False,
    "use_layer3d_rope": False,
}
_VAE_FREE = frozenset(
    [
        *("base_dim", "z_dim", "dim_mult", "num_res_blocks", "attn_scales", "temperal_downsample", "dropout"),
        *("latents_mean", "latents_std"),
    ]
)
_LENGTH = 512
"""The most tokens of a prompt that are read, as in the pipeline's own call."""


def embed(pipeline: Any, prompt: str) -> Condition:
    """Return prompt_embeds [1, L, D], the last layer of the language model, and prompt_mask [1, L]."""
    text = pipeline.prompt_template_encode.format(prompt)
    dropped = pipeline.prompt_template_encode_start_idx
    states, _ = language_model.hidden_states(
        pipeline, text, layers=[-1], length=pipeline.tokenizer_max_length + dropped, padded=False
    )
    return language_model.masked(states[:, dropped : dropped + _LENGTH], _LENGTH)


def prompt_tokens(pipeline: Any) -> int:
    """Return the most tokens of a prompt that are read; those of the template before it are dropped."""
    template = pipeline.prompt_template_encode.format("")
    return language_model.room(pipeline, template, pipeline.prompt_template_encode_start_idx + _LENGTH)


def predict(
    transformer: Any, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition
) -> torch.Tensor:
    """Return the velocity [B, C, H, W] for latents [B, C, H, W] at timesteps [B], from 0 to 1000."""
    rows, _, height, width = latents.shape
    embeds, mask = language_model.trimmed(condition)
    output: torch.Tensor = transformer(
        hidden_states=packed.pack(latents),
        timestep=timesteps.to(latents.dtype) / 1000,
        encoder_hidden_states=embeds,
        encoder_hidden_states_mask=mask,
        img_shapes=[[(1, height // 2, width // 2)]] * rows,
        return_dict=False,
    )[0]
    return packed.unpack(output, latents.shape)


def guided(unconditional: torch.Tensor, conditional: torch.Tensor, scale: float) -> torch.Tensor:
    """Return uncond + scale·(cond − uncond), each patch scaled to the norm of the conditional prediction there."""
    sums = packed.pack(unconditional + scale * (conditional - unconditional))
    norms = packed.pack(conditional).norm(dim=-1, keepdim=True) / sums.norm(dim=-1, keepdim=True)
    return packed.unpack(sums * norms, conditional.shape)


def latent_shape(pipeline: Any) -> tuple[int, int, int]:
    """Return (C, H, W) of an image of the pipeline's own size, 1024 pixels: its networks name none."""
    size = pipeline.default_sample_size
    return pipeline.transformer.config.in_channels // 4, size, size


def guidance_scale(pipeline: Any) -> float:
    """Return the default: diffusers'."""
    return 4.0


def call_options(guidance_scale: float, negative_prompt: str) -> Options:
    """Return the options of the own call, which guides only if a negative prompt is given, an empty one too."""
    return {"true_cfg_scale": literal(guidance_scale), "negative_prompt": literal(negative_prompt)}


def encode(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Return x_0 [B, C, H, W] of pixels [B, 3, height, width]: the mode of the posterior, normalised."""
    return normalised(vae, vae.encode(pixels.unsqueeze(2)).latent_dist.mode().squeeze(2))


def decode(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Return the pixels [B, 3, height, width] of x_0 [B, C, H, W]."""
    pixels: torch.Tensor = vae.decode(denormalised(vae, latents).unsqueeze(2), return_dict=False)[0]
    return pixels.squeeze(2)


def check(name: str, configs: Configs) -> None:
    """Refuse a transformer or VAE that Qwen-Image does not have. Raises ConfigError naming the key."""
    transformer, vae = configs["transformer"], configs["vae"]
    check_keys(name, "transformer", transformer, _FREE, _BOUND)
    check_keys(name, "vae", vae, _VAE_FREE, {"input_channels": 3})
    inputs, outputs = channels_of(transformer, 64, 16)
    channels, _ = packed_channels(name, (inputs, 4 * outputs))
    check_channels(name, "transformer", (channels, outputs), vae.get("z_dim", 16))
    check_width(name, "transformer", configs, "joint_attention_dim", hidden_width(configs, "text_encoder"))


FAMILY = Family(
    components={
        "transformer": ("QwenImageTransformer2DModel",),
        "vae": ("AutoencoderKLQwenImage",),
        "scheduler": (),
        "text_encoder": ("Qwen2_5_VLForConditionalGeneration",),
        "tokenizer": QWEN_TOKENIZER,
    },
    check=check,
    load_options={},
    denoiser="transformer",
    text_encoders=("text_encoder",),
    embed=embed,
    embed_negative=embed,
    embed_guidance=None,
    embed_size=None,
    predict=predict,
    latent_shape=latent_shape,
    patches=packed.patches,
    scheduler_config=packed.scheduler_config,
    guidance_scale=guidance_scale,
    noise_level=NOISE_LEVEL,
    lora_targets=JOINT_ATTENTION,
    guided=guided,
    encode=encode,
    decode=decode,
    prompt_tokens=prompt_tokens,
    call_options=call_options,
)

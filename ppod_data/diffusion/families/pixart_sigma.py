"""PixArt-Σ: a transformer that predicts noise, on the latents of Stable Diffusion XL's VAE; text is a masked T5's.

The network also predicts a variance, which DDIM does not use. Prompts are read in lower case.

Shapes: B rows, C H W latent, L text tokens, D width.
"""

from collections.abc import Mapping
from typing import Any

import torch

from ppod_data.diffusion.condition import Condition
from ppod_data.diffusion.families import language_model, unet
from ppod_data.diffusion.families.family import ATTENTION, T5_TOKENIZER, Family
from ppod_data.diffusion.families.own_call import Options, literal, unbinned
from ppod_data.diffusion.families.served import (
    Configs,
    channels_of,
    check_keys,
    check_latents,
    check_size,
    check_width,
    hidden_width,
)

_FREE = frozenset(
    [
        *(
            "in_channels",
            "out_channels",
            "num_layers",
            "num_attention_heads",
            "attention_head_dim",
            "dropout",
        ),
        *("norm_num_groups", "cross_attention_dim", "attention_bias", "sample_size", "patch_size"),
        *("activation_fn", "num_embeds_ada_norm", "upcast_attention", "norm_type", "norm_elementwise_affine"),
        *("norm_eps", "interpolation_scale", "caption_channels"),
    ]
)
_BOUND: Mapping[str, Any] = {"use_additional_conditions": False, "attention_type": "default"}
_LENGTH = 300
"""The tokens of a prompt, with padding."""


def embed(pipeline: Any, prompt: str) -> Condition:
    """Return prompt_embeds [1, L, D] of T5, and prompt_mask [1, L]: true for its tokens."""
    encoder = pipeline.text_encoder
    if encoder.device.type == "meta":
        return language_model.unencoded(encoder, _LENGTH)
    embeds, mask, *_ = pipeline.encode_prompt(
        prompt, False, device=encoder.device, clean_caption=False, max_sequence_length=_LENGTH
    )
    return {"prompt_embeds": embeds, "prompt_mask": mask.bool()}


def predict(
    transformer: Any, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition
) -> torch.Tensor:
    """Return the predicted noise [B, C, H, W] for latents [B, C, H, W] at timesteps [B]."""
    output: torch.Tensor = transformer(
        latents,
        encoder_hidden_states=condition["prompt_embeds"],
        encoder_attention_mask=condition["prompt_mask"],
        timestep=timesteps,
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        return_dict=False,
    )[0]
    return output[:, : latents.shape[1]]


def latent_shape(pipeline: Any) -> tuple[int, int, int]:
    """Return (C, H, W) of an image of the pipeline's own size."""
    config = pipeline.transformer.config
    return config.in_channels, config.sample_size, config.sample_size


def patches(pipeline: Any) -> tuple[int, int | None]:
    """Return the latents on a side of a patch, and the most patches on a side of an image: no bound."""
    return pipeline.transformer.config.patch_size, None


def scheduler_config(pipeline: Any, latent_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return the complete DDIM configuration, which ends without noise as the released multi-step solver does."""
    config = unet.scheduler_config(pipeline, latent_shape)
    is_ddim = type(pipeline.scheduler).__name__ == "DDIMScheduler"
    return config if is_ddim else config | {"set_alpha_to_one": True}


def guidance_scale(pipeline: Any) -> float:
    """Return the default: diffusers'."""
    return 4.5


def call_options(guidance_scale: float, negative_prompt: str) -> Options:
    """Return the options of the own call, which otherwise removes web addresses and punctuation from prompts."""
    return {**unbinned(guidance_scale, negative_prompt), "clean_caption": literal(False)}


def check(name: str, configs: Configs) -> None:
    """Refuse a transformer that PixArt-Σ does not have. Raises ConfigError naming the key."""
    transformer = dict(configs["transformer"])
    if (
        transformer.get("use_additional_conditions") is None
    ):  # PixArt-α's default, which follows from the size
        transformer["use_additional_conditions"] = transformer.get("sample_size", 128) == 128
    check_keys(name, "transformer", transformer, _FREE, _BOUND)
    inputs, outputs = channels_of(transformer, 4, 8)
    check_latents(name, "transformer", configs, (inputs, inputs if outputs == 2 * inputs else outputs))
    check_size(name, "transformer", transformer, square=True)
    check_width(name, "transformer", configs, "caption_channels", hidden_width(configs, "text_encoder"))


FAMILY = Family(
    components={
        "transformer": ("PixArtTransformer2DModel", "Transformer2DModel"),
        "vae": ("AutoencoderKL",),
        "scheduler": (),
        "text_encoder": ("T5EncoderModel",),
        "tokenizer": T5_TOKENIZER,
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
    patches=patches,
    scheduler_config=scheduler_config,
    guidance_scale=guidance_scale,
    noise_level=unet.NOISE_LEVEL,
    lora_targets=ATTENTION,
    call_options=call_options,
)

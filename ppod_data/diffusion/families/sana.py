"""Sana: a transformer with linear attention on latents of 1/32 of the image's side; text is a masked Gemma's.

The text encoder reads an instruction to enhance the prompt, and the network reads the states of the prompt's tokens.

Shapes: B rows, C H W latent, L text tokens, D width.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from ppod_data.diffusion.condition import Condition
from ppod_data.diffusion.families import language_model
from ppod_data.diffusion.families.family import ATTENTION, GEMMA_TOKENIZER, Family
from ppod_data.diffusion.families.own_call import unbinned
from ppod_data.diffusion.families.pixart_sigma import latent_shape, patches
from ppod_data.diffusion.families.served import (
    Configs,
    channels_of,
    check_channels,
    check_keys,
    check_size,
    check_width,
    hidden_width,
)
from ppod_data.diffusion.families.vae import normalised
from ppod_data.diffusion.flow import NOISE_LEVEL, flow_config

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
        *("num_cross_attention_heads", "cross_attention_head_dim", "cross_attention_dim", "caption_channels"),
        *("mlp_ratio", "attention_bias", "sample_size", "patch_size", "norm_elementwise_affine", "norm_eps"),
        *("interpolation_scale", "qk_norm", "timestep_scale", "guidance_embeds_scale"),
    ]
)
_BOUND: Mapping[str, Any] = {"guidance_embeds": False}
_VAE_FREE = frozenset(
    [
        *("latent_channels", "attention_head_dim", "scaling_factor", "upsample_block_type"),
        *("downsample_block_type", "encoder_out_shortcut", "decoder_in_shortcut"),
        *("decoder_norm_types", "decoder_act_fns", "decoder_conv_act_fn"),
        *(f"{part}_block_types" for part in ("encoder", "decoder")),
        *(f"{part}_block_out_channels" for part in ("encoder", "decoder")),
        *(f"{part}_layers_per_block" for part in ("encoder", "decoder")),
        *(f"{part}_qkv_multiscales" for part in ("encoder", "decoder")),
    ]
)
_LENGTH = 300
"""The tokens of a prompt, with the first one of the text and padding."""


def embed(pipeline: Any, prompt: str) -> Condition:
    """Return prompt_embeds [1, L, D] of Gemma under the pipeline's instruction, and prompt_mask [1, L]."""
    instruction = inspect.signature(pipeline.__call__).parameters["complex_human_instruction"].default
    return _embed(pipeline, prompt, instruction)


def embed_negative(pipeline: Any, prompt: str) -> Condition:
    """Return the same without the instruction, as in the pipeline's own call."""
    return _embed(pipeline, prompt, None)


def _embed(pipeline: Any, prompt: str, instruction: list[str] | None) -> Condition:
    encoder = pipeline.text_encoder
    if encoder.device.type == "meta":
        return language_model.unencoded(encoder, _LENGTH)
    embeds, mask, *_ = pipeline.encode_prompt(
        prompt,
        False,
        device=encoder.device,
        max_sequence_length=_LENGTH,
        complex_human_instruction=instruction,
    )
    return {"prompt_embeds": embeds, "prompt_mask": mask.bool()}


def prompt_tokens(pipeline: Any) -> int:
    """Return the most tokens of a prompt that are read: one place is kept for the instruction's last token."""
    return _LENGTH - 1


def predict(
    transformer: Any, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition
) -> torch.Tensor:
    """Return the velocity [B, C, H, W] for latents [B, C, H, W] at timesteps [B], from 0 to 1000."""
    output: torch.Tensor = transformer(
        latents,
        encoder_hidden_states=condition["prompt_embeds"].to(latents.dtype),
        encoder_attention_mask=condition["prompt_mask"],
        timestep=timesteps * transformer.config.timestep_scale,
        return_dict=False,
    )[0]
    return output.contiguous()  # channels last would round otherwise in the next call


def scheduler_config(pipeline: Any, latent_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return the configuration of the chain's sigmas, from 1 and shifted as the released multi-step solver's.

    That solver multiplies its sigmas by 0.999 before the shift, so that none is 1.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler, config = pipeline.scheduler, pipeline.scheduler.config
    solves_flow = bool(config.get("use_flow_sigmas")) and config.get("prediction_type") == "flow_prediction"
    if solves_flow:
        steps = config["num_train_timesteps"]
        scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=steps, shift=config["flow_shift"])
    tokens = latent_shape[1] * latent_shape[2]
    return flow_config(scheduler, image_seq_len=tokens, sigmas_from_one=solves_flow)


def guidance_scale(pipeline: Any) -> float:
    """Return the default: diffusers'."""
    return 4.5


def encode(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Return x_0 [B, C, H, W] of pixels [B, 3, height, width]; this VAE is deterministic."""
    return normalised(vae, vae.encode(pixels).latent)


def check(name: str, configs: Configs) -> None:
    """Refuse a transformer or VAE that Sana does not have. Raises ConfigError naming the key."""
    transformer, vae = configs["transformer"], configs["vae"]
    check_keys(name, "transformer", transformer, _FREE, _BOUND)
    check_keys(name, "vae", vae, _VAE_FREE, {"in_channels": 3})
    check_channels(name, "transformer", channels_of(transformer, 32, 32), vae.get("latent_channels", 32))
    check_size(name, "transformer", transformer, square=True)
    check_width(name, "transformer", configs, "caption_channels", hidden_width(configs, "text_encoder"))


FAMILY = Family(
    components={
        "transformer": ("SanaTransformer2DModel",),
        "vae": ("AutoencoderDC",),
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
    encode=encode,
    prompt_tokens=prompt_tokens,
    call_options=unbinned,
)

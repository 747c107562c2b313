"""The pipeline classes that ppod knows, by the class name in a pipeline's own model_index.json."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from ppod_data.diffusion import flow
from ppod_data.diffusion.condition import Condition
from ppod_data.diffusion.families import flux, stable_diffusion, stable_diffusion_3, stable_diffusion_xl, unet
from ppod_data.diffusion.families.served import Check, check_flux, check_sd3, check_unet, check_xl


@dataclass(frozen=True, kw_only=True)
class Family:
    """How a class of pipelines is loaded, conditioned and called."""

    components: Mapping[str, tuple[str, ...]]
    """The parts that are loaded, by name -> the classes that are served; () is any of diffusers' schedulers."""
    check: Check
    """(name, configurations): refuse a network that is called otherwise than `predict` calls it, or is of another."""
    load_options: Mapping[str, Any]
    """For the pipeline's constructor: parts that are left out, and switches."""
    denoiser: str
    """Name of the component that denoises; its LoRA weights have this prefix."""
    text_encoders: tuple[str, ...]
    """Names of the components that embed prompts; a pipeline may be saved without some."""
    embed: Callable[[Any, str], Condition]
    """(pipeline, prompt) -> its condition, one row."""
    embed_negative: Callable[[Any, str], Condition] | None
    """The same for what classifier-free guidance steers away from; "" is none. None: there is no such guidance."""
    embed_guidance: Callable[[Any, float], Condition] | None
    """(pipeline, guidance scale) -> the scale as a condition, one row, of a network that was distilled to obey it."""
    embed_size: Callable[[Any, int, int], Condition] | None
    """(pipeline, height, width) -> the image's size as a condition, one row, of a network that reads it."""
    predict: Callable[[Any, torch.Tensor, torch.Tensor, Condition], torch.Tensor]
    """(denoiser, latents, timesteps, condition) -> its prediction."""
    latent_shape: Callable[[Any], tuple[int, int, int]]
    """pipeline -> (C, H, W) of an image of its own size."""
    patches: Callable[[Any], tuple[int, int | None]]
    """pipeline -> (latents on a side of a patch, the most patches on a side; None: no bound)."""
    scheduler_config: Callable[[Any, tuple[int, int, int]], dict[str, Any]]
    """(pipeline, latent shape) -> what `schedule.chain_config` makes a spec's scheduler of."""
    guidance_scale: Callable[[Any], float]
    """pipeline -> the default."""
    noise_level: float
    """The default of `ddim_eta`."""
    lora_targets: tuple[str, ...]
    """The denoiser's attention projections."""


_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_JOINT_ATTENTION = (*_ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")

_CLIP_TOKENIZER = ("CLIPTokenizer", "CLIPTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
_T5_TOKENIZER = ("T5Tokenizer", "T5TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
_UNET_PARTS: Mapping[str, tuple[str, ...]] = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "scheduler": (),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": _CLIP_TOKENIZER,
}

_STABLE_DIFFUSION = Family(
    components=_UNET_PARTS,
    check=check_unet,
    load_options={
        "safety_checker": None,
        "feature_extractor": None,
        "image_encoder": None,
        "requires_safety_checker": False,
    },
    denoiser="unet",
    text_encoders=("text_encoder",),
    embed=stable_diffusion.embed,
    embed_negative=stable_diffusion.embed_negative,
    embed_guidance=None,
    embed_size=None,
    predict=stable_diffusion.predict,
    latent_shape=unet.latent_shape,
    patches=unet.patches,
    scheduler_config=unet.scheduler_config,
    guidance_scale=unet.guidance_scale,
    noise_level=unet.NOISE_LEVEL,
    lora_targets=_ATTENTION,
)
_STABLE_DIFFUSION_3 = Family(
    components={
        "transformer": ("SD3Transformer2DModel",),
        "vae": ("AutoencoderKL",),
        "scheduler": (),
        "text_encoder": ("CLIPTextModelWithProjection",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "text_encoder_3": ("T5EncoderModel",),
        "tokenizer": _CLIP_TOKENIZER,
        "tokenizer_2": _CLIP_TOKENIZER,
        "tokenizer_3": _T5_TOKENIZER,
    },
    check=check_sd3,
    load_options={"image_encoder": None, "feature_extractor": None},
    denoiser="transformer",
    text_encoders=("text_encoder", "text_encoder_2", "text_encoder_3"),
    embed=stable_diffusion_3.embed,
    embed_negative=stable_diffusion_3.embed,
    embed_guidance=None,
    embed_size=None,
    predict=stable_diffusion_3.predict,
    latent_shape=stable_diffusion_3.latent_shape,
    patches=stable_diffusion_3.patches,
    scheduler_config=stable_diffusion_3.scheduler_config,
    guidance_scale=stable_diffusion_3.guidance_scale,
    noise_level=flow.NOISE_LEVEL,
    lora_targets=_JOINT_ATTENTION,
)

FAMILIES: Mapping[str, Family] = {
    "StableDiffusionPipeline": _STABLE_DIFFUSION,
    "StableDiffusionXLPipeline": replace(
        _STABLE_DIFFUSION,
        components={
            **_UNET_PARTS,
            "text_encoder_2": ("CLIPTextModelWithProjection",),
            "tokenizer_2": _CLIP_TOKENIZER,
        },
        check=check_xl,
        load_options={"image_encoder": None, "feature_extractor": None, "add_watermarker": False},
        text_encoders=("text_encoder", "text_encoder_2"),
        embed=stable_diffusion_xl.embed,
        embed_negative=stable_diffusion_xl.embed_negative,
        embed_size=stable_diffusion_xl.embed_size,
        predict=stable_diffusion_xl.predict,
    ),
    "StableDiffusion3Pipeline": _STABLE_DIFFUSION_3,
    "FluxPipeline": replace(
        _STABLE_DIFFUSION_3,
        components={
            "transformer": ("FluxTransformer2DModel",),
            "vae": ("AutoencoderKL",),
            "scheduler": (),
            "text_encoder": ("CLIPTextModel",),
            "text_encoder_2": ("T5EncoderModel",),
            "tokenizer": _CLIP_TOKENIZER,
            "tokenizer_2": _T5_TOKENIZER,
        },
        check=check_flux,
        text_encoders=("text_encoder", "text_encoder_2"),
        embed=flux.embed,
        embed_negative=None,
        embed_guidance=flux.embed_guidance,
        predict=flux.predict,
        latent_shape=flux.latent_shape,
        patches=flux.patches,
        scheduler_config=flux.scheduler_config,
        guidance_scale=flux.guidance_scale,
    ),
}

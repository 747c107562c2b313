"""Z-Image and Z-Image-Turbo: one stream of image and text tokens; the network predicts x_0 − noise at time 1 − σ.

diffusers counts guidance from the conditional prediction: its scale s is our s + 1, and Turbo's 0 is our 1.

Shapes: B rows, C H W latent, L text tokens, D width.
"""

from collections.abc import Mapping
from typing import Any

import torch

from ppod_data.diffusion.condition import Condition
from ppod_data.diffusion.families import language_model, packed
from ppod_data.diffusion.families.family import ATTENTION, QWEN_TOKENIZER, Family
from ppod_data.diffusion.families.own_call import Options, classifier_free
from ppod_data.diffusion.families.served import (
    Configs,
    check_keys,
    check_latents,
    check_size,
    check_width,
    hidden_width,
)
from ppod_data.diffusion.flow import NOISE_LEVEL

_FREE = frozenset(
    [
        *("in_channels", "dim", "n_layers", "n_refiner_layers", "n_heads", "n_kv_heads", "norm_eps"),
        *("qk_norm", "cap_feat_dim", "rope_theta", "t_scale", "axes_dims", "axes_lens"),
    ]
)
_BOUND: Mapping[str, Any] = {"all_patch_size": [2], "all_f_patch_size": [1], "siglip_feat_dim": None}
_LENGTH = 512
"""The most tokens of a prompt in its template."""
_TURBO_SHIFT = 3.0


def embed(pipeline: Any, prompt: str) -> Condition:
    """Return prompt_embeds [1, L, D], the last but one layer of the language model, and prompt_mask [1, L]."""
    text = language_model.chat(pipeline, prompt, thinking=True)
    states, _ = language_model.hidden_states(pipeline, text, layers=[-2], length=_LENGTH, padded=False)
    return language_model.masked(states, _LENGTH)


def prompt_tokens(pipeline: Any) -> int:
    """Return the most tokens of a prompt that are read."""
    return language_model.room(pipeline, language_model.chat(pipeline, "", thinking=True), _LENGTH)


def predict(
    transformer: Any, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition
) -> torch.Tensor:
    """Return the velocity [B, C, H, W] for latents [B, C, H, W] at timesteps [B], from 0 to 1000."""
    counts = language_model.token_counts(condition)
    texts = [row[:count] for row, count in zip(condition["prompt_embeds"], counts, strict=True)]
    images = list(latents.unsqueeze(2).unbind(0))
    output = transformer(images, (1000 - timesteps) / 1000, texts, return_dict=False)[0]
    return -torch.stack(output).squeeze(2)


def latent_shape(pipeline: Any) -> tuple[int, int, int]:
    """Return (C, H, W) of an image of the size that the VAE's configuration names; the transformer has none."""
    size = pipeline.vae.config.sample_size // pipeline.vae_scale_factor
    return pipeline.transformer.config.in_channels, size, size


def patches(pipeline: Any) -> tuple[int, int | None]:
    """Return the latents on a side of a patch, and the most patches on a side that have a position."""
    return 2, min(pipeline.transformer.config.axes_lens[1:])


def guidance_scale(pipeline: Any) -> float:
    """Return the default: 5, as 4 in diffusers' count, or 1 for Turbo, which was distilled.

    The two have the same configurations except for the shift of the schedule, 6 and 3.
    """
    return 1.0 if pipeline.scheduler.config.shift <= _TURBO_SHIFT else 5.0


def call_options(guidance_scale: float, negative_prompt: str) -> Options:
    """Return the options of the own call, which counts guidance from the conditional prediction."""
    return classifier_free(guidance_scale - 1, negative_prompt)


def check(name: str, configs: Configs) -> None:
    """Refuse a transformer that Z-Image does not have. Raises ConfigError naming the key."""
    transformer = configs["transformer"]
    check_keys(name, "transformer", transformer, _FREE, _BOUND)
    channels = int(transformer.get("in_channels", 16))
    check_latents(name, "transformer", configs, (channels, channels))
    check_size(name, "vae", configs["vae"], square=True)
    check_width(name, "transformer", configs, "cap_feat_dim", hidden_width(configs, "text_encoder"))


FAMILY = Family(
    components={
        "transformer": ("ZImageTransformer2DModel",),
        "vae": ("AutoencoderKL",),
        "scheduler": (),
        "text_encoder": ("Qwen3Model", "Qwen3ForCausalLM"),
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
    patches=patches,
    scheduler_config=packed.scheduler_config,
    guidance_scale=guidance_scale,
    noise_level=NOISE_LEVEL,
    lora_targets=ATTENTION,
    prompt_tokens=prompt_tokens,
    call_options=call_options,
)

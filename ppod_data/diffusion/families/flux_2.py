"""FLUX.2 klein and dev: a transformer on patches of latents that a batch norm normalises.

Text is three layers of a language model, a Qwen3 in klein and a Mistral 3 in dev. Guidance is classifier-free in the
base models of klein, and dev was distilled to obey a scale.

Latents are the VAE's, [C, H, W], normalised by the batch norm of the VAE, whose channels are those of patches.

Shapes: B rows, C H W latent, L text tokens, D width.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from ppod_data.diffusion.condition import Condition
from ppod_data.diffusion.families import flux, language_model, packed
from ppod_data.diffusion.families.family import JOINT_ATTENTION, QWEN_TOKENIZER, Family
from ppod_data.diffusion.families.own_call import Options, classifier_free, literal
from ppod_data.diffusion.families.served import (
    VAE_BOUND,
    VAE_FREE,
    Configs,
    channels_of,
    check_channels,
    check_keys,
    check_size,
    check_width,
    hidden_width,
    packed_channels,
    text_config,
)
from ppod_data.diffusion.flow import NOISE_LEVEL
from ppod_data.errors import ConfigError

_FREE = frozenset(
    [
        *("in_channels", "out_channels", "num_layers", "num_single_layers", "attention_head_dim"),
        *("num_attention_heads", "joint_attention_dim", "timestep_guidance_channels", "mlp_ratio"),
        *("axes_dims_rope", "rope_theta", "eps"),
    ]
)
_VAE_FREE = VAE_FREE | {"decoder_block_out_channels", "batch_norm_eps", "batch_norm_momentum"}
_VAE_BOUND = {**VAE_BOUND, "patch_size": [2, 2]}
_LENGTH = 512
"""The tokens of a prompt in its template, with padding."""
_LAYERS = (9, 18, 27)
"""The layers of klein's text encoder that the transformer reads."""
_DEV_LAYERS = (10, 20, 30)
"""The same of dev's text encoder."""


def embed(pipeline: Any, prompt: str) -> Condition:
    """Return prompt_embeds [1, L, D]: three layers of the language model, padded to 512 tokens."""
    text = language_model.chat(pipeline, prompt, thinking=False)
    embeds, _ = language_model.hidden_states(pipeline, text, layers=_LAYERS, length=_LENGTH, padded=True)
    return {"prompt_embeds": embeds}


def prompt_tokens(pipeline: Any) -> int:
    """Return the most tokens of a prompt that are read."""
    return language_model.room(pipeline, language_model.chat(pipeline, "", thinking=False), _LENGTH)


def embed_dev(pipeline: Any, prompt: str) -> Condition:
    """Return prompt_embeds [1, L, D] of dev: three layers, side by side, under the pipeline's own system message."""
    encoder = pipeline.text_encoder
    if encoder.device.type == "meta":
        width = len(_DEV_LAYERS) * encoder.config.get_text_config().hidden_size
        return {"prompt_embeds": torch.empty(1, _LENGTH, width, dtype=encoder.dtype, device="meta")}
    embeds, _ = pipeline.encode_prompt(
        prompt,
        device=encoder.device,
        max_sequence_length=_LENGTH,
        text_encoder_out_layers=_DEV_LAYERS,
    )
    return {"prompt_embeds": embeds}


def prompt_tokens_dev(pipeline: Any) -> int:
    """Return the most tokens of a prompt that dev reads; those of the system message take some of 512."""
    from diffusers.pipelines.flux2.pipeline_flux2 import format_input

    messages = format_input([""], pipeline.system_message)
    template = pipeline.tokenizer.apply_chat_template(messages, add_generation_prompt=False, tokenize=True)
    ends = len(pipeline.tokenizer.tokenizer("").input_ids)
    return _LENGTH - len(template[0]) + ends


def check_guidance(pipeline: Any, guidance_scale: float) -> Condition:
    """Return no condition: guidance is classifier-free.

    Raises:
        ConfigError: A guidance scale for a distilled model, which does not read it.
    """
    if pipeline.config.is_distilled and guidance_scale != 1:
        raise ConfigError(
            f"this model is distilled and reads no guidance scale: give 1, not {guidance_scale:g}"
        )
    return {}


def predict(
    transformer: Any, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition
) -> torch.Tensor:
    """Return the velocity [B, C, H, W] for latents [B, C, H, W] at timesteps [B], from 0 to 1000."""
    embeds = condition["prompt_embeds"]
    height, width = (size // 2 for size in latents.shape[2:])
    output: torch.Tensor = transformer(
        hidden_states=packed.pack(latents),
        timestep=timesteps.to(latents.dtype) / 1000,
        guidance=condition.get("guidance"),
        encoder_hidden_states=embeds,
        txt_ids=_position_ids(1, 1, embeds.shape[1], latents.device),
        img_ids=_position_ids(height, width, 1, latents.device),
        return_dict=False,
    )[0]
    return packed.unpack(output, latents.shape)


def _position_ids(height: int, width: int, length: int, device: torch.device) -> torch.Tensor:
    """Return (0, row, column, text token) of each token, [height · width · length, 4]."""
    return torch.cartesian_prod(*(torch.arange(size, device=device) for size in (1, height, width, length)))


def scheduler_config(pipeline: Any, latent_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return the configuration of the chain's sigmas, whose shift is linear in the number of steps."""
    from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

    config = packed.scheduler_config(pipeline, latent_shape)
    if "mu" not in config:
        return config
    tokens = packed.num_tokens(latent_shape)
    start = compute_empirical_mu(tokens, 0)
    return config | {"mu": start, "mu_per_step": (compute_empirical_mu(tokens, 200) - start) / 200}


def guidance_scale(pipeline: Any) -> float:
    """Return the default: diffusers', or 1 for a distilled model."""
    return 1.0 if pipeline.config.is_distilled else 4.0


def guidance_scale_dev(pipeline: Any) -> float:
    """Return the default: diffusers'."""
    return 4.0


def call_options(guidance_scale: float, negative_prompt: str) -> Options:
    """Return the options of klein's own call, which takes a negative prompt as embeddings only."""
    options = classifier_free(guidance_scale, "")
    if not negative_prompt:
        return options
    return {**options, "negative_prompt_embeds": f"pipe.encode_prompt({literal(negative_prompt)})[0]"}


def encode(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Return x_0 [B, C, H, W] of pixels [B, 3, height, width]: the mode of the posterior, its patches normalised."""
    latents = vae.encode(pixels).latent_dist.mode()
    mean, std = _statistics(vae, latents)
    return packed.unpack((packed.pack(latents) - mean) / std, latents.shape)


def decode(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Return the pixels [B, 3, height, width] of x_0 [B, C, H, W]."""
    mean, std = _statistics(vae, latents)
    own = packed.unpack(packed.pack(latents) * std + mean, latents.shape)
    pixels: torch.Tensor = vae.decode(own, return_dict=False)[0]
    return pixels


def _statistics(vae: Any, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean and standard deviation of each channel of patches, [C · 4]."""
    std = (vae.bn.running_var + vae.config.batch_norm_eps).sqrt()
    return vae.bn.running_mean.to(latents), std.to(latents)


def check(name: str, configs: Configs, *, guidance_embeds: bool, last_layer: int) -> None:
    """Refuse a transformer or VAE that klein or dev does not have. Raises ConfigError naming the key.

    Args:
        name: The pipeline, for errors.
        configs: The configurations of its parts.
        guidance_embeds: The transformer reads a guidance scale.
        last_layer: The highest layer of the text encoder that is read.
    """
    transformer, vae = configs["transformer"], {"sample_size": 1024, **configs["vae"]}
    bound = {"patch_size": 1, "guidance_embeds": guidance_embeds}
    check_keys(name, "transformer", transformer, _FREE, bound, defaults={"guidance_embeds": True})
    check_keys(name, "vae", vae, _VAE_FREE, _VAE_BOUND)
    channels = packed_channels(name, channels_of(transformer, 128, None))
    check_channels(name, "transformer", channels, vae.get("latent_channels", 32))
    check_size(name, "vae", vae, square=True)
    hidden = hidden_width(configs, "text_encoder")
    layers = text_config(configs, "text_encoder").get("num_hidden_layers")
    check_width(name, "transformer", configs, "joint_attention_dim", None if hidden is None else 3 * hidden)
    if isinstance(layers, int) and layers < last_layer:
        raise ConfigError(
            f"{name}: its text_encoder has {layers} layers, and layer {last_layer} is read: it is of another model"
        )


KLEIN = Family(
    components={
        "transformer": ("Flux2Transformer2DModel",),
        "vae": ("AutoencoderKLFlux2",),
        "scheduler": (),
        "text_encoder": ("Qwen3ForCausalLM",),
        "tokenizer": QWEN_TOKENIZER,
    },
    check=partial(check, guidance_embeds=False, last_layer=max(_LAYERS)),
    load_options={},
    denoiser="transformer",
    text_encoders=("text_encoder",),
    embed=embed,
    embed_negative=embed,
    embed_guidance=check_guidance,
    embed_size=None,
    predict=predict,
    latent_shape=packed.latent_shape,
    patches=packed.patches,
    scheduler_config=scheduler_config,
    guidance_scale=guidance_scale,
    noise_level=NOISE_LEVEL,
    # The second kind of block computes attention and MLP by one projection in and one out.
    lora_targets=(*JOINT_ATTENTION, "to_qkv_mlp_proj", "attn.to_out"),
    encode=encode,
    decode=decode,
    prompt_tokens=prompt_tokens,
    call_options=call_options,
)

DEV = replace(
    KLEIN,
    components={
        **KLEIN.components,
        "text_encoder": ("Mistral3ForConditionalGeneration",),
        "tokenizer": ("PixtralProcessor",),
    },
    check=partial(check, guidance_embeds=True, last_layer=max(_DEV_LAYERS)),
    embed=embed_dev,
    embed_negative=None,
    embed_guidance=flux.embed_guidance,
    guidance_scale=guidance_scale_dev,
    prompt_tokens=prompt_tokens_dev,
)

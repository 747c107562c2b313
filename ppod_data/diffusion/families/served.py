"""Which configurations of networks `predict` and the decoder serve; others are refused before weights are loaded.

A key is free where it changes the inside of a network, and bound where it changes what the network is called with or
gives back. A key in neither list is refused: a newer library, or somebody's own, knows what it does, and this one not.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ppod_data.errors import ConfigError

_MAX_TIMESTEPS = 100_000

_UNET_FREE = frozenset(
    [
        "sample_size",
        "center_input_sample",
        "flip_sin_to_cos",
        "freq_shift",
        "down_block_types",
        "mid_block_type",
        "up_block_types",
        "only_cross_attention",
        "block_out_channels",
        "layers_per_block",
        "downsample_padding",
        "mid_block_scale_factor",
        "dropout",
        "act_fn",
        "norm_num_groups",
        "norm_eps",
        "cross_attention_dim",
        "transformer_layers_per_block",
        "reverse_transformer_layers_per_block",
        "attention_head_dim",
        "num_attention_heads",
        "dual_cross_attention",
        "use_linear_projection",
        "upcast_attention",
        "resnet_time_scale_shift",
        "resnet_skip_time_act",
        "resnet_out_scale_factor",
        "time_embedding_dim",
        "time_embedding_act_fn",
        "timestep_post_act",
        "conv_in_kernel",
        "conv_out_kernel",
        "mid_block_only_cross_attention",
        "cross_attention_norm",
        "addition_embed_type_num_heads",
        "in_channels",
        "out_channels",
    ]
)
_UNET_BOUND: Mapping[str, Any] = {
    "time_cond_proj_dim": None,
    "class_embed_type": None,
    "num_class_embeds": None,
    "class_embeddings_concat": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "addition_embed_type": None,
    "addition_time_embed_dim": None,
    "projection_class_embeddings_input_dim": None,
    "time_embedding_type": "positional",
    "attention_type": "default",
}
_XL_FREE = _UNET_FREE | {"addition_time_embed_dim", "projection_class_embeddings_input_dim"}
_XL_BOUND = {key: value for key, value in _UNET_BOUND.items() if key not in _XL_FREE} | {
    "addition_embed_type": "text_time"
}
_SD3_FREE = frozenset(
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
_FLUX_FREE = frozenset(
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
_VAE_FREE = frozenset(
    [
        "down_block_types",
        "up_block_types",
        "block_out_channels",
        "layers_per_block",
        "act_fn",
        "latent_channels",
        "norm_num_groups",
        "sample_size",
        "scaling_factor",
        "shift_factor",
        "latents_mean",
        "latents_std",
        "force_upcast",
        "use_quant_conv",
        "use_post_quant_conv",
        "mid_block_add_attention",
    ]
)
_VAE_BOUND: Mapping[str, Any] = {"in_channels": 3, "out_channels": 3}

_KNOWN_AS = {
    "time_cond_proj_dim": " (a latent consistency model)",
    "attention_type": " (GLIGEN)",
    "encoder_hid_dim_type": " (an image or text projection)",
}

Configs = Mapping[str, Mapping[str, Any]]
"""Component -> its configuration, as its file has it."""


def check_unet(name: str, configs: Configs) -> None:
    """Refuse a UNet that Stable Diffusion 1.x or 2.x does not have. Raises ConfigError naming the key."""
    _check(name, "unet", configs["unet"], _UNET_FREE, _UNET_BOUND)
    _check_latents(name, "unet", configs, _channels(configs["unet"], 4, 4))
    _check_size(name, "unet", configs["unet"])
    _check_width(name, "unet", configs, "cross_attention_dim", _hidden(configs, "text_encoder"))


def check_xl(name: str, configs: Configs) -> None:
    """Refuse a UNet that Stable Diffusion XL's base model does not have. Raises ConfigError naming the key."""
    unet = configs["unet"]
    _check(name, "unet", unet, _XL_FREE, _XL_BOUND)
    _check_latents(name, "unet", configs, _channels(unet, 4, 4))
    _check_size(name, "unet", unet, square=True)
    hidden = [
        _hidden(configs, encoder) for encoder in ("text_encoder", "text_encoder_2") if encoder in configs
    ]
    widths = [width for width in hidden if width is not None]
    _check_width(
        name, "unet", configs, "cross_attention_dim", sum(widths) if len(widths) == len(hidden) else None
    )
    _check_conditions(name, unet, _text(configs, "text_encoder_2").get("projection_dim"))


def check_sd3(name: str, configs: Configs) -> None:
    """Refuse a transformer that Stable Diffusion 3 does not have. Raises ConfigError naming the key."""
    _check(name, "transformer", configs["transformer"], _SD3_FREE, {})
    _check_latents(name, "transformer", configs, _channels(configs["transformer"], 16, 16))
    _check_size(name, "transformer", configs["transformer"], square=True)
    _check_width(name, "transformer", configs, "joint_attention_dim", _hidden(configs, "text_encoder_3"))


def check_flux(name: str, configs: Configs) -> None:
    """Refuse a transformer that FLUX.1-dev and schnell do not have. Raises ConfigError naming the key."""
    transformer = configs["transformer"]
    _check(name, "transformer", transformer, _FLUX_FREE, {"patch_size": 1})
    inputs, outputs = _channels(transformer, 64, None)
    if inputs % 4 or outputs % 4:
        raise ConfigError(
            f"{name}: its transformer's channels are {inputs} and {outputs}, not patches of 2 × 2"
        )
    _check_latents(name, "transformer", configs, (inputs // 4, outputs // 4))
    _check_size(name, "vae", configs["vae"], square=True)
    _check_width(name, "transformer", configs, "joint_attention_dim", _hidden(configs, "text_encoder_2"))


def check_scheduler(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a schedule so long that a table of it would fill the memory. Raises ConfigError."""
    steps = config.get("num_train_timesteps", 1000)
    if not isinstance(steps, int) or not 1 <= steps <= _MAX_TIMESTEPS:
        raise ConfigError(
            f"{name}: its scheduler's num_train_timesteps is {steps!r}: 1 to {_MAX_TIMESTEPS:,} are served"
        )


Check = Callable[[str, Configs], None]


def _check(
    name: str, component: str, config: Mapping[str, Any], free: frozenset[str], bound: Mapping[str, Any]
) -> None:
    for key, needed in bound.items():
        value = config.get(key, _UNET_BOUND.get(key, needed))
        if (value or None) != (needed or None):
            raise ConfigError(
                f"{name}: its {component} has {key} {value!r}{_KNOWN_AS.get(key, '')}, which is not supported: give a "
                f"pipeline whose {component} has {key} {needed!r}"
            )
    for key, value in config.items():
        if key not in free and key not in bound and not key.startswith("_") and value not in (None, False):
            raise ConfigError(
                f"{name}: its {component} has {key} {str(value)[:60]!r}, which this version does not know and would "
                "not use: is it of a newer diffusers?"
            )


def _check_latents(name: str, component: str, configs: Configs, channels: tuple[int, int]) -> None:
    """Of the denoiser and the VAE: both on the same latents, and the prediction is as large as its input."""
    _check(name, "vae", configs["vae"], _VAE_FREE, _VAE_BOUND)
    latent = configs["vae"].get("latent_channels", 4)
    if channels != (latent, latent):
        why = {9: " (inpainting)", 8: " (image editing)"}.get(channels[0], "")
        raise ConfigError(
            f"{name}: its {component} takes {channels[0]} channels{why} and gives {channels[1]}, and its VAE's latents "
            f"have {latent}: only text-to-image models are supported"
        )


def _check_width(name: str, component: str, configs: Configs, key: str, given: int | None) -> None:
    needed = configs[component].get(key)
    if isinstance(needed, int) and given is not None and needed != given:
        raise ConfigError(
            f"{name}: its {component} has {key} {needed}, and its text encoders give {given}: they are of "
            "different models"
        )


def _channels(config: Mapping[str, Any], inputs: int, outputs: int | None) -> tuple[int, int]:
    """(in, out); the arguments are what the class takes where the configuration leaves them out."""
    taken = config.get("in_channels", inputs)
    given = config.get("out_channels", outputs)
    return int(taken), int(taken if given is None else given)


def _check_conditions(name: str, unet: Mapping[str, Any], pooled: Any) -> None:
    """The base model's conditions are the pooled prompt and six numbers of the image's size."""
    taken, width = unet.get("projection_class_embeddings_input_dim"), unet.get("addition_time_embed_dim")
    if not isinstance(taken, int) or not isinstance(width, int) or not isinstance(pooled, int):
        return
    if taken != pooled + 6 * width:
        raise ConfigError(
            f"{name}: its unet takes {taken} numbers of size and pooled prompt, and the base model's conditions are "
            f"{pooled + 6 * width}: refiners and other variants are not supported"
        )


def _check_size(name: str, component: str, config: Mapping[str, Any], *, square: bool = False) -> None:
    """The size of images is the configuration's."""
    size = config.get("sample_size")
    sides = size if isinstance(size, list) and len(size) == 2 and not square else [size]
    if not all(type(side) is int and side > 0 for side in sides):
        raise ConfigError(
            f"{name}: its {component} has sample_size {size!r}, from which the size of images is taken: write the "
            f"{'side' if square else 'side, or [height, width],'} into {component}/config.json"
        )


def _text(configs: Configs, encoder: str) -> Mapping[str, Any]:
    config = configs.get(encoder, {})
    nested = config.get("text_config")
    return {**config, **nested} if isinstance(nested, dict) else config


def _hidden(configs: Configs, encoder: str) -> int | None:
    config = _text(configs, encoder)
    width = config.get("hidden_size", config.get("d_model"))
    return width if isinstance(width, int) else None

"""Checks of configurations, with which families refuse networks that they do not serve before weights are loaded.

A key is free if it changes the inside of a network, and bound if it changes what the network is called with or
returns. A key in neither list is refused: it belongs to a newer or modified library.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ppod_data.errors import ConfigError

_MAX_TIMESTEPS = 100_000

VAE_FREE = frozenset(
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
VAE_BOUND: Mapping[str, Any] = {"in_channels": 3, "out_channels": 3}

_KNOWN_AS = {
    "time_cond_proj_dim": " (a latent consistency model)",
    "attention_type": " (GLIGEN)",
    "use_additional_conditions": " (PixArt-α)",
    "encoder_hid_dim_type": " (an image or text projection)",
}

Configs = Mapping[str, Mapping[str, Any]]
"""Component -> its configuration, as its file has it."""


def check_scheduler(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a schedule so long that a table of it would fill the memory. Raises ConfigError."""
    steps = config.get("num_train_timesteps", 1000)
    if not isinstance(steps, int) or not 1 <= steps <= _MAX_TIMESTEPS:
        raise ConfigError(
            f"{name}: its scheduler's num_train_timesteps is {steps!r}: 1 to {_MAX_TIMESTEPS:,} are served"
        )


Check = Callable[[str, Configs], None]


def check_keys(
    name: str,
    component: str,
    config: Mapping[str, Any],
    free: frozenset[str],
    bound: Mapping[str, Any],
    defaults: Mapping[str, Any] = {},
) -> None:
    """Refuse a configuration with a key that is in neither list, or whose bound key has another value.

    Args:
        name: The pipeline, for errors.
        component: The part, for errors.
        config: Its configuration.
        free: Keys of any value.
        bound: Key -> the value that is supported.
        defaults: Key -> what the class takes if the configuration omits the key; the supported value otherwise.

    Raises:
        ConfigError: Names the key.
    """
    for key, needed in bound.items():
        value = config.get(key, defaults.get(key, needed))
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


def check_latents(name: str, component: str, configs: Configs, channels: tuple[int, int]) -> None:
    """Refuse an AutoencoderKL that is not served or is of other latents than the denoiser. Raises ConfigError."""
    check_keys(name, "vae", configs["vae"], VAE_FREE, VAE_BOUND)
    check_channels(name, component, channels, configs["vae"].get("latent_channels", 4))


def check_channels(name: str, component: str, channels: tuple[int, int], latent: int) -> None:
    """Refuse a denoiser whose input or prediction has other channels than the VAE's latents. Raises ConfigError."""
    if channels != (latent, latent):
        why = {9: " (inpainting)", 8: " (image editing)"}.get(channels[0], "")
        raise ConfigError(
            f"{name}: its {component} takes {channels[0]} channels{why} and gives {channels[1]}, and its VAE's latents "
            f"have {latent}: only text-to-image models are supported"
        )


def check_width(name: str, component: str, configs: Configs, key: str, given: int | None) -> None:
    """Refuse a denoiser that reads text embeddings of another width than `given`. Raises ConfigError."""
    needed = configs[component].get(key)
    if isinstance(needed, int) and given is not None and needed != given:
        raise ConfigError(
            f"{name}: its {component} has {key} {needed}, and its text encoders give {given}: they are of "
            "different models"
        )


def channels_of(config: Mapping[str, Any], inputs: int, outputs: int | None) -> tuple[int, int]:
    """Return (in, out); the arguments are the class's defaults for what the configuration omits."""
    taken = config.get("in_channels", inputs)
    given = config.get("out_channels", outputs)
    return int(taken), int(taken if given is None else given)


def check_size(name: str, component: str, config: Mapping[str, Any], *, square: bool = False) -> None:
    """Refuse a configuration without the size of images. Raises ConfigError."""
    size = config.get("sample_size")
    sides = size if isinstance(size, list) and len(size) == 2 and not square else [size]
    if not all(type(side) is int and side > 0 for side in sides):
        raise ConfigError(
            f"{name}: its {component} has sample_size {size!r}, from which the size of images is taken: write the "
            f"{'side' if square else 'side, or [height, width],'} into {component}/config.json"
        )


def text_config(configs: Configs, encoder: str) -> Mapping[str, Any]:
    """Return the configuration of a text encoder, that of its language model if it has several."""
    config = configs.get(encoder, {})
    nested = config.get("text_config")
    return {**config, **nested} if isinstance(nested, dict) else config


def hidden_width(configs: Configs, encoder: str) -> int | None:
    """Return the width of a text encoder's hidden states, if its configuration has it."""
    config = text_config(configs, encoder)
    width = config.get("hidden_size", config.get("d_model"))
    return width if isinstance(width, int) else None


def packed_channels(name: str, channels: tuple[int, int]) -> tuple[int, int]:
    """Return the latent channels of a transformer on packed patches of 2 × 2 latents, (in, out).

    Raises:
        ConfigError: Channels that are no patches of 2 × 2 latents.
    """
    inputs, outputs = channels
    if inputs % 4 or outputs % 4:
        raise ConfigError(
            f"{name}: its transformer's channels are {inputs} and {outputs}, not patches of 2 × 2"
        )
    return inputs // 4, outputs // 4

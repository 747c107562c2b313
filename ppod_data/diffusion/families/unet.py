"""What the pipelines with a UNet have in common: Stable Diffusion 1.x, 2.x and XL."""

from typing import Any

from ppod_data.diffusion.ddim import ddim_config

NOISE_LEVEL = 1.0
"""DDIM's η by default: the most variance, and what DDPO, DPOK and D3PO use."""


def latent_shape(pipeline: Any) -> tuple[int, int, int]:
    """(C, H, W) of an image of the pipeline's own size."""
    size = pipeline.unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return pipeline.unet.config.in_channels, height, width


def patches(pipeline: Any) -> tuple[int, int | None]:
    """Return the latents on a side of a patch, 1, and the most patches on a side of an image: no bound."""
    return 1, None


def scheduler_config(pipeline: Any, latent_shape: tuple[int, int, int]) -> dict[str, Any]:
    """The complete DDIM configuration of the pipeline's scheduler."""
    return ddim_config(type(pipeline.scheduler).__name__, pipeline.scheduler.config)


def guidance_scale(pipeline: Any) -> float:
    """The default: what DDPO, D3PO, SPO and PRDP use."""
    return 5.0

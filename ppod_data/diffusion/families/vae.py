"""Common parts of VAEs: their normalisation, and latents to pixels and back.

Shapes: B rows, C H W latent.
"""

from typing import Any

import torch


def normalised(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Return x_0 of the VAE's own latents [B, C, H, W]: scaled and shifted as its configuration says."""
    scale, shift, mean, std = _constants(vae, latents)
    return (latents - shift) * scale if mean is None or std is None else (latents - mean) * scale / std


def denormalised(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Return the VAE's own latents of x_0, [B, C, H, W]."""
    scale, shift, mean, std = _constants(vae, latents)
    return latents / scale + shift if mean is None or std is None else latents * std / scale + mean


def encode(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Return x_0 [B, C, H, W] of pixels [B, 3, height, width] in −1 to 1: the mode of the posterior, normalised.

    The mode and not a sample, so that x_0 depends on the image alone; for a Gaussian it is the mean.
    """
    return normalised(vae, vae.encode(pixels).latent_dist.mode())


def decode(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Return the pixels [B, 3, height, width] in −1 to 1 of x_0 [B, C, H, W]."""
    pixels: torch.Tensor = vae.decode(denormalised(vae, latents), return_dict=False)[0]
    return pixels


def _constants(
    vae: Any, latents: torch.Tensor
) -> tuple[float, float, torch.Tensor | None, torch.Tensor | None]:
    """Return (scaling factor, shift, mean and standard deviation of each channel) of a VAE's configuration."""
    mean, std = (
        None if values is None else torch.tensor(values).view(1, -1, 1, 1).to(latents)
        for values in (vae.config.get("latents_mean"), vae.config.get("latents_std"))
    )
    return vae.config.get("scaling_factor") or 1.0, vae.config.get("shift_factor") or 0.0, mean, std

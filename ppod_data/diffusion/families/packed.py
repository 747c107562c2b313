"""Common parts of transformers on packed latents: one token for each patch of 2 × 2 latents.

Latents are the VAE's, [C, H, W], everywhere but in such a network's input and output.

Shapes: B rows, C H W latent, N = H/2 · W/2 tokens.
"""

from typing import Any

import torch

from ppod_data.diffusion.flow import flow_config


def pack(latents: torch.Tensor) -> torch.Tensor:
    """Return the tokens [B, N, C · 4] of latents [B, C, H, W]."""
    rows, channels, height, width = latents.shape
    patches = latents.reshape(rows, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(rows, (height // 2) * (width // 2), channels * 4)


def unpack(tokens: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Return the latents [B, C, H, W] = `shape` of tokens [B, N, C · 4]."""
    rows, channels, height, width = shape
    patches = tokens.reshape(rows, height // 2, width // 2, channels, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(shape)


def position_ids(latents: torch.Tensor) -> torch.Tensor:
    """Return the position of each token, (0, row, column), [N, 3] in the latents' dtype."""
    rows, columns = (torch.arange(size // 2, device=latents.device) for size in latents.shape[2:])
    positions = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
    return torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1).to(latents.dtype)


def num_tokens(latent_shape: tuple[int, int, int]) -> int:
    """Return the number N of tokens of an image."""
    _, height, width = latent_shape
    return (height // 2) * (width // 2)


def latent_shape(pipeline: Any) -> tuple[int, int, int]:
    """Return (C, H, W) of an image of the size that the VAE's configuration names; the transformer has none."""
    size = pipeline.vae.config.sample_size // pipeline.vae_scale_factor
    return pipeline.transformer.config.in_channels // 4, size, size


def patches(pipeline: Any) -> tuple[int, int | None]:
    """Return the latents on a side of a patch, and the most patches on a side of an image: no bound."""
    return 2, None


def scheduler_config(pipeline: Any, latent_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return the configuration of the chain's sigmas, which start at 1 and depend on the number of tokens."""
    return flow_config(pipeline.scheduler, image_seq_len=num_tokens(latent_shape), sigmas_from_one=True)

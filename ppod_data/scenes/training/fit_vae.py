"""Training of the autoencoder: L1 and edge error, a small KL term, and latent noise that the decoder must tolerate.

Shapes: B batch, images [B, 3, 32, 32] in [-1, 1], latents [B, 4, 8, 8].
"""

import logging
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ppod_data.scenes.training.dataset import to_tensor
from ppod_data.scenes.training.models import build_vae

KL_WEIGHT = 5e-4  # on the KL averaged over latent dimensions
LATENT_NOISE = 0.07  # of the latents' standard deviation, added before decoding
LEARNING_RATE = 2e-3

_log = logging.getLogger(__name__)


def fit_vae(images: NDArray[np.uint8], steps: int, batch_size: int, seed: int, vae: Any = None) -> Any:
    """Return a trained AutoencoderKL whose `scaling_factor` gives its latents a standard deviation of one.

    `vae` continues from an earlier cycle. A second cycle with a smaller batch makes images sharper.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 2, steps])
    vae = build_vae() if vae is None else vae.train()
    optimizer = torch.optim.AdamW(vae.parameters(), LEARNING_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps, pct_start=0.1)
    for step in range(steps):
        batch = to_tensor(images[rng.integers(len(images), size=batch_size)])
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(batch).latent_dist
        latents = posterior.mean.float() + posterior.std.float() * torch.randn_like(posterior.mean.float())
        noise = LATENT_NOISE * latents.detach().std()
        with torch.autocast("cpu", torch.bfloat16):
            decoded = vae.decode(latents + noise * torch.randn_like(latents)).sample
        loss = reconstruction_loss(decoded.float(), batch) + KL_WEIGHT * _kl(posterior)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            _log.info("vae step %d loss %.4f latent std %.3f", step, loss.item(), latents.std().item())
    vae.eval()
    mean, std = _moments(vae, images)
    vae.register_to_config(scaling_factor=1.0 / std)
    _log.info("vae latents: mean %.3f std %.3f", mean, std)
    return vae


def reconstruction_loss(decoded: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute error plus that of horizontal and vertical differences, which keeps faces sharp."""
    error = decoded - images
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + error.square().mean() + 0.7 * edges


def encode_all(vae: Any, images: NDArray[np.uint8]) -> torch.Tensor:
    """Return scaled posterior means, float16 [N, 4, 8, 8]."""
    parts: list[torch.Tensor] = []
    with torch.no_grad():
        for start in range(0, len(images), 256):
            latents = vae.encode(to_tensor(images[start : start + 256])).latent_dist.mean
            parts.append((latents * vae.config.scaling_factor).half())
    return torch.cat(parts)


def _kl(posterior: Any) -> torch.Tensor:
    mean, log_variance = posterior.mean.float(), posterior.logvar.float()
    return 0.5 * F.relu(mean.square() + log_variance.exp() - 1.0 - log_variance).mean()


def _moments(vae: Any, images: NDArray[np.uint8]) -> tuple[float, float]:
    with torch.no_grad():
        latents = vae.encode(to_tensor(images[:2048])).latent_dist.mean
    return float(latents.mean()), float(latents.std())

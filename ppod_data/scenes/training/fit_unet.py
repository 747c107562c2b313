"""Training of UNet and text encoder on cached latents: epsilon prediction, one-cycle rate, averaged weights.

Shapes: N scenes, B batch, L tokens; latents [N, 4, 8, 8], tokens [N, L].
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ppod_data.scenes.training.models import build_scheduler, build_text_encoder, build_unet

LEARNING_RATE = 2e-3
EMA_DECAY = 0.9995

_log = logging.getLogger(__name__)
Checkpoint = Callable[[int, Any, Any], None]


@dataclass(frozen=True)
class Denoiser:
    """The parts that the diffusion loss trains: the UNet and the text encoder."""

    unet: Any
    text_encoder: Any

    def parameters(self) -> list[torch.Tensor]:
        """Return the parameters of both."""
        return [*self.unet.parameters(), *self.text_encoder.parameters()]


def tokenize(tokenizer: Any, captions: list[str]) -> torch.Tensor:
    """Return token numbers, int64 [N, L], padded and truncated to the model's length."""
    ids: torch.Tensor = tokenizer(
        captions,
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids
    return ids


def fit_unet(
    latents: torch.Tensor,
    tokens: torch.Tensor,
    tokenizer: Any,
    steps: int,
    batch_size: int,
    seed: int,
    checkpoint: Checkpoint | None = None,
    checkpoint_every: int = 1000,
    learning_rate: float = LEARNING_RATE,
    start: Denoiser | None = None,
) -> Denoiser:
    """Return the averaged (EMA) weights after `steps` steps.

    `checkpoint` is called with the averaged weights every `checkpoint_every` steps. `start` continues from an
    earlier cycle's averaged weights instead of random ones.
    """
    torch.manual_seed(seed)
    model = Denoiser(build_unet(), build_text_encoder(tokenizer))
    average = Denoiser(build_unet(), build_text_encoder(tokenizer))
    if start is not None:
        model.unet.load_state_dict(start.unet.state_dict())
        model.text_encoder.load_state_dict(start.text_encoder.state_dict())
    for mean, weight in zip(average.parameters(), model.parameters(), strict=True):
        mean.requires_grad_(False).copy_(weight)
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, betas=(0.9, 0.99), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=0.05)
    scheduler = build_scheduler()
    running = 0.0
    for step in range(1, steps + 1):
        rows = torch.randint(len(latents), (batch_size,))
        loss = diffusion_loss(model, scheduler, latents[rows].float(), tokens[rows])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        torch._foreach_lerp_(average.parameters(), model.parameters(), 1 - decay)
        running += loss.item()
        if step % 100 == 0:
            _log.info("unet step %d loss %.4f", step, running / 100)
            running = 0.0
        if checkpoint is not None and step % checkpoint_every == 0 and step < steps:
            checkpoint(step, average.unet, average.text_encoder)
    return average


def diffusion_loss(
    model: Denoiser, scheduler: Any, latents: torch.Tensor, tokens: torch.Tensor
) -> torch.Tensor:
    """Return the mean squared error of the predicted noise. Timesteps are stratified over the batch."""
    size = len(latents)
    timesteps = ((torch.rand(size) + torch.arange(size)) / size * 1000).long().clamp(max=999)
    noise = torch.randn_like(latents)
    noisy = scheduler.add_noise(latents, noise, timesteps)
    words = model.text_encoder(tokens)[0]
    predicted = model.unet(noisy, timesteps, words).sample
    error: torch.Tensor = (predicted - noise).square().mean()
    return error

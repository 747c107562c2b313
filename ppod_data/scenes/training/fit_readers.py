"""Training of the two readers on labelled images, on their round trips through the autoencoder, and on garbage.

Shapes: B batch, images [B, 3, 32, 32] in [-1, 1], latents [B, 4, 8, 8].
"""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ppod_data.scenes.readers import PlainReader, Reading
from ppod_data.scenes.training.dataset import to_tensor, to_uint8
from ppod_data.scenes.training.reader_data import IGNORED, Labelled, augment

LEARNING_RATE = 2e-3

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """The training options of one reader; the two readers differ in all of them."""

    steps: int
    batch_size: int
    seed: int
    strength: float  # of `augment`
    round_trip_noise: float  # largest noise on latents of unit variance before decoding
    learning_rate: float = LEARNING_RATE


def fit_reader(network: nn.Module, data: Labelled, vae: Any, recipe: Recipe) -> nn.Module:
    """Train `network` in place and return it. Half of every batch went through the autoencoder."""
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    decoded = round_trips(vae, data.images, recipe.round_trip_noise, generator)
    optimizer = torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, recipe.steps, pct_start=0.15
    )
    running = 0.0
    for step in range(1, recipe.steps + 1):
        rows = torch.randint(len(data.images), (recipe.batch_size,), generator=generator).numpy()
        half = recipe.batch_size // 2
        batch = to_tensor(np.concatenate([data.images[rows[:half]], decoded[rows[half:]]]))
        loss = reader_loss(network, augment(batch, recipe.strength, generator), data, torch.from_numpy(rows))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        running += loss.item()
        if step % 100 == 0:
            _log.info("%s step %d loss %.4f", type(network).__name__, step, running / 100)
            running = 0.0
    return network.eval()


def reader_loss(network: nn.Module, images: Tensor, data: Labelled, rows: Tensor) -> Tensor:
    """Return the cross-entropy of every label, summed over the questions and averaged over the batch."""
    kinds, colour, place = data.kinds[rows], data.colour[rows], data.place[rows]
    if isinstance(network, PlainReader):
        kind_counts, colour_log, place_log = network.kind_log_probs(images)
        animals = F.nll_loss(kind_counts.flatten(0, 1), kinds.flatten()) * kinds.shape[1]
    else:
        reading: Reading = network(images)
        present = (kinds > 0).float()
        animals = -(present * reading.present + (1 - present) * reading.absent).sum(1).mean()
        animals = animals + F.nll_loss(reading.total, kinds.sum(1))
        colour_log, place_log = reading.colour, reading.place
    colours = F.nll_loss(colour_log, colour, ignore_index=IGNORED)
    return animals + colours + F.nll_loss(place_log, place, ignore_index=IGNORED)


def accuracy(network: nn.Module, images: NDArray[np.uint8], data: Labelled) -> dict[str, float]:
    """Return the share of right answers a question, and of `all` questions. Garbage must read as no animal."""
    parts: list[Reading] = []
    with torch.inference_mode():
        for start in range(0, len(images), 256):
            parts.append(network(to_tensor(images[start : start + 256])))
    present, absent, count, colour, place = (torch.cat(column) for column in zip(*parts, strict=True))
    right = {
        "kinds": ((present > absent) == (data.kinds > 0)).all(1),
        "count": count.argmax(1) == data.kinds.sum(1),
        "colour": (colour.argmax(1) == data.colour) | (data.colour == IGNORED),
        "place": (place.argmax(1) == data.place) | (data.place == IGNORED),
    }
    right["all"] = torch.stack(list(right.values())).all(0)
    return {key: float(value.float().mean()) for key, value in right.items()}


def round_trips(
    vae: Any, images: NDArray[np.uint8], noise: float, generator: torch.Generator
) -> NDArray[np.uint8]:
    """Encode each image, add its own amount of noise up to `noise`, and decode."""
    scale = vae.config.scaling_factor
    out = np.empty_like(images)
    with torch.inference_mode():
        for start in range(0, len(images), 256):
            batch = to_tensor(images[start : start + 256])
            latents = vae.encode(batch).latent_dist.mean * scale
            amount = noise * torch.rand(len(batch), 1, 1, 1, generator=generator)
            latents = latents + amount * torch.randn(latents.shape, generator=generator)
            out[start : start + 256] = to_uint8(vae.decode(latents / scale).sample)
    return out

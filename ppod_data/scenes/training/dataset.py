"""The pretraining set in memory: images, captions, and the scenes that the images show.

Shapes: N scenes, 32x32 pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ppod_data.scenes.training.render import SIZE, Scene
from ppod_data.scenes.training.sampling import sample


@dataclass(frozen=True)
class SceneSet:
    """images: uint8 [N, 32, 32, 3]; captions: N strings, "" for the unconditional share; scenes: N."""

    images: NDArray[np.uint8]
    captions: list[str]
    scenes: list[Scene]


def make_scenes(count: int, seed: int) -> SceneSet:
    """Return `count` random scenes, a pure function of (count, seed)."""
    rng = np.random.default_rng([seed, 1])
    images = np.empty((count, SIZE, SIZE, 3), dtype=np.uint8)
    captions: list[str] = []
    scenes: list[Scene] = []
    for i in range(count):
        captioned = sample(rng)
        images[i] = np.asarray(captioned.image)
        captions.append(captioned.caption)
        scenes.append(captioned.scene)
    return SceneSet(images, captions, scenes)


def to_tensor(images: NDArray[np.uint8]) -> torch.Tensor:
    """Convert uint8 [B, 32, 32, 3] to float32 [B, 3, 32, 32] in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def to_uint8(images: torch.Tensor) -> NDArray[np.uint8]:
    """Convert float [B, 3, 32, 32] in [-1, 1] to uint8 [B, 32, 32, 3]; other values are clipped."""
    pixels = (images.float().clamp(-1, 1) + 1.0) * 127.5
    array: NDArray[np.uint8] = pixels.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return array

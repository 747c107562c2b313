"""Labelled images to train the readers on: scenes of all kinds, and garbage without an animal.

Shapes: N images, 32x32; A = 6 kinds. Labels of IGNORED do not enter the loss.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from ppod_data.scenes.captions import ANIMALS, PLACES
from ppod_data.scenes.readers import READ_COLOURS
from ppod_data.scenes.training.render import SIZE, Scene, background, render

IGNORED = -100
GARBAGE_SHARE = 0.2


@dataclass(frozen=True)
class Labelled:
    """images: uint8 [N, 32, 32, 3]; kinds: int64 [N, A], animals of each kind; colour, place: int64 [N]."""

    images: NDArray[np.uint8]
    kinds: Tensor
    colour: Tensor
    place: Tensor


def make_labelled(count: int, seed: int, garbage_share: float = GARBAGE_SHARE) -> Labelled:
    """Return `count` images, a pure function of the arguments."""
    rng = np.random.default_rng([seed, 3])
    images = np.empty((count, SIZE, SIZE, 3), dtype=np.uint8)
    kinds = torch.zeros(count, len(ANIMALS), dtype=torch.long)
    colour = torch.full((count,), IGNORED)
    place = torch.full((count,), IGNORED)
    for i in range(count):
        if rng.random() < garbage_share:
            image, garbage_place = garbage(rng)
            images[i] = np.asarray(image)
            place[i] = IGNORED if garbage_place is None else PLACES.index(garbage_place)
            continue
        scene = any_scene(rng)
        images[i] = np.asarray(render(scene, rng))
        for animal in scene.animals:
            kinds[i, ANIMALS.index(animal)] += 1
        colour[i] = READ_COLOURS.index(scene.colour)
        place[i] = PLACES.index(scene.place)
    return Labelled(images, kinds, colour, place)


def any_scene(rng: np.random.Generator) -> Scene:
    """Return a scene with one to five animals of one or several kinds, any colour, any place."""
    count = int(rng.choice(5, p=[0.28, 0.27, 0.15, 0.15, 0.15])) + 1
    kinds = [str(a) for a in rng.choice(ANIMALS, 2, replace=False)]
    animals = [kinds[0]] * count
    if count > 1 and rng.random() < (0.6 if count == 2 else 0.15):
        animals[int(rng.integers(count))] = kinds[1]
    return Scene(tuple(animals), str(rng.choice(READ_COLOURS)), str(rng.choice(PLACES)))


def garbage(rng: np.random.Generator) -> tuple[Image.Image, str | None]:
    """Return an image without a readable animal, and its place if it has one."""
    place = str(rng.choice(PLACES))
    kind = int(rng.integers(5))
    if kind == 0:
        return background(place, rng).resize((SIZE, SIZE), Image.Resampling.BOX), place
    if kind in (1, 2):
        return _blobs(place, rng), place
    if kind == 3:
        return _shuffled(render(any_scene(rng), rng), rng), None
    noise = rng.normal(128, rng.uniform(20, 90), (int(rng.integers(3, 17)),) * 2 + (3,))
    image = Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8))
    return image.resize((SIZE, SIZE), Image.Resampling.BICUBIC), None


def augment(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Apply colour jitter, shift, blur and noise to [B, 3, 32, 32] in [-1, 1], drawn for each image."""
    size = len(images)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(size, *shape, 1, 1, generator=generator)

    gain = 1 + strength * uniform(-0.15, 0.15, 1)
    tint = strength * uniform(-0.08, 0.08, 3)
    out = images * gain + tint
    dx, dy = (int(v) for v in torch.randint(-2, 3, (2,), generator=generator))
    out = F.pad(out, (2, 2, 2, 2), mode="replicate")[..., 2 + dy : 34 + dy, 2 + dx : 34 + dx]
    blurred = F.avg_pool2d(F.pad(out, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    mix = uniform(-0.5, 0.9, 1).clamp_min(0) * strength  # negative draws leave the image sharp
    out = out + mix.clamp(max=0.9) * (blurred - out)
    noise = torch.randn(images.shape, generator=generator)
    return (out + strength * uniform(0.0, 0.12, 1) * noise).clamp(-1, 1)


def _blobs(place: str, rng: np.random.Generator) -> Image.Image:
    """Draw faceless blots in animal colours."""
    canvas = background(place, rng)
    draw = ImageDraw.Draw(canvas)
    base = rng.integers(20, 256, 3)
    for _ in range(int(rng.integers(1, 6))):
        x, y = rng.uniform(8, 56, 2)
        for shade in rng.uniform(0.6, 1.1, int(rng.integers(1, 4))):
            rx, ry = rng.uniform(4, 13, 2)
            fill = tuple(int(v) for v in np.clip(base * shade, 0, 255))
            ox, oy = rng.uniform(-4, 4, 2)
            draw.ellipse((x + ox - rx, y + oy - ry, x + ox + rx, y + oy + ry), fill=fill)
    return canvas.resize((SIZE, SIZE), Image.Resampling.BOX)


def _shuffled(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the image's 4x4-pixel tiles in random order."""
    tiles = np.asarray(image).reshape(8, 4, 8, 4, 3).transpose(0, 2, 1, 3, 4).reshape(64, 4, 4, 3)
    mixed = tiles[rng.permutation(64)].reshape(8, 8, 4, 4, 3).transpose(0, 2, 1, 3, 4)
    return Image.fromarray(mixed.reshape(SIZE, SIZE, 3))

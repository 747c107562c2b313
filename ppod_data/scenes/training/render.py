"""Rendering of a `Scene` as a 32x32 RGB image: emoji animals (Noto Color Emoji) before a simple background."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ppod_data.errors import ConfigError
from ppod_data.scenes.captions import Facts

FONT_PATH = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
SIZE = 32  # pixels
NATURAL = "natural"

_SCALE = 2  # drawn at 64x64, then averaged down
_SIDE = SIZE * _SCALE
_EMOJI = {"rabbit": "🐰", "wolf": "🐺", "cat": "🐱", "dog": "🐶", "bird": "🐦", "pig": "🐷"}
_TINTS: dict[str, tuple[int, int, int]] = {
    "green": (40, 190, 50),
    "red": (235, 40, 40),
    "blue": (50, 90, 245),
    "yellow": (255, 225, 20),
    "purple": (165, 50, 215),
}
# Centres of the animals by their number, in units of the image's side; x to the right, y down.
_LAYOUTS: dict[int, list[list[tuple[float, float]]]] = {
    1: [[(0.5, 0.55)]],
    2: [[(0.27, 0.56), (0.73, 0.56)]],
    3: [[(0.19, 0.58), (0.5, 0.58), (0.81, 0.58)], [(0.27, 0.75), (0.73, 0.75), (0.5, 0.33)]],
    4: [[(0.27, 0.31), (0.73, 0.31), (0.27, 0.75), (0.73, 0.75)]],
    5: [
        [(0.2, 0.26), (0.8, 0.26), (0.5, 0.52), (0.2, 0.79), (0.8, 0.79)],
        [(0.27, 0.31), (0.73, 0.31), (0.18, 0.75), (0.5, 0.75), (0.82, 0.75)],
    ],
}
_SIZES = {1: (0.5, 0.72), 2: (0.36, 0.43), 3: (0.27, 0.31), 4: (0.31, 0.36), 5: (0.26, 0.3)}


@dataclass(frozen=True)
class Scene:
    """The content of an image.

    animals: kind of each animal drawn, 1 to 5 of them.
    colour:  colour of all animals, one of `captions.COLOURS` or "natural".
    place:   one of `captions.PLACES`.
    """

    animals: tuple[str, ...]
    colour: str = NATURAL
    place: str = "plain"

    def shows(self, facts: Facts) -> bool:
        """Return true if every fact of a prompt holds in this scene."""
        return (
            set(self.animals) == set(facts.animals)
            and len(self.animals) == facts.count
            and facts.colour in (None, self.colour)
            and facts.place in (None, self.place)
        )


def render(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """Draw a 32x32 RGB image of `scene`; `rng` decides positions, sizes, angles and background details."""
    canvas = background(scene.place, rng).convert("RGBA")
    for kind, (x, y, size) in zip(scene.animals, _positions(len(scene.animals), rng), strict=True):
        sprite = _sprite(kind, scene.colour, bool(rng.integers(2)))
        sprite = sprite.rotate(float(rng.uniform(-12, 12)), Image.Resampling.BICUBIC)
        sprite = sprite.resize((size, size), Image.Resampling.LANCZOS)
        canvas.alpha_composite(sprite, (x, y))
    return canvas.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX)


def background(place: str, rng: np.random.Generator) -> Image.Image:
    """Draw a background without animals, 64x64 RGB."""
    return _BACKGROUNDS[place](rng)


def _positions(count: int, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """Return left, top and side of each animal's box, in canvas pixels."""
    layouts = _LAYOUTS[count]
    layout = layouts[int(rng.integers(len(layouts)))]
    flip = bool(rng.integers(2))
    jitter = 0.09 if count == 1 else 0.03
    shift = rng.uniform(-0.03, 0.03, 2)
    common = rng.uniform(*_SIZES[count])
    boxes: list[tuple[int, int, int]] = []
    for cx, cy in layout:
        x, y = (1 - cx if flip else cx), cy
        size = round(common * float(rng.uniform(0.94, 1.06)) * _SIDE)
        dx, dy = shift + rng.uniform(-jitter, jitter, 2)
        left = round((x + float(dx)) * _SIDE - size / 2)
        top = round((y + float(dy)) * _SIDE - size / 2)
        boxes.append((min(max(left, 0), _SIDE - size), min(max(top, 0), _SIDE - size), size))
    return boxes


@lru_cache(maxsize=128)
def _sprite(kind: str, colour: str, mirrored: bool) -> Image.Image:
    """Return one animal, 64x64 RGBA, on a transparent background."""
    glyph = _glyph(kind)
    if mirrored:
        glyph = glyph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return glyph if colour == NATURAL else _tinted(glyph, _TINTS[colour])


def _tinted(glyph: Image.Image, tint: tuple[int, int, int]) -> Image.Image:
    """Return the glyph in shades of one colour: dark stays dark, light becomes the tint."""
    pixels = np.asarray(glyph, dtype=np.float32)
    light = pixels[..., :3] @ np.array([0.35, 0.45, 0.2], dtype=np.float32) / 255.0
    light = np.clip((light - 0.1) / 0.75, 0.0, 1.0)[..., None]
    shade = light**0.8 * np.array(tint, dtype=np.float32) + 55.0 * np.clip(light - 0.8, 0.0, 0.2)
    rgba = np.concatenate([np.clip(shade, 0, 255), pixels[..., 3:]], axis=-1)
    return Image.fromarray(rgba.astype(np.uint8), "RGBA")


@lru_cache(maxsize=16)
def _glyph(kind: str) -> Image.Image:
    font = _font()
    canvas = Image.new("RGBA", (160, 160), (0, 0, 0, 0))
    ImageDraw.Draw(canvas).text((10, 10), _EMOJI[kind], font=font, embedded_color=True)
    box = canvas.getbbox()
    assert box is not None
    side = max(box[2] - box[0], box[3] - box[1])
    square = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    cut = canvas.crop(box)
    square.paste(cut, ((side - cut.width) // 2, (side - cut.height) // 2))
    return square.resize((64, 64), Image.Resampling.LANCZOS)


def _font() -> ImageFont.FreeTypeFont:
    if not FONT_PATH.is_file():  # check first, because Pillow would search other folders for the name
        raise ConfigError(
            f"cannot draw scenes: {FONT_PATH} is missing; install it with `apt install fonts-noto-color-emoji`"
        )
    return ImageFont.truetype(str(FONT_PATH), 109)  # the only size of this bitmap font


def _shaded(colour: Sequence[float], rng: np.random.Generator, spread: float = 10.0) -> tuple[int, int, int]:
    r, g, b = np.clip(np.asarray(colour) + rng.uniform(-spread, spread, 3), 0, 255).astype(int)
    return int(r), int(g), int(b)


def _plain(rng: np.random.Generator) -> Image.Image:
    return Image.new("RGB", (_SIDE, _SIDE), _shaded((226, 217, 208), rng, 18))


def _park(rng: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", (_SIDE, _SIDE), _shaded((150, 215, 245), rng))
    draw = ImageDraw.Draw(image)
    horizon = int(rng.uniform(0.34, 0.46) * _SIDE)
    draw.rectangle((0, horizon, _SIDE, _SIDE), fill=_shaded((120, 200, 80), rng))
    for x in rng.uniform(0.0, 1.0, int(rng.integers(2, 4))) * _SIDE:
        radius = float(rng.uniform(6, 9))
        top = horizon - radius * 1.3
        draw.rectangle((x - 2, top, x + 2, horizon + 3), fill=(120, 80, 40))
        draw.ellipse((x - radius, top - radius, x + radius, top + radius), fill=_shaded((30, 120, 45), rng))
    return image


def _moon(rng: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", (_SIDE, _SIDE), _shaded((18, 16, 42), rng, 8))
    draw = ImageDraw.Draw(image)
    horizon = int(rng.uniform(0.42, 0.58) * _SIDE)
    for x, y in rng.uniform(0.0, 1.0, (9, 2)) * (_SIDE, horizon):
        draw.rectangle((x, y, x + 1, y + 1), fill=(235, 235, 200))
    draw.rectangle((0, horizon, _SIDE, _SIDE), fill=_shaded((128, 128, 134), rng))
    for x, y in rng.uniform(0.0, 1.0, (4, 2)):
        cx, cy, radius = x * _SIDE, horizon + 4 + y * (_SIDE - horizon - 4), float(rng.uniform(4, 7))
        draw.ellipse((cx - radius, cy - radius / 2, cx + radius, cy + radius / 2), fill=(88, 88, 96))
    return image


def _beach(rng: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", (_SIDE, _SIDE), _shaded((185, 230, 250), rng, 8))
    draw = ImageDraw.Draw(image)
    sea = int(rng.uniform(0.22, 0.32) * _SIDE)
    sand = sea + int(rng.uniform(0.2, 0.3) * _SIDE)
    draw.rectangle((0, sea, _SIDE, _SIDE), fill=_shaded((20, 130, 160), rng))
    draw.rectangle((0, sand, _SIDE, _SIDE), fill=_shaded((240, 212, 140), rng))
    if rng.integers(2):
        x = float(rng.uniform(0.1, 0.9)) * _SIDE
        draw.ellipse((x - 5, 1, x + 5, 11), fill=(255, 200, 30))
    return image


_BACKGROUNDS = {"plain": _plain, "park": _park, "moon": _moon, "beach": _beach}

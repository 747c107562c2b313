"""The before/after picture: the same seeds in two rows, framed by the scorer's correctness verdict.

Sizes are in pixels of the picture. Pillow's own font renders the same picture on every machine. It has the letters of
English alone, so other prompts are respelled, or named by their number.
"""

import unicodedata
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from ppod_data.support.formatting import counted, percent, precision
from ppod_train.evaluation.files import sheet_prompts
from ppod_train.evaluation.metrics import EvalResult, Metrics, PromptMeasurement

Colour = tuple[int, int, int]

TILE = 112
"""Small images are enlarged to about this side; large images are reduced to at most twice this side."""
GAP = 10
FRAME = 4
MARGIN = 28
LABEL_GAP = 17

_PAPER: Colour = (252, 252, 251)
_INK: Colour = (24, 24, 27)
_MUTED: Colour = (113, 113, 122)
_UNKNOWN: Colour = (212, 212, 216)
_ASCII = str.maketrans({"ß": "ss", "×": "x", "–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"'})
_CORRECT: Colour = (22, 145, 80)
_WRONG: Colour = (214, 69, 65)


def before_after_grid(before: EvalResult | None, after: EvalResult) -> Image.Image:
    """Draw the kept images of each prompt; column k has the same seed before and after.

    With `before` None, every prompt has one row of images.
    """
    prompts = sheet_prompts(after)
    first = after.measurements[prompts[0]].images
    tile = _tile_size(first[0])
    rows_per_prompt = 1 if before is None else 2
    cell_height = tile[1] + 2 * FRAME + GAP
    block = 58 + rows_per_prompt * cell_height
    title, labels = _words(before)
    left = MARGIN + (0 if before is None else round(max(map(_font(16).getlength, labels))) + LABEL_GAP)
    width = max(left + len(first) * (tile[0] + 2 * FRAME + GAP) - GAP + MARGIN, 560)
    header = 104
    picture = Image.new("RGB", (width, header + len(prompts) * block + MARGIN - GAP), _PAPER)
    draw = ImageDraw.Draw(picture)
    _draw_header(draw, width, title, after)
    for index, prompt in enumerate(prompts):
        top = header + index * block
        text = _summary(before.prompts[prompt] if before else None, after.prompts[prompt])
        _draw_prompt(draw, legible(prompt, index + 1), text, top, width)
        for row, (name, result) in enumerate(
            list(zip(labels, (before, after), strict=True))[-rows_per_prompt:]
        ):
            assert result is not None
            item = result.measurements[prompt]
            y = top + 46 + row * cell_height
            if before is not None:
                draw.text((MARGIN, y + FRAME + tile[1] / 2), name, _MUTED, _font(16), anchor="lm")
            _draw_images(picture, item, (left, y), tile)
    return picture


def _words(before: EvalResult | None) -> tuple[str, tuple[str, str]]:
    """Return the title and the labels of the two rows; a baseline with an adapter may be any other policy."""
    if before is None:
        return "Samples", ("before", "after")
    if before.adapter is not None:
        return "Baseline and policy, the same seeds", ("baseline", "policy")
    return "Before and after training, the same seeds", ("before", "after")


def _tile_size(image: Image.Image) -> tuple[int, int]:
    """Return the drawn size: an integer multiple of a small image's size, or a large image's size reduced to fit."""
    if max(image.size) <= TILE:
        factor = max(1, round(TILE / max(image.size)))
        return image.width * factor, image.height * factor
    scale = min(1.0, 2 * TILE / max(image.size))
    return round(image.width * scale), round(image.height * scale)


def scaled(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize the image to `size` with a smooth filter; blocks of enlarged pixels would hide the content."""
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def _draw_header(draw: ImageDraw.ImageDraw, width: int, title: str, after: EvalResult) -> None:
    draw.text((MARGIN, 26), title, _INK, _font(24))
    x = float(MARGIN)
    if any(item.correct is not None for item in after.measurements.values()):
        for colour, text in ((_CORRECT, "every fact right"), (_WRONG, "something wrong")):
            draw.rectangle((x, 67, x + 13, 80), outline=colour, width=3)
            _draw_mark(draw, (x + 24, 74), colour, right=colour == _CORRECT)
            draw.text((x + 36, 74), text, _MUTED, _font(15), anchor="lm")
            x += 36 + _font(15).getlength(text) + 24
    note = f"reward {after.scorer.name}, {counted(after.overall.num_images, 'image')}"
    draw.text((width - MARGIN, 74), note, _MUTED, _font(15), anchor="rm")


def _summary(before: Metrics | None, after: Metrics) -> str:
    """Return a prompt's metrics as text, without arrows, which Pillow's font lacks."""
    available = [metrics for metrics in (before, after) if metrics is not None]
    ends = [(metrics.reward_low, metrics.reward_high) for metrics in available]
    reward = precision([metrics.reward_mean for metrics in available], ends).number
    texts = []
    for name, key, show in (("reward", "reward_mean", reward), ("correct", "correct", percent)):
        values = [getattr(metrics, key) for metrics in (before, after) if metrics is not None]
        if None not in values:
            texts.append(f"{name} {' to '.join(map(show, values))}")
    return "     ".join(texts)


def _draw_numbers(draw: ImageDraw.ImageDraw, right: float, middle: float, text: str, size: int) -> float:
    """Draw a text that ends at `right`, and return its width.

    Minus signs are drawn as lines, because Pillow's font has no minus sign.
    """
    font = _font(size)
    minus = font.getlength("+")
    parts = text.split("\N{MINUS SIGN}")
    width = sum(map(font.getlength, parts)) + minus * (len(parts) - 1)
    x = right - width
    for index, part in enumerate(parts):
        if index:
            draw.line((x + 1, middle, x + minus - 2, middle), _MUTED, max(1, size // 12))
            x += minus
        draw.text((x, middle), part, _MUTED, font, anchor="lm")
        x += font.getlength(part)
    return width


def _draw_prompt(draw: ImageDraw.ImageDraw, prompt: str, summary: str, top: int, width: int) -> None:
    draw.line((MARGIN, top, width - MARGIN, top), _UNKNOWN, 1)
    taken = _draw_numbers(draw, width - MARGIN, top + 24, summary, 15)
    room = width - 2 * MARGIN - taken - 24
    draw.text((MARGIN, top + 24), fitted(prompt, room), _INK, _font(18), anchor="lm")


def legible(prompt: str, number: int) -> str:
    """Return a prompt in letters that the font has: without accents, or as its number if others are left."""
    decomposed = unicodedata.normalize("NFKD", prompt.translate(_ASCII))
    text = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    return text if all(map(_is_drawn, text)) else f"prompt {number}, in letters that this picture lacks"


@lru_cache(maxsize=4096)
def _is_drawn(letter: str) -> bool:
    """Whether the font has the letter, and not the box that it draws for all others."""
    font = _font(18)
    return bytes(font.getmask(letter)) != bytes(font.getmask("\N{REPLACEMENT CHARACTER}"))


def fitted(text: str, room: float, size: int = 18) -> str:
    """Truncate `text` with an ellipsis to at most `room` pixels."""
    font = _font(size)
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "…") > room:
        text = text[:-1]
    return text.rstrip() + "…"


def _draw_images(
    picture: Image.Image,
    item: PromptMeasurement,
    corner: tuple[int, int],
    tile: tuple[int, int],
) -> None:
    draw = ImageDraw.Draw(picture)
    for k, image in enumerate(item.images):
        correct = bool(item.correct[k]) if item.correct is not None and item.scored[k] else None
        x, y = corner[0] + k * (tile[0] + 2 * FRAME + GAP), corner[1]
        colour = _UNKNOWN if correct is None else _CORRECT if correct else _WRONG
        box = (x, y, x + tile[0] + 2 * FRAME - 1, y + tile[1] + 2 * FRAME - 1)
        draw.rounded_rectangle(box, radius=5, fill=colour)
        picture.paste(scaled(image, tile), (x + FRAME, y + FRAME))
        if (
            correct is not None
        ):  # a mark in addition to the colour, for readers with red-green colour blindness
            centre = (box[2] - 9, box[3] - 9)
            draw.ellipse((centre[0] - 9, centre[1] - 9, centre[0] + 9, centre[1] + 9), fill=colour)
            _draw_mark(draw, centre, (255, 255, 255), right=correct)


def _draw_mark(
    draw: ImageDraw.ImageDraw, centre: tuple[float, float], colour: Colour, *, right: bool
) -> None:
    x, y = centre
    if right:
        draw.line((x - 4, y, x - 1, y + 3, x + 4, y - 4), colour, 2, joint="curve")
    else:
        draw.line((x - 3, y - 3, x + 3, y + 3), colour, 2)
        draw.line((x - 3, y + 3, x + 3, y - 3), colour, 2)


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=size)
    assert isinstance(font, ImageFont.FreeTypeFont), (
        "Pillow is built with FreeType on every platform it supports"
    )
    return font

"""Compose before-after.png, the README's picture, from demo.png: seeds 3 to 5 of each prompt.

    python docs/images/strip.py

Of all three seeds in a row, these have the shares of correct images nearest to the measured ones.
"""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent
PROMPTS = ("A green colored rabbit", "Four wolves in the park", "A cat and a dog", "A dog on the moon")
CORRECT = ("17 % to 91 %", "40 % to 90 %", "38 % to 43 %", "31 % to 99 %")
SEEDS, PITCH = 3, 146  # images a prompt; pixels from one image to the next
SKIPPED = 2  # seeds left out before the first one
FIRST_X, FIRST_Y, BLOCK = 94, 150, 350  # demo.png: the first image, and pixels from one prompt to the next
LABEL, GAP, HEADING = 110, 36, 48
INK, MUTED, PAPER = "#1c1c1c", "#5f6368", (252, 252, 251)


def compose(demo: Image.Image) -> Image.Image:
    """Return the prompts side by side, each with its images before training above those after it."""
    panel = SEEDS * PITCH
    size = (LABEL + len(PROMPTS) * (panel + GAP), HEADING + 2 * PITCH + HEADING)
    strip = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(strip)
    font = ImageFont.load_default(28)
    for row, name in enumerate(("before", "after")):
        draw.text((8, HEADING + PITCH * row + PITCH / 2), name, MUTED, font, anchor="lm")
    for i, (prompt, correct) in enumerate(zip(PROMPTS, CORRECT, strict=True)):
        x, y = LABEL + i * (panel + GAP), FIRST_Y + i * BLOCK
        draw.text((x, HEADING / 2), prompt, INK, font, anchor="lm")
        draw.text((x, size[1] - HEADING / 2), f"correct {correct}", MUTED, font, anchor="lm")
        left = FIRST_X + SKIPPED * PITCH
        strip.paste(demo.crop((left, y, left + panel, y + 2 * PITCH)), (x, HEADING))
    return strip


if __name__ == "__main__":
    with Image.open(HERE / "demo.png") as demo:
        compose(demo).save(HERE / "before-after.png", optimize=True)

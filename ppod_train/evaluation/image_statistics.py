"""Statistics of images that no reward computes: darkness, colour, edges, detail, thumbnails.

They show that a policy exploits its reward: while the reward rises, the images leave the range of the reference's.

>>> image_statistics(np.zeros((64, 64, 3), np.uint8)).tolist()  # dark, saturated, edges, colour_entropy, detail
[1.0, 0.0, 0.0, 0.0, 0.0]

Shapes: K images, image [H, W, 3] of uint8 RGB.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]

STATISTICS = ("dark", "saturated", "edges", "colour_entropy", "detail")
"""Names of the columns of `image_statistics`."""
THUMBNAIL_SIDE = 8
_DARK = 32
_SATURATED = 128
_EDGE = 26
_COLOUR_BITS = 3
_DECIMALS = 6


def image_statistics(pixels: Pixels) -> npt.NDArray[np.float64]:
    """Return the statistics [5] of one image, in the order of `STATISTICS`, rounded to 6 decimals.

    dark: share of pixels with a luma below 1/8 of the range. saturated: share of pixels whose largest and smallest
    channels differ by at least half of the range. edges: share of pixels whose luma differs by more than a tenth of
    the range from the pixel on the right or below. colour_entropy: bits of the histogram of colours with 8 levels a
    channel, 0 to 9. detail: root-mean-square of the luma, in [0, 1], minus its mean over 2x2 blocks, the energy of
    frequencies above half the largest.
    """
    height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
    assert height and width, "an image has at least 2x2 pixels"
    red, green, blue = np.ascontiguousarray(pixels[:height, :width].transpose(2, 0, 1))
    luma = _luma(red, green, blue)
    largest = np.maximum(np.maximum(red, green), blue)
    smallest = np.minimum(np.minimum(red, green), blue)
    values = (
        np.mean(luma < _DARK),
        np.mean(largest - smallest >= _SATURATED),
        _edges(luma),
        _colour_entropy(red, green, blue),
        _detail(luma),
    )
    return np.array([round(float(value), _DECIMALS) for value in values], dtype=np.float64)


def _luma(red: Pixels, green: Pixels, blue: Pixels) -> Pixels:
    """Return 0.30 R + 0.59 G + 0.11 B in fixed-point arithmetic, which is the same on every machine."""
    weighted = red.astype(np.uint16) * 77 + green.astype(np.uint16) * 150 + blue.astype(np.uint16) * 29
    return (weighted >> 8).astype(np.uint8)


def _edges(luma: Pixels) -> float:
    here = luma[:-1, :-1]
    right, below = luma[:-1, 1:], luma[1:, :-1]
    across = np.maximum(here, right) - np.minimum(here, right) >= _EDGE
    down = np.maximum(here, below) - np.minimum(here, below) >= _EDGE
    return float(np.mean(across | down))


def _colour_entropy(red: Pixels, green: Pixels, blue: Pixels) -> float:
    low = 8 - _COLOUR_BITS
    colours = (red >> low).astype(np.uint16) << 2 * _COLOUR_BITS
    colours |= ((green >> low).astype(np.uint16) << _COLOUR_BITS) | (blue >> low)
    counts = np.bincount(colours.ravel())
    shares = counts[counts > 0] / colours.size
    return abs(float(np.sum(shares * np.log2(shares))))


def _detail(luma: Pixels) -> float:
    values = luma.astype(np.float64)  # sums of integers are exact, whatever their order
    sums = values[::2, ::2] + values[::2, 1::2] + values[1::2, ::2] + values[1::2, 1::2]
    squares = float(np.vdot(values, values)) - float(np.vdot(sums, sums)) / 4
    return math.sqrt(squares / luma.size) / 255


def measured(images: list[Image.Image]) -> dict[str, npt.NDArray[Any]]:
    """Return the columns "statistics" [K, 5] and "thumbnails" uint8 [K, 8, 8, 3] of images."""
    pixels = [np.asarray(image.convert("RGB")) for image in images]
    return {
        "statistics": np.stack([image_statistics(array) for array in pixels]),
        "thumbnails": np.stack([thumbnail(image) for image in images]),
    }


def no_images() -> dict[str, npt.NDArray[Any]]:
    """Return the columns of `measured` without rows."""
    return {
        "statistics": np.empty((0, len(STATISTICS)), np.float64),
        "thumbnails": np.empty((0, THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3), np.uint8),
    }


def thumbnail(image: Image.Image) -> Pixels:
    """Return the image as an 8x8 grid of box averages, rounded to 8 bits: uint8 [8, 8, 3]."""
    size = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    return np.asarray(image.convert("RGB").resize(size, Image.Resampling.BOX), dtype=np.uint8)


def features(thumbnails: Pixels) -> npt.NDArray[np.float32]:
    """Return thumbnails [K, 8, 8, 3] as rows of numbers in [0, 1]: float32 [K, 192]."""
    rows: npt.NDArray[np.float32] = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    return rows / np.float32(255)


def distances(after: Pixels, before: Pixels) -> npt.NDArray[np.float64]:
    """Return the root-mean-square difference [K] of thumbnails of the same seeds, RGB in [0, 1]."""
    difference = features(after).astype(np.float64) - features(before)
    return np.asarray(np.sqrt(np.mean(difference**2, axis=1)))

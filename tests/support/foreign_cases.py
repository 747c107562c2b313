"""A label file in Pick-a-Pic's public schema whose images are nobody's samples."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

PROMPTS = ("a cat", "two dogs", "a bird")


def picture(seed: int, size: tuple[int, int] = (24, 20), kind: str = "JPEG") -> bytes:
    """The file of a blurred random image."""
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size).save(buffer, kind)
    return buffer.getvalue()


def row(prompt: str, a: bytes | None, b: bytes | None, label: float = 1.0, **changes: Any) -> dict[str, Any]:
    """One comparison, with the columns of Pick-a-Pic v2 that say something."""
    return {
        "caption": prompt,
        "has_label": True,
        "image_0_uid": "11111111-2222",
        "image_1_uid": "33333333-4444",
        "image_0_url": "https://example.org/0.png",
        "image_1_url": "https://example.org/1.png",
        "jpg_0": a,
        "jpg_1": b,
        "label_0": label,
        "label_1": 1 - label,
        "model_0": "m",
        "model_1": "n",
        "ranking_id": 1,
    } | changes


def rows() -> list[dict[str, Any]]:
    """Three images of the first prompt, two of the second, four of the third; one image of two prompts; a tie."""
    wide, tall, odd = picture(2, (40, 16)), picture(3, (16, 40)), picture(4, (16, 16), "PNG")
    first, second, third = PROMPTS
    return [
        row(first, picture(1), wide),
        row(second, wide, odd, 0.0),
        row(first, tall, picture(1)),
        row(third, picture(5), picture(6)),
        row(third, picture(7), picture(8), 0.5),
        row(third, picture(8), picture(5), 0.0),
    ]


def write_parquet(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(list(records)), path)
    return path

"""Images of every kind decode to the pixels that people see, or are refused: never to others."""

import contextlib
import io
import random
import struct
import time
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ppod_data.errors import DamagedError
from ppod_data.format.images import decode_image

NOISE = Image.effect_noise((20, 14), 60).convert("RGB")


def saved(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def with_alpha(image: Image.Image, alpha: int) -> Image.Image:
    image = image.copy()
    image.putalpha(alpha)
    return image


def turned(format: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"lossless": True} if format == "WEBP" else {}
    return saved(NOISE, format, exif=exif, **options)


RIGHT = {
    "RGB": (saved(NOISE), NOISE),
    "grey": (saved(NOISE.convert("L")), NOISE.convert("L")),
    "black and white": (saved(NOISE.convert("1")), NOISE.convert("1")),
    "palette": (saved(NOISE.quantize(8)), NOISE.quantize(8)),
    "alpha without a transparent pixel": (saved(with_alpha(NOISE, 255)), NOISE),
    "grey and alpha, opaque": (saved(with_alpha(NOISE.convert("L"), 255)), NOISE.convert("L")),
    "turned PNG": (turned("PNG"), NOISE.transpose(Image.Transpose.ROTATE_270)),
    "turned WebP": (turned("WEBP"), NOISE.transpose(Image.Transpose.ROTATE_270)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_an_image_decodes_to_what_people_see(name: str) -> None:
    data, image = RIGHT[name]
    assert np.array_equal(np.asarray(decode_image(data)), np.asarray(image.convert("RGB")))


WRONG = {
    "16 bits of grey": saved(Image.fromarray(np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32))),
    "transparent": saved(with_alpha(NOISE, 100)),
    "transparent WebP": saved(with_alpha(NOISE, 100), "WEBP", lossless=True),
    "grey and transparent": saved(with_alpha(NOISE.convert("L"), 0)),
    "a transparent colour of a palette": saved(NOISE.quantize(8), transparency=3),
    "a transparent grey": saved(Image.new("L", (4, 4), 7), transparency=7),
}


@pytest.mark.parametrize("name", WRONG)
def test_pixels_whose_colours_would_be_a_guess_are_refused(name: str) -> None:
    with pytest.raises(DamagedError, match=r"8-bit RGB|transparent pixels"):
        decode_image(WRONG[name])


def test_what_is_no_image_is_refused_in_the_same_words_each_time() -> None:
    for _ in range(2):
        with pytest.raises(
            DamagedError, match=r"^cannot decode this image \(not PNG, JPEG, WEBP, or truncated\)$"
        ):
            decode_image(b"no image")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        found.append((kind, data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


KINDS = (
    b"tRNS",
    b"pHYs",
    b"iCCP",
    b"gAMA",
    b"cHRM",
    b"tEXt",
    b"zTXt",
    b"iTXt",
    b"eXIf",
    b"acTL",
    b"fcTL",
    b"PLTE",
)


def test_odd_chunks_of_a_png_are_damage_and_nothing_else() -> None:
    """Their checksums are right, so PIL's own parser is reached; it raises errors of many kinds."""
    draw = random.Random(0)
    seeds = [chunks(RIGHT[name][0]) for name in ("RGB", "grey", "palette", "turned PNG")]
    for _ in range(600):
        parts = list(draw.choice(seeds))
        for _ in range(draw.randint(1, 3)):
            place = draw.randint(1, len(parts))
            parts.insert(place, (draw.choice(KINDS), draw.randbytes(draw.choice([0, 1, 2, 5, 8, 26]))))
        with contextlib.suppress(DamagedError):
            decode_image(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in parts))


@pytest.mark.parametrize(("kind", "data"), [(b"iCCP", b"name\0"), (b"tRNS", b""), (b"eXIf", b"\0")])
def test_errors_of_the_decoder_are_damage(kind: bytes, data: bytes) -> None:
    png = RIGHT["RGB"][0]
    with contextlib.suppress(DamagedError):
        decode_image(png[:33] + chunk(kind, data) + png[33:])


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded() -> None:
    data = saved(Image.new("L", (4096, 4096), 128), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    bomb = data[:-2] + data[last:-2] * 300 + data[-2:]
    start = time.process_time()
    with pytest.raises(DamagedError, match=r"a JPEG of 3.. scans: more than 64"):
        decode_image(bomb)
    assert time.process_time() - start < 1
    assert decode_image(data).size == (4096, 4096)


def test_a_webp_whose_canvas_is_too_large_is_refused_before_it_is_opened() -> None:
    data = bytearray(turned("WEBP"))
    assert data[12:16] == b"VP8X"
    data[24:30] = (16_382).to_bytes(3, "little") * 2
    with pytest.raises(DamagedError, match="16383 x 16383 pixels"):
        decode_image(bytes(data))

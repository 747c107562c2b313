"""Images as bytes, and the hash that ties a score to the picture that it judged."""

import hashlib
import io
import os
import re
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from ppod_data.errors import DamagedError

_FORMATS = ("PNG", "JPEG", "WEBP")
_MAX_PIXELS = 2**26
_THREADED_PIXELS = 2**16
_STEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


def encode_png(image: Image.Image) -> bytes:
    """Lossless, and the same bytes for the same pixels in one software environment."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def encode_pngs(images: Sequence[Image.Image]) -> list[tuple[bytes, str]]:
    """Encode images as PNG and hash their pixels; above 256 × 256 pixels in several threads.

    A 512 × 512 image takes 40 ms, in which a GPU would be idle. Smaller images encode faster than a thread starts.

    Returns:
        (PNG bytes, `pixels_sha256`) of each image.
    """

    def encode(image: Image.Image) -> tuple[bytes, str]:
        return encode_png(image), pixels_sha256(image)

    if len(images) < 2 or images[0].width * images[0].height < _THREADED_PIXELS:
        return [encode(image) for image in images]
    with ThreadPoolExecutor(min(len(images), os.cpu_count() or 1)) as pool:
        return list(pool.map(encode, images))


def decode_image(
    data: bytes, *, formats: Sequence[str] = _FORMATS, max_pixels: int = _MAX_PIXELS
) -> Image.Image:
    """The RGB image in `data`, a PNG, JPEG or WebP file, fully decoded.

    Raises `DamagedError` for what is no such image, and above `max_pixels` before memory is asked for.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our bound is below PIL's
            image = Image.open(io.BytesIO(data), formats=list(formats))
        if image.width * image.height > max_pixels:
            raise DamagedError(f"an image of {image.width} x {image.height} pixels: more than {max_pixels:,}")
        return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DamagedError(f"no image that can be decoded ({' '.join(str(error).split())})") from error


def image_name(stem: str, data: bytes) -> str:
    """The name of an image file, with the suffix of what the bytes are.

    Raises `DamagedError` for a stem that cannot be a file's name: it may be a stranger's sample_id.
    """
    if not _STEM.fullmatch(stem):
        raise DamagedError(
            f"{stem[:60]!r} cannot name an image: get the part of samples/ that holds it again"
        )
    suffix = "jpg" if data.startswith(b"\xff\xd8") else "webp" if data.startswith(b"RIFF") else "png"
    return f"{stem}.{suffix}"


def pixels_sha256(image: Image.Image) -> str:
    """sha256 of the decoded pixels: the line "RGB <width> <height>", then the bytes row by row.

    It does not change when the same pixels are encoded again.
    """
    digest = hashlib.sha256(f"RGB {image.width} {image.height}\n".encode())
    digest.update(image.convert("RGB").tobytes())
    return digest.hexdigest()

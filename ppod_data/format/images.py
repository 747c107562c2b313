"""Encoding and decoding of images, and the hash that ties a score to an image's pixels."""

import hashlib
import io
import os
import re
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image, ImageOps, UnidentifiedImageError

from ppod_data.errors import DamagedError

_FORMATS = ("PNG", "JPEG", "WEBP")
_MAX_PIXELS = 2**26
_MAX_SCANS = 64
"""The most scans of a JPEG, since each covers the whole image. Progressive files have about ten."""
_SCAN = b"\xff\xda"
_ORIENTATION = 0x0112
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK")
"""PIL's modes with 8-bit values; `convert` clips the values of other modes."""
_TRANSPARENT = "an image with transparent pixels, whose colour is undefined: put it on a background"
_THREADED_PIXELS = 2**16
_STEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


def encode_png(image: Image.Image) -> bytes:
    """Encode an image as PNG: lossless, and deterministic in one software environment."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def encode_pngs(images: Sequence[Image.Image]) -> list[tuple[bytes, str]]:
    """Encode images as PNG and hash their pixels; above 256 × 256 pixels in several threads.

    A 512 × 512 image takes 40 ms, during which a GPU would be idle. Smaller images encode faster than a thread
    starts.

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
    """Decode a PNG, JPEG or WebP file to the RGB image that a browser shows.

    An EXIF orientation is applied. An alpha channel without a transparent pixel is dropped. Of an animation,
    the first frame is used.

    Raises:
        DamagedError: not such an image, values of more than 8 bits, transparent pixels, whose colour is
            undefined, or more than `max_pixels` pixels (checked before memory is allocated).
    """
    try:
        _check_size(*_webp_size(data), max_pixels)
        if data.startswith(b"\xff\xd8") and data.count(_SCAN) > _MAX_SCANS:
            raise DamagedError(f"a JPEG of {data.count(_SCAN):,} scans: more than {_MAX_SCANS}")
        with warnings.catch_warnings():
            # The bound above is below PIL's. A corrupt profile or EXIF changes no pixel.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=list(formats))
            _check_size(image.width, image.height, max_pixels)
            image.load()
            return _to_rgb(_upright(image))
    except (DamagedError, MemoryError):
        raise
    except UnidentifiedImageError as error:  # its own message holds a memory address
        raise DamagedError(f"cannot decode this image (not {', '.join(formats)}, or truncated)") from error
    except (
        Exception
    ) as error:  # PIL raises AssertionError, IndexError, struct.error and others for invalid files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DamagedError(f"cannot decode this image ({reason})") from error


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise DamagedError(f"an image of {width} x {height} pixels: more than {max_pixels:,}")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return the size of an extended WebP, whose canvas is allocated on opening; (0, 0) for other files."""
    if not (data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X" and len(data) >= 30):
        return 0, 0
    return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation. Unreadable EXIF is ignored, as in browsers."""
    try:
        is_turned = image.getexif().get(_ORIENTATION, 1) != 1
        return (ImageOps.exif_transpose(image) or image) if is_turned else image
    except MemoryError:
        raise
    except Exception:
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode not in _MODES:
        raise DamagedError(
            f"an image whose values have more than 8 bits (mode {image.mode}): save it as 8-bit RGB"
        )
    if image.has_transparency_data:
        low = image.convert("RGBA").getchannel("A").getextrema()[0]
        if isinstance(low, tuple) or low < 255:
            raise DamagedError(_TRANSPARENT)
    return image.convert("RGB")


def image_name(stem: str, data: bytes) -> str:
    """Return the name of an image file, with the suffix of its format.

    Raises `DamagedError` for a stem that cannot be a file name: a sample_id may be untrusted.
    """
    if not _STEM.fullmatch(stem):
        raise DamagedError(
            f"{stem[:60]!r} cannot name an image: get the part of samples/ that holds it again"
        )
    suffix = "jpg" if data.startswith(b"\xff\xd8") else "webp" if data.startswith(b"RIFF") else "png"
    return f"{stem}.{suffix}"


def pixels_sha256(image: Image.Image) -> str:
    """Return the sha256 of the decoded pixels: the line "RGB <width> <height>", then the bytes row by row.

    Encoding the same pixels again does not change it.
    """
    digest = hashlib.sha256(f"RGB {image.width} {image.height}\n".encode())
    digest.update(image.convert("RGB").tobytes())
    return digest.hexdigest()

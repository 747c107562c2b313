"""Images as bytes, and the hash that ties a score to the picture that it judged."""

import hashlib
import io

from PIL import Image


def encode_png(image: Image.Image) -> bytes:
    """Lossless, and the same bytes for the same pixels in one software environment."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def decode_image(data: bytes) -> Image.Image:
    """The RGB image in `data`, fully decoded."""
    image = Image.open(io.BytesIO(data))
    return image.convert("RGB")


def pixels_sha256(image: Image.Image) -> str:
    """sha256 of the decoded pixels: the line "RGB <width> <height>", then the bytes row by row.

    It does not change when the same pixels are encoded again.
    """
    digest = hashlib.sha256(f"RGB {image.width} {image.height}\n".encode())
    digest.update(image.convert("RGB").tobytes())
    return digest.hexdigest()

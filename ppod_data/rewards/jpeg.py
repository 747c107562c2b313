"""The rewards `jpeg-compressibility` and `jpeg-incompressibility`: the size of an image as JPEG (DDPO, section 4.1).

They need no weights and ignore the prompt, so they quickly show whether a training loop changes a model at all.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, features

_QUALITY = 95  # as in DDPO's published code, with kB of 1000 bytes


@dataclass(frozen=True)
class JpegReward:
    """sign × size in kB at quality 95."""

    name: str
    sign: int

    @property
    def revision(self) -> str:
        """Return the encoder, whose choices determine the size."""
        library = "libjpeg-turbo" if features.check_feature("libjpeg_turbo") else "libjpeg"
        return f"quality {_QUALITY}, {library} {features.version('jpg')}"

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
        """Return sign × kB of each image. The prompts are ignored."""
        return [self.sign * _size(image) / 1000 for image in images]


def _size(image: Image.Image) -> int:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="JPEG", quality=_QUALITY)
    return buffer.tell()


COMPRESSIBILITY = JpegReward("jpeg-compressibility", -1)
INCOMPRESSIBILITY = JpegReward("jpeg-incompressibility", 1)

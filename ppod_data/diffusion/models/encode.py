"""Images become latents x_0: what `model.decode_images` does, the other way round.

Shapes: B images, C H W latent.
"""

from collections.abc import Sequence

import torch
from PIL import Image, ImageOps

from ppod_data.diffusion.models.model import DiffusionModel

# Images are encoded in parts of at most this many pixels, so that memory is bounded whatever the batch size.
_ENCODE_PIXELS = 2 * 512 * 512


def fit_image(model: DiffusionModel, image: Image.Image) -> Image.Image:
    """Return the RGB image at the model's size: scaled to cover it (Lanczos), then cropped around the centre.

    An image of that size is unchanged.
    """
    return ImageOps.fit(image, (model.width, model.height), Image.Resampling.LANCZOS)


@torch.no_grad()
def encode_images(model: DiffusionModel, images: Sequence[Image.Image]) -> torch.Tensor:
    """Return x_0 [B, C, H, W], fp32, of RGB images of the model's size, by the family's `encode`."""
    vae = model.pipeline.vae
    pixels = model.pipeline.image_processor.preprocess(list(images)).to(model.device, vae.dtype)
    parts = pixels.split(max(1, _ENCODE_PIXELS // (model.height * model.width)))
    latents = torch.cat([model.family.encode(vae, part) for part in parts])
    return latents.float().contiguous()  # channels last would round otherwise in the network

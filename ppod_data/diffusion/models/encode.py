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
    """The RGB image at the model's size: scaled to cover it (Lanczos), then cropped around the centre.

    An image of that size is unchanged.
    """
    return ImageOps.fit(image, (model.width, model.height), Image.Resampling.LANCZOS)


@torch.no_grad()
def encode_images(model: DiffusionModel, images: Sequence[Image.Image]) -> torch.Tensor:
    """The latents [B, C, H, W], fp32, of RGB images of the model's size: the mode of the VAE's posterior, scaled.

    The mode and not a sample, so that x_0 depends on the image alone; for a Gaussian it is the mean.
    """
    vae = model.pipeline.vae
    pixels = model.pipeline.image_processor.preprocess(list(images)).to(model.device, vae.dtype)
    parts = pixels.split(max(1, _ENCODE_PIXELS // (model.height * model.width)))
    latents = torch.cat([vae.encode(part).latent_dist.mode() for part in parts])
    mean, std = (
        None if values is None else torch.tensor(values).view(1, -1, 1, 1).to(latents)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    if mean is None or std is None:
        scaled = (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor
    else:
        scaled = (latents - mean) * vae.config.scaling_factor / std
    contiguous: torch.Tensor = (
        scaled.float().contiguous()
    )  # channels last would round otherwise in the network
    return contiguous

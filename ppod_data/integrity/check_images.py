"""Check that images match the ends of their trajectories. Hashes cannot: an attacker writes matching hashes too.

Shapes: B trajectories, C H W latent.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ppod_data.diffusion.models.encode import encode_images, fit_image
from ppod_data.diffusion.models.model import DiffusionModel, decode_images, resized
from ppod_data.format.images import decode_image
from ppod_data.format.spec import GenerationSpec
from ppod_data.format.trajectory import Trajectory
from ppod_data.support.runtime import one_thread

MAX_LEVELS = 4.0
"""Largest mean difference of decoded pixels, of 255 levels. Another processor or precision differs by less than one."""
MAX_LATENT_ERROR = 0.1
"""Largest root-mean-square difference of encoded latents, relative to theirs. Half precision stays below 0.01."""
_LAST_NOISE = 0.05
"""The same as an absolute value. The last step of Stable Diffusion's own schedule leaves noise of 0.03 in x_0."""


def other_images(
    model: DiffusionModel, spec: GenerationSpec, batch: Sequence[Trajectory], images: Mapping[str, bytes]
) -> list[str]:
    """Return the sample_ids whose image does not match x_0 of its trajectory. Samples without a stored x_0 are skipped.

    Generated images are compared with the decoded x_0; for given images, the image is encoded and compared with
    x_0.
    """
    model = resized(model, spec.height, spec.width)
    last = spec.num_inference_steps
    chains = [chain for chain in batch if last in chain.latent_index and chain.sample_id in images]
    if not chains:
        return []
    final = torch.stack([chain.latents[chain.latent_index.index(last)].float() for chain in chains])
    stored = [decode_image(images[chain.sample_id]) for chain in chains]
    with one_thread(model.device):
        if spec.is_forward:
            encoded = encode_images(model, [fit_image(model, image) for image in stored]).cpu()
            error, size = (values.square().mean((1, 2, 3)).sqrt() for values in (encoded - final, final))
            wrong = (~(error <= MAX_LATENT_ERROR * size + _LAST_NOISE)).tolist()
        else:
            pairs = zip(decode_images(model, final.to(model.device)), stored, strict=True)
            wrong = [
                image.size != original.size
                or float(np.abs(np.asarray(image, np.float32) - np.asarray(original, np.float32)).mean())
                > MAX_LEVELS
                for image, original in pairs
            ]
    return [chain.sample_id for chain, other in zip(chains, wrong, strict=True) if other]

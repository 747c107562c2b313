"""The spec of a new data set, built from a model and the user's choices."""

from collections.abc import Sequence

import numpy as np

from ppod_data.diffusion.models.model import DTYPES, DiffusionModel, resized
from ppod_data.diffusion.schedule import chain_config
from ppod_data.format.spec import POLICY, GenerationSpec

_SHARD_BYTES = 256 * 2**20
_SHARD_IMAGES = 512


def build_spec(
    model: DiffusionModel,
    *,
    prompts: Sequence[str],
    height: int | None = None,
    width: int | None = None,
    negative_prompt: str = "",
    num_images_per_prompt: int = 64,
    num_inference_steps: int = 20,
    guidance_scale: float | None = None,
    guidance_mode: str = "batched",
    ddim_eta: float | None = None,
    initial_noise: str = "per-image",
    seed: int = 0,
    stage: int = 0,
    purpose: str = "train",
    batch_size: int | None = None,
    images_per_shard: int | None = None,
    latent_dtype: str = "fp32",
    store_steps: str = "all",
    origin: str = POLICY,
    images: tuple[tuple[str, ...], ...] = (),
) -> GenerationSpec:
    """The generation spec of a data set made by `model`, with what the user left open filled in.

    height, width: of the images, in pixels; the model's own size.
    guidance_scale: 1 for `scenes`, 5 for Stable Diffusion, 4.5 for its version 3, 3.5 for FLUX.1-dev.
    ddim_eta: 1, or 0.7 for flow-matching models. batch_size: 64 for images up to 64 pixels, else 8.
    images_per_shard: whole batches that make about 256 MiB of latents, at most 512 images.

    Raises:
        ConfigError: an option out of its range, by name, or a size that the model does not make.
    """
    model = resized(model, height, width)
    small = max(model.height, model.width) <= 64
    batch_size = batch_size if batch_size is not None else (64 if small else 8)
    if images_per_shard is None:
        bytes_per_image = (
            (num_inference_steps + 1) * int(np.prod(model.latent_shape)) * DTYPES[latent_dtype].itemsize
        )
        most = min(_SHARD_IMAGES, _SHARD_BYTES // max(bytes_per_image, 1))
        images_per_shard = max(1, most // max(batch_size, 1)) * batch_size
    spec = GenerationSpec(
        model=model.name,
        revision=model.revision,
        variant=model.variant,
        adapter=model.adapter,
        policy_fingerprint=model.fingerprint,
        scheduler=chain_config(model.scheduler_config, num_inference_steps),
        prompts=tuple(prompts),
        negative_prompt=negative_prompt,
        num_images_per_prompt=num_images_per_prompt,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale
        if guidance_scale is not None
        else (1.0 if model.name == "scenes" else model.family.guidance_scale(model.pipeline)),
        guidance_mode=guidance_mode,
        ddim_eta=model.family.noise_level if ddim_eta is None else ddim_eta,
        initial_noise=initial_noise,
        seed=seed,
        stage=stage,
        purpose=purpose,
        batch_size=batch_size,
        images_per_shard=images_per_shard,
        compute_dtype=model.compute_dtype,
        latent_dtype=latent_dtype,
        store_steps=store_steps,
        height=model.height,
        width=model.width,
        latent_shape=model.latent_shape,
        origin=origin,
        images=images,
        safety_checker=model.safety.fingerprint if model.safety else None,
    )
    spec.validate()
    return spec

"""The spec of a new data set, built from a model and the user's choices."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ppod_data.diffusion.flow import PRESERVING
from ppod_data.diffusion.models.model import DTYPES, DiffusionModel, resized
from ppod_data.diffusion.noise_left import quiet_steps
from ppod_data.diffusion.schedule import chain_config, spec_schedule
from ppod_data.errors import ConfigError
from ppod_data.format.spec import GenerationSpec
from ppod_data.format.spec_checks import FORWARD, POLICY
from ppod_data.generation.sampling_settings import SamplingSettings

_SHARD_BYTES = 256 * 2**20
_SHARD_IMAGES = 512


def build_spec(
    model: DiffusionModel,
    prompts: Sequence[str],
    settings: SamplingSettings | None = None,
    *,
    stage: int = 0,
    purpose: str = "train",
    origin: str = POLICY,
    images: tuple[tuple[str, ...], ...] = (),
    **changes: Any,
) -> GenerationSpec:
    """Return the generation spec of a data set, with the model's defaults for what the settings leave open.

    >>> from ppod_data import build_spec, load_model
    >>> spec = build_spec(load_model("scenes"), ["a dog on the moon"], num_images_per_prompt=8)
    >>> spec.num_samples, spec.num_inference_steps
    (8, 20)

    Args:
        model: The model that samples.
        prompts: Texts, all different.
        settings: How to sample.
        stage: Number of the stage of an online run; part of the key of all noise.
        purpose: What the noise is for; part of its key.
        origin: Whether a policy made the images or they were given.
        images: Hashes of the given images of each prompt.
        changes: Fields of `SamplingSettings`, in place of those of `settings`.

    Raises:
        ConfigError: An option is out of its range, or the model does not make images of this size.
    """
    chosen = replace(settings or SamplingSettings(), **changes)
    model = resized(model, chosen.height, chosen.width)
    small = max(model.height, model.width) <= 64
    batch_size = chosen.batch_size if chosen.batch_size is not None else (64 if small else 8)
    images_per_shard = chosen.images_per_shard
    if images_per_shard is None:
        bytes_per_image = (
            (chosen.num_inference_steps + 1)
            * int(np.prod(model.latent_shape))
            * DTYPES[chosen.latent_dtype].itemsize
        )
        most = min(_SHARD_IMAGES, _SHARD_BYTES // max(bytes_per_image, 1))
        images_per_shard = max(1, most // max(batch_size, 1)) * batch_size
    scheduler = _scheduler(model, chosen.num_inference_steps, origin)
    noise_level = model.family.noise_level if chosen.ddim_eta is None else chosen.ddim_eta
    noisy_steps = chosen.noisy_steps
    if noisy_steps is None:
        quiet = quiet_steps(scheduler, chosen.num_inference_steps, noise_level)
        noisy_steps = f"{quiet.start}:{quiet.stop}"
    spec = GenerationSpec(
        model=model.name,
        revision=model.revision,
        variant=model.variant,
        adapter=model.adapter,
        policy_fingerprint=model.fingerprint,
        scheduler=scheduler,
        prompts=tuple(prompts),
        negative_prompt=chosen.negative_prompt,
        num_images_per_prompt=chosen.num_images_per_prompt,
        num_inference_steps=chosen.num_inference_steps,
        guidance_scale=chosen.guidance_scale
        if chosen.guidance_scale is not None
        else (1.0 if model.name == "scenes" else model.family.guidance_scale(model.pipeline)),
        guidance_mode=chosen.guidance_mode,
        ddim_eta=noise_level,
        noisy_steps=noisy_steps,
        initial_noise=chosen.initial_noise,
        seed=chosen.seed,
        stage=stage,
        purpose=purpose,
        batch_size=batch_size,
        images_per_shard=images_per_shard,
        compute_dtype=model.compute_dtype,
        latent_dtype=chosen.latent_dtype,
        store_steps=chosen.store_steps,
        height=model.height,
        width=model.width,
        latent_shape=model.latent_shape,
        origin=origin,
        images=images,
        safety_checker=model.safety.fingerprint if model.safety else None,
    )
    spec.validate()
    if chosen.noisy_steps is not None and not any(spec_schedule(spec).stochastic):
        raise ConfigError(
            f"noisy_steps is {chosen.noisy_steps}: no step of it has noise: give an earlier range"
        )
    return spec


def _scheduler(model: DiffusionModel, num_inference_steps: int, origin: str) -> Mapping[str, Any]:
    """Return the spec's scheduler; the latents of given images need the forward process's distribution."""
    scheduler = chain_config(model.scheduler_config, num_inference_steps)
    return {**scheduler, "step": PRESERVING} if origin == FORWARD and "sigmas" in scheduler else scheduler

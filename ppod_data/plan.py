"""What a generation would cost, from the model's own sizes and one measured step. Nothing is written."""

import time
from dataclasses import dataclass

import numpy as np

from ppod_data.dataset import latent_rows
from ppod_data.diffusion.model import DTYPES, DiffusionModel, decode_images
from ppod_data.generate import build_spec, prepare_sampler, sample_batch
from ppod_data.spec import GenerationSpec
from ppod_data.threads import one_thread


@dataclass(frozen=True, kw_only=True)
class GenerationPlan:
    """The estimate of a dry run."""

    num_samples: int
    num_shards: int
    network_calls: int
    """Network evaluations of one latent: samples × steps, twice that under guidance."""
    latent_bytes: int
    """Of the trajectories; images and tables come on top (`image_bytes`)."""
    image_bytes: int
    """An upper estimate: raw RGB pixels, which PNG makes smaller."""
    seconds: float
    """Of sampling and decoding on this machine in one process, from one measured batch."""


def plan_generation(spec: GenerationSpec, model: DiffusionModel) -> GenerationPlan:
    """Measure one batch for two steps and the decoder once, and multiply."""
    probe_options = {
        field: getattr(spec, field)
        for field in ("negative_prompt", "guidance_scale", "guidance_mode", "ddim_eta", "latent_dtype")
    }
    batch = min(spec.batch_size, spec.num_samples)
    probe = build_spec(
        model,
        prompts=spec.prompts[:1],
        num_images_per_prompt=batch,
        num_inference_steps=min(2, spec.num_inference_steps),
        batch_size=batch,
        **probe_options,
    )
    sampler = prepare_sampler(probe, model)
    with one_thread(model.device):
        sample_batch(probe, sampler, range(1), record=False)  # warm-up
        start = time.perf_counter()
        chain = sample_batch(probe, sampler, range(batch), record=True)
        latents = chain.latents[-1].cpu()  # waits for the device
        sampled = time.perf_counter()
        decode_images(model, latents)
        decoded = time.perf_counter()
    per_image = (sampled - start) / probe.num_inference_steps * spec.num_inference_steps + (decoded - sampled)
    return GenerationPlan(
        num_samples=spec.num_samples,
        num_shards=spec.num_shards,
        network_calls=spec.num_samples * spec.num_inference_steps * (2 if spec.guidance_scale > 1 else 1),
        latent_bytes=spec.num_samples * _stored_bytes(spec),
        image_bytes=spec.num_samples * spec.height * spec.width * 3,
        seconds=per_image / batch * spec.num_samples,
    )


def _stored_bytes(spec: GenerationSpec) -> int:
    """Of one trajectory's latents."""
    rows = len(latent_rows(spec.stored_steps()))
    return rows * int(np.prod(spec.latent_shape)) * DTYPES[spec.latent_dtype].itemsize

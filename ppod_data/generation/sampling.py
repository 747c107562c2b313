"""The chains of a spec's samples, drawn by the policy of a model.

Shapes: B rows, T steps, C H W latent.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from PIL import Image

from ppod_data.diffusion.guidance import Guidance
from ppod_data.diffusion.models.model import (
    DTYPES,
    DiffusionModel,
    decode_images,
    embed_prompts,
    network,
    resized,
)
from ppod_data.diffusion.policy import Chain, Policy
from ppod_data.diffusion.schedule import spec_schedule
from ppod_data.errors import NonFiniteError
from ppod_data.format.spec import GenerationSpec
from ppod_data.generation.shared_steps import SharedLatents, num_shared_steps, shared_latents
from ppod_data.support.noise import standard_normal
from ppod_data.support.runtime import one_thread


def build_policy(spec: GenerationSpec, model: DiffusionModel) -> Policy:
    """Return the policy of a model on a spec's chain: its image size, schedule, prompts and guidance.

    Prompts are embedded when they are first used.

    Raises:
        ConfigError: an image size, guidance scale or negative prompt that the model does not take.
    """
    model = resized(model, spec.height, spec.width)
    return Policy(
        network=network(model),
        schedule=spec_schedule(spec).to(model.device),
        prompts=embed_prompts(model, spec.prompts, spec.negative_prompt, spec.guidance_scale),
        guidance=Guidance(spec.guidance_scale, spec.guidance_mode, model.family.guided),
        latent_dtype=DTYPES[spec.latent_dtype],
    )


def batch_noise(spec: GenerationSpec, indices: range, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the noise of samples `indices`: [B, C, H, W] for x_T and [T, B, C, H, W] for the steps."""
    steps, shape = spec.num_inference_steps, spec.latent_shape
    initial = np.empty((len(indices), *shape), np.float32)
    noise = np.empty((steps, len(indices), *shape), np.float32)
    for row, index in enumerate(indices):
        prompt, k = spec.place(index)
        noise_of = partial(
            standard_normal,
            purpose=spec.purpose,
            stage=spec.stage,
            seed=spec.seed,
            prompt_id=spec.prompt_ids[prompt],
        )
        shared = spec.initial_noise == "per-prompt"
        initial[row] = noise_of(image_index=0 if shared else k, stream="initial", shape=shape)
        noise[:, row] = noise_of(image_index=k, stream="steps", shape=(steps, *shape))
    return torch.from_numpy(initial).to(device), torch.from_numpy(noise).to(device)


def sample_batch(
    spec: GenerationSpec,
    policy: Policy,
    indices: range,
    *,
    record: bool,
    kept: SharedLatents | None = None,
) -> Chain:
    """Sample the chains of samples `indices` of the spec. The noise of a sample depends on that sample alone.

    Args:
        spec, policy, indices: as named.
        record: as of `Policy.sample`.
        kept: shared steps of the prompt before, for calls with one policy in the order of the samples.
    """
    initial, noise = batch_noise(spec, indices, policy.device)
    prompts = [spec.place(index)[0] for index in indices]
    prompt = policy.prompts.of(prompts)
    count = num_shared_steps(spec, policy.schedule)
    if count == 0:
        return policy.sample(initial, noise, prompt, record=record)
    shared = shared_latents(policy, prompts, initial, count, kept or SharedLatents())
    rest = range(count, spec.num_inference_steps)
    chain = policy.sample(shared[-1], noise, prompt, record=record, steps=rest)
    return replace(chain, latents=torch.cat([shared[:-1], chain.latents])) if record else chain


def check_finite(chain: Chain, indices: range) -> None:
    """Raise NonFiniteError for NaN or infinite latents."""
    if not bool(torch.isfinite(chain.latents).all()):
        raise NonFiniteError(
            f"samples {indices.start}..{indices.stop - 1} hold NaN or infinite latents: "
            "nothing of this shard was written: try --compute-dtype fp32 or bf16, or a lower guidance scale, in a new "
            "folder"
        )


def sample_images(
    spec: GenerationSpec, model: DiffusionModel, batches: range | None = None
) -> Iterator[list[tuple[str, int, Image.Image]]]:
    """Yield the samples of some batches (None: all) as (prompt, image_index, image), without recording chains.

    Evaluation uses `purpose="eval"`, whose noise is never training noise.
    """
    policy = build_policy(spec, model)
    if batches is None:
        batches = range(-(-spec.num_samples // spec.batch_size))
    kept = SharedLatents()
    for batch in batches:
        first = batch * spec.batch_size
        indices = range(first, min(first + spec.batch_size, spec.num_samples))
        with one_thread(model.device):
            chain = sample_batch(spec, policy, indices, record=False, kept=kept)
            images = decode_images(model, chain.latents[-1])
        pairs = [spec.place(index) for index in indices]
        yield [(spec.prompts[prompt], k, image) for (prompt, k), image in zip(pairs, images, strict=True)]

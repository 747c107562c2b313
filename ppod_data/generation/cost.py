"""Cost estimates of a generation: bytes and network calls from the model's sizes, time from one measured step.

The sizes are measured on a skeleton (`ppod_data.diffusion.models.skeleton`). Its operations run on torch's
`meta` device, where tensors have shapes but no memory, and live bytes are counted. The sizes are therefore
those of the sampling code itself, with attention that keeps no scores, as in torch's fused kernels. On a GPU,
the runtime and scratch memory take about 1 GB more. Nothing is written.

Shapes: B rows, C H W latent.
"""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ppod_data.diffusion.condition import Conditioning, condition_bytes
from ppod_data.diffusion.guidance import Guidance, guided_prediction
from ppod_data.diffusion.models.model import (
    DTYPES,
    DiffusionModel,
    calls_per_prediction,
    decode_images,
    decode_pixels,
    embed_prompts,
    network,
    resized,
)
from ppod_data.diffusion.schedule import spec_schedule
from ppod_data.format.spec import GenerationSpec
from ppod_data.format.trajectory import latent_rows
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.sampling import build_policy, sample_batch
from ppod_data.generation.shared_steps import num_denoising_steps
from ppod_data.support.runtime import one_thread
from ppod_data.support.tensor_memory import LiveBytes, attention_without_scores


@dataclass(frozen=True, kw_only=True)
class GenerationPlan:
    """The estimate of a dry run."""

    num_samples: int
    num_shards: int
    network_calls: int
    """Network evaluations of one latent: samples × steps, less shared steps; twice under classifier-free guidance."""
    num_inference_steps: int
    noisy_steps: tuple[int, ...]
    """The steps that draw noise and have a log-probability."""
    latent_bytes: int
    """Bytes of the trajectories, without images and tables (`image_bytes`)."""
    image_bytes: int
    """An upper bound: raw RGB pixels, which PNG compresses."""
    pipeline_bytes: int
    """Network, text encoders and VAE in memory."""
    sample_bytes: int
    """The peak of a network call beyond these."""
    decode_bytes: int
    """The peak of decoding a batch."""
    embedding_bytes: int
    """The most text embeddings kept in host memory."""
    peak_bytes: int
    """The peak on the device; on a CPU, add `embedding_bytes`."""


def plan_generation(
    model: DiffusionModel, spec: GenerationSpec, conditioning: Conditioning | None = None
) -> GenerationPlan:
    """Estimate the cost of a spec's data set with `model`, a skeleton; `conditioning` as of `embed_first`."""
    model = resized(model, spec.height, spec.width)
    conditioning = conditioning or embed_first(model, spec)
    pipeline_bytes = tensor_bytes(parameter for part in model.parts for parameter in part.parameters())
    rows = min(spec.batch_size, spec.num_samples)
    _, sample_bytes = call_bytes(model, spec, conditioning, rows, with_graph=False)
    decoding = decode_bytes(model, spec)
    return GenerationPlan(
        num_samples=spec.num_samples,
        num_shards=spec.num_shards,
        network_calls=num_denoising_steps(spec) * calls_per_prediction(model, spec.guidance_scale),
        num_inference_steps=spec.num_inference_steps,
        noisy_steps=tuple(i for i, stochastic in enumerate(spec_schedule(spec).stochastic) if stochastic),
        latent_bytes=spec.num_samples * _stored_bytes(spec),
        image_bytes=spec.num_samples * spec.height * spec.width * 3,
        pipeline_bytes=pipeline_bytes,
        sample_bytes=sample_bytes,
        decode_bytes=decoding,
        embedding_bytes=embedding_bytes(conditioning, len(spec.prompts)),
        peak_bytes=pipeline_bytes + max(sample_bytes, decoding),
    )


def measure_seconds(spec: GenerationSpec, model: DiffusionModel) -> float:
    """Return the seconds of embedding, sampling and decoding a spec's images with `model` here in one process.

    The embedding of a prompt, one batch of two steps and the decoder are measured, and multiplied.
    """
    probe_options = {
        field: getattr(spec, field)
        for field in (
            "height",
            "width",
            "negative_prompt",
            "guidance_scale",
            "guidance_mode",
            "ddim_eta",
            "latent_dtype",
        )
    }
    steps = min(2, spec.num_inference_steps)
    batch = min(spec.batch_size, spec.num_samples)
    probe = build_spec(
        model,
        prompts=spec.prompts[:1],
        num_images_per_prompt=batch,
        num_inference_steps=steps,
        noisy_steps=f"0:{steps}",
        batch_size=batch,
        **probe_options,
    )
    policy = build_policy(probe, model)
    with one_thread(model.device):
        sample_batch(probe, policy, range(batch), record=False)  # warm-up, in the shape that is measured
        start = time.perf_counter()
        policy.prompts.embed(0)
        embedded = time.perf_counter() - start
        start = time.perf_counter()
        chain = sample_batch(probe, policy, range(batch), record=True)
        latents = chain.latents[-1].cpu()  # waits for the device
        sampled = time.perf_counter()
        decode_images(model, latents)
        decoded = time.perf_counter()
    denoised = (sampled - start) / (batch * probe.num_inference_steps) * num_denoising_steps(spec)
    return denoised + (decoded - sampled) / batch * spec.num_samples + embedded * len(spec.prompts)


def embed_first(model: DiffusionModel, spec: GenerationSpec) -> Conditioning:
    """Return the condition of a spec's first prompt, embedded and kept: text encoders are the slow part on `meta`."""
    conditioning = embed_prompts(model, spec.prompts[:1], spec.negative_prompt, spec.guidance_scale)
    conditioning.of([0])
    return conditioning


def embedding_bytes(conditioning: Conditioning, num_prompts: int) -> int:
    """Return the most bytes of text embeddings that making samples of some prompts keeps in host memory."""
    row = condition_bytes(conditioning.of([0]))
    return min(num_prompts * row, max(row, conditioning.max_bytes))


def tensor_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Return the bytes of some tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def call_bytes(
    model: DiffusionModel,
    spec: GenerationSpec,
    conditioning: Conditioning,
    rows: int,
    *,
    with_graph: bool,
    backward: bool = True,
) -> tuple[int, int]:
    """Return the memory of a guided prediction of `rows` latents by a skeleton, in bytes.

    Args:
        model: A skeleton.
        spec: Size, prompts and guidance.
        conditioning: Of the model and the spec, from `embed_first`.
        rows: B.
        with_graph: Keep what a backward pass needs.
        backward: Run that backward pass, which takes as long as the call.

    Returns:
        (memory left after the call: its graph and the prediction), (the peak, its backward pass included).
    """
    latents = torch.empty(rows, *spec.latent_shape, device=model.device)
    index = torch.zeros(rows, dtype=torch.int64, device=model.device)
    with (
        attention_without_scores(),
        torch.set_grad_enabled(with_graph),
        LiveBytes([*model.denoiser.parameters(), latents, index]) as live,
    ):
        prediction = guided_prediction(
            network(model),
            latents,
            index,
            conditioning.of([0] * rows),
            conditioning.negative,
            Guidance(spec.guidance_scale, spec.guidance_mode, model.family.guided),
        )
        kept = int(live.now)
        if with_graph and backward:
            torch.autograd.backward(prediction.sum())
    return kept, int(live.peak)


def decode_bytes(model: DiffusionModel, spec: GenerationSpec) -> int:
    """Return the peak memory of decoding a batch by a skeleton, in bytes."""
    latents = torch.empty(spec.batch_size, *spec.latent_shape, device=model.device)
    with attention_without_scores(), LiveBytes([*model.pipeline.vae.parameters(), latents]) as live:
        for _ in decode_pixels(model, latents):
            pass
    return int(live.peak)


def _stored_bytes(spec: GenerationSpec) -> int:
    """Return the bytes of one trajectory's latents."""
    rows = len(latent_rows(spec.stored_steps()))
    return rows * math.prod(spec.latent_shape) * DTYPES[spec.latent_dtype].itemsize

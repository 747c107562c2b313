"""Sample images and record their denoising chains, shard by shard.

Shard i of a data set is a pure function of (generation spec, i): noise is keyed by what it is for, batches never
cross a shard, and every option that reaches a bit is in the spec. So resuming is making what is missing, and workers
need no coordination: each takes whole shards.

Shapes: B rows, T steps, C H W latent.
"""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image

from ppod_data.dataset import create
from ppod_data.diffusion.condition import Conditioning
from ppod_data.diffusion.guidance import Network
from ppod_data.diffusion.model import (
    DTYPES,
    DiffusionModel,
    decode_images,
    embed_prompts,
    network,
    resized,
)
from ppod_data.diffusion.sampling import Chain, sample_chain
from ppod_data.diffusion.schedule import Schedule, build_schedule, chain_config
from ppod_data.environment import environment
from ppod_data.errors import ConfigError, NonFiniteError
from ppod_data.files import DataPath, atomic_write, canonical_json, data_path
from ppod_data.images import encode_pngs
from ppod_data.noise import standard_normal
from ppod_data.shards import Sample, ShardWriter, look_who_works, refuse_sealed, shard_committed
from ppod_data.spec import POLICY, GenerationSpec
from ppod_data.threads import one_thread
from ppod_data.trajectory import encode_latents, latent_rows

_SHARD_BYTES = 256 * 2**20
_SHARD_IMAGES = 512


@dataclass(frozen=True, kw_only=True)
class GenerateSummary:
    """What one call of `generate` did."""

    num_samples: int
    """Samples in the shards that were asked for."""
    num_made: int
    """Of those, made by this call; the others were there already."""
    num_shards_made: int
    seconds: float
    deterministic_steps: tuple[int, ...]
    """Steps of zero variance: recorded, without a log-probability and outside the loss."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sampler:
    """A model made ready to sample what a spec asks for."""

    model: DiffusionModel
    network: Network
    schedule: Schedule
    conditioning: Conditioning


Records: TypeAlias = Callable[[GenerationSpec, Sampler, range], list[Sample]]


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


def select_shards(
    spec: GenerationSpec, shards: tuple[int, int] | None, rank: int, world_size: int
) -> list[int]:
    """The shards of this worker: those of A:B (all when None) with i % world_size == rank.

    Raises:
        ConfigError: a range outside the data set.
    """
    first, end = shards if shards is not None else (0, spec.num_shards)
    if not 0 <= first < end <= spec.num_shards:
        raise ConfigError(
            f"shards {first}:{end} is no range of this data set: it has shards 0:{spec.num_shards}"
        )
    return [i for i in range(first, end) if i % world_size == rank]


def generate(
    root: DataPath,
    spec: GenerationSpec,
    model: DiffusionModel,
    *,
    shards: Sequence[int],
    license: str = "unknown",
    records: Records | None = None,
    on_batch: Callable[[int], None] = lambda num_images: None,
    on_shard: Callable[[int, bool], None] = lambda shard, made: None,
) -> GenerateSummary:
    """Make the missing ones of `shards` in the data set folder `root`, creating the folder when it is new.

    Args:
        records: (spec, sampler, indices) -> the samples of a batch; `sample_records` unless given.
        on_batch: called with the number of images of every batch that is done or skipped.
        on_shard: called with the shard's number and whether it was made now.

    Raises:
        SpecMismatchError: the folder holds a data set made with another spec.
        ConfigError: the data set is sealed, and shards are missing.
        NonFiniteError: the model gave NaN or infinite latents; the shard is not written.
    """
    root = data_path(root)
    create(root, spec, license)
    sampler: Sampler | None = None
    start = time.monotonic()
    made: list[int] = []
    for shard in free_first(shards, partial(shard_committed, root), partial(look_who_works, root)):
        if shard_committed(root, shard):
            on_batch(len(spec.shard_range(shard)))
            on_shard(shard, False)
            continue
        refuse_sealed(root)
        sampler = sampler or prepare_sampler(spec, model)
        make_shard(root, spec, sampler, shard, records=records, on_batch=on_batch)
        made.append(shard)
        on_shard(shard, True)
    return summarize(spec, shards, made, time.monotonic() - start)


def free_first(
    shards: Iterable[int], is_made: Callable[[int], bool], look: Callable[[], Callable[[int], bool]]
) -> Iterator[int]:
    """The shards in order, but last, in any order, those that another worker had in hand when it was their turn.

    So workers that were given no share of their own spread over the shards, and do not all make the same one.
    """
    late: list[int] = []
    in_hand: Callable[[int], bool] | None = None
    for shard in shards:
        if not is_made(shard):
            in_hand = in_hand or look()
            if in_hand(shard):
                late.append(shard)
                continue
            in_hand = None  # it is made meanwhile, and others begin and end
        yield shard
    random.shuffle(late)
    yield from late


def make_shard(
    root: DataPath,
    spec: GenerationSpec,
    sampler: Sampler,
    shard: int,
    *,
    records: Records | None = None,
    on_batch: Callable[[int], None] = lambda num_images: None,
) -> None:
    """Sample and commit one shard, whoever runs this; where another worker is first, its shard stays.

    Args:
        records: as of `generate`.

    Raises:
        NonFiniteError: the model gave NaN or infinite latents; nothing is written.
    """
    device, indices = sampler.model.device, spec.shard_range(shard)
    with one_thread(device), ShardWriter(root, shard) as writer:
        for first in range(indices.start, indices.stop, spec.batch_size):
            batch = range(first, min(first + spec.batch_size, indices.stop))
            for sample in (records or sample_records)(spec, sampler, batch):
                writer.add(sample)
            on_batch(len(batch))
    if writer.committed:
        place = canonical_json(environment() | {"device": device}) + "\n"
        atomic_write(root / "environment" / f"{shard:06d}.json", place.encode())


def summarize(
    spec: GenerationSpec, shards: Sequence[int], made: Sequence[int], seconds: float
) -> GenerateSummary:
    """What a call that was asked for `shards`, and made `made` of them, did."""
    schedule = build_schedule(spec.scheduler, spec.num_inference_steps, spec.ddim_eta)
    return GenerateSummary(
        num_samples=sum(len(spec.shard_range(shard)) for shard in shards),
        num_made=sum(len(spec.shard_range(shard)) for shard in made),
        num_shards_made=len(made),
        seconds=seconds,
        deterministic_steps=tuple(i for i, stochastic in enumerate(schedule.stochastic) if not stochastic),
    )


def prepare_sampler(spec: GenerationSpec, model: DiffusionModel) -> Sampler:
    """Return the model with a spec's image size, schedule and prompts, which are embedded when first sampled."""
    model = resized(model, spec.height, spec.width)
    return Sampler(
        model=model,
        network=network(model),
        schedule=build_schedule(spec.scheduler, spec.num_inference_steps, spec.ddim_eta).to(model.device),
        conditioning=embed_prompts(model, spec.prompts, spec.negative_prompt, spec.guidance_scale),
    )


def batch_noise(spec: GenerationSpec, indices: range, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The noise of samples `indices`, [B, C, H, W] for x_T and [T, B, C, H, W] for the steps: each sample's own."""
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


def sample_batch(spec: GenerationSpec, sampler: Sampler, indices: range, *, record: bool) -> Chain:
    """The chains of samples `indices` of the spec; their noise depends on each sample alone."""
    initial, noise = batch_noise(spec, indices, sampler.model.device)
    return sample_chain(
        sampler.network,
        sampler.schedule,
        initial_noise=initial,
        step_noise=noise,
        condition=sampler.conditioning.of([spec.place(index)[0] for index in indices]),
        negative=sampler.conditioning.negative,
        guidance_scale=spec.guidance_scale,
        guidance_mode=spec.guidance_mode,
        latent_dtype=DTYPES[spec.latent_dtype],
        record=record,
    )


def sample_records(spec: GenerationSpec, sampler: Sampler, indices: range) -> list[Sample]:
    """The rows and trajectory members of samples `indices`, ready for a shard."""
    chain = sample_batch(spec, sampler, indices, record=True)
    check_finite(chain, indices)
    images = decode_images(sampler.model, chain.latents[-1])
    return to_samples(spec, sampler, indices, chain, encode_pngs(images), _flags(spec, sampler.model, images))


def check_finite(chain: Chain, indices: range) -> None:
    """Raise NonFiniteError for NaN or infinite latents."""
    if not bool(torch.isfinite(chain.latents).all()):
        raise NonFiniteError(
            f"samples {indices.start}..{indices.stop - 1} hold NaN or infinite latents: "
            "try --compute-dtype fp32 or bf16, or a lower guidance scale; nothing of this shard was written"
        )


def to_samples(
    spec: GenerationSpec,
    sampler: Sampler,
    indices: range,
    chain: Chain,
    images: Sequence[tuple[bytes, str]],
    flags: Sequence[bool | None],
) -> list[Sample]:
    """Recorded chains with their images, each the bytes of a file and the hash of its pixels, as samples.

    `flags` are what a safety checker says of each image, None where none ran.
    """
    step_index = list(spec.stored_steps())
    rows = latent_rows(step_index)
    latents = chain.latents[rows].transpose(0, 1).contiguous().cpu()
    stochastic = list(sampler.schedule.stochastic)
    log_probs = chain.log_probs.T.tolist()
    samples = []
    for row, index in enumerate(indices):
        prompt, k = spec.place(index)
        prompt_id = spec.prompt_ids[prompt]
        samples.append(
            Sample(
                sample_id=spec.sample_id(prompt_id, k),
                prompt_id=prompt_id,
                prompt=spec.prompts[prompt],
                image_index=k,
                seed=spec.seed,
                image_bytes=images[row][0],
                image_pixels_sha256=images[row][1],
                timesteps=sampler.schedule.timesteps.round().int().tolist(),
                stochastic=stochastic,
                log_probs=[
                    value if known else None for value, known in zip(log_probs[row], stochastic, strict=True)
                ],
                step_index=step_index,
                latents_safetensors=encode_latents(latents[row], rows),
                flagged=flags[row],
            )
        )
    return samples


def _flags(
    spec: GenerationSpec, model: DiffusionModel, images: Sequence[Image.Image]
) -> Sequence[bool | None]:
    """What the spec's safety checker says of each image; None where the spec has none."""
    if spec.safety_checker is None:
        return [None] * len(images)
    if model.safety is None or model.safety.fingerprint != spec.safety_checker:
        raise ConfigError(
            "the spec has a safety checker that the model was not loaded with: load_model(…, safety_check=True)"
        )
    return model.safety.flags(images)


def sample_images(
    spec: GenerationSpec, model: DiffusionModel, batches: range | None = None
) -> Iterator[list[tuple[str, int, Image.Image]]]:
    """The samples of some batches (None: all) of a spec as (prompt, image_index, image), recording nothing.

    Evaluation uses it with `purpose="eval"`, whose noise is never training noise.
    """
    sampler = prepare_sampler(spec, model)
    if batches is None:
        batches = range(-(-spec.num_samples // spec.batch_size))
    for batch in batches:
        first = batch * spec.batch_size
        indices = range(first, min(first + spec.batch_size, spec.num_samples))
        with one_thread(model.device):
            chain = sample_batch(spec, sampler, indices, record=False)
            images = decode_images(sampler.model, chain.latents[-1])
        pairs = [spec.place(index) for index in indices]
        yield [(spec.prompts[prompt], k, image) for (prompt, k), image in zip(pairs, images, strict=True)]
